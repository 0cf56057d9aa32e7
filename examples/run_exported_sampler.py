"""Runs a sampler that `pvdm export --sampler-program` wrote, without pvdm_jax.

    python examples/run_exported_sampler.py exported/demo samples.gif

Needs jax, flatbuffers, safetensors and pillow.
"""

import pathlib
import sys

import jax
import numpy as np
from PIL import Image
from safetensors.numpy import load_file

folder, output = pathlib.Path(sys.argv[1]), sys.argv[2]
sampler = jax.export.deserialize(bytearray((folder / "sampler.jax").read_bytes()))
weights = {name: load_file(folder / f"{name}.safetensors") for name in ("autoencoder", "denoiser")}
weights = weights if len(sampler.in_avals) > 3 else {}  # otherwise they are part of the program
numbers, no_class = np.arange(4, dtype=np.uint32), np.full(4, -1, np.int32)
videos = np.asarray(sampler.call(weights, np.uint32(0), numbers, no_class))
frames = [Image.fromarray(np.concatenate(list(row), axis=1)) for row in np.swapaxes(videos, 0, 1)]
frames[0].save(output, save_all=True, append_images=frames[1:], duration=125, loop=0)
print(f"{len(videos)} videos of {videos.shape[1]} frames: {output}")
