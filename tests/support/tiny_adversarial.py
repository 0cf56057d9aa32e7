"""A tiny stage 1 with discriminators, for the tests of its steps; as a program, the same steps on 1 and on 4 devices.

usage: python tiny_adversarial.py
Prints as one line of JSON, for each mesh, the largest difference to one device relative to each layer's largest value.
"""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from tiny_config import SMALLEST

from pvdm_jax.config import (
    AdversarialConfig,
    AutoencoderConfig,
    AutoencoderTrainingConfig,
    DiscriminatorConfig,
    MeshConfig,
    OptimizerConfig,
)
from pvdm_jax.runtime import sharding
from pvdm_jax.training.autoencoder import AutoencoderStage
from pvdm_jax.training.phases import BOTH

MODEL = AutoencoderConfig(frames=4, height=16, width=24, patch_size=8, channels=16, **SMALLEST)
DISCRIMINATOR = DiscriminatorConfig(width=4, layers=2)


def make_batch(size):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (size, 1, 2, 3, 3)) + rng.integers(-40, 40, (size, 4, 2, 3, 3))
    video = np.clip(frames, 0, 255).repeat(8, axis=2).repeat(8, axis=3).astype(np.uint8)
    return {"video": video, "frame": rng.integers(0, 4, size).astype(np.int32)}


BATCH = make_batch(4)


def tiny_config(training=None, enabled=True, accumulate=1, **adversarial):
    values = {"steps": 100, "batch_size": 4, "optimizer": OptimizerConfig(learning_rate=1e-3, b1=0.5, b2=0.9)}
    phase = AdversarialConfig(**{"start_step": 10 * enabled, "discriminator": DISCRIMINATOR} | adversarial)
    return AutoencoderTrainingConfig(**values | {"accumulate": accumulate, "adversarial": phase} | (training or {}))


def make_stage(training=None, lpips=None, mesh=None, **options):
    mesh = mesh or sharding.make_mesh(MeshConfig())
    return AutoencoderStage(MODEL, tiny_config(training, **options), BATCH, mesh, lpips)


def state_of(stage):
    """The state after 10 updates that changed nothing, at the beginning of the adversarial phase.

    Without jit: operation by operation equal ones are compiled once, and most of these are.
    """
    state = stage.init(jax.random.key(0))
    return dataclasses.replace(state, step=jnp.int32(10), warmup_start=jnp.int32(10))


def by_layer(tree):
    """The floats of each layer as one array, and each metric as one of its own.

    A convolution's kernel and bias are compared together: normalisation takes the bias away, so that its gradient is
    zero but for rounding, and is zero only beside the kernel's.
    """
    layers = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            layer = path[:-1] if leaf.ndim else path
            layers.setdefault(jax.tree_util.keystr(layer), []).append(np.ravel(leaf))
    return {layer: np.concatenate(arrays) for layer, arrays in layers.items()}


def apart(found, expected):
    assert found.keys() == expected.keys()
    for layer, right in expected.items():
        yield float(np.max(np.abs(found[layer] - right)) / max(np.max(np.abs(right)), 1e-12))


def main():
    jax.config.update("jax_num_cpu_devices", 4)
    batch, found = make_batch(8), {}
    for name, mesh in {
        "1": sharding.make_mesh(MeshConfig(), devices=jax.devices()[:1]),
        "4x1": sharding.make_mesh(MeshConfig()),
        "2x2": sharding.make_mesh(MeshConfig(fsdp=2)),
    }.items():
        stage = make_stage(mesh=mesh, weight=1.0, feature_weight=4.0, adaptive=True, warmup_steps=0)
        abstract = jax.eval_shape(stage.init, jax.random.key(0))
        # One layer is large enough to be shared out.
        shardings = sharding.parameter_shardings(mesh, abstract)
        state = jax.device_put(state_of(stage), shardings)
        step = jax.jit(
            lambda state, batch, stage=stage: stage.steps[BOTH](state, batch, jax.random.key(1), {}),
            out_shardings=(shardings, sharding.replicated(mesh)),
        )
        state, metrics = step(state, sharding.global_batch(mesh, batch))
        found[name] = by_layer((state.opt_state, state.discriminators.opt_state, metrics))
    differences = {name: max(apart(found[name], found["1"])) for name in ("4x1", "2x2")}
    print(json.dumps(differences))


if __name__ == "__main__":
    sys.exit(main())
