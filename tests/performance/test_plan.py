"""The predicted cost of a step, for this machine and, if libtpu is installed, for TPUs that are not attached."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest
import tiny_program

from pvdm_jax.config import (
    AutoencoderConfig,
    AutoencoderTrainingConfig,
    Config,
    ConfigError,
    DiffusionTrainingConfig,
    MeshConfig,
    UNetConfig,
)
from pvdm_jax.config.loading import load_settings
from pvdm_jax.inference.latent_model import LatentModel
from pvdm_jax.performance import plan as plan_file
from pvdm_jax.performance import planned_step
from pvdm_jax.performance.flops import traced_flops
from pvdm_jax.performance.plan import CHIPS, Plan, plan, write
from pvdm_jax.performance.planned_step import TPUS, StepCost
from pvdm_jax.runtime.sharding import make_mesh

AUTOENCODER = AutoencoderConfig(
    **dict(frames=4, height=16, width=16, patch_size=4, channels=32, depth=2, num_heads=2, head_dim=8, mlp_ratio=2),
    **dict(plane_depth=1, plane_num_heads=2, plane_head_dim=8, plane_mlp_dim=32),
)
UNET = UNetConfig(model_channels=64, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(1,), num_heads=2)
SMALLER_UNET = dataclasses.replace(UNET, channel_mult=(1,), attention_resolutions=())


def config(batch=8, denoiser=UNET, **fields):
    return Config(
        autoencoder=AUTOENCODER,
        denoiser=denoiser,
        train_autoencoder=AutoencoderTrainingConfig(batch_size=batch),
        train_diffusion=DiffusionTrainingConfig(batch_size=batch),
        **fields,
    )


@pytest.mark.long
def test_local_plan_of_both_stages(tmp_path):
    for stage in (1, 2):
        found = plan(config(), "local", stage)
        step = found.step
        assert (step.batch_size, step.batch_per_device, found.devices) == (8, 8, 1)
        assert step.temporaries > 0 and step.flops > 0 and step.memory_traffic > step.arguments
        assert step.network_traffic == 0 and step.collectives == {}
        assert found.largest is None and found.limit is None  # a CPU's memory is not counted
        assert "peaks of this device are not known" in str(found)
        write(found, tmp_path)
        written = json.loads((tmp_path / f"plan_local_stage{stage}.json").read_text())
        assert written["step"]["flops"] == step.flops
    # A training step is about three forward passes.
    model = LatentModel(AUTOENCODER, UNET)
    latents, times = jnp.zeros((8, *model.spec.shape)), jnp.zeros(8, jnp.int32)
    forward = traced_flops(jax.make_jaxpr(model.denoise)(model.denoiser_shapes, latents, times, model.absent(8)))
    assert step.flops == pytest.approx(3 * forward, rel=0.1)


def measured(per_device, memory, seconds=1.0):
    return StepCost(4 * per_device, per_device, 0.0, memory, 1e12, 1e9, 1e6, {}, seconds)


@pytest.mark.parametrize("start", [1, 8, 100])
@pytest.mark.parametrize(("fixed", "each", "expected"), [(3e9, 0.2e9, 35), (9.5e9, 0.4e9, 1), (9.9e9, 0.4e9, None)])
def test_the_largest_batch_is_found(start, fixed, each, expected):
    sizes = []

    def measure(size):
        sizes.append(size)
        memory = fixed + each * size
        return measured(size, memory) if memory < 15e9 else "out of memory"

    found = plan_file._largest(measure, start, measure(start), 10e9)
    assert len(sizes) == len(set(sizes)) <= 6
    if expected is None:
        assert found is None
    elif found is None:
        assert expected < start / 16  # too far away for so few tries
    else:
        assert found.memory <= 10e9 and expected / 2 <= found.batch_per_device <= expected


def test_auto_takes_the_first_policy_that_fits(monkeypatch):
    memory = {"none": 5e9, "dots": 3e9, "blocks": 1e9}
    monkeypatch.setattr(
        planned_step,
        "compile_step",
        lambda config, stage, topology, size: measured(size, memory[config.denoiser.remat]),
    )
    chosen = {
        limit: plan(config(), remat="auto", chip_memory=limit, search=False).remat for limit in (6e9, 4e9, 2e9, 1e8)
    }
    assert chosen == {6e9: "none", 4e9: "dots", 2e9: "blocks", 1e8: "blocks"}
    assert plan(config(), remat="auto", chip_memory=1e8, search=False).largest is None


def test_a_compiler_that_takes_its_process_with_it_is_reported():
    assert planned_step.in_subprocess(os.path.basename, "a/b") == "b"
    assert planned_step.in_subprocess(os.abort).startswith("the compiler's process died")
    with pytest.raises(ConfigError, match="mesh"):
        planned_step.in_subprocess(MeshConfig, 0)


STARTS_A_PROCESS = """
import multiprocessing, threading, time
from pvdm_jax.performance.planned_step import in_subprocess

