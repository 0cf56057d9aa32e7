"""Updates of the real stages, with tiny sizes, on 1, 2, 4 and 8 devices under several splits of the mesh.

usage: python tiny_devices.py
Prints as one line of JSON, for each kind of step and mesh: by how much metrics, parameters and optimizer differ from
those of one device, and the bytes of parameters and optimizer that a device holds.
"""

import json

import jax
import numpy as np
from toy_devices import device_bytes

from pvdm_jax.config import (
    AdversarialConfig,
    AutoencoderConfig,
    AutoencoderTrainingConfig,
    Config,
    DiffusionTrainingConfig,
    DiscriminatorConfig,
    MeshConfig,
    OptimizerConfig,
    UNetConfig,
)
from pvdm_jax.data.latent_batch import LatentBatch
from pvdm_jax.models.autoencoder import latent_spec
from pvdm_jax.runtime import sharding
from pvdm_jax.training.autoencoder import AutoencoderStage
from pvdm_jax.training.diffusion import DENOISER, DiffusionStage
from pvdm_jax.training.phases import BOTH, RECONSTRUCTION
from pvdm_jax.training.step import compile_step, first_state, keys, run_step

MESHES = ((1, 1), (2, 1), (1, 2), (2, 2), (1, 4), (8, 1), (4, 2), (2, 4), (1, 8))
# One adversarial update: rounding grows with the next ones, as it does on one device with its clips in another order
# (7e-6 of the parameters after three), over the kinks of the discriminators.
UPDATES = {RECONSTRUCTION: 3, BOTH: 1, DENOISER: 3}
BATCH, SEED = 16, 5
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, clip_norm=1.0)
CLIP = AutoencoderConfig(
    frames=4, height=16, width=16, patch_size=4, channels=128, depth=1, num_heads=2, head_dim=32, mlp_ratio=2,
    plane_depth=1, plane_num_heads=2, plane_head_dim=32, plane_mlp_dim=128,
)  # fmt: skip
CONFIG = Config(
    autoencoder=CLIP,
    denoiser=UNetConfig(
        model_channels=64, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(1,), num_heads=2, num_classes=3
    ),
    train_autoencoder=AutoencoderTrainingConfig(
        batch_size=BATCH,
        optimizer=OPTIMIZER,
        adversarial=AdversarialConfig(
            start_step=1, warmup_steps=0, discriminator=DiscriminatorConfig(width=16, layers=2), optimizer=OPTIMIZER
        ),
    ),
    train_diffusion=DiffusionTrainingConfig(batch_size=BATCH, accumulate=2, optimizer=OPTIMIZER),
)


def stage_and_batch(kind, mesh):
    rng = np.random.default_rng(0)
    if kind == DENOISER:
        latents = rng.standard_normal((2, BATCH, *latent_spec(CLIP).shape)).astype(np.float32)
        batch = LatentBatch(
            previous=latents[0],
            clip=latents[1],
            has_previous=rng.random(BATCH) < 0.7,
            label=rng.integers(0, 3, BATCH, np.int32),
        )
        return DiffusionStage(CONFIG, mesh), batch
    video = rng.integers(0, 256, (BATCH, 4, 16, 16, 3), np.uint8)
    batch = {"video": video, "frame": rng.integers(0, 4, BATCH, np.int32)}
    return AutoencoderStage(CLIP, CONFIG.train_autoencoder, {"video": video[:0]}, mesh), batch


def train(kind, mesh):
    """The metrics of all updates, and the last state."""
    stage, batch = stage_and_batch(kind, mesh)
    abstract = jax.eval_shape(stage.init, keys(SEED)[0])
    shardings = sharding.parameter_shardings(mesh, abstract)
    placed = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
    state = first_state(stage, placed, SEED)
    batch = sharding.global_batch(mesh, batch)
    update = compile_step(stage, kind, state=state, batch=batch, placed=placed, mesh=mesh, seed=SEED)
    metrics = []
    for _ in range(UPDATES[kind]):
        state, found = run_step(update, stage, kind, state, batch)
        metrics.append({name: float(value) for name, value in found.items()})
    return metrics, state


def distance(tree, expected):
    """The norm of the difference, relative to that of `expected`."""
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64))
        for a, b in zip(*map(jax.tree.leaves, (tree, expected)), strict=True)
    ]
    return float(np.sqrt(sum(np.sum((a - b) ** 2) for a, b in pairs) / sum(np.sum(b**2) for _, b in pairs)))


def main():
    jax.config.update("jax_num_cpu_devices", 8)
    results = {}
    for kind in (RECONSTRUCTION, BOTH, DENOISER):
        expected = None
        for data, fsdp in MESHES:
            mesh = sharding.make_mesh(MeshConfig(data=data, fsdp=fsdp), jax.devices()[: data * fsdp])
            metrics, state = train(kind, mesh)
            held = device_bytes(state)
            state = jax.device_get(state)
            if expected is None:
                expected = metrics, state
            apart = [
                abs(found[name] - value) / max(abs(value), 1e-3)
                for found, wanted in zip(metrics, expected[0], strict=True)
                for name, value in wanted.items()
            ]
            results[f"{kind} {data}x{fsdp}"] = {
                "metrics": max(apart),
                "params": distance(state.params, expected[1].params),
                "moments": distance(state.opt_state, expected[1].opt_state),
                "step": int(state.step),
                "bytes": held,
            }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
