"""Real processes on one machine: both stages trained, killed, and resumed by other processes and meshes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_program

pytestmark = pytest.mark.long

STEPS = ("train_autoencoder.steps=8", "train_diffusion.steps=8")
# Writes the newest checkpoint's arrays as one npz, whatever devices they were saved from.
READ = """
import sys, numpy as np, jax, orbax.checkpoint as ocp
device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
with ocp.CheckpointManager(sys.argv[1], item_handlers={"state": ocp.StandardCheckpointHandler()}) as manager:
    step = manager.latest_step()
    facts = manager.item_metadata(step)["state"]
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), facts)
    state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted)))["state"]
leaves = jax.tree_util.tree_leaves_with_path(state)
np.savez(sys.argv[2], **{jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves})
"""


def cluster(count, devices=1):
    """The environments of `count` processes that find each other, with so many devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    common = {"JAX_NUM_CPU_DEVICES": str(devices)}
    if count == 1:
        return [common]
    common |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
    return [common | {"JAX_PROCESS_ID": str(index)} for index in range(count)]


def launch(count, command, workdir, *settings, devices=1, written=None):
    return [
        tiny_program.start(command, workdir, *STEPS, *settings, written=written and f"{written}{index}", **environment)
        for index, environment in enumerate(cluster(count, devices))
    ]


def finish(processes):
    """Their outputs, once all have ended well."""
    outputs = [process.communicate(timeout=900)[0] for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == [0] * len(processes), "\n".join(output[-3000:] for output in outputs)
    return outputs


def kill_after(processes, workdir, stage, step):
    """Kills all of them once the checkpoint of `step` or a later one is complete; returns the newest step."""
    folder = workdir / stage / "checkpoints"

    def newest():
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return max((int(name) for name in names if name.isdigit()), default=0)

    deadline = time.monotonic() + 900
    while newest() < step and time.monotonic() < deadline and all(p.poll() is None for p in processes):
        time.sleep(0.01)
    for process in processes:
        process.kill()
    outputs = [process.communicate()[0] for process in processes]
    assert {process.returncode for process in processes} == {-signal.SIGKILL}, outputs[0][-3000:]
    assert step <= newest() < 8
    return newest()


def final_state(workdir, stage, path):
    subprocess.run(
        [sys.executable, "-c", READ, str(workdir / stage / "checkpoints"), str(path)],
        env=tiny_program.environment(),
        check=True,
    )
    with np.load(path) as arrays:
        return dict(arrays)


def losses(workdir, stage):
    """The loss of each update by its number; in stage 2 every fourth update trains the expert."""
    lines = [json.loads(line) for line in (workdir / stage / "metrics.jsonl").read_text().splitlines()]
    names = ("train/loss", "train/expert_loss")
    return {line["step"]: line[name] for line in lines for name in names if name in line}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process with one device."""
    workdir = tmp_path_factory.mktemp("alone")
    for command in ("train-autoencoder", "encode", "train-diffusion"):
        finish(launch(1, command, workdir))
    return workdir


def test_processes_are_killed_and_others_go_on_with_the_same_numbers(alone, tmp_path):
    """Two processes, killed; four, killed; two with two devices each: other meshes every time. Both stages."""
    workdir, written = tmp_path / "run", tmp_path / "written"
    for stage, command in (("autoencoder", "train-autoencoder"), ("diffusion", "train-diffusion")):
        kill_after(launch(2, command, workdir, written=written), workdir, stage, 2)
        resumed = launch(4, command, workdir, "mesh.data=2", "mesh.fsdp=2", written=written)
        step = kill_after(resumed, workdir, stage, 4)
        outputs = finish(launch(2, command, workdir, "mesh.data=1", "mesh.fsdp=-1", devices=2, written=written))
        assert f"{stage}: resuming after step {step}" in outputs[0]
        # Process 0 alone reports, and only it writes anything but its part of checkpoints.
        assert not re.search("loss|evaluation|resuming", outputs[1])
        if command == "train-autoencoder":
            finish(launch(2, "encode", workdir, written=written))
    others = {
        path
        for index in (1, 2, 3)
        for path in (tmp_path / f"written{index}").read_text().splitlines()
        if path.startswith(str(workdir)) and "/checkpoints/" not in path
    }
    assert others == set()
    mine = (tmp_path / "written0").read_text()
    assert str(workdir / "autoencoder" / "metrics.jsonl") in mine and "tensorboard" in mine

    for stage in ("autoencoder", "diffusion"):
        found, expected = losses(workdir, stage), losses(alone, stage)
        assert list(found) == list(expected) == list(range(1, 9))
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=2e-6)
        states = [final_state(folder, stage, tmp_path / "state.npz") for folder in (workdir, alone)]
        assert states[0].keys() == states[1].keys() and states[0]["step"] == 8
        for part in ("network.params.", "ema.", "network.opt_state."):
            pairs = [(states[0][name], states[1][name]) for name in states[0] if name.startswith(part)]
            apart = np.sqrt(sum(np.sum(np.square(a - b, dtype=np.float64)) for a, b in pairs))
            norm = np.sqrt(sum(np.sum(np.square(b, dtype=np.float64)) for _, b in pairs))
            assert apart < 1e-6 * norm, (stage, part, apart / norm)
    kinds = {path.name for path in (workdir / "autoencoder" / "evaluation").rglob("*.gif")}
    assert kinds == {"reconstruction.gif"}


def test_sigterm_to_one_of_two_processes_saves_and_ends_both(tmp_path):
    processes = launch(2, "train-autoencoder", tmp_path, "train_autoencoder.steps=100000")
    metrics = tmp_path / "autoencoder" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    os.kill(processes[1].pid, signal.SIGTERM)
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [143, 143], outputs
    step = int(re.search(r"SIGTERM; saved after step (\d+)", outputs[0]).group(1))
    assert (tmp_path / "autoencoder" / "checkpoints" / str(step)).is_dir()
