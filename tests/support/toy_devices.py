"""The toy stage on one device and on eight: prints what the tests compare as one line of JSON.

usage: python toy_devices.py DIRECTORY
"""

import json
import pathlib
import sys

import jax
import numpy as np
from toy_stage import ToyStage, run, toy_batches, toy_config

from pvdm_jax.config import MeshConfig
from pvdm_jax.runtime import sharding


def device_bytes(tree):
    """The most bytes of a tree that one device holds."""
    held = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return max(held.values())


def difference(tree, expected):
    """The largest difference relative to each array's largest value."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True)
    return max(float(np.max(np.abs(np.asarray(a) - b)) / max(np.max(np.abs(b)), 1e-30)) for a, b in pairs)


def batch_moves(accumulate):
    """How many all-to-alls and permutations an accumulating step needs on eight devices."""
    config, mesh = toy_config(accumulate=accumulate, batch_size=32), sharding.make_mesh(MeshConfig())
    stage = ToyStage(config)
    state = jax.jit(stage.init, out_shardings=sharding.replicated(mesh))(jax.random.key(0))
    batch = sharding.global_batch(mesh, next(toy_batches(32)(0)))
    program = jax.jit(stage.step).lower(state, batch, jax.random.key(1), {}).compile().as_text()
    return program.count(" all-to-all(") + program.count(" collective-permute(")


def main(directory):
    jax.config.update("jax_num_cpu_devices", 8)
    directory = pathlib.Path(directory)
    config = toy_config(steps=6, batch_size=32)
    one = sharding.make_mesh(MeshConfig(), devices=jax.devices()[:1])
    expected = jax.device_get(run(directory / "one", config, one))
    results = {}
    for data, fsdp in ((8, 1), (2, 4), (1, 8)):
        mesh = sharding.make_mesh(MeshConfig(data=data, fsdp=fsdp))
        state = run(directory / f"{data}x{fsdp}", config, mesh)
        results[f"{data}x{fsdp}"] = {"difference": difference(state, expected), "bytes": device_bytes(state)}
    results["moves"] = [batch_moves(accumulate) for accumulate in (1, 4)]
    # A run may go on with another mesh.
    longer = toy_config(steps=9, batch_size=32)
    expected = jax.device_get(run(directory / "one", longer, one))
    resumed = run(directory / "2x4", longer, sharding.make_mesh(MeshConfig(fsdp=2)))
    results["resumed"] = {"difference": difference(resumed, expected), "step": int(resumed.step)}
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])
