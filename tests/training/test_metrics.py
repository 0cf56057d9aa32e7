"""The metrics file: resuming leaves no duplicates, and what is not finite never reaches it."""

import json

import pytest

from pvdm_jax.training.metrics import MetricWriter


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_lines_and_events_are_written(tmp_path):
    with MetricWriter(tmp_path, 0) as writer:
        writer.write(1, {"train/loss": 0.1})
        writer.write(2, {"eval/psnr": 20})
    assert lines(tmp_path) == [{"step": 1, "train/loss": 0.1}, {"step": 2, "eval/psnr": 20.0}]
    events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"train/loss" in events and b"eval/psnr" in events


def test_resuming_drops_later_and_torn_lines(tmp_path):
    with MetricWriter(tmp_path, 0) as writer:
        for step in (5, 10, 15):
            writer.write(step, {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')
    with MetricWriter(tmp_path, 10) as writer:
        assert [line["step"] for line in lines(tmp_path)] == [5, 10]
        assert writer.resumed_with(10, "lo") and not writer.resumed_with(10, "eval/")
        writer.write(15, {"loss": 1})
    assert [line["step"] for line in lines(tmp_path)] == [5, 10, 15]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_skipped_with_a_warning(tmp_path, caplog, value):
    with MetricWriter(tmp_path, 0) as writer:
        writer.write(3, {"eval/psnr": value, "eval/other": 1})
    assert lines(tmp_path) == [{"step": 3, "eval/other": 1.0}]
    assert "eval/psnr" in caplog.text and "step 3" in caplog.text
