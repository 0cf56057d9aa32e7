"""The training loop on a toy stage: killed, stopped and resumed, against a run that nothing disturbed."""

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from disk import file_limit
from toy_runs import Crash, at, crash, lines, saved_steps
from toy_stage import SETTINGS, ToyStage, digest, run, toy_config

from pvdm_jax.config import ConfigError, MeshConfig
from pvdm_jax.runtime.sharding import make_mesh, place
from pvdm_jax.storage.checkpoint import best_step
from pvdm_jax.storage.files import CheckpointError
from pvdm_jax.training import loop, step
from pvdm_jax.training.policy import BestByMetric
from pvdm_jax.training.progress import duration, parameter_table

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = pathlib.Path(__file__).parents[1] / "support" / "toy_stage.py"
STEPS = 40


def start(directory, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, SCRIPT, directory, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def count_lines(directory):
    path = directory / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def untimed(directory):
    """The lines of metrics.jsonl without the values that differ from run to run."""
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines(directory)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Directory and digest of a run from beginning to end."""
    directory = tmp_path_factory.mktemp("undisturbed")
    return directory, digest(run(directory, toy_config()))


def test_run_leaves_what_it_promises(undisturbed):
    directory, _ = undisturbed
    assert json.loads((directory / "config.json").read_text()) == SETTINGS
    assert saved_steps(directory) == [30, 35, 40]
    assert [path.name for path in sorted((directory / "evaluation").iterdir())] == [
        f"step_{step:07d}" for step in (10, 20, 30, 40)
    ]
    logged = [line["step"] for line in lines(directory) if "train/loss" in line]
    assert logged == list(range(4, 41, 4))
    assert [line["step"] for line in lines(directory) if "eval/ema_norm" in line] == [10, 20, 30, 40]
    for line in lines(directory):
        if "train/loss" in line:
            assert line["time/step"] > 0 and 0 <= line["time/data_wait"] <= 1
    losses = [line["train/loss"] for line in lines(directory) if "train/loss" in line]
    assert losses[-1] < 0.9 * losses[0]


def test_damaged_files_of_a_run_do_not_block_it(undisturbed, tmp_path, caplog):
    """config.json is rewritten, best.json is restored from the checkpoint, and bad metrics are skipped."""
    expected_directory, expected = undisturbed
    with pytest.raises(Crash):
        run(tmp_path, toy_config(), before=at(34, crash))
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "best.json").write_text("[]")
    good = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(b"null\n\xff\xfe\n" + good)
    assert digest(run(tmp_path, toy_config())) == expected
    assert untimed(tmp_path) == untimed(expected_directory)
    for name in ("config.json", "best.json"):
        assert (tmp_path / name).read_bytes() == (expected_directory / name).read_bytes()
    assert "best.json holds a list" in caplog.text and "metrics.jsonl, line 1, holds null" in caplog.text


def test_killed_at_random_moments_ends_with_the_same_bits(undisturbed, tmp_path):
    expected_directory, expected = undisturbed
    for _ in range(2):
        process = start(tmp_path, "--sleep", 0.05)
        # Until it has gone on by a line; six lines are 24 steps from the end, far more than the moment that follows.
        begun = count_lines(tmp_path)
        while process.poll() is None and count_lines(tmp_path) < min(begun + 1, 6):
            time.sleep(0.01)
        moment = random.uniform(0, 0.5)
        time.sleep(moment)
        process.kill()
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, f"ended before the kill after {moment} s: {errors[-2000:]}"
    process = start(tmp_path)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-2000:]
    assert output.splitlines()[-1] == f"digest {expected}"
    assert untimed(tmp_path) == untimed(expected_directory)


@pytest.mark.parametrize("step", [2, 6, 19, 31])
def test_dying_anywhere_leaves_the_same_numbers(undisturbed, tmp_path, step):
    with pytest.raises(Crash):
        run(tmp_path, toy_config(), before=at(step, crash))
    assert digest(run(tmp_path, toy_config())) == undisturbed[1]
    assert untimed(tmp_path) == untimed(undisturbed[0])


def test_sigterm_saves_and_exits_143(undisturbed, tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as exit:
        run(tmp_path, toy_config(), before=at(14, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert exit.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is handler
    assert saved_steps(tmp_path)[-1] in (13, 14)
    assert digest(run(tmp_path, toy_config())) == undisturbed[1]
    assert untimed(tmp_path) == untimed(undisturbed[0])


def test_damaged_newest_checkpoint_is_passed_over(undisturbed, tmp_path, caplog):
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    newest = tmp_path / "checkpoints" / "40"
    shutil.rmtree(newest)
    newest.mkdir()
    assert digest(run(tmp_path, toy_config())) == undisturbed[1]
    assert str(newest) in caplog.text
    assert untimed(tmp_path) == untimed(undisturbed[0])
    assert saved_steps(tmp_path) == [30, 35, 40]


def test_other_settings_are_refused_by_name(undisturbed, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    other = {"model": {"width": 9}, "train": {"steps": 50, "log_every": 5}, "seed": 7}
    with pytest.raises(ConfigError, match=r"model\.width is 9 \(it was 256\)") as refusal:
        run(tmp_path, toy_config(), settings=other)
    assert "train" not in str(refusal.value)
    assert json.loads((tmp_path / "config.json").read_text()) == SETTINGS


def test_finished_run_does_nothing(undisturbed, tmp_path, capsys):
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)

    def asked(step):
        raise AssertionError(f"the batch of step {step} was asked for")

    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert digest(run(tmp_path, toy_config(), before=asked)) == undisturbed[1]
    assert "toy: finished, 40 of 40 steps are done" in capsys.readouterr().out
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_finished_run_goes_on_with_more_steps(undisturbed, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    more = {**SETTINGS, "train": {"steps": 44, "log_every": 4}}
    state = run(tmp_path, toy_config(steps=44), settings=more)
    assert digest(state) == digest(run(tmp_path / "whole", toy_config(steps=44)))


def test_the_best_by_a_metric_is_kept_and_told(tmp_path):
    class Judged(ToyStage):
        def evaluate(self, state, folder):
            return {"loss_unconditional": abs(int(state.step) - 20.0)}

    def judged(directory, steps, metric="loss_unconditional", **changes):
        config = toy_config(steps=steps, keep=1, **changes)
        return run(directory, config, stage=Judged, policy=BestByMetric(lambda step: "toy", metric))

    expected = digest(judged(tmp_path, 40))
    assert saved_steps(tmp_path) == [20, 40] and best_step(tmp_path) == 20
    judged(tmp_path / "stopped", 30)
    assert digest(judged(tmp_path / "stopped", 40)) == expected and saved_steps(tmp_path / "stopped") == [20, 40]
    with pytest.raises(ConfigError, match="best_metric is 'psnr'; the evaluation has loss_unconditional"):
        judged(tmp_path / "none", 10, "psnr")
    judged(tmp_path, 45, "")
    assert best_step(tmp_path) is None and saved_steps(tmp_path) == [45]


def test_some_checkpoints_are_kept_for_good(tmp_path):
    run(tmp_path, toy_config(steps=20, keep=1, keep_every=8, checkpoint_every=5))
    assert saved_steps(tmp_path) == [8, 16, 20]


def test_a_disk_that_takes_no_more_stops_the_run(undisturbed, tmp_path):
    """The last checkpoint is intact, and once there is space the run resumes and ends with the same numbers."""
    with contextlib.ExitStack() as stack:
        full = at(12, lambda: stack.enter_context(file_limit(100_000)))
        with pytest.raises(CheckpointError, match=r"the newest complete one is of step (5|10)$"):
            run(tmp_path, toy_config(), before=full)
    assert saved_steps(tmp_path) in ([5], [5, 10])  # that of step 10 may still be on its way at step 12
    assert max(line["step"] for line in lines(tmp_path)) <= 20  # it was noticed by the save after the one that failed
    assert digest(run(tmp_path, toy_config())) == undisturbed[1]
    assert untimed(tmp_path) == untimed(undisturbed[0])


def test_failed_evaluation_costs_no_training_and_is_made_up_for(undisturbed, tmp_path):
    class Failing(ToyStage):
        def evaluate(self, state, folder):
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        run(tmp_path, toy_config(), stage=Failing)
    assert saved_steps(tmp_path) == [5, 10]
    assert digest(run(tmp_path, toy_config())) == undisturbed[1]
    assert untimed(tmp_path) == untimed(undisturbed[0])


def test_batch_that_does_not_split_is_refused_first(tmp_path):
    config = toy_config()
    object.__setattr__(config, "batch_size", 15)
    with pytest.raises(ConfigError, match=r"train\.batch_size is 15; .*14 or 16 would work"):
        run(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_two_processes_go_on_where_one_stopped_and_back(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run(one, toy_config(steps=10))
    shutil.copytree(one, two)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        cluster = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free.getsockname()[1]}", "JAX_NUM_PROCESSES": "2"}
    processes = [start(two, "--steps", 15, "--fsdp", 2, **cluster, JAX_PROCESS_ID=str(index)) for index in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs[0][1][-2000:] + outputs[1][1][-2000:]
    # Both processes hold the same parameters, process 0 alone reports, and one process can read what two have saved.
    first, second = (output.splitlines()[-1] for output, _ in outputs)
    assert first == second and "evaluation after step 15" in outputs[0][0] and "evaluation" not in outputs[1][0]
    expected, found = run(one, toy_config(steps=15)), run(two, toy_config(steps=15))
    for wanted, leaf in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(leaf, wanted, rtol=1e-4, atol=1e-6)
    assert [line["step"] for line in lines(two)] == [line["step"] for line in lines(one)]


def test_parameter_table():
    params = {
        "encoder": {"blocks": {"0": {"kernel": np.zeros((300, 10))}, "1": {"kernel": np.zeros((300, 10))}}},
        "decoder": {"bias": np.zeros(2000)},
    }
    rows = [row.split() for row in parameter_table(params).splitlines()]
    assert ["encoder.blocks", "6,000", "75.0%"] in rows
    assert ["decoder", "2,000", "25.0%"] in rows
    assert rows[-1] == ["total", "8,000"]


@pytest.mark.parametrize(
    "seconds, text", [(0.42, "0.4 s"), (48, "48 s"), (720, "12 min"), (3 * 3600 + 300, "3 h 05 min")]
)
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text


def test_names_of_one_function_share_a_compiled_step(tmp_path, monkeypatch):
    """Each name has its own part of the state, and its own names in the log."""

    class Twice(ToyStage):
        def __init__(self, config):
            super().__init__(config)
            self.steps = {"toy": self.step, "other": self.step}

        def split(self, name, state):
            return state, lambda part, metrics: (part, {f"{name}_loss": metrics["loss"], "skipped": metrics["skipped"]})

    compiled = []

    def compile_step(stage, name, **given):
        compiled.append(name)
        return step.compile_step(stage, name, **given)

    monkeypatch.setattr(loop, "compile_step", compile_step)
    policy = BestByMetric(lambda number: "other" if number % 3 == 0 else "toy")
    config = toy_config(steps=6, log_every=1)
    state = run(tmp_path / "twice", config, stage=Twice, policy=policy)
    assert compiled == ["toy"]
    losses = [[name for name in line if name.endswith("loss")] for line in lines(tmp_path / "twice")]
    logged = [names for names in losses if names]
    assert logged == [["train/toy_loss"], ["train/toy_loss"], ["train/other_loss"]] * 2
    assert digest(state) == digest(run(tmp_path / "once", config))


def test_the_first_state_is_what_a_compiled_init_gives():
    stage = ToyStage(toy_config())
    init, _ = step.keys(7)
    placed = place(make_mesh(MeshConfig()), jax.eval_shape(stage.init, init))
    found = step.first_state(stage, placed, 7)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), found, jax.jit(stage.init)(init))
    assert jax.tree.all(jax.tree.map(lambda x, wanted: x.sharding == wanted.sharding, found, placed))
