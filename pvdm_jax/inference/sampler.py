"""The sampler as one pure function: from weights, a key, conditions and guidance to finished videos.

`PVDM` compiles it, training evaluates with it, and `pvdm export` makes a portable program of it. Weights and every
number that is no size are arguments, so that other seeds, labels, weights or strengths of guidance need no new program;
what shapes the program is a `SampleConfig`, which is hashable.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pvdm_jax.config import Config, LatentsConfig, SampleConfig, config_from_dict, config_to_dict, require
from pvdm_jax.diffusion.guidance import Denoise, guide
from pvdm_jax.diffusion.predictions import normal_answer
from pvdm_jax.diffusion.process import Process
from pvdm_jax.diffusion.samplers import SAMPLERS
from pvdm_jax.diffusion.sampling import sample_clip, sample_video
from pvdm_jax.inference.latent_model import LatentModel
from pvdm_jax.models import functional
from pvdm_jax.models.condition import NEIGHBOURS, Condition, Neighbour
from pvdm_jax.models.experts import EXPERT, REST
from pvdm_jax.models.latent import LatentScale, Tokens

Weights = Mapping[str, functional.Params]  # "autoencoder", "denoiser"
Numbers = Mapping[str, Any]  # float32 scalars, the fields NUMBERS of SampleConfig; "scale", a LatentScale
NUMBERS = (
    "eta",
    "guidance",
    "class_guidance",
    "prior_guidance",
    "later_prior_guidance",
    "guidance_from",
    "guidance_to",
)
LATER = ("sampler", "grid", "prior_guidance")  # settings with a twin of their own for continuations


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SampleBatch:
    """The videos of one call: index (b,) uint32, which of a key's endless row of videos, and their conditions, whose
    latents are normalised."""

    index: jax.Array
    condition: Condition


def settings_of(config: Config, options: Mapping[str, Any] | None) -> SampleConfig:
    """A model's own settings of sampling with `options`, fields of SampleConfig, in place of those that aren't None.

    Raises ConfigError for an unknown field, a value of another type, and where the model can't sample that way: every
    way to sample, from Python or from a command, comes through here. Those of LATER that are chosen alone hold for all
    clips.
    """
    chosen = {name: _plain(value) for name, value in (options or {}).items() if value is not None}
    same = {f"later_{name}": getattr(SampleConfig(), f"later_{name}") for name in LATER if name in chosen}
    chosen = same | chosen
    settings = config_from_dict(SampleConfig, config_to_dict(config.sample) | chosen, "sample.")
    dataclasses.replace(config, sample=settings)  # checks the two together
    clip, denoiser = config.autoencoder, config.denoiser
    allowed = "the model was trained without classes (denoiser.num_classes=0)"
    require(settings.class_guidance == 0 or denoiser.num_classes, "class_guidance", settings.class_guidance, allowed)
    allowed = "this model's denoiser takes no previous clip (denoiser.previous_clip=False)"
    require(settings.guidance == 0 or denoiser.previous_clip, "guidance", settings.guidance, allowed)
    allowed = "the motion planes of frames that aren't square differ in size: there is one order only"
    require(settings.plane_order != "confirm" or clip.height == clip.width, "plane_order", "confirm", allowed)
    return settings


def _plain(value: Any) -> Any:
    """A number of NumPy or JAX as one of Python, which the checks of settings know; anything else unchanged."""
    return value.item() if isinstance(value, np.generic | np.ndarray | jax.Array) and value.size == 1 else value


def check_continues(config: Config, num_frames: int | None, given: bool = False) -> None:
    """Raises ConfigError if the model can't make videos of `num_frames` frames (None: one clip).

    given: whether they continue other videos, so that even the first clip has a previous one.
    """
    if given or clips_of(config, num_frames) > 1:
        allowed = "continuing a clip needs a denoiser that takes the previous clip (denoiser.previous_clip=True)"
        asked = ("denoiser.previous_clip", False) if given else ("num_frames", num_frames)
        require(config.denoiser.previous_clip, *asked, allowed)


def check_interpolates(config: Config) -> None:
    """Raises ConfigError if the model can't make the clip between two others."""
    allowed = "interpolation needs a model that was trained with the clips on both sides (denoiser.next_clip=True)"
    require(config.denoiser.next_clip, "denoiser.next_clip", config.denoiser.next_clip, allowed)


