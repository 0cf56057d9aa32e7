"""Protocols: the settings that the numbers of an evaluation depend on.

Two numbers can be compared if their protocols are equal. A protocol is one of PROTOCOLS, a JSON file of its fields, or
either of them with some fields changed. The card always has all of its fields.
"""

import dataclasses
from collections.abc import Mapping

from pvdm_jax.config.checks import at_least_zero, at_most, check_numbers, check_seed, one_of, positive, require

MEASURES = ("fvd", "kernel", "is", "reconstruction", "seams", "drift", "borders", "cuts", "shapes")
TRAINED_FEATURES = ("i3d", "i3d_official", "i3d_torchscript", "i3d_tfhub")  # whose Frechet distance is called FVD
FEATURES = ("auto", *TRAINED_FEATURES, "i3d_random", "scattering")


@dataclasses.dataclass(frozen=True)
class ProtocolConfig:
    """One protocol. The defaults are those of `quick`."""

    name: str = "quick"
    measures: tuple[str, ...] = ("fvd", "kernel", "reconstruction", "seams")  # names of MEASURES
    # The clips to compare.
    samples: int = 256  # generated videos
    real_samples: int = 256  # real clips
    frames: tuple[int, ...] = (16,)  # FVD is computed for each of these lengths
    stride: int = 1  # every stride-th frame of real videos
    split: str = "holdout"  # of the model's data: train, held-out clips (holdout), a dataset's own test split, or all
    videos: str = "spread"  # which real videos, if there are more: the first, spread evenly, or random
    clips: str = "random"  # which window of a real video: random, or start
    # Sizes: both sets are first cropped to the middle and resized.
    height: int = 0  # pixels; 0: the height of the model, or of the generated videos
    width: int = 0
    resize: str = "antialias"  # antialias, or bilinear (without antialiasing)
    # The feature spaces of FVD and of the kernel distance: names of FEATURES, at most one I3D with trained weights.
    features: tuple[str, ...] = ("auto",)  # auto: i3d where its weights are installed, and scattering
    network_resize: str = "crop"  # I3D's input: crop (shorter side to 224, the middle) or stretch (both sides to 224)
    ddof: int = 1  # covariances are divided by n - ddof
    # The Inception score.
    inception_samples: int = 10_000
    inception_splits: int = 10
    # Reconstruction.
    reconstruction_samples: int = 256  # real clips of the model's length
    # The seams of long videos: of those sampled for FVD if they have at least two clips, otherwise of these.
    seam_samples: int = 16
    seam_clips: int = 4
    # Drift, borders and cuts: long videos, generated and real ones.
    long_samples: int = 256
    long_clips: int = 8
    clip_frames: int = 0  # frames of a clip; 0: the model's, or unknown for videos from a folder
    # Shapes: continuations whose truth is known, of models of the synthetic source.
    continuations: int = 64  # real clips whose next clip is sampled
    # How the model samples; "" and -1 mean its configured value.
    sampler: str = ""
    steps: int = -1
    later_steps: int = -1
    later_sampler: str = ""
    eta: float = -1.0
    guidance: float = -1.0
    prior_guidance: float = -1.0
    later_prior_guidance: float = -1.0
    classes: str = "data"  # classes to sample: those of the real clips (data), or each in turn (turn)
    weights: str = "ema"  # the only weights that a loaded model has; "": unknown, for videos from a folder
    seed: int = 0  # of the samples and of the choice of random clips
    bootstrap: int = 200  # resamplings for the confidence interval; 0: none

    def __post_init__(self):
        section = "protocol"
        check_numbers(section, self)
        positive(section, self, "samples", "real_samples", "stride", "inception_samples", "inception_splits")
        positive(section, self, "reconstruction_samples", "seam_samples", "continuations")
        require(self.long_clips >= 2, f"{section}.long_clips", self.long_clips, "a border lies between two clips")
        require(self.clip_frames != 1, f"{section}.clip_frames", self.clip_frames, "at least 2, or 0 for the model's")
        at_least_zero(section, self, "clip_frames")
        require(self.seam_clips >= 2, f"{section}.seam_clips", self.seam_clips, "a seam lies between two clips")
        at_least_zero(section, self, "height", "width", "bootstrap")
        check_seed(f"{section}.seed", self.seed)
        at_most(section, self, 10**7, "samples", "real_samples", "inception_samples")
        at_most(section, self, 10**7, "reconstruction_samples", "seam_samples")
        at_most(section, self, 10**7, "long_samples")
        at_most(section, self, 2**14, "height", "width", "seam_clips", "long_clips", "clip_frames")
        at_most(section, self, 10**6, "bootstrap", "inception_splits")
        for name in self.measures:
            require(name in MEASURES, f"{section}.measures", name, f"choose from {', '.join(MEASURES)}")
        require(len(self.measures) > 0, f"{section}.measures", self.measures, f"choose from {', '.join(MEASURES)}")
        allowed = "name at least one length, each positive"
        require(len(self.frames) > 0 and min(self.frames) > 0, f"{section}.frames", self.frames, allowed)
        require((self.height == 0) == (self.width == 0), f"{section}.width", self.width, "set both sides, or neither")
        one_of(section, self, "split", ("train", "holdout", "test", "all"))
        one_of(section, self, "videos", ("first", "spread", "random"))
        one_of(section, self, "clips", ("random", "start"))
        one_of(section, self, "resize", ("antialias", "bilinear"))
        self._check_features(f"{section}.features")
        one_of(section, self, "network_resize", ("crop", "stretch"))
        one_of(section, self, "classes", ("data", "turn"))
        one_of(section, self, "weights", ("ema", ""))
        unset = "or -1, as in the model's configuration"
        require(self.eta == -1 or 0 <= self.eta <= 1, f"{section}.eta", self.eta, f"between 0 and 1, {unset}")
        for name in ("guidance", "prior_guidance", "later_prior_guidance"):
            weight = getattr(self, name)
            require(weight == -1 or weight >= 0, f"{section}.{name}", weight, f"0 or more, {unset}")
        require(self.ddof in (0, 1), f"{section}.ddof", self.ddof, "0 or 1")
        allowed = "at most one part for each sample"
        require(
            self.inception_splits <= self.inception_samples,
            f"{section}.inception_splits",
            self.inception_splits,
            allowed,
        )
        for name in ("samples", "real_samples", "long_samples"):
            require(getattr(self, name) >= 2, f"{section}.{name}", getattr(self, name), "a covariance needs at least 2")
        if "kernel" in self.measures:
            for name in ("samples", "real_samples"):
                allowed = "the kernel distance needs at least 3"
                require(getattr(self, name) >= 3, f"{section}.{name}", getattr(self, name), allowed)

    def _check_features(self, field: str) -> None:
        allowed = f"choose from {', '.join(FEATURES)}"
        for name in self.features:
            require(name in FEATURES, field, name, allowed)
        require(len(self.features) > 0, field, self.features, allowed)
        given = ",".join(self.features)
        require("auto" not in self.features or len(self.features) == 1, field, given, "auto stands alone")
        require(len(set(self.features)) == len(self.features), field, given, "name each once")
        trained = [name for name in self.features if name in TRAINED_FEATURES]
        require(len(trained) <= 1, field, given, "at most one I3D with trained weights: both distances would be FVD")


