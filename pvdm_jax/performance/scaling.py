"""How the time of a training step grows with batch, resolution and frames: times, and the exponent of a power law."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from pvdm_jax.config import AutoencoderConfig
from pvdm_jax.performance.operations import DEMO_AUTOENCODER, DEMO_UNET, Operations

# What is changed, and to which values; the rest stays as in the demo, at a batch of 4.
AXES = {"batch": (2, 4, 8, 16), "resolution": (32, 64, 96, 128), "frames": (8, 16, 32, 64)}
BATCH = 4


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Seconds of an operation for each value of an axis, and tokens or positions that the model sees there."""

    operation: str
    axis: str
    values: tuple[int, ...]
    tokens: tuple[int, ...]
    flops: tuple[float, ...]
    seconds: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """p of seconds ~ value^p, fitted to the logarithms."""
        return _slope(self.values, self.seconds)

    @property
    def flops_exponent(self) -> float:
        return _slope(self.values, self.flops)


def _slope(values, results) -> float:
    return float(np.polyfit([math.log(v) for v in values], [math.log(r) for r in results], 1)[0])


def config_at(axis: str, value: int) -> tuple[AutoencoderConfig, int]:
    """The demo's autoencoder and the batch, with one of them changed."""
    if axis == "batch":
        return DEMO_AUTOENCODER, value
    changed = {"height": value, "width": value} if axis == "resolution" else {"frames": value}
    return dataclasses.replace(DEMO_AUTOENCODER, **changed), BATCH


def measure_scaling(measure: Callable[[Operations, str], float], dtype: str, mesh, axes=AXES) -> list[Scaling]:
    """Both stages' training steps along each axis; measure(operations, name) gives the seconds of a call."""
    found = []
    for operation in ("autoencoder_train", "denoiser_train"):
        for axis, values in axes.items():
            tokens, flops, seconds = [], [], []
            for value in values:
                autoencoder, batch = config_at(axis, value)
                autoencoder = dataclasses.replace(autoencoder, dtype=dtype)
                unet = dataclasses.replace(DEMO_UNET, dtype=dtype)
                operations = Operations(autoencoder, unet, batch, mesh, steps=1)
                frames, height, width = operations.shape
                stage1 = operation == "autoencoder_train"
                tokens.append(batch * (frames * height * width if stage1 else operations.shape.positions))
                flops.append(operations.flops(operation))
                seconds.append(measure(operations, operation))
            found.append(Scaling(operation, axis, tuple(values), tuple(tokens), tuple(flops), tuple(seconds)))
    return found


def scaling_table(found: list[Scaling]) -> str:
    """As Markdown."""
    lines = ["| step | axis | values | tokens | ms | exponent of time | of FLOPs |", "|---|---|---|---|---|---|---|"]
    for row in found:
        columns = (row.values, row.tokens, [f"{1000 * s:.0f}" for s in row.seconds])
        texts = (" ".join(map(str, column)) for column in columns)
        lines.append(
            f"| {row.operation} | {row.axis} | {' | '.join(texts)} | {row.exponent:.2f} | {row.flops_exponent:.2f} |"
        )
    return "\n".join(lines)
