"""Networks of an evaluation: where their files are looked for, and clips to features or class probabilities.

No weights come with this package. A missing file is never replaced in silence: the error says which file it is, where
people get it and where it is looked for, and names the feature space that needs none.
"""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from pvdm_jax.config import require
from pvdm_jax.evaluation import c3d, features, i3d
from pvdm_jax.models import functional
from pvdm_jax.models.pixels import to_float
from pvdm_jax.runtime import sharding
from pvdm_jax.weights.foreign_files import WeightFile, read_weights
from pvdm_jax.weights.official.lpips import lpips_from_torch


@dataclasses.dataclass(frozen=True)
class Known:
    """A file that people have: its usual name, what it is, where it comes from."""

    name: str
    what: str
    origin: str


FILES = {
    "i3d_official": Known(
        "i3d_pretrained_400.pt",
        "I3D (Kinetics-400) as the official PVDM code has it",
        "its evals/fvd/download.py names the download; the same file serves VideoGPT and TATS "
        "(github.com/sihyun-yu/PVDM, github.com/wilson1yan/VideoGPT)",
    ),
    "i3d_torchscript": Known(
        "i3d_torchscript.pt",
        "the TorchScript I3D of StyleGAN-V",
        "github.com/universome/fvd-comparison names the download (compare_metrics.py, detector_url)",
    ),
    "i3d_tfhub": Known(
        "i3d_tfhub_400.npz",
        "the variables of TF-Hub's deepmind/i3d-kinetics-400/1, or -600/1",
        "docs/evaluation.md has the six lines that write it in an environment with TensorFlow",
    ),
    "c3d": Known(
        "conv3d_deepnetA_ucf.npz",
        "C3D fine-tuned on UCF-101, of TGANv2",
        "the releases of github.com/rezoo/tgan2 (v1.0)",
    ),
    "c3d_mean": Known(
        "mean2.npz", "the mean video of that C3D", "the releases of github.com/rezoo/tgan2 (v1.0), beside the weights"
    ),
    "vgg16": Known("vgg16-397923af.pth", "VGG16 of torchvision, for LPIPS", "PyTorch's model downloads"),
    "lpips": Known(
        "vgg.pth",
        "LPIPS's linear layers for VGG16, version 0.1",
        "github.com/richzhang/PerceptualSimilarity, lpips/weights/v0.1",
    ),
}
# Hashes that a public source gives for a file: (file, source).
HASHES = {
    "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2": (
        "i3d_torchscript",
        "flateon/FVD-I3D-torchscript on the Hugging Face hub, revision 1c2d617",
    ),
}


def weights_folder() -> pathlib.Path:
    """Where weights are looked for: $PVDM_WEIGHTS, or the user's cache."""
    if os.environ.get("PVDM_WEIGHTS"):
        return pathlib.Path(os.environ["PVDM_WEIGHTS"])
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(cache) / "pvdm_jax" / "weights"


def find_weights(kind: str, folder: pathlib.Path | None = None, path: pathlib.Path | None = None) -> WeightFile:
    """The file of a kind of FILES: `path`, or its usual name in `folder` (None: `weights_folder()`).

    Warns where the file's hash is not known from a public source. Raises FileNotFoundError, saying what to get and
    where to put it; WeightFileError for a file that can't be read.
    """
    known = FILES[kind]
    path = path or (folder or weights_folder()) / known.name
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: {known.what}. Where it comes from: {known.origin}. Put it there")
    file = read_weights(path)
    told = [hash_ for hash_, (name, _) in HASHES.items() if name == kind]
    if file.sha256 not in told:
        reason = f"a public source has {told[0]}" if told else "no public source for its hash is known"
        logging.warning("%s has SHA-256 %s; %s. It is used as it is, and the card names it", path, file.sha256, reason)
    return file


