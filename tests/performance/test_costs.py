"""`pvdm benchmark --data` and `--sampling`: loading speed, and the overhead of a sampling call."""

import json
import tempfile
from unittest import mock

import pytest
from tiny_model import formula_model

from pvdm_jax import cli
from pvdm_jax.config.loading import load_settings
from pvdm_jax.performance.loading_cost import describe as describe_data
from pvdm_jax.performance.loading_cost import measure_data
from pvdm_jax.performance.sampling_overhead import describe, measure_sampling

TINY = [
    *("--config.data.synthetic_videos=4", "--config.autoencoder.depth=1"),
    *("--config.autoencoder.channels=16", "--config.autoencoder.num_heads=1", "--config.autoencoder.mlp_ratio=1"),
]


@pytest.mark.slow
def test_waiting_is_that_of_real_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = measure_data(load_settings("demo", TINY), steps=4, seconds=0.0)
    assert 0 < found["first_batch_seconds"] and 0 < found["step_seconds"] and 0 <= found["waiting"] < 1
    assert found["frames_per_second"] == pytest.approx(16 * found["clips_per_second"])
    assert not list(tmp_path.iterdir())  # nothing is left of the run that measured it


def test_waiting_for_imagined_steps():
    found = measure_data(load_settings("demo", TINY), seconds=0.0, step_seconds=0.02)
    assert found["step_seconds"] == 0.02 and 0 <= found["waiting"] < 1
    assert "steps of 20 ms" in describe_data(found)


def test_the_command_hands_over_and_writes(tmp_path, monkeypatch, capsys):
    found = {"frames_per_second": 320.0, "clips_per_second": 20.0, "first_batch_seconds": 0.5}
    found |= {"loaded_per_second": 40.0, "step_seconds": 0.2, "waiting": 0.013}
    measure = mock.Mock(return_value=found)
    monkeypatch.setattr("pvdm_jax.performance.loading_cost.measure_data", measure)
    arguments = ["--data", "--config=demo", *TINY, "--steps=7", f"--output={tmp_path}"]
    assert cli.main(["benchmark", *arguments]) == 0
    measure.assert_called_once_with(load_settings("demo", TINY), 7, step_seconds=0.0)
    assert "1.3% of the time is waiting for data" in capsys.readouterr().out
    assert json.loads((tmp_path / "data.json").read_text()) == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data"], "--config is None; --data measures the data of a configuration"),
        (["--sampling"], "--model is None; --sampling measures a trained model"),
        (["--config=demo"], "--config is 'demo'; it needs --data"),
        (["--step-seconds=0.1"], "--step-seconds is 0.1; it needs --data"),
        (["--data", "--config=demo", "--model=run"], "it needs --sampling"),
        (["--data", "--sampling"], "not allowed with"),
    ],
)
def test_what_is_missing_is_named(arguments, message, capsys):
    try:
        code = cli.main(["benchmark", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and message in capsys.readouterr().err


def test_a_sampling_call_and_its_parts():
    found = measure_sampling(formula_model(), num_videos=2, repeats=1, sampler="heun", steps=3)
    assert found["calls_of_denoiser"] == 5  # two calls a step, one in the last
    assert min(found[name] for name in ("first_call", "call", "denoiser", "decoder")) > 0
    assert found["overhead"] == pytest.approx(1 - (found["denoiser"] + found["decoder"]) / found["call"])
    assert "a call for 2 videos" in describe(found) and "in 5 calls" in describe(found)
    with pytest.raises(ValueError, match="guidance"):
        measure_sampling(formula_model(), guidance=1.0)