# Section 4.1 of the PVDM paper and its code: 2,048 clips each, I3D logits after a resize of the shorter side to 224,
# covariances over n - 1; the code draws real clips from its training set. "400/400" of its tables is sampler steps.
_PAPER = ProtocolConfig(
    measures=("fvd", "reconstruction", "seams"),
    samples=2048,
    real_samples=2048,
    frames=(16, 128),
    split="train",
    videos="random",
    clips="random",
    height=256,
    width=256,
    resize="bilinear",
    features=("i3d_official",),
    network_resize="crop",
    ddof=1,
    reconstruction_samples=2048,
)
_PAPER_SAMPLING = {"sampler": "ddim", "steps": 400, "later_steps": 400, "eta": 1.0}
_PAPER_SAMPLING |= dict.fromkeys(("guidance", "prior_guidance", "later_prior_guidance"), 0.0)

PROTOCOLS: Mapping[str, ProtocolConfig] = {
    "quick": ProtocolConfig(),
    "paper_ucf101": dataclasses.replace(
        _PAPER, name="paper_ucf101", measures=("fvd", "is", "reconstruction", "seams"), **_PAPER_SAMPLING
    ),
    "paper_sky": dataclasses.replace(_PAPER, name="paper_sky", **_PAPER_SAMPLING),
    # StyleGAN-V's code, fvd2048_16f, fvd2048_128f and isv2048_ucf: the first 2,048 videos by name that are long
    # enough, of all splits, one random window of each; covariances over n; its TorchScript I3D resizes both sides.
    "stylegan_v": dataclasses.replace(
        _PAPER,
        name="stylegan_v",
        measures=("fvd", "is"),
        split="all",
        videos="first",
        features=("i3d_torchscript",),
        network_resize="stretch",
        ddof=0,
        inception_samples=2048,
    ),
    # What a single FVD hides: long videos clip by clip, at clip borders and inside clips, compared with real videos.
    "long": ProtocolConfig(name="long", measures=("fvd", "kernel", "seams", "drift", "borders", "cuts")),
    # The yardstick of the demo: everything, and what needs the ground truth of the synthetic source. seam_clips=64
    # makes the long videos longer.
    "shapes": ProtocolConfig(
        name="shapes",
        measures=("fvd", "reconstruction", "seams", "shapes"),
        features=("scattering",),
        samples=128,
        real_samples=128,
        reconstruction_samples=128,
        seam_samples=16,
        seam_clips=8,
    ),
}
