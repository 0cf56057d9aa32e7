"""Videos written frame by frame, read back by the libraries that others would use."""

import numpy as np
import pytest
from PIL import Image

from pvdm_jax.video import media, writers


def video(frames=6, height=24, width=36):
    """A bright square that moves over a gradient."""
    base = np.broadcast_to(np.linspace(20, 120, width)[None, :, None], (height, width, 3))
    frames = np.stack([base.copy() for _ in range(frames)]).astype(np.uint8)
    for i, frame in enumerate(frames):
        frame[4 : 4 + 8, 2 * i : 2 * i + 8] = (220, 160, 40)
    return frames


def write(path, format, frames, chunk=4, fps=12.0):
    with writers.open_writer(path, format, len(frames), *frames.shape[1:3], fps=fps) as writer:
        for start in range(0, len(frames), chunk):
            writer.write(frames[start : start + chunk])


@pytest.mark.parametrize("format", writers.FORMATS)
def test_written_in_parts_and_read_back(tmp_path, format):
    frames = video()
    write(tmp_path / "a", format, frames)
    found = writers.read_back(tmp_path / "a", format, 5)
    assert found.shape == (5, 24, 36, 3)
    tolerance = {"mp4": 6, "gif": 3, "png": 0, "npz": 0}[format]
    assert np.abs(found.astype(int) - frames[:5]).mean() <= tolerance
    assert [path.name for path in tmp_path.iterdir()] == [writers.video_path(tmp_path / "a", format).name]


def test_an_mp4_is_that_of_the_whole_video_at_once(tmp_path):
    frames = video(height=25)
    write(tmp_path / "a", "mp4", frames)
    info = media.probe_video(tmp_path / "a.mp4")
    assert (info.frames, info.height, info.width, info.fps) == (6, 26, 36, 12)
    media.write_video(tmp_path / "b.mp4", frames, fps=12)
    np.testing.assert_array_equal(media.read_video(tmp_path / "a.mp4"), media.read_video(tmp_path / "b.mp4"))


def test_a_gif_loops_and_keeps_the_time(tmp_path):
    write(tmp_path / "a", "gif", video(), fps=12.0)
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.size, image.info["loop"]) == (6, (36, 24), 0)
        durations = []
        for i in range(6):
            image.seek(i)
            durations.append(image.info["duration"])
    assert sum(durations) == 500
    assert set(durations) <= {80, 90}


def test_nothing_is_left_of_a_video_that_failed(tmp_path):
    for format in writers.FORMATS:
        with pytest.raises(KeyError):
            with writers.open_writer(tmp_path / "a", format, 6, 24, 36, fps=8) as writer:
                writer.write(video(2))
                raise KeyError
        with pytest.raises(media.VideoError, match="4 frames were announced and never written"):
            with writers.open_writer(tmp_path / "a", format, 6, 24, 36, fps=8) as writer:
                writer.write(video(2))
    assert list(tmp_path.iterdir()) == []


def test_wrong_frames_are_refused(tmp_path):
    with pytest.raises(media.VideoError, match="choose from mp4, gif, png, npz"):
        writers.open_writer(tmp_path / "a", "avi", 6, 24, 36, fps=8)
    for frames in (video(height=20), video(7), video().astype(np.float32)):
        with pytest.raises(media.VideoError, match="is needed"):
            with writers.open_writer(tmp_path / "a", "npz", 6, 24, 36, fps=8) as writer:
                writer.write(frames)
