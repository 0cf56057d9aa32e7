"""From the exact trees of UCF-101 and SkyTimelapse to trained stages: prepared, trained, stopped, resumed."""

import dataclasses
import fractions

import av
import jax
import numpy as np
import pytest
from tiny_config import CONFIG, STAGE

from pvdm_jax.config import AutoencoderTrainingConfig, Config, DataConfig, EncodeConfig, UNetConfig
from pvdm_jax.data.loader import fixed_clips, train_batches
from pvdm_jax.data.prepare.folder import prepare
from pvdm_jax.data.sources import open_source
from pvdm_jax.data.streams import BatchSpec
from pvdm_jax.training import autoencoder, latents
from pvdm_jax.training.encode import encode
from pvdm_jax.video.images import encode_jpeg

CLIP = CONFIG.autoencoder
SETTINGS = AutoencoderTrainingConfig(steps=3, ema_decay=0.9, **STAGE)


def moving(seed, frames=20):
    """A bright bar that moves over a ramp of its own colour."""
    video = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, None, :, None], (frames, 48, 64, 3)).copy()
    video[..., seed % 3] += 60
    for i, frame in enumerate(video):
        frame[:, (5 * seed + 3 * i) % 60 :][:, :4] = 240
    return video


def write_avi(path, video):
    """mpeg4 in avi, as UCF-101 comes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=fractions.Fraction(25))
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def ucf101(root):
    names = {}
    for i, (name, group) in enumerate((c, g) for c in ("Archery", "HandstandPushups") for g in (1, 8, 9)):
        video = f"{name}/v_{name.replace('stand', 'Stand')}_g{group:02d}_c01.avi"
        write_avi(root / "UCF-101" / video, moving(i))
        names.setdefault("test" if group < 8 else "train", []).append(video)
    (root / "ucfTrainTestlist").mkdir()
    for split, videos in names.items():
        label = " 1" if split == "train" else ""
        (root / "ucfTrainTestlist" / f"{split}list01.txt").write_text("".join(f"{v}{label}\n" for v in videos))
    return {"train": 4, "test": 2}, {"Archery": 3, "HandstandPushups": 3}


def sky_timelapse(root):
    for i, clip in enumerate(
        ("sky_train/07U1/07U1_1", "sky_train/07U1/07U1_2", "sky_train/Abc/Abc_1", "sky_test/D/D_1")
    ):
        for k, frame in enumerate(moving(i)):
            path = root / clip / f"frames_{k + 3}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_jpeg(frame))
    return {"train": 3, "test": 1}, {}


@pytest.fixture(params=[ucf101, sky_timelapse], ids=lambda make: make.__name__)
def config(request, tmp_path):
    """Settings for the prepared dataset of a tree."""
    splits, classes = request.param(tmp_path / "in")
    summary = prepare(tmp_path / "in", tmp_path / "data")
    assert (summary.layout, summary.splits, summary.classes) == (request.param.__name__, splits, classes)
    data = DataConfig(source="tfds", path=str(tmp_path / "data"), eval_split="test", resize="bilinear", flip=True)
    unet = UNetConfig(model_channels=32, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(1,), num_heads=2)
    encode = EncodeConfig(windows=2, batch_size=4)
    return Config(data=data, autoencoder=CLIP, denoiser=unet, train_autoencoder=SETTINGS, encode=encode)


def test_batches_and_their_resumption(config):
    train, test = (open_source(config.data, CLIP, split, 0) for split in ("train", "holdout"))
    assert not {train[i].name for i in range(len(train))} & {test[i].name for i in range(len(test))}
    batches = train_batches(train, CLIP, config.data, BatchSpec(4, seed=0))
    seen = [next(batches) for _ in range(4)]
    again = next(train_batches(train, CLIP, config.data, BatchSpec(4, seed=0, start_step=3)))
    np.testing.assert_array_equal(seen[3]["video"], again["video"])
    assert seen[0]["video"].shape == (4, 4, 16, 24, 3) and seen[0]["video"].max() > 200
    assert len(set(fixed_clips(test, CLIP, config.data, 4)["name"])) == len(test)


@pytest.mark.long
def test_stage_one_trains_resumes_and_encodes(config, tmp_path):
    stopped = dataclasses.replace(config, train_autoencoder=dataclasses.replace(SETTINGS, steps=2))
    autoencoder.train(stopped, tmp_path / "stopped")
    resumed = autoencoder.train(config, tmp_path / "stopped")
    whole = autoencoder.train(config, tmp_path / "whole")
    assert int(resumed.step) == 3
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    found = encode(config, tmp_path / "whole")
    splits = {split: open_source(config.data, CLIP, split, 0) for split in ("train", "holdout")}
    assert found.counts["train"] == 2 * len(splits["train"])
    cache = latents.open_latents(config, tmp_path / "whole", "train")
    assert cache.window(2)["name"] == splits["train"][1].name and cache[2]["label"] == splits["train"][1].label
