"""A model of the smallest size with random weights, for tests and for programs that they start.

usage: python tiny_model.py DEVICES
Writes videos, made on that many devices, to its output as a .npy file.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from tiny_config import SMALLEST

from pvdm_jax.config import AutoencoderConfig, Config, SampleConfig, UNetConfig
from pvdm_jax.inference.latent_model import LatentModel
from pvdm_jax.inference.pipeline import PVDM
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder, latent_spec
from pvdm_jax.models.denoiser import make_denoiser

FRAMES, SIDE = 4, 16
NAMES = ("bounce", "orbit", "spin")


def random_weights(make, seed: int, scale: float = 0.1):
    """Normal weights for every parameter; made by NumPy, so that nothing is compiled for them."""
    _, shapes = functional.abstract(make)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (scale * rng.standard_normal(leaf.shape)).astype(np.float32), shapes)


def model_config(**unet) -> Config:
    clip = AutoencoderConfig(frames=FRAMES, height=SIDE, width=SIDE, patch_size=4, channels=32, **SMALLEST)
    sizes = dict(model_channels=32, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(1,), num_heads=2)
    sample = SampleConfig(steps=3, later_steps=2, plane_order="keep")
    return Config(autoencoder=clip, denoiser=UNetConfig(**(sizes | {"num_classes": 3} | unet)), sample=sample)


def tiny_model(mesh=None, seed: int = 0, **unet) -> PVDM:
    config = model_config(**unet)
    autoencoder = random_weights(lambda: Autoencoder(config.autoencoder, rngs=functional.rngs(0)), seed)
    spec = latent_spec(config.autoencoder)
    denoiser = random_weights(lambda: make_denoiser(config.denoiser, spec, rngs=functional.rngs(0)), seed + 1)
    return PVDM(config, autoencoder, denoiser, NAMES, mesh)


class FormulaModel(LatentModel):
    """Formulas in the places of the networks: a program around them compiles within a second."""

    def encode(self, params, video):
        video = video.astype(jnp.float32) / 127.5 - 1 if video.dtype == jnp.uint8 else video
        flat = video.reshape(video.shape[0], -1) @ params["decode"].T
        return jnp.tanh(flat.reshape(-1, *self.spec.shape) / 8)

    def decode(self, params, latents):
        video = jnp.tanh(latents.reshape(latents.shape[0], -1) @ params["decode"])
        video = video.reshape(-1, FRAMES, SIDE, SIDE, 3)
        return jnp.round((video + 1) * 127.5).astype(jnp.uint8)

    def denoise(self, params, x, time, condition):
        mean = 0.2 * condition.label.astype(jnp.float32)[:, None, None] * params["class"][None, None]
        for neighbour, weight in ((condition.previous, 0.6), (condition.next, -0.4)):
            if neighbour is not None:
                mean = mean + weight * neighbour.visible()
        mean = mean @ params["mix"]
        return 0.9 * x - 0.5 * mean * (1 - time[:, None, None] / 1000)


class FormulaPVDM(PVDM):
    make_model = FormulaModel


def formula_model(mesh=None, seed: int = 0, **unet) -> PVDM:
    """A `tiny_model` whose networks are the formulas of `FormulaModel`."""
    config, rng = model_config(**unet), np.random.default_rng(seed)
    channels, positions = config.denoiser.latent_channels, latent_spec(config.autoencoder).positions
    decode = rng.standard_normal((positions * channels, FRAMES * SIDE * SIDE * 3)) / 12
    mix, shift = 0.5 * rng.standard_normal((channels, channels)), rng.standard_normal(channels)
    denoiser = {"mix": mix.astype(np.float32), "class": shift.astype(np.float32)}
    return FormulaPVDM(config, {"decode": decode.astype(np.float32)}, denoiser, NAMES, mesh)


def main(devices: int) -> None:
    jax.config.update("jax_num_cpu_devices", devices)
    video = formula_model().sample(jax.random.key(0), 4, num_frames=6)
    np.save(sys.stdout.buffer, video)


if __name__ == "__main__":
    main(int(sys.argv[1]))
