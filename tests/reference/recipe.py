"""Deterministic weights and inputs, from NumPy alone.

`weights(spec, seed)` fills a list of (name, shape) pairs; `video(...)` and `noise(...)` make inputs.
Both the stored reference outputs and any implementation under test start from these same numbers.
"""

import math
import zlib

import numpy as np


def _rng(seed, name):
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def noise(shape, seed, name="noise"):
    """Standard normal float32 array of `shape`."""
    return _rng(seed, name).standard_normal(shape, dtype=np.float32)


def weights(spec, seed):
    """{name: float32 array} for every (name, shape) of `spec` (PyTorch layouts and names)."""
    out = {}
    for name, shape in spec:
        x = noise(shape, seed, name)
        if "token" in name or "pos_embedding" in name:
            pass
        elif len(shape) >= 2:
            x = x / np.float32(math.sqrt(math.prod(shape[1:])))
        elif name.endswith("running_var"):
            x = np.float32(1) + np.float32(0.1) * np.abs(x)
        elif name.endswith("weight"):
            x = np.float32(1) + np.float32(0.1) * x
        else:
            x = np.float32(0.1) * x
        out[name] = x.astype(np.float32)
    return out


def video(frames, height, width, seed=0, batch=1):
    """A smooth moving pattern in [-1, 1], float32, layout (batch, frames, height, width, 3)."""
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    clips = []
    for b in range(batch):
        p = np.random.default_rng([seed, b]).uniform(0.5, 2.0, size=(3, 4))
        chans = [
            np.sin(2 * np.pi * (p[c, 0] * x / width + p[c, 1] * y / height + 0.05 * p[c, 2] * t) + p[c, 3])
            * np.cos(2 * np.pi * (p[c, 2] * y / height - 0.03 * p[c, 0] * t))
            for c in range(3)
        ]
        clips.append(np.stack(chans, axis=-1))
    return np.stack(clips).astype(np.float32)
