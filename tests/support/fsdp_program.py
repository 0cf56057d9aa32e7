"""Stage 2's step of a small transformer on 8 devices, with parameters copied and split, as compiled.

usage: python fsdp_program.py
Prints as one line of JSON, for each case: the bytes of temporaries, the bytes that a device moves by each kind of
transfer, and the bytes of the parameters.
"""

import collections
import json

import jax
from tiny_devices import CLIP

from pvdm_jax.config import Config, DiffusionTrainingConfig, DiTConfig, MeshConfig
from pvdm_jax.models import functional
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
    print(json.dumps(results))


if __name__ == "__main__":
    main()
