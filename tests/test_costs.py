"""`pvdm benchmark --data` and `--sampling`: what the data and a sampling call cost."""

import json

import pytest
from toy_model import fast_model

from pvdm_jax import cli
from pvdm_jax.sampling_cost import describe, measure_sampling

TINY = [
    *("--config=demo", "--config.data.synthetic_videos=4", "--config.autoencoder.depth=1"),
    *("--config.autoencoder.channels=16", "--config.autoencoder.num_heads=1", "--config.autoencoder.mlp_ratio=1"),
]


def test_waiting_is_that_of_real_steps(tmp_path, capsys):
    assert cli.main(["benchmark", "--data", *TINY, "--steps=4", f"--output={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert "frames/s per core" in shown and "of the time is waiting for data" in shown
    found = json.loads((tmp_path / "data.json").read_text())
    assert 0 < found["first_batch_seconds"] and 0 < found["step_seconds"] and 0 <= found["waiting"] < 1
    assert found["frames_per_second"] == pytest.approx(16 * found["clips_per_second"])
    # Nothing of the run that measured it is left.
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]


def test_waiting_for_imagined_steps(capsys):
    assert cli.main(["benchmark", "--data", *TINY, "--step-seconds=0.05"]) == 0
    assert "steps of 50 ms" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data"], "--config is None; --data measures the data of a configuration"),
        (["--sampling"], "--model is None; --sampling measures a trained model"),
        (["--config=demo"], "--config is 'demo'; it goes with --data"),
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
    found = measure_sampling(fast_model(), num_videos=2, repeats=1, sampler="heun", steps=3)
    assert found["calls_of_denoiser"] == 5  # two calls a step, one in the last
    assert min(found[name] for name in ("first_call", "call", "denoiser", "decoder")) > 0
    assert found["overhead"] == pytest.approx(1 - (found["denoiser"] + found["decoder"]) / found["call"])
    assert "a call for 2 videos" in describe(found) and "in 5 calls" in describe(found)
    with pytest.raises(ValueError, match="guidance"):
        measure_sampling(fast_model(), guidance=1.0)
