"""A tiny stage 1 with discriminators, for the tests of its steps; as a program, the same steps on 1 and on 4 devices.

usage: python tiny_adversarial.py
Prints as one line of JSON, for each mesh, the largest difference to one device relative to each array's largest value.
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
        moments = (state.opt_state, state.discriminators.opt_state)
        floats = [x for x in jax.tree.leaves(moments) if jnp.issubdtype(x.dtype, jnp.floating)]
        found[name] = [np.asarray(x) for x in (*floats, *(metrics[key] for key in sorted(metrics)))]
    differences = {}
    for name in ("4x1", "2x2"):
        pairs = zip(found[name], found["1"], strict=True)
        differences[name] = max(float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-12)) for a, b in pairs)
    print(json.dumps(differences))


if __name__ == "__main__":
    sys.exit(main())
