"""`pvdm data`: what it shows and the problems that it reports; how fast clips are read."""

import json
import time

import numpy as np
import pytest
from read_frames import read_video

from pvdm_jax import cli
from pvdm_jax.config import AutoencoderConfig, DataConfig
from pvdm_jax.data.prepare.folder import prepare
from pvdm_jax.data.prepare.options import PrepareOptions
from pvdm_jax.data.preview import preview
from pvdm_jax.data.sources import open_source
from pvdm_jax.performance.loading_cost import measure_loading, measure_reading
from pvdm_jax.video.write import write_video

CLIP = AutoencoderConfig(frames=8, height=32, width=32)


def test_a_healthy_dataset_is_shown(dataset, tmp_path):
    found = preview(DataConfig(source="tfds", path=dataset), CLIP, 0, tmp_path / "out", count=4)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("clips.mp4", "clips.gif", "held_out.mp4", "held_out.gif", "preview.json", "index.html")
    }
    grid = read_video(tmp_path / "out" / "clips.mp4")
    assert grid.shape == (8, 2 * 128 + 2, 2 * 128 + 2, 3)
    assert found.facts["training videos"] == 3 and found.facts["classes"] == {"run": 1, "walk": 2}
    assert found.facts["frames per second"] == pytest.approx(10, abs=0.1)
    assert found.facts["a clip spans"] == "8 frames, 0.80 seconds"
    assert found.problems == []
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("data:video/mp4;base64,") == 2 and "walk/long.mp4" in page
    assert json.loads((tmp_path / "out" / "preview.json").read_text())["problems"] == []
    with pytest.raises(FileExistsError, match="out is not empty"):
        preview(DataConfig(source="tfds", path=dataset), CLIP, 0, tmp_path / "out")


def test_problems_are_told_with_names(tmp_path):
    still = np.full((20, 16, 16, 3), 90, np.uint8)
    write_video(tmp_path / "in" / "still.mp4", still, fps=30)
    write_video(tmp_path / "in" / "slow.mp4", still, fps=10)
    write_video(tmp_path / "in" / "short.mp4", still[:6], fps=10)
    (tmp_path / "in" / "broken.avi").touch()
    prepare(tmp_path / "in", tmp_path / "data", PrepareOptions(min_frames=4))
    data = DataConfig(source="tfds", path=str(tmp_path / "data"), holdout=0.0)
    problems = "\n".join(preview(data, CLIP, 0, tmp_path / "out", count=2).problems)
    for text in (
        "1 video skipped, shorter than a clip's 8 frames: short.mp4",
        "`pvdm prepare` skipped 1 video: broken.avi (the file is empty)",
        "nothing is held out from training",
        "2 videos smaller than a clip, to be enlarged: ",
        "videos play at 10 to 30 frames per second",
        "2 of the 2 clips shown have a single colour",
    ):
        assert text in problems
    assert "hardly move" not in problems


def test_the_command_shows(tmp_path, capsys):
    arguments = ["--config=demo", "--config.data.synthetic_videos=4", "--clips=2"]
    assert cli.main(["data", *arguments, f"--output={tmp_path / 'out'}"]) == 0
    shown = capsys.readouterr().out
    assert "a clip: 16 frames of 32 x 32" in shown and "no problems found" in shown


def test_loading_is_measured_and_closed():
    class Slow:
        closed = taken = 0

        def __next__(self):
            time.sleep(0.02)
            self.taken += 1
            return {"video": np.zeros((4, 1))}

        def close(self):
            self.closed += 1

    slow = Slow()
    found = measure_loading(lambda: slow, step_seconds=0.02, seconds=0.0)
    assert slow.closed == 1 and slow.taken == 7  # the first, three as fast as they come, three with steps
    assert found.first_batch_seconds >= 0.02 and 0 < found.clips_per_second <= 200
    assert 0 < found.waiting < 1


def test_reading_is_timed():
    data = DataConfig(synthetic_videos=2, synthetic_frames=8)
    assert measure_reading(open_source(data, CLIP, "train", 0), CLIP, data, seconds=0.0) > 0
    with pytest.raises(ValueError, match="the source is empty"):
        measure_reading([], CLIP, data)
