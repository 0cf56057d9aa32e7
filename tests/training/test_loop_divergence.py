"""The training loop on a toy stage whose gradients or parameters stop being finite."""

import os
import signal

import jax
import numpy as np
import pytest
from toy_runs import Crash, at, crash, lines, saved_steps
from toy_stage import ToyStage, digest, run, toy_batches, toy_config


def test_an_update_that_is_not_finite_is_skipped(tmp_path, caplog):
    """The run continues, and ends with finite numbers; the log says how many updates were skipped."""
    state = run(tmp_path, toy_config(log_every=10), spoil_at=18)
    assert int(state.step) == 40 and int(state.skipped) == 0
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))
    assert [record.message for record in caplog.records if "toy" in record.message] == [
        "toy: the gradient at step 18 was not finite (nor loss); that update is skipped"
    ]
    assert {line["step"]: line["train/skipped"] for line in lines(tmp_path) if "train/skipped" in line} == {20: 1.0}
    assert all(np.isfinite(line["train/loss"]) for line in lines(tmp_path) if "train/loss" in line)


@pytest.mark.parametrize("allowed", [0, 3])
def test_too_many_such_updates_in_a_row_stop_the_run(tmp_path, allowed):
    class Spoilt(ToyStage):
        def loss(self, params, batch, key):
            loss, metrics = super().loss(params, batch, key)
            return loss * jax.numpy.where(batch["step"][0] < 17, 1.0, jax.numpy.inf), metrics

        def step(self, state, batch, key, constants):
            rows = jax.numpy.full(len(batch["x"]), state.step)
            return super().step(state, batch | {"step": rows}, key, constants)

    with pytest.raises(FloatingPointError, match="the gradient at step 18 was not finite.*max_skipped is") as error:
        run(tmp_path, toy_config(log_every=1, max_skipped=allowed, max_rollbacks=0), stage=Spoilt)
    assert f"those of the {allowed} steps after it" in str(error.value)
    assert max(line["step"] for line in lines(tmp_path)) == 17 + allowed


def test_a_resumed_run_counts_on(tmp_path):
    """Four spoilt updates in a row are too many, even if the run is stopped after the second of them."""

    class Spoilt(ToyStage):
        def loss(self, params, batch, key):
            loss, metrics = super().loss(params, batch, key)
            return loss * jax.numpy.inf, metrics

    config = {"max_skipped": 3, "max_rollbacks": 0, "checkpoint_every": 2}
    run(tmp_path, toy_config(steps=2, **config), stage=Spoilt)
    with pytest.raises(FloatingPointError, match="the gradient at step 1 was not finite"):
        run(tmp_path, toy_config(**config), stage=Spoilt)


class Diverging(ToyStage):
    """Its gradients are infinite for the batches of the steps in `spoilt`, whatever the parameters."""

    spoilt = range(17, 24)

    def loss(self, params, batch, key):
        loss, metrics = super().loss(params, batch, key)
        return jax.numpy.where(batch["bad"][0], jax.numpy.inf, 1.0) * loss, metrics

    def step(self, state, batch, key, constants):
        bad = (state.step + 1 >= self.spoilt.start) & (state.step + 1 < self.spoilt.stop)
        return super().step(state, batch | {"bad": jax.numpy.full(len(batch["x"]), bad)}, key, constants)


ROLLING = dict(max_skipped=3, max_rollbacks=1, log_every=4, checkpoint_every=5, keep=1, eval_every=40)


def test_after_too_many_the_run_goes_back_and_on(tmp_path, caplog):
    """Steps 17 to 23 are spoilt: at the log of step 20 it goes back to the checkpoint of step 15, and again counts."""
    state = run(tmp_path, toy_config(**ROLLING), stage=Diverging)
    assert int(state.step) == 40 and int(state.skipped) == 0
    assert "back to the checkpoint of step 15 after step 20 (roll-back 1 of 1)" in caplog.text
    # The counts go on, so that learning rates do; what was trained in steps 16 is lost.
    assert {int(leaf) for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim == 0} == {40 - 3 - 4}
    with pytest.raises(FloatingPointError, match="max_rollbacks is 0"):
        run(tmp_path / "none", toy_config(**ROLLING | {"max_rollbacks": 0}), stage=Diverging)


@pytest.mark.parametrize("step", [19, 22])
def test_a_killed_run_goes_back_as_an_undisturbed_one(tmp_path, step):
    """Killed within the row, or stopped by SIGTERM in it (which saves), and again after the roll-back."""
    expected = digest(run(tmp_path / "undisturbed", toy_config(**ROLLING), stage=Diverging))
    with pytest.raises(SystemExit):
        term = at(step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        run(tmp_path / "killed", toy_config(**ROLLING), stage=Diverging, before=term)
    with pytest.raises(Crash):
        run(tmp_path / "killed", toy_config(**ROLLING), stage=Diverging, before=at(28, crash))
    assert digest(run(tmp_path / "killed", toy_config(**ROLLING), stage=Diverging)) == expected


def test_the_videos_of_a_spoilt_batch_are_named(tmp_path, caplog):
    class Named:
        def __init__(self, batches):
            self.batches = batches

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.batches)

        def videos(self, step):
            return [f"video{(16 * step + row) % 100}.mp4" for row in range(16)]

    config = toy_config(log_every=10)
    batches = toy_batches(config.batch_size, spoil_at=18)
    run(tmp_path, config, batches=lambda start: Named(batches(start)))
    named = ", ".join(f"video{(16 * 17 + row) % 100}.mp4" for row in range(16))
    assert f"step 18 was not finite (nor loss); that update is skipped; the videos of its batch: {named}" in (
        caplog.text
    )


def test_spoilt_parameters_are_not_saved(tmp_path):
    class Spoiling(ToyStage):
        """The update of step 5 makes a parameter infinite while its loss is still finite."""

        def step(self, state, batch, key, constants):
            state, metrics = super().step(state, batch, key, constants)
            spoilt = jax.numpy.where(state.step == 5, jax.numpy.inf, 0)
            return jax.tree_util.tree_map_with_path(
                lambda path, x: x + spoilt if "params" in str(path) else x, state
            ), metrics

    with pytest.raises(FloatingPointError, match="param_norm is inf at step 5"):
        run(tmp_path, toy_config(), stage=Spoiling)
    assert saved_steps(tmp_path) == []
