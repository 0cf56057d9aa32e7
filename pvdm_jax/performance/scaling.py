"""How the time of a training step grows with batch, resolution and frames, with exponents of fitted power laws."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from jax.sharding import Mesh

from pvdm_jax.config import AutoencoderConfig
from pvdm_jax.performance.choices import DEMO_AUTOENCODER, DEMO_DENOISER
from pvdm_jax.performance.operations import Operations

# One axis at a time takes these values; everything else is the demo's, with a batch of 4.
VALUES = {"batch": (2, 4, 8, 16), "resolution": (32, 64, 96, 128), "frames": (8, 16, 32, 64)}
BATCH = 4


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Seconds and FLOPs of an operation for each value of an axis, and the tokens or positions that the model sees."""

    operation: str
    axis: str
    values: tuple[int, ...]
    tokens: tuple[int, ...]
    flops: tuple[float, ...]
    seconds: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """p in seconds ~ value^p, fitted to the logarithms."""
        return _slope(self.values, self.seconds)

    @property
    def flops_exponent(self) -> float:
        """p in FLOPs ~ value^p."""
        return _slope(self.values, self.flops)


def _slope(values, results) -> float:
    return float(np.polyfit([math.log(v) for v in values], [math.log(r) for r in results], 1)[0])


def config_at(axis: str, value: int) -> tuple[AutoencoderConfig, int]:
    """The demo's autoencoder and a batch size, with `value` on one axis."""
    if axis == "batch":
        return DEMO_AUTOENCODER, value
    changed = {"height": value, "width": value} if axis == "resolution" else {"frames": value}
    return dataclasses.replace(DEMO_AUTOENCODER, **changed), BATCH


def measure_scaling(
    measure: Callable[[Operations, str], tuple[float, float]],
    dtype: str,
    mesh: Mesh | None,
) -> list[Scaling]:
    """Times both stages' training steps along each axis; measure(operations, name) gives a call's seconds and FLOPs."""
    return [
        _along(axis, points, operation, measure, dtype=dtype, mesh=mesh)
        for operation in ("autoencoder_train", "denoiser_train")
        for axis, points in VALUES.items()
    ]


def _grid_size(config: AutoencoderConfig) -> int:
    """Tokens of the video transformer."""
    return config.frames * (config.height // config.patch_size) * (config.width // config.patch_size)


def _along(axis: str, values: Sequence[int], operation: str, measure: Callable, *, dtype: str, mesh: Mesh) -> Scaling:
    tokens, flops, seconds = [], [], []
    for value in values:
        autoencoder, batch = config_at(axis, value)
        autoencoder = dataclasses.replace(autoencoder, dtype=dtype)
        denoiser = dataclasses.replace(DEMO_DENOISER, dtype=dtype)
        operations = Operations(autoencoder, denoiser, batch, mesh, steps=1)
        each = _grid_size(autoencoder) if operation == "autoencoder_train" else operations.model.spec.positions
        tokens.append(batch * each)
        found = measure(operations, operation)
        seconds.append(found[0])
        flops.append(found[1])
    return Scaling(operation, axis, tuple(values), tuple(tokens), tuple(flops), tuple(seconds))


def scaling_table(found: list[Scaling]) -> str:
    """The results as a Markdown table."""
    lines = ["| step | axis | values | tokens | ms | exponent of time | of FLOPs |", "|---|---|---|---|---|---|---|"]
    for row in found:
        columns = (row.values, row.tokens, [f"{1000 * s:.0f}" for s in row.seconds])
        texts = (" ".join(map(str, column)) for column in columns)
        lines.append(
            f"| {row.operation} | {row.axis} | {' | '.join(texts)} | {row.exponent:.2f} | {row.flops_exponent:.2f} |"
        )
    return "\n".join(lines)
