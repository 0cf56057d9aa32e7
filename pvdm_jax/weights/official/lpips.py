"""LPIPS from weights of VGG16 and of LPIPS's linear layers, named as by torchvision, the official code or `lpips`."""

import logging
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pvdm_jax.losses.lpips import LPIPS, LPIPS_NAME, RANDOM_NAME, STAGES
from pvdm_jax.models import functional
from pvdm_jax.runtime.keys import make_key
from pvdm_jax.weights.foreign_files import read_weights
from pvdm_jax.weights.official.layouts import (
    Weight,
    build,
    clean,
    convolution,
    names,
    without_prefixes,
)

# Index of each convolution among torchvision's `features`: each is followed by its ReLU, each stage by a pool.
INDICES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
STAGE_OF = {index: stage for stage, indices in enumerate(INDICES) for index in indices}
# Prefixes of other weights in the same files: VGG16's classifier, LPIPS's constants, the discriminators.
IGNORED = ("classifier.", "scaling_layer.", "discriminator_")
SEED = 0  # of the random stand-in's weights


def lpips_from_torch(state_dict: Mapping[str, Any], *more: Mapping[str, Any], **overrides: Any) -> LPIPS:
    """LPIPS with trained weights.

    The state dicts (a single one, or separate ones for VGG16 and the linear layers) name VGG16's convolutions
    `features.0.weight` or `net.slice1.0.weight`, and the linear layers `lin0.model.1.weight`. The official
    `loss_last.pth` has both.
    overrides: dtype. Raises ValueError naming each missing, surplus or misshapen weight.
    """
    weights: dict[str, Any] = {}
    for part in (state_dict, *more):
        for name, value in part.items():
            official = _official_name(name)
            if official is not None:
                weights[official] = value
    model = build(lambda rngs: LPIPS(**names(overrides), rngs=rngs), _weights, clean(weights))
    model.name = LPIPS_NAME
    return model


def load_lpips(files: Sequence[str | pathlib.Path] = ()) -> LPIPS:
    """LPIPS with the weights of `files` (`.npz`, `.safetensors` or PyTorch's), or without files its random stand-in.

    The stand-in is a VGG16 with fixed random weights, whose `name` is "random_vgg". Show `name` with all of its
    numbers. Raises FileNotFoundError and ValueErrors as `read_weights` and `lpips_from_torch` do.
    """
    if files:
        return lpips_from_torch(*(read_weights(path, plain=True).weights for path in files))
    logging.warning(
        "NO LPIPS WEIGHTS WERE GIVEN. The perceptual loss is %s, the distance in a VGG16 of fixed random weights. "
        "It is not LPIPS: don't compare its numbers with published ones, and expect worse reconstructions. LPIPS "
        "takes VGG16's weights of torchvision and the linear layers' of LPIPS (vgg.pth)",
        RANDOM_NAME,
    )
    return LPIPS(rngs=functional.rngs(make_key(SEED)))


def _official_name(name: str) -> str | None:
    """The name of a weight in the official LPIPS module, or None for a weight that LPIPS does not have."""
    name = without_prefixes(name).removeprefix("perceptual_loss.")
    if name.startswith(IGNORED):
        return None
    if match := re.fullmatch(r"features\.(\d+)\.(weight|bias)", name):
        index = int(match[1])
        return f"net.slice{STAGE_OF[index] + 1}.{index}.{match[2]}" if index in STAGE_OF else name
    if match := re.fullmatch(r"(?:lin|lins\.)(\d)\.model\.[01]\.weight", name):
        return f"lin{match[1]}.model.1.weight"
    return name


def _weights(model: LPIPS) -> Iterator[Weight]:
    for stage, indices in enumerate(INDICES):
        for i, index in enumerate(indices):
            yield from convolution(f"net.slice{stage + 1}.{index}", f"stages/{stage}/{i}")
    for stage in range(len(STAGES)):
        yield Weight(
            f"lin{stage}.model.1.weight",
            (f"weights/{stage}",),
            lambda x: (x.reshape(-1),),
            lambda x: x.reshape(1, -1, 1, 1),
        )