def clips_of(config: Config, num_frames: int | None) -> int:
    """How many clips a video of `num_frames` (None: one clip) takes."""
    return -(-(num_frames or 1) // config.autoencoder.frames)


def split_settings(
    model: LatentModel, settings: SampleConfig, latents: LatentsConfig
) -> tuple[SampleConfig, dict[str, Any]]:
    """What shapes the program of sampling, and the numbers that it takes as arguments.

    In the first, a weight of guidance is 1 where that guidance is used and 0 where it isn't; so is guidance_from where
    guidance is off during a part of the process. `plane_order` is "confirm" or "keep". Raises ConfigError if `latents`
    lacks the statistics that it needs.
    """
    denoiser = model.denoiser
    mistakable = not denoiser.knows_positions and model.spec.interchangeable is not None
    confirm = settings.plane_order == "confirm" or (settings.plane_order == "auto" and mistakable)
    whole = (settings.guidance_from, settings.guidance_to) == (0.0, 1.0)
    settings = dataclasses.replace(settings, later_prior_guidance=settings.prior_weight(later=True))
    program = dataclasses.replace(
        settings,
        eta=0.0,
        guidance=float(settings.guidance > 0 and denoiser.previous_clip),
        class_guidance=float(settings.class_guidance > 0 and denoiser.num_classes > 0),
        prior_guidance=float(settings.prior_guidance > 0),
        later_prior_guidance=float(settings.later_prior_guidance > 0),
        guidance_from=0.0,
        guidance_to=1.0 if whole else 0.5,
        plane_order="confirm" if confirm else "keep",
    )
    numbers = {name: np.float32(getattr(settings, name)) for name in NUMBERS}
    return program, numbers | {"scale": LatentScale.of(model.spec, latents)}


class SamplingProgram:
    """Pure functions of weights and inputs, for one configuration. Nothing here knows of devices or files.

    Latents are the autoencoder's; those of conditions, and of what `_sample` gives, are normalised.
    """

    def __init__(self, config: Config, model: LatentModel):
        self.config, self.model, self.process = config, model, Process(config.process)

    def encode(self, weights: Weights, video: jax.Array) -> Tokens:
        return self.model.encode(weights["autoencoder"], video)

    def decode(self, weights: Weights, latents: Tokens) -> jax.Array:
        return self.model.decode(weights["autoencoder"], latents)

    def confirm(self, weights: Weights, latents: Tokens) -> tuple[Tokens, jax.Array, jax.Array]:
        """Latents (b, positions, c) with their interchangeable segments in the order that the autoencoder confirms.

        The autoencoder nearly gives back the latents of a video that it has decoded, but not those of the rubbish that
        exchanged planes decode to. Returns the latents, their clips as in `decode`, and which were exchanged (b,).
        Raises ValueError where no segments can be mistaken for each other.
        """
        orders = jnp.concatenate([latents, latents[:, self.model.spec.exchange()]])
        videos = self.decode(weights, orders)
        errors = jnp.mean(jnp.square(self.encode(weights, videos) - orders), axis=(1, 2))
        count = latents.shape[0]
        exchanged = errors[count:] < errors[:count]

        def pick(x):
            return jnp.where(exchanged.reshape(-1, *(1,) * (x.ndim - 1)), x[count:], x[:count])

        return pick(orders), pick(videos), exchanged

    def generate(
        self,
        weights: Weights,
        key: jax.Array,
        number: jax.Array,
        batch: SampleBatch,
        numbers: Numbers,
        *,
        settings: SampleConfig,
        clips: int,
        given: bool,
    ) -> tuple[jax.Array, Condition]:
        """Videos, uint8 (b, clips * frames, height, width, 3), and the condition of the clip after them.

        Video i has the noise of (key, index[i]), clips `number` and on. settings, numbers: of `split_settings`.
        given: whether the batch's condition holds neighbouring clips.
        """

        scale = numbers["scale"]

        def finish(x, later):
            latents, exchange = scale.restore(x), settings.plane_order == "confirm" and not later
            if exchange:
                latents, video, _ = self.confirm(weights, latents)
            else:
                video = self.decode(weights, latents)
            if settings.reencode:
                latents = self.encode(weights, video)
            known = scale.normalize(latents) if exchange or settings.reencode else x
            return video, self._following(batch.condition, known)

        sample = functools.partial(self._sample, weights, numbers, settings)
        video, condition = sample_video(
            sample, finish, self._keys(key, batch), batch.condition, clips, given=given, number=number
        )
        video = jnp.moveaxis(video, 0, 1)
        return video.reshape(video.shape[0], -1, *video.shape[3:]), condition

    def preview(
        self, weights: Weights, key: jax.Array, batch: SampleBatch, numbers: Numbers, *, settings: SampleConfig
    ) -> tuple[Tokens, jax.Array, jax.Array]:
        """One clip's latents (b, positions, c), the estimates of them at every call of the denoiser
        (calls, b, positions, c), and the times of these calls."""
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 0))(self._keys(key, batch))
        x, estimates, times = self._sample(weights, numbers, settings, keys, batch.condition, False, trace=True)
        scale = numbers["scale"]
        return scale.restore(x), scale.restore(estimates), times

    def _keys(self, key: jax.Array, batch: SampleBatch) -> jax.Array:
        return jax.vmap(lambda index: jax.random.fold_in(key, index))(batch.index)

    def _following(self, condition: Condition, latents: Tokens) -> Condition:
        """The condition of the clip after one with these latents, in a video with this condition."""
        if condition.previous is None:
            return condition
        previous = Neighbour(latents, jnp.ones(latents.shape[0], bool))
        return dataclasses.replace(condition.without("next"), previous=previous)

    def _denoise(self, params: functional.Params, settings: SampleConfig, later: bool) -> Denoise:
        """The denoiser with its weights. Of two networks only the one that is needed, where that is known: a program
        with both takes twice as long to compile."""
        model, network = self.model, None
        if self.config.denoiser.expert_from:
            sampler, steps, _ = settings.solver(later)
            if not later:
                network = REST  # a first clip has no neighbour
            elif steps == 1 and not SAMPLERS[sampler].every_step and not settings.guidance:
                network = EXPERT  # it is asked at the last time alone, and of clips with a neighbour
        if network:
            model, params = model.one_network, params[network]
        return functools.partial(model.denoise_in_parts, params)

    def _sample(self, weights, numbers, settings, keys, condition, later, trace=False):
        away, prior, interval = [], None, None
        if settings.guidance and later:
            away.append((numbers["guidance"], condition.without(*NEIGHBOURS)))
        if settings.class_guidance:
            away.append((numbers["class_guidance"], condition.without("label")))
        if settings.prior_weight(later):
            weight = numbers["later_prior_guidance" if later else "prior_guidance"]
            prior = (weight, functools.partial(normal_answer, self.process))
        if settings.guidance_to < 1:
            # A time t lies at the fraction (t + 1) / num_steps of the process.
            ends = (numbers["guidance_from"], numbers["guidance_to"])
            interval = tuple(end * self.process.num_steps - 1 for end in ends)
        sampler, steps, grid = settings.solver(later)
        denoise = self._denoise(weights["denoiser"], settings, later)
        return sample_clip(
            guide(denoise, condition, away, prior=prior, interval=interval),
            self.process,
            keys,
            self.model.spec.shape,
            sampler=sampler,
            steps=steps,
            grid=grid,
            eta=numbers["eta"],
            bounds=numbers["scale"].bounds if settings.clip_x0 else None,
            trace=trace,
        )
