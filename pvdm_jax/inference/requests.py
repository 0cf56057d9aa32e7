"""Calls of a model's methods, checked before anything runs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pvdm_jax.config import AutoencoderConfig, Config, SampleConfig
from pvdm_jax.inference.latent_model import LatentModel
from pvdm_jax.inference.sampler import SampleBatch, check_continues, clips_of, settings_of, split_settings
from pvdm_jax.models.condition import Neighbour
from pvdm_jax.runtime import sharding
from pvdm_jax.runtime.keys import as_threefry


@dataclasses.dataclass(frozen=True)
class Request:
    """A checked call of the sampler."""

    key: jax.Array
    batch: SampleBatch
    settings: SampleConfig
    numbers: Mapping[str, Any]
    count: int  # number of videos, without padding
    frames: int  # of each
    clips: int
    given: bool  # whether the first clip has a neighbour


def make_request(
    config: Config,
    model: LatentModel,
    mesh: Mesh,
    key: jax.Array,
    neighbours: Mapping[str, np.ndarray],
    *,
    count: int,
    num_frames: int | None,
    labels: Sequence[int] | np.ndarray | None,
    indices: Sequence[int] | np.ndarray | None,
    options: Mapping[str, Any],
) -> Request:
    """Checks a call's arguments, and lays them out over the devices. neighbours: latents by name, {} for none."""
    for name, number in (("num_videos", count), ("num_frames", num_frames)):
        if not (number is None or (isinstance(number, int | np.integer) and 0 < number < 2**31)):
            raise ValueError(f"{name} is {number!r}; it must be positive, and an integer")
    clips = clips_of(config, num_frames)
    check_continues(config, num_frames, given=bool(neighbours))
    labels = _labels(config, labels, count)
    indices = np.arange(count) if indices is None else _integers("indices", indices, count, 0, 2**32 - 1)
    settings, numbers = split_settings(model, settings_of(config, options), config.latents)

    # Every device gets the same number of videos; the ones added as padding are dropped.
    padded = sharding.round_up(mesh, count)
    row = np.minimum(np.arange(padded), count - 1)
    condition = model.absent(padded)
    given = {name: Neighbour(x[row], np.ones(padded, bool)) for name, x in neighbours.items()}
    label = None if condition.label is None else labels[row]
    batch = SampleBatch(indices[row].astype(np.uint32), dataclasses.replace(condition, **given, label=label))
    return Request(
        key=as_threefry(key),
        batch=jax.device_put(batch, sharding.batch_sharding(mesh)),
        settings=settings,
        numbers=numbers,
        count=count,
        frames=config.autoencoder.frames if num_frames is None else num_frames,
        clips=clips,
        given=bool(neighbours),
    )


def check_latents(shape: tuple[int, int], latents: np.ndarray | jax.Array) -> np.ndarray:
    """Latents (b, *shape) as an array. Raises TypeError for another type, ValueError for another shape."""
    latents, (positions, channels) = np.asarray(latents), shape
    if not jnp.issubdtype(latents.dtype, jnp.floating):
        raise TypeError(f"latents are {latents.dtype}; floating-point numbers are needed")
    if latents.shape[1:] != (positions, channels):
        raise ValueError(f"latents have shape {latents.shape}; this model takes (b, {positions}, {channels})")
    return latents


def check_length(model: AutoencoderConfig, video: np.ndarray, name: str) -> None:
    """As `check_video`; also raises ValueError for a video that is shorter than a clip."""
    check_video(model, video, name)
    if video.shape[1] < model.frames:
        raise ValueError(f"{name} has {video.shape[1]} frames; it needs at least those of one clip, {model.frames}")


def check_video(
    model: AutoencoderConfig, video: np.ndarray | jax.Array, name: str = "video", one_clip: bool = False
) -> None:
    """Raises TypeError for pixels of another type than uint8, ValueError for another shape than the model's videos."""
    if video.dtype != np.uint8:  # the range of floats is not known: [0, 1], [-1, 1] or [0, 255]
        raise TypeError(f"{name} is {video.dtype}; pixels are needed as uint8, from 0 to 255")
    expected = ("b", model.frames if one_clip else "t", model.height, model.width, 3)
    fits = video.ndim == 5 and all(
        size == wanted for size, wanted in zip(video.shape, expected, strict=True) if isinstance(wanted, int)
    )
    if not fits:
        raise ValueError(f"{name} has shape {video.shape}; this model takes ({', '.join(map(str, expected))})")


def _labels(config: Config, labels, count: int) -> np.ndarray:
    classes = config.denoiser.num_classes
    if labels is None:
        return np.full(count, -1, np.int32)
    if not classes:
        raise ValueError("labels were given, but this model was trained without classes")
    return _integers("labels", labels, count, -1, classes - 1).astype(np.int32)


def _integers(name: str, values: Sequence[int] | np.ndarray, count: int, lowest: int, highest: int) -> np.ndarray:
    """`count` integers as an array. Raises ValueError for anything else, and for numbers beyond the bounds."""
    numbers = np.asarray(values)
    if numbers.shape != (count,) or numbers.dtype.kind not in "iu" or numbers.min() < lowest or numbers.max() > highest:
        shown = str(numbers.tolist())[:200] if numbers.ndim else repr(values)[:200]
        raise ValueError(f"{name} are {shown}; {count} numbers from {lowest} to {highest} are needed")
    return numbers
