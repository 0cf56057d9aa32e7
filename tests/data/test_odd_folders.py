"""One odd file or folder neither ends `pvdm prepare` nor changes what the others become."""

import io
import os
import pathlib
import zipfile

import numpy as np
import pytest
from support.disk import file_limit
from support.odd_videos import clock_times, clock_video

from pvdm_jax.config import AutoencoderConfig, ConfigError, DataConfig
from pvdm_jax.data.folders import LayoutError
from pvdm_jax.data.layouts import list_videos
from pvdm_jax.data.prepare import shards
from pvdm_jax.data.prepare.folder import prepare
from pvdm_jax.data.prepare.options import PrepareOptions
from pvdm_jax.data.samples import Replacing
from pvdm_jax.data.sources import open_source
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.images import write_image
from pvdm_jax.video.write import write_video


def moving(frames=16, size=16):
    return np.broadcast_to(np.arange(frames, dtype=np.uint8)[:, None, None, None] * 10, (frames, size, size, 3))


def assert_skipped(summary, reasons):
    """Exactly the files named were skipped, each for a reason that says so."""
    assert summary.skipped.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in summary.skipped[name]


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(listing):
    return [(video.name, video.class_name, video.split) for video in listing.videos]


@pytest.mark.parametrize("storage", ["video", "jpeg"])
def test_odd_video_files_are_skipped_by_name(tmp_path, storage):
    root = tmp_path / "in"
    write_video(root / "good.mp4", moving())
    (root / "dangling.mp4").symlink_to("gone")
    os.mkfifo(root / "pipe.mp4")
    (root / "zero.mp4").symlink_to("/dev/zero")
    (root / "loop").symlink_to(".")
    with (root / "sparse.mp4").open("wb") as file:
        file.truncate(100 * 2**30)
    pathlib.Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.mp4")).write_bytes((root / "good.mp4").read_bytes())
    summary = prepare(root, tmp_path / "out", PrepareOptions(storage=storage))
    assert summary.count == 1
    reasons = {
        "dangling.mp4": "does not exist",
        "pipe.mp4": "a named pipe",
        "zero.mp4": "a device",
        "loop": "read already",
        "sparse.mp4": "never written",
        "caf\\xe9.mp4": "not UTF-8; rename it",
    }
    assert_skipped(summary, reasons)


def test_files_beyond_the_size_of_a_record_say_what_to_do(tmp_path, monkeypatch):
    write_video(tmp_path / "in" / "small.mp4", moving(16, 16))
    write_video(tmp_path / "in" / "large.mp4", np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), np.uint8))
    monkeypatch.setattr(shards, "RECORD_BYTES", 20_000)
    summary = prepare(tmp_path / "in", tmp_path / "out", workers=1)
    assert summary.count == 1 and "choose --storage=jpeg or frames" in summary.skipped["large.mp4"]
    assert prepare(tmp_path / "in", tmp_path / "jpeg", PrepareOptions(storage="jpeg"), workers=1).count == 2
    summary = prepare(tmp_path / "in", tmp_path / "frames", PrepareOptions(storage="frames"), workers=1)
    assert summary.count == 1 and "choose --height and --width" in summary.skipped["large.mp4"]


def test_whatever_a_decoder_raises_ends_no_run(tmp_path, monkeypatch):
    for name in ("a", "b"):
        write_video(tmp_path / "in" / f"{name}.mp4", moving())
    probe = shards.probe_video

    def odd(source, name):
        if name.endswith("a.mp4"):
            raise OverflowError("Python int too large")
        return probe(source, name)

    monkeypatch.setattr(shards, "probe_video", odd)
    summary = prepare(tmp_path / "in", tmp_path / "out", workers=1)
    assert summary.skipped == {"a.mp4": "it can't be read (OverflowError: Python int too large)"}


