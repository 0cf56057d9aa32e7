"""Prints a table of samplers and steps with their quality and time on a run, as in docs/notes/sampling.md.

    python examples/sampler_table.py runs/demo [CLIPS]

Quality is the Frechet distance between CLIPS generated clips (default: 128) and as many held-out ones, in the
scattering space. Time is that of one clip within a batch, without compilation. The run's data must be the synthetic
source.
"""

import sys
import time

import jax
import numpy as np

import pvdm_jax
from pvdm_jax.data.loader import fixed_clips
from pvdm_jax.data.sources import open_source
from pvdm_jax.evaluation.frechet import frechet_distance
from pvdm_jax.evaluation.scattering import video_features

BATCH = 32
SETTINGS = [
    *({"sampler": "ddim", "grid": "uniform", "steps": steps, "eta": 0.5} for steps in (10, 25, 50, 100)),
    *({"sampler": "ddim", "grid": "uniform", "steps": 25, "eta": eta} for eta in (0.0, 1.0)),
    *({"sampler": "euler", "grid": "quadratic", "steps": steps} for steps in (10, 25)),
    *({"sampler": "heun", "grid": "quadratic", "steps": steps} for steps in (6, 13)),
    *({"sampler": "dpmpp", "grid": "logsnr", "steps": steps} for steps in (10, 25)),
    *({"sampler": "dpmpp_sde", "grid": "logsnr", "steps": steps} for steps in (10, 25, 50)),
]


def main(run: str, clips: str = "128") -> None:
    count, model = int(clips), pvdm_jax.load(run)
    config = model.config
    held_out = open_source(config.data, config.autoencoder, "holdout", config.seed)
    real = fixed_clips(held_out, config.autoencoder, config.data, 2 * count)["video"]
    expected = video_features(real[::2])
    classes = config.denoiser.num_classes
    labels = np.arange(count) % classes if classes else np.full(count, -1)
    print(f"{count} other held-out clips: {frechet_distance(video_features(real[1::2]), expected):.2f}\n")
    print("| sampler | grid | steps | eta | calls | Frechet distance | seconds a clip |\n|---|---|---|---|---|---|---|")
    for options in SETTINGS:

        def draw(start, options=options):
            rows = np.arange(start, start + BATCH) % count
            given = labels[rows] if classes else None
            return model.sample(jax.random.key(1), BATCH, labels=given, indices=rows, **options)

        draw(0)  # compiles
        began = time.perf_counter()
        found = np.concatenate([draw(start) for start in range(0, count, BATCH)])[:count]
        seconds = (time.perf_counter() - began) / (-(-count // BATCH) * BATCH)
        distance = frechet_distance(video_features(found), expected)
        settings = [options.get(name, "") for name in ("sampler", "grid", "steps", "eta")]
        row = [*settings, model.calls(**options), f"{distance:.2f}", f"{seconds:.3f}"]
        print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
