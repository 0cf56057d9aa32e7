"""Stage 2's losses as functions of one network's parameters: what each sample is shown, which clip it learns, and at
which times.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pvdm_jax.config import Config
from pvdm_jax.data.latent_batch import LatentBatch
from pvdm_jax.diffusion.predictions import NoisyBatch, draw_noisy_batch
from pvdm_jax.diffusion.process import Process
from pvdm_jax.diffusion.times import draw_times
from pvdm_jax.inference.latent_model import LatentModel
from pvdm_jax.models import functional
from pvdm_jax.models.condition import Condition, Neighbour
from pvdm_jax.models.latent import Tokens
from pvdm_jax.training.seam_weights import seam_weights, weights_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Drawn:
    """What a network learns from a batch: noisy clips, what it is shown with each, and which of them count (b,)."""

    noisy: NoisyBatch
    condition: Condition
    counted: jax.Array


class DiffusionLosses:
    """The losses of stage 2. network: the network that an update trains. Batches have normalised latents."""

    def __init__(self, config: Config, network: LatentModel):
        self.denoiser, self.config, self.network = config.denoiser, config.train_diffusion, network
        self.process = Process(config.process)
        self.seam_weights = None
        if self.config.seam_weight:
            self.seam_weights = seam_weights(network.spec, config.autoencoder.frames, self.config.seam_weight)

    def loss(
        self,
        params: functional.Params,
        batch: LatentBatch,
        key: jax.Array,
        coin: jax.Array | None = None,
        expert: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean squared error over the samples that count, weighted by their times.

        coin: a bool that decides for the whole batch whether it sees neighbours; None draws one for each clip. expert:
        whether the network is the expert, a bool; None: there is none. Both networks' losses are one function, because
        a program takes long to compile.
        """
        drawn = self.draw(batch, key, coin)
        if expert is not None:
            drawn = jax.tree.map(lambda x, y: jnp.where(expert, y, x), drawn, self.draw_for_expert(batch, key))
        errors = jnp.where(drawn.counted, drawn.noisy.weight * self.errors(params, drawn), 0.0)
        loss = jnp.sum(errors) / jnp.maximum(jnp.sum(drawn.counted), 1)
        return loss, {"loss": loss}

    def errors(self, params: functional.Params, drawn: Drawn) -> jax.Array:
        """Squared errors (b,) of what one network predicts, not weighted by times."""
        weights = None if self.seam_weights is None else weights_of(self.seam_weights, drawn.condition)
        return self.network.errors(params, drawn.noisy, drawn.condition, weights)

    def draw(self, batch: LatentBatch, key: jax.Array, coin: jax.Array | None = None) -> Drawn:
        """What the denoiser learns: some samples are given their neighbouring clips, the others are not. All count."""
        context_key, which_key, label_key, noise_key = jax.random.split(key, 4)
        condition = self.drawn_condition(batch, context_key, label_key, coin)
        clip = self.unconditional_clip(batch, condition, which_key)
        times = functools.partial(draw_times, self.config, shown=self.shows_neighbour(batch, condition))
        noisy = draw_noisy_batch(self.process, clip, noise_key, times)
        return Drawn(noisy, condition, jnp.ones(batch.label.shape, bool))

    def draw_for_expert(self, batch: LatentBatch, key: jax.Array) -> Drawn:
        """What an expert learns: clips given their neighbours. Those without any don't count."""
        context_key, label_key, noise_key = jax.random.split(key, 3)
        condition = self.drawn_condition(batch, context_key, label_key, coin=jnp.bool_(True))
        noisy = draw_noisy_batch(self.process, batch.clip, noise_key, self.expert_times)
        return Drawn(noisy, condition, self.shows_neighbour(batch, condition))

    def expert_times(self, key: jax.Array, count: int, num_steps: int) -> jax.Array:
        """Times (count,) drawn uniformly from those that the expert answers for."""
        return jax.random.randint(key, (count,), self.denoiser.expert_from, num_steps, jnp.int32)

    def condition(self, batch: LatentBatch) -> Condition:
        """The condition with everything that the denoiser takes and the batch has."""
        parts: dict[str, Any] = {"label": batch.label} if self.denoiser.num_classes else {}
        for name in self.denoiser.neighbours:
            parts[name] = Neighbour(getattr(batch, name), getattr(batch, f"has_{name}"))
        return Condition(**parts)

    def drawn_condition(
        self, batch: LatentBatch, context_key: jax.Array, label_key: jax.Array, coin: jax.Array | None
    ) -> Condition:
        """What each sample is shown: some of its neighbours (`shown_neighbours`), and usually its class."""
        return self.condition(batch).keep(
            **self.shown_neighbours(batch, context_key, coin),
            label=jax.random.bernoulli(label_key, np.float32(self.config.label_prob), batch.label.shape),
        )

    def shown_neighbours(
        self, batch: LatentBatch, key: jax.Array, coin: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Which samples are shown their neighbours: "previous" and, with next_clip, "next", each bool (b,).

        With next_clip, of the samples that are shown any neighbour, half see both, a quarter only the previous clip and
        a quarter only the next. A neighbour that the data lack is never shown.
        """
        coin_key, which_key = jax.random.split(key)
        count = batch.label.shape
        if coin is None:
            coin = jax.random.bernoulli(coin_key, np.float32(self.config.context_prob), count)
        coin = jnp.broadcast_to(coin, count) & self.denoiser.previous_clip
        if not self.denoiser.next_clip:
            return {"previous": coin & batch.has_previous}
        quarter = jax.random.randint(which_key, count, 0, 4, jnp.int32)
        shown = {"previous": quarter != 0, "next": quarter != 1}
        return {name: coin & chosen & getattr(batch, f"has_{name}") for name, chosen in shown.items()}

    def shows_neighbour(self, batch: LatentBatch, condition: Condition) -> jax.Array:
        """Which samples (b,) see a neighbouring clip."""
        return jnp.broadcast_to(condition.sees_neighbour, batch.label.shape)

    def unconditional_clip(self, batch: LatentBatch, condition: Condition, key: jax.Array) -> Tokens:
        """The clips to learn (b, positions, channels): `batch.clip` where a neighbour is shown.

        Elsewhere, the clip at a random place in the window, or if the batch has none, any of the window's clips.
        """
        clip, unconditional = batch.clip, ~self.shows_neighbour(batch, condition)
        if batch.unconditional is not None:
            return jnp.where(unconditional[:, None, None], batch.unconditional, clip)
        names = ["previous"] if batch.next is None else ["previous", "next"]
        which = jax.random.randint(key, unconditional.shape, 0, 1 + len(names), jnp.int32)
        for number, name in enumerate(names, 1):
            chosen = unconditional & getattr(batch, f"has_{name}") & (which == number)
            clip = jnp.where(chosen[:, None, None], getattr(batch, name), clip)
        return clip