threading.Thread(target=in_subprocess, args=(time.sleep, 600)).start()
while not multiprocessing.active_children():
    time.sleep(0.1)
print(multiprocessing.active_children()[0].pid, flush=True)
"""


def test_the_compilers_process_ends_with_the_one_that_began_it():
    command = [sys.executable, "-c", STARTS_A_PROCESS]
    with subprocess.Popen(command, env=tiny_program.environment(), stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        assert is_running(child)
        process.kill()
    deadline = time.monotonic() + 60
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(child)


def is_running(pid):
    """Whether there is such a process that is not a zombie."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_a_compiler_says_is_passed_on():
    assert (
        planned_step._explain("INTERNAL: no tile sizes fit\nat line 5")
        == "the compiler failed: INTERNAL: no tile sizes fit"
    )
    said = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.03G of 15.75G hbm."
    assert planned_step._explain(said) == "out of memory: needs 20.03GiB, 15.75GiB are available"
    assert planned_step._explain("RESOURCE_EXHAUSTED: no more") == "out of memory"


def test_peaks_of_every_tpu_are_known():
    assert set(TPUS) < set(CHIPS)


def test_times_come_from_the_chips_peaks():
    step = StepCost(64, 4, 4e9, 8e9, 197e12, 819e9 / 2, 100e9, {"all-gather": 3}, 9.0)
    found = Plan(
        **dict(stage=2, topology="v5e:4x4", device_kind="TPU v5 lite", devices=16, mesh={"data": 1, "fsdp": 16}),
        **dict(dtype="float32", remat="none", accumulate=1, chip=CHIPS["v5e"], limit=16e9, step=step, problem=""),
        largest=step,
    )
    assert found.seconds(step) == {"compute": 1.0, "memory": 0.5, "network": 0.5}
    text = str(found)
    for expected in ("bound by compute", "12.00 GB of 16.0 GB", "64 in total", "3 all-gather"):
        assert expected in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(topology="v9:2x2"), "--topology is 'v9:2x2'; local, or a kind of device and a shape"),
        (dict(topology="v5e"), "--topology is 'v5e'"),
        (dict(topology="h100:1x2x8"), "--topology is 'h100:1x2x8'"),
        (dict(stage=3), "--stage is 3; 1"),
        (dict(remat="all"), "--remat is 'all'; one of auto, none"),
    ],
)
def test_what_does_not_exist_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        plan(config(), **options)


def test_a_batch_that_does_not_split_is_refused(monkeypatch):
    monkeypatch.setattr(planned_step, "compile_step", lambda config, stage, topology, size: measured(size, 1e9))
    accumulated = dataclasses.replace(config().train_diffusion, batch_size=6, accumulate=3)
    assert plan(dataclasses.replace(config(), train_diffusion=accumulated), search=False).step.batch_per_device == 2
    with pytest.raises(ConfigError, match="accumulate"):
        dataclasses.replace(accumulated, batch_size=8)


needs_cuda = pytest.mark.skipif(
    not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)),
    reason="JAX's plugin for CUDA, which compiles for GPUs, is not installed",
)
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, which compiles for TPUs, is not installed"
)


