"""The operations that are timed, as programs with their arguments.

Weights and training states are ShapeDtypeStructs until `filled` makes arrays of them: tracing an operation, which is
enough to count its FLOPs, needs no memory. All weights have the same value: it does not affect the time, and drawing
half a billion random numbers is slow.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pvdm_jax.config import (
    AutoencoderConfig,
    AutoencoderTrainingConfig,
    Config,
    DenoiserConfig,
    OptimizerConfig,
    SampleConfig,
    require,
)
from pvdm_jax.data.latent_batch import LatentBatch
from pvdm_jax.inference.latent_model import LatentModel
from pvdm_jax.inference.sampler import SampleBatch, SamplingProgram, split_settings
from pvdm_jax.models.condition import Condition
from pvdm_jax.performance.choices import SIZES
from pvdm_jax.runtime.keys import make_key
from pvdm_jax.training.autoencoder import AutoencoderStage
from pvdm_jax.training.diffusion import DENOISER, DiffusionStage
from pvdm_jax.training.phases import RECONSTRUCTION


@dataclasses.dataclass
class Operation:
    """A jitted program and its arguments, in which ShapeDtypeStructs stand for weights."""

    program: Any
    arguments: tuple
    carries_state: bool = False  # the first result is the next call's first argument, and takes over its memory

    def trace(self) -> Any:
        return self.program.trace(*self.arguments)


def filled(tree: Any) -> Any:
    """The tree with arrays in place of its ShapeDtypeStructs: all elements are 0.01, or 0 for integers."""

    def fill(x):
        if not isinstance(x, jax.ShapeDtypeStruct):
            return x
        return jnp.full(x.shape, 0.01 if jnp.issubdtype(x.dtype, jnp.floating) else 0, x.dtype)

    return jax.tree.map(fill, tree)


def size_of(
    name: str, dtype: str, remat: str = "none", resolution: int | None = None
) -> tuple[AutoencoderConfig, DenoiserConfig]:
    """The settings of a size's two models. resolution: height and width of a clip in pixels (None: those of the size).

    Raises ConfigError if `name` is not one of SIZES, or if the autoencoder refuses the policy or the resolution.
    """
    require(name in SIZES, "--size", name, f"{', '.join(SIZES)}, or several of them separated by commas")
    autoencoder, denoiser = (dataclasses.replace(config, dtype=dtype, remat=remat) for config in SIZES[name])
    if resolution is not None:
        autoencoder = dataclasses.replace(autoencoder, height=resolution, width=resolution)
    return autoencoder, denoiser


class Operations:
    """Makes the operations of one size of the models."""

    def __init__(self, autoencoder: AutoencoderConfig, denoiser: DenoiserConfig, batch: int, mesh: Mesh, steps: int):
        self.autoencoder, self.denoiser = autoencoder, denoiser
        self.batch, self.mesh, self.steps = batch, mesh, steps
        self.model = LatentModel(autoencoder, denoiser, mesh)
        self.video_shape = (autoencoder.frames, autoencoder.height, autoencoder.width, 3)

    def make(self, name: str) -> Operation:
        """The operation with a name in OPERATIONS, except `data`, which runs no model."""
        return getattr(self, f"_{name}")()

    def _video(self) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (self.batch, *self.video_shape), dtype=np.uint8)

    def _latents(self) -> jax.Array:
        return 0.5 * jax.random.normal(make_key(0), (self.batch, *self.model.spec.shape), jnp.float32)

    def _condition(self) -> Condition:
        return self.model.absent(self.batch)

    def _encode(self) -> Operation:
        return Operation(jax.jit(self.model.encode), (self.model.autoencoder_shapes, jnp.asarray(self._video())))

    def _decode(self) -> Operation:
        return Operation(jax.jit(self.model.decode), (self.model.autoencoder_shapes, self._latents()))

    def _train(self, stage: Any, name: str, batch: Any) -> Operation:
        step = stage.steps[name]
        part, _ = stage.split(name, jax.eval_shape(stage.init, make_key(0)))
        program = jax.jit(lambda part, batch: step(part, batch, make_key(0), stage.constants), donate_argnums=0)
        return Operation(program, (part, batch), carries_state=True)

    def _autoencoder_train(self) -> Operation:
        settings = AutoencoderTrainingConfig(optimizer=OptimizerConfig())
        no_clips = {"video": np.zeros((0, *self.video_shape), np.uint8)}
        stage = AutoencoderStage(self.autoencoder, settings, no_clips, self.mesh)
        return self._train(stage, RECONSTRUCTION, {"video": jnp.asarray(self._video())})

    def _denoiser(self) -> Operation:
        network = self.model.one_network  # a sampler's call runs one, even of a denoiser with an expert
        times = jnp.full(self.batch, 500)
        arguments = (network.denoiser_shapes, self._latents(), times, self._condition())
        return Operation(jax.jit(network.denoise), arguments)

    def _denoiser_train(self) -> Operation:
        config = Config(autoencoder=self.autoencoder, denoiser=self.denoiser)
        batch = filled(LatentBatch.abstract(config, self.batch))
        return self._train(DiffusionStage(config, self.mesh), DENOISER, batch)

    def _sample(self) -> Operation:
        sample = SampleConfig(sampler="ddim", steps=self.steps, eta=1.0, plane_order="keep")
        config = Config(autoencoder=self.autoencoder, denoiser=self.denoiser, sample=sample)
        settings, numbers = split_settings(self.model, sample, config.latents)
        program = SamplingProgram(config, self.model)

        def run(weights, key, batch):
            return program.generate(weights, key, 0, batch, numbers, settings=settings, clips=1, given=False)[0]

        weights = {"autoencoder": self.model.autoencoder_shapes, "denoiser": self.model.denoiser_shapes}
        batch = SampleBatch(jnp.arange(self.batch, dtype=jnp.uint32), self._condition())
        return Operation(jax.jit(run), (weights, make_key(0), batch))
