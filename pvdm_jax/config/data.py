"""Where clips come from, and how they are encoded for stage 2."""

import dataclasses

from pvdm_jax.config.checks import at_least_zero, at_most, check_numbers, one_of, positive, require

MAX_WORKERS = 2**10
MIN_FPS, MAX_FPS = 0.01, 1000.0  # the frame rates that videos can have
MIN_CROP = 0.01
MAX_CLIPS = 2**20  # the most clips that one field may ask for, such as a batch or a video's windows


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where clips come from. Their size is the autoencoder's."""

    source: str = "synthetic"  # synthetic: moving shapes, drawn on the fly; tfds: a stored dataset
    path: str = ""  # tfds: a folder that `pvdm prepare` wrote or TFDS built, or a dataset's name in TFDS's own folder
    split: str = "train"  # tfds: the videos to train on: train, test, all, or another split of the dataset
    eval_split: str = ""  # tfds: a split to evaluate on, instead of the end of each training video
    stride: int = 1  # use every stride-th frame
    fps: float = 0.0  # tfds: resample videos to this frame rate, before the stride; 0: keep their own rate
    short_videos: str = "skip"  # tfds: videos shorter than a clip: skip, loop, or pad (with the last frame)
    resize: str = "antialias"  # antialias, or bilinear (without antialiasing, as in the official code)
    flip: bool = False  # mirror half of the training clips
    crop_scale: float = (
        1.0  # crop training clips at random, at least this fraction of the largest window's side; 1: off
    )
    holdout: float = 0.15  # tfds: the fraction at the end of each video that is held out from training
    synthetic_videos: int = 1024  # training videos of the synthetic source
    synthetic_frames: int = 48  # frames of each
    workers: int = 0  # processes that read and decode ahead; 0: only threads of this process
    threads: int = 2  # threads that read and decode ahead, in each process
    prefetch: int = 4  # batches to read ahead

    def __post_init__(self):
        check_numbers("data", self)
        one_of("data", self, "source", ("synthetic", "tfds"))
        one_of("data", self, "resize", ("antialias", "bilinear"))
        one_of("data", self, "short_videos", ("skip", "loop", "pad"))
        at_least_zero("data", self, "workers")
        positive("data", self, "stride", "synthetic_videos", "synthetic_frames", "threads", "prefetch")
        at_most("data", self, MAX_WORKERS, "workers", "threads", "prefetch")
        at_most("data", self, MAX_CLIPS, "synthetic_videos", "synthetic_frames", "stride")
        require(self.fps == 0 or MIN_FPS <= self.fps <= MAX_FPS, "data.fps", self.fps, f"0, or {MIN_FPS} to {MAX_FPS}")
        require(0 <= self.holdout < 1, "data.holdout", self.holdout, "a fraction of each video, at least 0 and below 1")
        allowed = f"a fraction of the largest window's side, from {MIN_CROP} to 1 (no random crops)"
        require(MIN_CROP <= self.crop_scale <= 1, "data.crop_scale", self.crop_scale, allowed)
        require(
            self.source != "tfds" or self.path != "",
            "data.path",
            self.path,
            "data.source=tfds needs the folder that `pvdm prepare` wrote, or TFDS's name of a dataset",
        )
        require(self.split != "", "data.split", self.split, "name the videos to train on: train, test or all")
        if self.source == "synthetic":
            for name, default in (("split", "train"), ("eval_split", ""), ("fps", 0.0), ("short_videos", "skip")):
                value = getattr(self, name)
                require(value == default, f"data.{name}", value, f"data.source=synthetic has only {default!r}")

    def check_held_out(self) -> None:
        """Raises ConfigError if training with these settings would be evaluated on its own training videos.

        Called where training starts: runs of older versions with such settings can still be read.
        """
        allowed = f"data.split={self.split} trains on these videos; name others, or none to hold out videos' ends"
        overlaps = self.eval_split != "" and ("all" in (self.split, self.eval_split) or self.split == self.eval_split)
        require(not overlaps, "data.eval_split", self.eval_split, allowed)


@dataclasses.dataclass(frozen=True)
class EncodeConfig:
    """The latents that stage 2 trains on."""

    cache: bool = True  # `pvdm encode` computes them once; False: every step of stage 2 encodes pixels
    windows: int = 4  # random windows of two consecutive clips per training video; 0, without a cache: always new ones
    flips: bool = False  # also use every window mirrored (data.flip mirrors at random)
    unconditional_anywhere: bool = False  # unconditional clips begin anywhere in a window, as in the official code
    batch_size: int = 32  # windows to encode at once

    def __post_init__(self):
        positive("encode", self, "batch_size")
        at_least_zero("encode", self, "windows")
        at_most("encode", self, MAX_CLIPS, "batch_size", "windows")
        allowed = "a cache holds at least 1 window of each video; 0 (always new ones) needs encode.cache=False"
        require(self.windows > 0 or not self.cache, "encode.windows", self.windows, allowed)