@needs_libtpu
@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_plan_for_tpus_that_are_not_attached():
    found = plan(config(denoiser=SMALLER_UNET, mesh=MeshConfig(data=1, fsdp=4)), "v5e:2x2", 2, search=False)
    assert (found.devices, found.chip.name, found.mesh) == (4, "TPU v5e", {"data": 1, "fsdp": 4})
    assert found.step.batch_per_device == 2 and found.step.collectives.get("all-gather", 0) > 0
    seconds = found.seconds(found.step)
    assert set(seconds) == {"compute", "memory", "network"} and min(seconds.values()) > 0
    assert found.largest == found.step and found.largest.memory < 16e9
    with pytest.raises(ConfigError, match="batch_size is 6; it must be a multiple of 4"):
        plan(config(6), "v5e:2x2")
    with pytest.raises(ConfigError, match="a shape that exists"):
        plan(config(), "v5e:3x5x7")


@needs_cuda
@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_plan_for_gpus_that_are_not_attached():
    assert len(planned_step.find_devices("h100:2x4")) == 8
    found = plan(config(denoiser=SMALLER_UNET, mesh=MeshConfig(data=1, fsdp=2)), "h100:2", 2, search=False)
    assert (found.devices, found.chip.name, found.mesh) == (2, "NVIDIA H100", {"data": 1, "fsdp": 2})
    assert found.step.batch_per_device == 4 and found.step.collectives.get("all-gather", 0) > 0
    assert min(found.seconds(found.step).values()) > 0 and found.largest == found.step
    with pytest.raises(ConfigError, match="plugin for CUDA is needed"):
        planned_step.find_devices("h100:0")


@needs_libtpu
@pytest.mark.long
@pytest.mark.usefixtures("optimized")
def test_shared_out_parameters_on_tpus():
    sharded = config(mesh=MeshConfig(data=1, fsdp=4))
    copied = config()
    found, other = (plan(each, "v5e:2x2", 2, search=False) for each in (sharded, copied))
    # Sharded parameters take less memory and are gathered; gradients are summed either way.
    assert found.step.arguments < 0.5 * other.step.arguments
    assert found.step.collectives.get("all-gather", 0) > 0
    assert other.step.collectives.get("all-reduce", 0) > 0 and "all-gather" not in other.step.collectives
    assert found.step.network_traffic > 0


@pytest.mark.parametrize("name", ["demo", "doom", "video_folder"])
def test_stage_two_of_a_shipped_config_can_be_planned(name):
    """Whatever it needs of the latents' statistics, which nobody has measured yet."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    stage, step, batch = planned_step._diffusion_stage(load_settings(name), mesh)
    assert step in stage.steps and batch.clip.shape[0] == stage.config.batch_size


@pytest.mark.long
@pytest.mark.parametrize("stage", [1, 2])
def test_what_fsdp_moves_are_parameters(stage, tmp_path):
    def collectives(**mesh):
        """The bytes that a device moves in a step with all losses, of eight, and the kinds of transfers."""
        settings = [*tiny_program.SETTINGS, *(f"mesh.{axis}={size}" for axis, size in mesh.items())]
        settings += [f"train_{name}.optimizer.muon_learning_rate=0.0" for name in ("autoencoder", "diffusion")]
        settings += ["train_autoencoder.adversarial.start_step=1", "denoiser.model_channels=64"]
        command = [sys.executable, "-m", "pvdm_jax.cli", "plan", "--config=demo", f"--stage={stage}"]
        command += [f"--output={tmp_path}", *(f"--config.{setting}" for setting in settings)]
        environment = tiny_program.environment(
            JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_force_host_platform_device_count=8"
        )
        subprocess.run(command, env=environment, check=True, timeout=300)
        step = json.loads((tmp_path / f"plan_local_stage{stage}.json").read_text())["step"]
        return step["network_traffic"], set(step["collectives"])

    copied, summed = collectives(data=8, fsdp=1)
    moved, kinds = collectives(data=1, fsdp=8)
    assert summed == {"all-reduce"}
    assert "all-gather" in kinds and "all-to-all" not in kinds and "collective-permute" not in kinds
    # Gradients are summed, which counts twice, and parameters gathered once; activations stay where their clips are.
    assert moved < 1.6 * copied
