"""The official patch discriminators' weights: names, layouts, and how sizes are inferred.

The official trainer saves both, with the perceptual loss, as one state dict (`loss_last.pth`): names begin with
`discriminator_2d.`, `discriminator_3d.` and `perceptual_loss.`.

No command reads them: `pvdm convert` makes models to sample from, which need no discriminators. These functions are for
continuing official training from Python, and for tests that compare stage 1's losses and steps with the official ones.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pvdm_jax.config import DiscriminatorConfig
from pvdm_jax.models.discriminators import Discriminators, PatchDiscriminator, RunningStatistics
from pvdm_jax.weights.official.layouts import (
    Weight,
    build,
    clean,
    convolution,
    count,
    names,
    norm,
    official_weights,
    shapes,
    to_array,
    without_prefixes,
)

PARTS = {"image": "discriminator_2d.", "video": "discriminator_3d."}  # our name: the official prefix
STATISTICS = ("running_mean", "running_var")


def discriminators_from_torch(state_dict: Mapping[str, Any], **overrides: Any) -> Discriminators:
    """Both discriminators from the official loss module's weights (`loss_last.pth`). Sizes are inferred from shapes.

    state_dict: names with the prefixes `discriminator_2d.` and `discriminator_3d.`; weights of the perceptual loss are
    ignored. overrides: fields of DiscriminatorConfig (dtype). Raises ValueError naming each missing, surplus or
    misshapen weight.
    """
    flat = {without_prefixes(name): value for name, value in state_dict.items()}
    surplus = [name for name in flat if not name.startswith((*PARTS.values(), "perceptual_loss."))]
    if surplus:
        raise ValueError(
            f"the weights don't fit: {surplus[0]} begins neither with discriminator_2d. nor with discriminator_3d."
        )
    parts = {
        part: {name.removeprefix(prefix): value for name, value in flat.items() if name.startswith(prefix)}
        for part, prefix in PARTS.items()
    }
    configs = {part: _config(weights, overrides, PARTS[part]) for part, weights in parts.items()}
    if configs["image"] != configs["video"]:
        raise ValueError(f"the weights don't fit: the two differ in size, {configs['image']} and {configs['video']}")

    def make(rngs):
        both = Discriminators(configs["image"], rngs=rngs)
        for part, weights in parts.items():
            getattr(both, part).statistics = _statistics(getattr(both, part), weights, PARTS[part])
        return both

    weights = {PARTS[part] + name: value for part in parts for name, value in parts[part].items()}
    learned = clean({name: value for name, value in weights.items() if not name.endswith(STATISTICS)})
    return build(make, _both_weights, learned)


def discriminators_to_torch(model: Discriminators) -> dict[str, np.ndarray]:
    """Both discriminators' weights and buffers under the official names, with prefixes."""
    buffers = {}
    for part, prefix in PARTS.items():
        buffers |= {prefix + name: array for name, array in _buffers(getattr(model, part)).items()}
    return official_weights(_both_weights(model), model) | buffers


def _config(weights: dict[str, Any], overrides: dict[str, Any], prefix: str) -> DiscriminatorConfig:
    shape = shapes(weights, prefix)
    read = dict(width=shape("model0.0.weight")[0], layers=count(weights, "model") - 2)
    return DiscriminatorConfig(**(read | names(overrides)))


def _weights(model: PatchDiscriminator, prefix: str = "", path: str = "") -> Iterator[Weight]:
    for i, layer in enumerate(model.layers):
        name, ours = f"{prefix}model{i}", f"{path}layers/{i}"
        yield from convolution(f"{name}.0", f"{ours}/conv")
        if layer.norm is not None:
            yield from norm(f"{name}.1", f"{ours}/norm")


def _both_weights(model: Discriminators) -> Iterator[Weight]:
    for part, prefix in PARTS.items():
        yield from _weights(getattr(model, part), prefix, f"{part}/")


def _buffers(model: PatchDiscriminator) -> dict[str, np.ndarray]:
    """The norms' running statistics: those that came with the weights, or PyTorch's initial values."""
    buffers: dict[str, np.ndarray] = {}
    for i, layer in enumerate(model.layers):
        if layer.norm is not None:
            (features,) = layer.norm.scale.shape
            buffers[f"model{i}.1.running_mean"] = np.zeros(features, np.float32)
            buffers[f"model{i}.1.running_var"] = np.ones(features, np.float32)
            buffers[f"model{i}.1.num_batches_tracked"] = np.zeros((), np.int64)
    return buffers | (dict(model.statistics.arrays) if model.statistics else {})


def _statistics(model: PatchDiscriminator, weights: dict[str, Any], prefix: str) -> RunningStatistics:
    given = {}
    for name, expected in _buffers(model).items():
        if name in weights:
            array = to_array(weights[name], name).astype(expected.dtype)
            if array.shape != expected.shape:
                raise ValueError(
                    f"the weights don't fit: {prefix}{name} has shape {array.shape}; {expected.shape} is needed"
                )
            given[name] = array
    return RunningStatistics(given)
