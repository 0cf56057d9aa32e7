"""The denoiser's loss on held-out clips, with and without the previous clip, at fixed times and noise."""

import jax
import jax.numpy as jnp
import numpy as np

from pvdm_jax.diffusion.predictions import make_noisy_batch, squared_error
from pvdm_jax.diffusion.process import Process
from pvdm_jax.evaluation.clip_measurements import Rows
from pvdm_jax.inference.pipeline import PVDM
from pvdm_jax.models.condition import Condition, Neighbour

TIMES = 4  # times per clip, one in each quarter of the process


class HeldOutLoss:
    """Measures the squared error of a model's predictions for clips and their previous clips.

    Times and noise depend only on the seed and the clip's number, so they are the same for all models, with and without
    the previous clip.
    """

    def __init__(self, model: PVDM, seed: int):
        self._model, self._seed = model, seed
        self._process = Process(model.config.process)
        self._errors = jax.jit(self._compute)

    def measure(self, previous: np.ndarray, clips: np.ndarray, labels: np.ndarray | None, numbers: np.ndarray) -> Rows:
        """The mean loss of each clip over its times, (n,): `loss_given_previous`, `loss_unconditional`, and
        `loss_of_zero`, that of a denoiser that answers 0.

        previous, clips: uint8 (n, frames, height, width, 3). labels: (n,), None for a model without classes. numbers:
        the clips' numbers, (n,).
        """
        scale, shape = self._model.scale, self._model.latent_spec.shape
        known, latents = (np.asarray(scale.normalize(self._model.encode(video))) for video in (previous, clips))
        drawn = [np.random.default_rng([self._seed, 9, int(number)]) for number in numbers]
        places = (np.stack([rng.random(TIMES) for rng in drawn]) + np.arange(TIMES)) / TIMES
        noise = np.stack([rng.standard_normal((TIMES, *shape), np.float32) for rng in drawn])
        steps = np.minimum((places * self._process.num_steps).astype(np.int32), self._process.num_steps - 1)
        totals = []
        for time in range(TIMES):
            inputs = latents, known, labels, steps[:, time], noise[:, time]
            totals.append(self._errors(self._model.weights["denoiser"], *inputs))
        return {name: np.mean([np.asarray(part[name], np.float64) for part in totals], axis=0) for name in totals[0]}

    def _compute(self, params, latents, known, labels, step, noise) -> dict[str, jax.Array]:
        """The squared errors (n,) at one time of each clip."""
        absent = self._model.model.absent(len(latents))
        condition = Condition(previous=Neighbour(known, jnp.ones(len(latents), bool)), next=absent.next, label=labels)
        noisy = make_noisy_batch(self._process, latents, step, noise)
        # In one call: a second one would take seconds to compile.
        both = jax.tree.map(lambda *x: jnp.concatenate(x), (noisy, condition), (noisy, condition.without("previous")))
        given, alone = jnp.split(self._model.model.errors(params, *both), 2)
        zero = squared_error(jnp.zeros_like(noisy.target), noisy.target)
        return {"loss_given_previous": given, "loss_unconditional": alone, "loss_of_zero": zero}
