"""Whole runs of stage 1 with both phases on tiny networks: resuming, what is exported, devices."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from tiny_adversarial import DISCRIMINATOR, MODEL, make_batch, make_stage
from toy_stage import digest

from pvdm_jax.config import AdversarialConfig, AutoencoderTrainingConfig, Config, DataConfig, UNetConfig
from pvdm_jax.storage.checkpoint import best_step, read_part
from pvdm_jax.training import autoencoder
from pvdm_jax.training.loop import train
from pvdm_jax.training.phases import AdversarialSchedule
from pvdm_jax.weights.run_autoencoder import load_autoencoder

pytestmark = pytest.mark.long

ROOT = pathlib.Path(__file__).parents[2]
# The adversarial phase begins after step 4. The guard is wide: these are a few steps of tiny networks.
PHASE = {"start_step": 4, "warmup_steps": 2, "guard_tolerance": 100.0}
LOOP = {"steps": 12, "log_every": 2, "eval_every": 2, "checkpoint_every": 3, "keep": 2, "eval_clips": 4}


class Crash(Exception):
    """Stands for a program that dies in the middle."""


def batches(start):
    for index in range(start, 10**6):
        video = make_batch(4)["video"]
        yield {"video": np.roll(video, index % 7, axis=2)}


def run(directory, before=lambda step: None, **changes):
    training = LOOP | {name: value for name, value in changes.items() if name in LOOP}
    phase = PHASE | {name: value for name, value in changes.items() if name not in LOOP}
    stage = make_stage(training, **phase)

    def watched(start):
        for index, batch in enumerate(batches(start), start + 1):
            before(index)
            yield batch

    return train(
        stage,
        AdversarialSchedule(stage.adversarial),
        watched,
        directory=directory,
        config=stage.config,
        settings={"phase": phase},
        mesh=stage.mesh,
        seed=3,
    )


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    directory = tmp_path_factory.mktemp("both")
    return directory, run(directory)


def test_a_run_has_both_phases(both):
    directory, state = both
    assert int(state.warmup_start) == 4 and int(state.step) == 12
    record = json.loads((directory / "best.json").read_text())
    assert record["adversarial_start"] == 4 and record["rollbacks"] == 0 and record["ended"] == -1
    trained = {line["step"]: line for line in lines(directory) if "train/loss" in line}
    assert all(("train/discriminator_loss" in line) == (step > 4) for step, line in trained.items())
    weights = {step: line["train/adversarial_weight"] for step, line in trained.items() if step > 4}
    assert all(weight > 0 for weight in weights.values())
    evaluated = {line["step"]: line for line in lines(directory) if "eval/error" in line}
    assert sorted(evaluated) == [2, 4, 6, 8, 10, 12]
    for step, line in evaluated.items():
        assert {"eval/psnr", "eval/ssim", "eval/gradient_energy", "eval/error_now"} <= set(line)
        assert ("eval/discriminator_loss" in line) == (step > 4)


@pytest.mark.parametrize("step", [3, 5, 8])
def test_a_stopped_run_goes_on_with_the_same_bits(both, tmp_path, step):
    """Died in phase 1, at the first update of phase 2, and within phase 2."""

    def crash(number):
        if number == step + 1:
            raise Crash

    with pytest.raises(Crash):
        run(tmp_path, before=crash)
    assert digest(run(tmp_path)) == digest(both[1])


def test_taking_turns_is_resumed_at_the_right_turn(tmp_path):
    expected = digest(run(tmp_path / "whole", alternate=True, adaptive=False, steps=9))
    run(tmp_path / "parts", alternate=True, adaptive=False, steps=7)
    assert digest(run(tmp_path / "parts", alternate=True, adaptive=False, steps=9)) == expected


def test_the_exported_autoencoder_is_the_best(both):
    """Among the evaluations after the warm-up, the one with the lowest error counts; stage 2 reads its EMA."""
    directory, _ = both
    errors = {
        line["step"]: line["eval/error"] for line in lines(directory) if line["step"] >= 6 and "eval/error" in line
    }
    best = min(errors, key=errors.get)
    assert best_step(directory) == best
    stage = make_stage(LOOP, **PHASE)
    abstract = jax.eval_shape(stage.init, jax.random.key(0))
    ema = read_part(directory, "ema", abstract.ema)
    found = stage.evaluate(dataclasses.replace(both[1], ema=ema), directory)["error"]
    assert found == pytest.approx(errors[best], rel=1e-6)


def test_a_configuration_trains_and_exports(tmp_path):
    """Through `train`, as the command does it, and read as stage 2 reads it."""
    stage = AutoencoderTrainingConfig(
        steps=4,
        batch_size=2,
        log_every=1,
        eval_every=2,
        eval_clips=2,
        adversarial=AdversarialConfig(start_step=2, warmup_steps=0, discriminator=DISCRIMINATOR, guard_tolerance=9.0),
    )
    config = Config(
        data=DataConfig(synthetic_videos=4, synthetic_frames=8),
        autoencoder=MODEL,
        denoiser=UNetConfig(model_channels=32, channel_mult=(1,), num_heads=1),
        train_autoencoder=stage,
    )
    state = autoencoder.train(config, tmp_path)
    assert best_step(tmp_path / "autoencoder") == 4
    weights = load_autoencoder(MODEL, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, weights, jax.device_get(state.ema))


def test_devices_share_batch_statistics():
    """A step of both sides gives the same gradients and losses on one and on four devices."""
    script = pathlib.Path(__file__).parents[1] / "support" / "tiny_adversarial.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    differences = json.loads(done.stdout.splitlines()[-1])
    assert max(differences.values()) < 1e-4, differences