class FeatureSpace:
    """Clips to vectors, by one jitted function over all devices.

    facts: what the vectors depend on (JSON). function: (params, uint8 batch) -> (n, dimension) float32.
    """

    def __init__(
        self, facts: dict[str, Any], function: Callable, params: Any, mesh: Mesh, min_frames: int, min_side: int
    ):
        self.facts, self.min_frames, self.min_side = facts, min_frames, min_side
        self._mesh, self._function = mesh, jax.jit(function)
        self._params = jax.device_put(params, sharding.replicated(mesh))

    def __call__(self, videos: np.ndarray, batch_size: int | None = None) -> np.ndarray:
        """uint8 (n, frames, height, width, 3) to float32 (n, dimension), at most `batch_size` clips at a time."""
        size = min(batch_size or len(videos), len(videos))
        return sharding.map_batches(self._mesh, lambda batch: self._function(self._params, batch), videos, size)

    def check(self, frames: int, size: tuple[int, int]) -> None:
        """Raises ConfigError for clips that are too short or too small."""
        allowed = f"the feature space {self.facts['network']} needs at least {self.min_frames}"
        require(frames >= self.min_frames, "protocol.frames", frames, allowed)
        allowed = f"the feature space {self.facts['network']} needs sides of at least {self.min_side} pixels"
        require(min(size) >= self.min_side, "size of the videos", list(size), allowed)


def open_features(
    name: str,
    mesh: Mesh,
    network_resize: str = "crop",
    folder: pathlib.Path | None = None,
    path: pathlib.Path | None = None,
) -> FeatureSpace:
    """The feature space of a protocol's `features`; `path` is its file where it isn't in `folder` by its usual name.

    Raises FileNotFoundError where its weights are missing.
    """
    if name == "scattering":
        facts = {"network": "scattering", "features": features.FEATURES}
        least = features.MIN_FRAMES, features.MIN_SIDE
        return FeatureSpace(facts, lambda _, videos: features.scattering(videos), {}, mesh, *least)
    facts = {"network": name, "input": network_resize}
    if name == "i3d_random":
        network, eps = i3d.I3D(rngs=nnx.Rngs(0)), None
        facts["weights"] = "random, of key 0: for comparisons of kinds of damage, not for FVD"
    else:
        try:
            file = find_weights(name, folder, path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error}, or name another file with --features-file. Without weights, --features=scattering compares "
                "in this package's own feature space; its distances are no FVD and can't be compared with FVD"
            ) from error
        network, eps = i3d.i3d_from_weights(file)
        facts |= {"file": file.path.name, "sha256": file.sha256, "batch_norm_epsilon": eps}
    graphdef, params = functional.split(network)

    def logits(params: functional.Params, videos: jax.Array) -> jax.Array:
        return functional.merge(graphdef, params)(i3d.preprocess(videos, network_resize))

    return FeatureSpace(facts, logits, params, mesh, i3d.MIN_FRAMES, 1)


def open_classifier(mesh: Mesh, folder: pathlib.Path | None = None) -> FeatureSpace:
    """C3D's class probabilities, for the Inception score of clips of 16 frames.

    Raises FileNotFoundError where its weights or its mean video are missing.
    """
    files = [find_weights(kind, folder) for kind in ("c3d", "c3d_mean")]
    graphdef, params = functional.split(c3d.c3d_from_weights(files[0]))
    mean = jnp.asarray(c3d.read_mean(files[1]))

    def probabilities(state: Any, videos: jax.Array) -> jax.Array:
        params, mean = state
        return jax.nn.softmax(functional.merge(graphdef, params)(c3d.preprocess(videos, mean)), axis=-1)

    facts = {"network": "c3d", "file": files[0].path.name, "sha256": files[0].sha256, "mean_sha256": files[1].sha256}
    return FeatureSpace(facts, probabilities, (params, mean), mesh, c3d.FRAMES, 1)


class PerceptualDistance:
    """LPIPS (VGG16) of clips: the mean over their frames."""

    def __init__(self, mesh: Mesh, folder: pathlib.Path | None = None):
        files = [find_weights(kind, folder) for kind in ("vgg16", "lpips")]
        network = lpips_from_torch(*(file.weights for file in files))
        graphdef, params = functional.split(network)
        self.facts = {"network": "lpips_vgg16", "sha256": [file.sha256 for file in files]}
        self._mesh, self._params = mesh, jax.device_put(params, sharding.replicated(mesh))

        def distances(params: functional.Params, pair: tuple[jax.Array, jax.Array]) -> jax.Array:
            # Frame by frame: a clip's features of all frames at once would take gigabytes.
            frames = [to_float(jnp.moveaxis(video, 1, 0)) for video in pair]
            model = functional.merge(graphdef, params)
            return jnp.mean(jax.lax.map(lambda pair: model(*pair), tuple(frames)), axis=0)

        self._distances = jax.jit(distances)

    def __call__(self, video: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Two arrays uint8 (n, frames, height, width, 3) to distances (n,)."""
        pair = (video, other)
        return sharding.map_batches(self._mesh, lambda p: self._distances(self._params, p), pair, len(video))
