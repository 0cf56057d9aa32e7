"""What `pvdm prepare` stores comes back: as files, pictures or frames, whole or a few frames of it."""

import json

import numpy as np
import pytest
from read_frames import read_video

from pvdm_jax.config import AutoencoderConfig, ConfigError, DataConfig
from pvdm_jax.data.clips import center_crop_resize
from pvdm_jax.data.prepare.folder import prepare
from pvdm_jax.data.prepare.options import PrepareOptions
from pvdm_jax.data.records import PIECE_FRAMES, pack_pictures, read_frames, unpack_pictures
from pvdm_jax.data.sources import open_source
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.images import encode_jpeg, write_image
from pvdm_jax.video.write import write_video

FRAMES = 2 * PIECE_FRAMES + 5  # two whole records and a part of one


def gradients(frames=FRAMES, height=40, width=56):
    """Smooth frames, each brighter than the last, which jpg keeps well."""
    y, x, t = np.meshgrid(np.arange(height), np.arange(width), np.arange(frames), indexing="ij")
    planes = np.stack([60 + 2 * x + t, 200 - 3 * y + t, 20 + 4 * t + 0 * x], axis=-1)
    return np.clip(planes, 0, 255).astype(np.uint8).transpose(2, 0, 1, 3)


def prepared(source, tmp_path, clip=None, **options):
    prepare(source, tmp_path / "data", PrepareOptions(**options))
    clip = clip or AutoencoderConfig(frames=8, height=40, width=56)
    return open_source(DataConfig(source="tfds", path=str(tmp_path / "data"), holdout=0.0), clip, "train", seed=0)


def test_pictures_of_a_record_come_back_by_number():
    pictures = [bytes([i]) * (10 + i) for i in range(5)]
    record = pack_pictures(pictures)
    assert unpack_pictures(record, [3, 0, 4], "x") == [pictures[3], pictures[0], pictures[4]]
    for cut in (4, 30, len(record) - 1):
        with pytest.raises(VideoError, match="x: its record is damaged"):
            unpack_pictures(record[:cut], [0], "x")


@pytest.mark.parametrize("kind", ["png", "jpg", "npy", "npz"])
@pytest.mark.parametrize("storage", ["video", "jpeg", "frames"])
def test_every_source_in_every_storage(tmp_path, kind, storage):
    video, source = gradients(), tmp_path / "in"
    source.mkdir()
    if kind == "npy":
        np.save(source / "a.npy", video)
    elif kind == "npz":
        np.savez(source / "a.npz", many=video[None])
    for i, frame in enumerate(video):
        if kind == "png":
            write_image(source / "clip" / f"frame{i}.png", frame)  # frame10 must come after frame9
        elif kind == "jpg":
            (source / "clip").mkdir(exist_ok=True)
            (source / "clip" / f"{i}.jpg").write_bytes(encode_jpeg(frame))
    made = prepared(source, tmp_path, storage=storage)[0]
    assert made.frames == FRAMES and made.stored == {"jpeg": "pictures", "frames": "array"}.get(storage, made.stored)
    exact = kind != "jpg" and storage != "jpeg"
    for start, count, stride in ((0, FRAMES, 1), (14, 4, 1), (3, 5, 7), (FRAMES - 1, 1, 1)):
        found, expected = made.read(start, count, stride), video[start : start + count * stride : stride]
        assert np.abs(found.astype(int) - expected).max() <= (0 if exact else 12)
        assert np.abs(found.astype(int) - expected).mean() <= (0 if exact else 2)


@pytest.mark.parametrize("storage", ["jpeg", "frames"])
def test_stored_frames_can_have_the_size_of_training(tmp_path, storage):
    write_video(tmp_path / "in" / "a.mp4", gradients(), fps=10)
    clip = AutoencoderConfig(frames=8, height=16, width=16)
    video = prepared(tmp_path / "in", tmp_path, clip, storage=storage, height=16, width=16)[0]
    assert video.shape == (FRAMES, 16, 16)
    expected = center_crop_resize(read_video(tmp_path / "in" / "a.mp4"), 16, 16)
    assert np.abs(video.read(0, FRAMES).astype(int) - expected).mean() < (3 if storage == "jpeg" else 1e-9)
    summary = json.loads((tmp_path / "data" / "summary.json").read_text())
    assert summary["storage"] == storage and summary["seconds"] == pytest.approx(FRAMES / 10)


def test_damaged_records_name_the_video():
    frames = gradients(20)
    record = frames[:PIECE_FRAMES].tobytes()
    found = read_frames(lambda piece: record, "array", (20, 40, 56), [3, 1, 3], "x", lambda frame: frame)
    np.testing.assert_array_equal(found, frames[[3, 1, 3]])
    for stored, data in (("array", record[:-1]), ("pictures", pack_pictures([b"no picture"] * 16))):
        with pytest.raises(VideoError, match="^x: "):
            read_frames(lambda piece, data=data: data, stored, (20, 40, 56), [3], "x", lambda frame: frame)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"storage": "zip"}, "storage is 'zip'; choose one of video, jpeg, frames"),
        ({"height": 8, "width": 8}, "height is 8; storage=video keeps videos as they are"),
        ({"storage": "jpeg", "height": 8}, "height is 8; give both height and width"),
        ({"storage": "jpeg", "quality": 0}, "quality is 0; choose from 1 to 100"),
        ({"resize": "cubic"}, "resize is 'cubic'; choose one of antialias, bilinear"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PrepareOptions(**options)


def test_frames_of_different_sizes_and_broken_pictures_are_skipped(tmp_path):
    for i in range(20):
        for clip in ("good", "sizes", "broken"):
            size = 12 if clip == "sizes" and i == 9 else 16
            write_image(tmp_path / "in" / clip / f"{i}.png", np.full((size, 16, 3), i, np.uint8))
    (tmp_path / "in" / "broken" / "5.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    summary = prepare(tmp_path / "in", tmp_path / "out")
    assert summary.count == 1 and set(summary.skipped) == {"sizes", "broken"}
    assert summary.skipped["sizes"] == "its frames change their size, from (16, 16) to (12, 16)"
    assert "5.png: it can't be decoded" in summary.skipped["broken"]
