"""The operations that are timed: programs with their arguments, made one after the other.

Weights are constants: the time doesn't depend on them, and drawing half a billion takes long.
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
from pvdm_jax.data.latent_batch import LatentBatch
from pvdm_jax.diffusion.process import Process
from pvdm_jax.diffusion.sampling import sample_clip
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder, plane_shape
from pvdm_jax.models.pixels import to_float, to_uint8
from pvdm_jax.models.triplane import unpack
from pvdm_jax.models.unet import UNet
from pvdm_jax.performance.formulas import TRAINING, autoencoder_flops, decode_flops, denoiser_flops, encode_flops
from pvdm_jax.training.autoencoder import AutoencoderStage
from pvdm_jax.training.diffusion import DiffusionStage

DEMO_AUTOENCODER = AutoencoderConfig(
    frames=16,
    height=32,
    width=32,
    patch_size=4,
    channels=64,
    depth=2,
    num_heads=2,
    head_dim=32,
    mlp_ratio=2,
    plane_depth=1,
    plane_num_heads=4,
    plane_head_dim=32,
    plane_mlp_dim=128,
)
DEMO_UNET = UNetConfig(
    model_channels=64,
    channel_mult=(1, 1),
    num_res_blocks=1,
    attention_resolutions=(2, 1),
    num_heads=1,
    position_embedding=True,
    num_classes=3,
)
# Sizes by name: those of configs/demo.py, and the paper's, of configs/ucf101.py's official variants.
SIZES = {
    "demo": (DEMO_AUTOENCODER, DEMO_UNET),
    "s": (AutoencoderConfig(), UNetConfig(model_channels=128)),
    "l": (AutoencoderConfig(), UNetConfig()),
}
NAMES = ("encode", "decode", "autoencoder_train", "denoiser", "denoiser_train", "sample", "data")


@dataclasses.dataclass
class Operation:
    """A jitted program and its arguments. `flops`: of a call, by the formula. carries: its first result is the first
    argument of the next call, whose memory it takes over."""

    name: str
    program: Any
    arguments: tuple
    flops: float
    carries: bool = False


def constants(abstract: Any) -> Any:
    """Arrays for a tree of ShapeDtypeStructs: 0.01, or 0 for integers."""
    return jax.tree.map(
        lambda x: jnp.full(x.shape, 0.01 if jnp.issubdtype(x.dtype, jnp.floating) else 0, x.dtype), abstract
    )


def size_of(
    name: str, dtype: str, remat: str = "none", resolution: int | None = None
) -> tuple[AutoencoderConfig, UNetConfig]:
    """The two models of a size. resolution: pixels of a clip's sides (None: the size's own).

    Raises ConfigError for a size that doesn't exist, and for a policy or resolution that the autoencoder can't have.
    """
    require(name in SIZES, "--size", name, f"{', '.join(SIZES)}, or several of them separated by commas")
    autoencoder, unet = (dataclasses.replace(config, dtype=dtype, remat=remat) for config in SIZES[name])
    if resolution is not None:
        autoencoder = dataclasses.replace(autoencoder, height=resolution, width=resolution)
    return autoencoder, unet


class Operations:
    """Makes operations on one size of the models, by name: `make(name)`."""

    def __init__(self, autoencoder: AutoencoderConfig, unet: UNetConfig, batch: int, mesh: Mesh, steps: int):
        self.autoencoder, self.unet, self.batch, self.mesh, self.steps = autoencoder, unet, batch, mesh, steps
        self.shape = plane_shape(autoencoder)
        self.video_shape = (autoencoder.frames, autoencoder.height, autoencoder.width, 3)
        self.latent_shape = (self.shape.positions, autoencoder.latent_channels)

    def flops(self, name: str) -> float:
        """Of a call, by the formula."""
        encode, decode = encode_flops(self.autoencoder), decode_flops(self.autoencoder)
        denoiser = denoiser_flops(self.unet, self.shape)
        return self.batch * {
            "encode": encode,
            "decode": decode,
            "autoencoder_train": TRAINING * autoencoder_flops(self.autoencoder),
            "denoiser": denoiser,
            "denoiser_train": TRAINING * denoiser,
            "sample": self.steps * denoiser + decode,
        }.get(name, 0.0)

    def make(self, name: str) -> Operation:
        program, arguments, *carries = getattr(self, f"_{name}")()
        return Operation(name, program, arguments, self.flops(name), bool(carries))

    def _video(self) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (self.batch, *self.video_shape), dtype=np.uint8)

    def _latents(self) -> jax.Array:
        return 0.5 * jax.random.normal(jax.random.key(0), (self.batch, *self.latent_shape))

    def _weights(self, make: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, Any]:
        graphdef, abstract = functional.abstract(make)
        return graphdef, constants(abstract)

    def _autoencoder(self) -> tuple[nnx.GraphDef, Any]:
        return self._weights(lambda: Autoencoder(self.autoencoder, rngs=nnx.Rngs(0)))

    def _encode(self):
        graphdef, params = self._autoencoder()
        program = jax.jit(lambda params, video: functional.merge(graphdef, params).encode(to_float(video)).pack())
        return program, (params, jnp.asarray(self._video()))

    def _decode(self):
        graphdef, params = self._autoencoder()

        def decode(params, latents):
            return to_uint8(functional.merge(graphdef, params).decode(unpack(latents, self.shape)))

        return jax.jit(decode), (params, self._latents())

    def _train(self, stage: Any, batch: Any):
        state = constants(jax.eval_shape(stage.init, jax.random.key(0)))
        (step,) = stage.steps.values()
        program = jax.jit(lambda state, batch: step(state, batch, jax.random.key(0), stage.constants), donate_argnums=0)
        return program, (state, batch), True

    def _autoencoder_train(self):
        settings = AutoencoderTrainingConfig(optimizer=OptimizerConfig())
        nothing = {"video": np.zeros((0, *self.video_shape), np.uint8)}
        stage = AutoencoderStage(self.autoencoder, settings, nothing, self.mesh)
        return self._train(stage, {"video": jnp.asarray(self._video())})

    def _denoiser_weights(self):
        graphdef, params = self._weights(lambda: UNet(self.unet, rngs=nnx.Rngs(0)))

        def predict(params, x, step, context):
            step = jnp.broadcast_to(step, x.shape[:1])
            return functional.merge(graphdef, params)(unpack(x, self.shape), step, unpack(context, self.shape)).pack()

        return predict, params

    def _denoiser(self):
        predict, params = self._denoiser_weights()
        return jax.jit(predict), (params, self._latents(), jnp.asarray(500), self._latents())

    def _denoiser_train(self):
        config = Config(autoencoder=self.autoencoder, unet=self.unet)
        stage = DiffusionStage(config, (None, None), self.shape, None, self.mesh)
        batch = constants(LatentBatch.abstract(config, self.batch))
        return self._train(stage, batch)

    def _sample(self):
        predict, params = self._denoiser_weights()
        graphdef, decoder = self._autoencoder()
        process = Process(Config().process)

        def sample(params, decoder, context, keys):
            def denoiser(x, step):
                return predict(params, x, step, context)

            latents = sample_clip(denoiser, process, keys, self.latent_shape, sampler="ddim", steps=self.steps, eta=1.0)
            return to_uint8(functional.merge(graphdef, decoder).decode(unpack(latents, self.shape)))

        keys = jax.random.split(jax.random.key(0), self.batch)
        return jax.jit(sample), (params, decoder, jnp.zeros((self.batch, *self.latent_shape)), keys)
