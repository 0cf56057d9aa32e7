"""Where clips come from, and the cache of their latents."""

import dataclasses

from pvdm_jax.config.checks import one_of, positive, require


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where clips come from. Their size is the autoencoder's."""

    source: str = "synthetic"  # synthetic: moving shapes made on the fly; tfds: a dataset that `pvdm prepare` wrote
    path: str = ""  # tfds: the dataset's folder
    stride: int = 1  # take every stride-th frame
    resize: str = "antialias"  # antialias, or bilinear (without antialiasing, as the official code)
    flip: bool = False  # mirror half of the training clips
    crop_scale: float = 1.0  # training clips are random windows of at least this part of the largest one's side; 1: off
    holdout: float = 0.15  # tfds: this last part of each video is kept out of training
    synthetic_videos: int = 1024  # training videos of the synthetic source
    synthetic_frames: int = 48  # frames of each
    threads: int = 2  # that read and decode ahead
    prefetch: int = 4  # batches made ahead

    def __post_init__(self):
        one_of("data", self, "source", ("synthetic", "tfds"))
        one_of("data", self, "resize", ("antialias", "bilinear"))
        positive("data", self, "stride", "synthetic_videos", "synthetic_frames", "threads", "prefetch")
        require(0 <= self.holdout < 1, "data.holdout", self.holdout, "a fraction of each video, at least 0 and below 1")
        allowed = "a part of the largest window's side, above 0 and at most 1 (no random crops)"
        require(0 < self.crop_scale <= 1, "data.crop_scale", self.crop_scale, allowed)
        require(
            self.source != "tfds" or self.path != "",
            "data.path",
            self.path,
            "data.source=tfds needs the folder that `pvdm prepare` wrote",
        )


@dataclasses.dataclass(frozen=True)
class EncodeConfig:
    """The cache of latents that stage 2 trains from."""

    windows: int = 4  # random windows of two consecutive clips, per training video
    batch_size: int = 32

    def __post_init__(self):
        positive("encode", self, "windows", "batch_size")
