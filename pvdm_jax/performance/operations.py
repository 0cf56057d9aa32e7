"""The operations that are timed, as programs with their arguments.

Weights and training states are ShapeDtypeStructs until `filled` makes arrays of them: tracing an operation, which is
enough to count its FLOPs, needs no memory. All weights are equal: the time does not depend on their values, and drawing
half a billion random numbers is slow.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from pvdm_jax.config import (
    AutoencoderConfig,
    AutoencoderTrainingConfig,
    Config,
    OptimizerConfig,
    UNetConfig,
    require,
)
from pvdm_jax.diffusion.process import Process
from pvdm_jax.diffusion.sampling import sample_clip
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder, plane_shape
from pvdm_jax.models.pixels import to_float, to_uint8
from pvdm_jax.models.triplane import unpack
from pvdm_jax.models.unet import UNet
from pvdm_jax.performance.choices import SIZES
from pvdm_jax.training.autoencoder import AutoencoderStage
from pvdm_jax.training.diffusion import DiffusionStage


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
) -> tuple[AutoencoderConfig, UNetConfig]:
    """The settings of a size's two models. resolution: height and width of a clip in pixels (None: those of the size).

    Raises ConfigError if `name` is not one of SIZES, or if the autoencoder refuses the policy or the resolution.
    """
    require(name in SIZES, "--size", name, f"{', '.join(SIZES)}, or several of them separated by commas")
    autoencoder, unet = (dataclasses.replace(config, dtype=dtype, remat=remat) for config in SIZES[name])
    if resolution is not None:
        autoencoder = dataclasses.replace(autoencoder, height=resolution, width=resolution)
    return autoencoder, unet


class Operations:
    """Makes the operations of one size of the models."""

    def __init__(self, autoencoder: AutoencoderConfig, unet: UNetConfig, batch: int, mesh: Mesh, steps: int):
        self.autoencoder, self.unet, self.batch, self.mesh, self.steps = autoencoder, unet, batch, mesh, steps
        self.shape = plane_shape(autoencoder)
        self.video_shape = (autoencoder.frames, autoencoder.height, autoencoder.width, 3)
        self.latent_shape = (self.shape.positions, autoencoder.latent_channels)

    def make(self, name: str) -> Operation:
        """The operation of a name in OPERATIONS; `data` is not one of the models' and has none."""
        return getattr(self, f"_{name}")()

    def _video(self) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (self.batch, *self.video_shape), dtype=np.uint8)

    def _latents(self) -> jax.Array:
        return 0.5 * jax.random.normal(jax.random.key(0), (self.batch, *self.latent_shape))

    def _autoencoder(self) -> tuple[nnx.GraphDef, Any]:
        return functional.abstract(lambda: Autoencoder(self.autoencoder, rngs=nnx.Rngs(0)))

    def _predict(self) -> tuple[Callable[..., jax.Array], Any]:
        """The denoiser as a function of its weights, latents, step and context; and its weights."""
        graphdef, params = functional.abstract(lambda: UNet(self.unet, rngs=nnx.Rngs(0)))

        def predict(params, x, step, context):
            step = jnp.broadcast_to(step, x.shape[:1])
            return functional.merge(graphdef, params)(unpack(x, self.shape), step, unpack(context, self.shape)).pack()

        return predict, params

    def _encode(self) -> Operation:
        graphdef, params = self._autoencoder()
        program = jax.jit(lambda params, video: functional.merge(graphdef, params).encode(to_float(video)).pack())
        return Operation(program, (params, jnp.asarray(self._video())))

    def _decode(self) -> Operation:
        graphdef, params = self._autoencoder()

        def decode(params, latents):
            return to_uint8(functional.merge(graphdef, params).decode(unpack(latents, self.shape)))

        return Operation(jax.jit(decode), (params, self._latents()))

    def _train(self, stage: Any, batch: Any) -> Operation:
        state = jax.eval_shape(stage.init, jax.random.key(0))
        program = jax.jit(lambda state, batch: stage.step(state, batch, jax.random.key(0)), donate_argnums=0)
        return Operation(program, (state, batch), carries_state=True)

    def _autoencoder_train(self) -> Operation:
        settings = AutoencoderTrainingConfig(optimizer=OptimizerConfig())
        no_clips = {"video": np.zeros((0, *self.video_shape), np.uint8)}
        stage = AutoencoderStage(self.autoencoder, settings, no_clips, self.mesh)
        return self._train(stage, {"video": jnp.asarray(self._video())})

    def _denoiser(self) -> Operation:
        predict, params = self._predict()
        return Operation(jax.jit(predict), (params, self._latents(), jnp.asarray(500), self._latents()))

    def _denoiser_train(self) -> Operation:
        config = Config(autoencoder=self.autoencoder, unet=self.unet)
        stage = DiffusionStage(config, (None, None), self.shape, {}, self.mesh)
        batch = {"previous": self._latents(), "clip": self._latents()}
        batch |= {"has_previous": jnp.ones(self.batch, bool), "label": jnp.zeros(self.batch, jnp.int32)}
        return self._train(stage, batch)

    def _sample(self) -> Operation:
        predict, params = self._predict()
        graphdef, decoder = self._autoencoder()
        process = Process(Config().process)

        def sample(params, decoder, context, keys):
            def denoiser(x, step):
                return predict(params, x, step, context)

            latents = sample_clip(denoiser, process, keys, self.latent_shape, sampler="ddim", steps=self.steps, eta=1.0)
            return to_uint8(functional.merge(graphdef, decoder).decode(unpack(latents, self.shape)))

        keys = jax.random.split(jax.random.key(0), self.batch)
        return Operation(jax.jit(sample), (params, decoder, jnp.zeros((self.batch, *self.latent_shape)), keys))
