"""Phases in the training loop, on a toy whose evaluations are prescribed: decisions, roll-backs, resuming, the best."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_stage import ToyStage, digest, toy_config
from toy_stage import run as toy_run

from pvdm_jax.config import AdversarialConfig
from pvdm_jax.storage.checkpoint import Checkpoints, best_step, read_part
from pvdm_jax.training.adversarial import with_discriminators
from pvdm_jax.training.metrics import MetricWriter
from pvdm_jax.training.optimizer import NetworkState
from pvdm_jax.training.phases import BOTH, RECONSTRUCTION, AdversarialSchedule

# The adversarial phase begins after step 10; the evaluation after step 20 sees a divergence.
ERRORS = {5: 3.0, 10: 2.0, 15: 1.9, 20: 9.0, 25: 1.8, 30: 1.7, 35: 1.75, 40: 1.9}
ADVERSARIAL = AdversarialConfig(start_step=10, warmup_steps=0, guard_rollbacks=1)


class PhasedToy(ToyStage):
    """The toy in two phases: the second moves its parameters the other way, by a constant of the stage."""

    def __init__(self, config, errors=ERRORS, constant=0.5):
        super().__init__(config)
        self.steps = {RECONSTRUCTION: self.step, BOTH: self.mirrored_step}
        self.errors, self.constants = errors, {"rate": jnp.float32(constant)}

    def init(self, key):
        return with_discriminators(super().init(key), NetworkState(params={}, opt_state={}))

    def mirrored_step(self, state, batch, key, constants):
        mirrored = jax.tree.map(lambda x: -x, state.params)
        new, metrics = self.step(state, batch, key, constants)
        back = jax.tree.map(lambda x, y: x + 1e-3 * constants["rate"] * y, new.params, mirrored)
        return dataclasses.replace(new, network=dataclasses.replace(new.network, params=back)), metrics

    def evaluate(self, state, folder):
        error = self.errors[int(state.step)]
        return {"error": error, "error_now": error, "discriminator_loss": 1.0}


class Crash(Exception):
    """Stands for a program that dies in the middle."""


def run(directory, before=lambda step: None, adversarial=ADVERSARIAL, errors=ERRORS, keep=2, **changes):
    config = toy_config(**({"eval_every": 5, "checkpoint_every": 4, "keep": keep} | changes))
    stage, policy = functools.partial(PhasedToy, errors=errors), AdversarialSchedule(adversarial)
    return toy_run(directory, config, stage=stage, policy=policy, before=before)


def record(directory):
    return json.loads((directory / "best.json").read_text())


def untimed(directory):
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines]


def ema_of(directory):
    abstract = jax.eval_shape(PhasedToy(toy_config()).init, jax.random.key(0)).ema
    return read_part(directory, "ema", abstract)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed")
    return directory, digest(run(directory))


def test_a_run_begins_rolls_back_and_keeps_its_best(undisturbed):
    directory, _ = undisturbed
    found = record(directory)
    assert (found["adversarial_start"], found["rollbacks"], found["warmup_start"]) == (10, 1, 20)
    assert (found["best_step"], found["best_error"]) == (30, 1.7)
    assert best_step(directory) == 30
    saved = {int(path.name) for path in (directory / "checkpoints").iterdir() if path.name.isdigit()}
    assert saved == {30, 36, 40}  # the best beside the newest two


def test_readers_get_the_best(undisturbed, tmp_path):
    """The EMA that others read is that of step 30, not the newest."""
    state = run(tmp_path, steps=30, keep=20)
    jax.tree.map(np.testing.assert_array_equal, ema_of(undisturbed[0]), jax.device_get(state.ema))


def test_a_roll_back_goes_on_from_the_best_checkpoint(tmp_path):
    """After step 20 the parameters are those of step 15: its first checkpoint of the phase, and the best."""
    after = run(tmp_path / "a", steps=20, keep=20)
    best = run(tmp_path / "b", steps=15, keep=20)
    assert int(after.step) == 20
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after.params), jax.device_get(best.params))


# Before a decision, right after one, in the second phase, and where the best in use is older than the last checkpoint.
@pytest.mark.parametrize("step", [9, 11, 18, 21, 22, 33])
def test_dying_anywhere_leaves_the_same_numbers(undisturbed, tmp_path, step):
    def crash(number):
        if number == step:
            raise Crash

    with pytest.raises(Crash):
        run(tmp_path, before=crash)
    assert digest(run(tmp_path)) == undisturbed[1]
    assert untimed(tmp_path) == untimed(undisturbed[0])
    assert record(tmp_path) == record(undisturbed[0])


@pytest.mark.parametrize("step", [10, 20])
def test_dying_between_evaluation_and_decision(undisturbed, tmp_path, step, monkeypatch):
    """Whether or not the evaluation was written, best.json is from an earlier one: the run decides again."""
    original = AdversarialSchedule.judge

    def judge(self, number, values):
        if number == step:
            raise Crash
        return original(self, number, values)

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(AdversarialSchedule, "judge", judge)
        run(tmp_path)
    assert digest(run(tmp_path)) == undisturbed[1]
    assert untimed(tmp_path) == untimed(undisturbed[0])


@pytest.mark.parametrize("step", [10, 20])
def test_dying_between_decision_and_report(undisturbed, tmp_path, step, monkeypatch):
    """best.json has the decision, metrics.jsonl lacks the evaluation: that is of the state before the decision."""
    original = MetricWriter.write

    def write(self, number, values):
        if number == step and "eval/error" in values:
            raise Crash
        return original(self, number, values)

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(MetricWriter, "write", write)
        run(tmp_path)
    assert record(tmp_path)["judged"] == step
    assert digest(run(tmp_path)) == undisturbed[1]
    assert untimed(tmp_path) == untimed(undisturbed[0])


def test_a_decision_that_was_written_is_taken_up(undisturbed, tmp_path):
    """A run that ended right after a decision: the checkpoint is from before it."""
    run(tmp_path, steps=20)
    assert record(tmp_path)["action"] == "roll back"
    assert digest(run(tmp_path)) == undisturbed[1]


@pytest.mark.parametrize(("lost", "best"), [((30, 32, 35, 36, 40), 25), ((32, 35, 36, 40), 30)])
def test_losing_the_newest_checkpoints_forgets_later_decisions(undisturbed, tmp_path, lost, best):
    """The best of the other checkpoints counts until the lost ones are trained again."""
    run(tmp_path, keep=20)
    for step in lost:
        shutil.rmtree(tmp_path / "checkpoints" / str(step))

    def crash(step):
        if step == lost[0] - 1:
            raise Crash

    with pytest.raises(Crash):
        run(tmp_path, before=crash, keep=20)
    assert best_step(tmp_path) == best
    assert digest(run(tmp_path, keep=20)) == undisturbed[1]
    assert untimed(tmp_path) == untimed(undisturbed[0])


def test_the_guard_ends_a_run_that_diverges_too_often(tmp_path, caplog, capsys):
    adversarial = AdversarialConfig(start_step=10, warmup_steps=0, guard_rollbacks=1)
    errors = ERRORS | {25: 9.0}
    state = run(tmp_path, adversarial=adversarial, errors=errors)
    assert int(state.step) == 25
    assert record(tmp_path)["ended"] == 25 and best_step(tmp_path) == 15
    assert "back to the checkpoint of step 15 (roll-back 1 of 1)" in caplog.text
    assert "the run ends, its best is step 15" in caplog.text
    capsys.readouterr()
    again = run(tmp_path, adversarial=adversarial, errors=errors)
    assert "toy: finished, 25 of 25 steps are done" in capsys.readouterr().out
    assert digest(again) == digest(state)


def test_the_phase_ends_after_its_steps(tmp_path):
    adversarial = AdversarialConfig(start_step=10, warmup_steps=0, steps=7)
    state = run(tmp_path, adversarial=adversarial, errors=ERRORS | {17: 1.85})
    assert int(state.step) == 17 and best_step(tmp_path) == 17


def test_the_phase_begins_between_two_evaluations(tmp_path):
    adversarial = AdversarialConfig(start_step=7, warmup_steps=0)
    run(tmp_path, adversarial=adversarial, errors=ERRORS | {7: 2.5}, steps=10)
    assert record(tmp_path)["adversarial_start"] == 7


def test_a_best_that_is_damaged_is_passed_over(undisturbed, tmp_path, caplog):
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "30")
    (tmp_path / "checkpoints" / "30").mkdir()
    newest = ema_of(tmp_path)
    (tmp_path / "best.json").unlink()
    jax.tree.map(np.testing.assert_array_equal, newest, ema_of(tmp_path))
    assert "30 can't be read" in caplog.text


def test_needed_checkpoints_stay_as_long_as_they_are_needed(tmp_path):
    with Checkpoints(tmp_path, 2) as checkpoints:
        for step, needed in ((1, []), (2, [1]), (3, [1]), (4, [3]), (5, [3]), (6, [3])):
            checkpoints.save(step, {"w": jnp.zeros(3)}, {}, needed)
            checkpoints.wait()
            names = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
            expected = {1: [1], 2: [1, 2], 3: [1, 2, 3], 4: [1, 3, 4], 5: [3, 4, 5], 6: [3, 5, 6]}
            assert names == expected[step]