def encrypted(arrays):
    """The bytes of an .npz file whose members are marked as encrypted."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    data = bytearray(buffer.getvalue())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.find(signature)
        while start >= 0:
            data[start + offset] |= 1
            start = data.find(signature, start + 4)
    return bytes(data)


def test_odd_arrays_are_skipped_by_name(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    np.save(root / "good.npy", moving())
    np.save(root / "float.npy", moving().astype(np.float32))
    np.savez(root / "some.npz", video=moving(), labels=np.arange(3))
    (root / "secret.npz").write_bytes(encrypted({"video": moving()}))
    (root / "text.npy").write_text("no array")
    (root / "cut.npy").write_bytes((root / "good.npy").read_bytes()[:-1])
    (root / "cut.npz").write_bytes((root / "some.npz").read_bytes()[:-50])
    os.mkfifo(root / "pipe.npy")
    with zipfile.ZipFile(root / "bomb.npz", "w") as archive:
        archive.writestr("video.npy", (root / "good.npy").read_bytes().replace(b"(16, 16", b"(99, 99"))
    summary = prepare(root, tmp_path / "out")
    assert summary.count == 2
    reasons = {
        "float.npy": "found float32 (16, 16, 16, 3); expected uint8",
        "some.npz:labels": "found int64",
        "secret.npz": "encrypted; store its arrays without a password",
        "text.npy": "not a numpy file",
        "cut.npy": "damaged or cut off",
        "cut.npz": "not a numpy file",
        "pipe.npy": "a named pipe",
        "bomb.npz": "damaged or cut off",
    }
    assert_skipped(summary, reasons)


def test_a_clip_with_an_odd_frame_is_skipped(tmp_path):
    for i in range(16):
        for clip in ("good", "odd"):
            write_image(tmp_path / "in" / clip / f"{i}.png", moving()[i])
    (tmp_path / "in" / "odd" / "3.png").unlink()
    os.mkfifo(tmp_path / "in" / "odd" / "3.png")
    summary = prepare(tmp_path / "in", tmp_path / "out")
    assert summary.count == 1 and "3.png: it is a named pipe" in summary.skipped["odd"]


def test_folders_without_videos_do_not_undo_the_splits(tmp_path):
    touch(tmp_path, "train/run/1.mp4", "test/run/2.mp4", "val/3.mp4", "annotations/1.txt", "__MACOSX/train/x.txt")
    assert found(list_videos(tmp_path)) == [
        ("train/run/1.mp4", "run", "train"),
        ("test/run/2.mp4", "run", "test"),
        ("val/3.mp4", "", "test"),
    ]


def test_videos_beside_train_and_test_are_named(tmp_path):
    touch(tmp_path, "train/1.mp4", "test/2.mp4", "extra/3.mp4", "intro.mp4")
    listing = list_videos(tmp_path)
    assert found(listing) == [("train/1.mp4", "", "train"), ("test/2.mp4", "", "test")]
    assert listing.skipped.keys() == {"extra/3.mp4", "intro.mp4"}
    assert "it lies beside test/, train/" in listing.skipped["intro.mp4"]


@pytest.mark.parametrize("name", ["a\nb", " ", "a ", " a", "a\r", "a\x0b", "a\u2028b"])
def test_class_folders_that_a_list_of_classes_cannot_hold(tmp_path, name):
    touch(tmp_path, f"{name}/1.mp4", "c/2.mp4", "a b/3.mp4")
    listing = list_videos(tmp_path)
    assert {video.class_name for video in listing.videos} == {"c", "a b"}
    (reason,) = listing.skipped.values()
    assert "rename that folder" in reason and "\n" not in "".join(listing.skipped)
    touch(tmp_path / "alone", f"{name}/1.mp4")
    with pytest.raises(LayoutError, match="rename that folder"):
        list_videos(tmp_path / "alone")


def test_a_stray_preview_is_no_dataset(tmp_path):
    frames = [f"clip_{c}/{i}.png" for c in (1, 2) for i in range(8)]
    touch(tmp_path / "a", "preview.mp4", *frames)
    listing = list_videos(tmp_path / "a")
    assert listing.layout == "frames" and len(listing.videos) == 2
    assert "among folders of frames" in listing.skipped["preview.mp4"]
    touch(tmp_path / "b", "1.mp4", "2.mp4", "3.mp4", "thumbnails/1.jpg", "1.jpg", *frames)
    listing = list_videos(tmp_path / "b")
    assert listing.layout == "videos" and len(listing.videos) == 3
    assert listing.skipped.keys() == {"clip_1", "clip_2"}


def test_a_rate_is_kept_by_time_stamps_through_a_dataset(tmp_path):
    """A phone's video: one second at 30 frames per second, then in dim light three seconds at 5."""
    times = [k * 1000 / 30 for k in range(30)] + [1000 + 200 * k for k in range(16)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(clock_video("mp4", "libx264", times))
    prepare(tmp_path / "in", tmp_path / "out")
    data = DataConfig(source="tfds", path=str(tmp_path / "out"), fps=5.0, holdout=0.0)
    video = open_source(data, AutoencoderConfig(frames=8, height=32, width=32), "train", 0)[0]
    assert video.frames == 21  # 4 seconds
    np.testing.assert_allclose(clock_times(video.read(0, 21)), np.arange(21) / 5, atol=0.1)


def test_a_damaged_record_is_replaced_and_named(tmp_path):
    for i in range(4):
        write_video(tmp_path / "in" / f"{i}.mp4", np.random.default_rng(i).integers(0, 256, (16, 64, 64, 3), np.uint8))
    prepare(tmp_path / "in", tmp_path / "out", workers=1)
    (records,) = (tmp_path / "out").glob("*.array_record*")
    data = bytearray(records.read_bytes())
    video = (tmp_path / "in" / "2.mp4").read_bytes()
    data[data.index(video[1000:1100]) + 50] ^= 1
    records.write_bytes(data)
    config = DataConfig(source="tfds", path=str(tmp_path / "out"), holdout=0.0)
    source = open_source(config, AutoencoderConfig(frames=8, height=16, width=16), "train", 0)
    read = Replacing(source)
    for first in range(4):
        index, frames = read(first, np.random.default_rng(0), lambda video: video.read(0, 8))
        assert (index == first) == (first != 2) and frames.shape == (8, 16, 16, 3)
    assert list(read.broken) == ["2.mp4"] and "2.mp4: its record is damaged" in read.broken["2.mp4"]
    with pytest.raises(VideoError, match="2.mp4"):
        source[2].read(0, 8)


def test_a_full_disk_is_an_oserror(tmp_path):
    """The library that writes the records raises RuntimeError."""
    write_video(tmp_path / "in" / "a.mp4", np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), np.uint8))
    with file_limit(20_000), pytest.raises(OSError, match="shard-00000.unfinished can't be written"):
        prepare(tmp_path / "in", tmp_path / "out", PrepareOptions(), workers=1)
    assert prepare(tmp_path / "in", tmp_path / "out", PrepareOptions(), workers=1).count == 1


def test_a_dataset_within_the_folder_is_not_the_folder(tmp_path):
    write_video(tmp_path / "a.mp4", moving())
    prepare(tmp_path, tmp_path / "data", PrepareOptions(), workers=1)
    assert [video.name for video in list_videos(tmp_path).videos] == ["a.mp4"]


@pytest.mark.parametrize("side", ["height", "width"])
def test_sizes_that_no_memory_holds_are_refused(side):
    with pytest.raises(ConfigError, match=f"{side} is 60000"):
        PrepareOptions(storage="jpeg", **({"height": 16, "width": 16} | {side: 60_000}))
