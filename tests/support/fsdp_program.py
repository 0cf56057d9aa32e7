"""Stage 2's step of a small transformer on 8 devices, with parameters copied and split, as compiled.

usage: python fsdp_program.py
Prints as one line of JSON, for each case: the bytes of temporaries, the bytes that a device moves by each kind of
transfer, and the bytes of the parameters. "encoding": of 24 clips on the 8 devices, each of which encodes its three one
by one: how far the latents are from those of one device, whether they stay split, and the kinds of transfers.
"""

import collections
import json

import jax
import numpy as np
from flax import nnx
from tiny_devices import CLIP

from pvdm_jax.config import Config, DiffusionTrainingConfig, DiTConfig, MeshConfig
from pvdm_jax.inference import latent_model
from pvdm_jax.inference.latent_model import LatentModel
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder
from pvdm_jax.performance import planned_step
from pvdm_jax.performance.hlo import Program
from pvdm_jax.runtime import sharding

# Few tokens and much width: parameters are most of the memory.
WIDTH, DEPTH = 256, 8
CASES = {
    "copied": (1, "blocks", 1),
    "split": (8, "none", 1),
    "split by blocks": (8, "blocks", 1),
    "micro-batches": (8, "none", 2),
}


def main():
    jax.config.update("jax_num_cpu_devices", 8)
    results = {}
    for name, (fsdp, remat, accumulate) in CASES.items():
        config = Config(
            autoencoder=CLIP,
            denoiser=DiTConfig(width=WIDTH, depth=DEPTH, num_heads=4, remat=remat),
            train_diffusion=DiffusionTrainingConfig(batch_size=8 * accumulate, accumulate=accumulate),
        )
        mesh = sharding.make_mesh(MeshConfig(data=8 // fsdp, fsdp=fsdp))
        traced = planned_step.trace_step(config, 2, mesh)
        compiled = traced.lower().compile()
        moved = collections.Counter()
        for transfer in Program(compiled.as_text()).collectives():
            moved[transfer.kind] += transfer.runs * transfer.bytes
        model, _, _ = planned_step._diffusion_stage(config, mesh)
        params = 4 * functional.count(model.model.denoiser_shapes)
        temporaries = compiled.memory_analysis().temp_size_in_bytes
        results[name] = {"temporaries": temporaries, "moved": moved, "parameters": params}
    results["encoding"] = encoding()
    print(json.dumps(results))


def encoding():
    latent_model.TOKENS_AT_ONCE = 1  # fewer than a clip's
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=8))
    params = functional.split(Autoencoder(CLIP, rngs=nnx.Rngs(0)))[1]
    clips = np.random.default_rng(0).integers(0, 256, (24, CLIP.frames, CLIP.height, CLIP.width, 3), np.uint8)
    expected = jax.jit(LatentModel(CLIP).encode)(params, clips)
    inputs = sharding.place(mesh, params), sharding.global_batch(mesh, clips)
    compiled = jax.jit(LatentModel(CLIP, mesh=mesh).encode).lower(*inputs).compile()
    found = compiled(*inputs)
    return {
        "apart": float(np.abs(np.asarray(found) - np.asarray(expected)).max()),
        "split": found.sharding.is_equivalent_to(sharding.batch_sharding(mesh), found.ndim),
        "transfers": sorted({transfer.kind for transfer in Program(compiled.as_text()).collectives()}),
    }


if __name__ == "__main__":
    main()
