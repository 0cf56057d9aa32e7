"""The triplane video autoencoder (paper section 3.1, appendix on the architecture).

A video transformer turns patches into tokens of a (t, h, w) grid. Three small transformers, each over the tokens along
one axis, project the grid to three planes bounded by tanh. The decoder broadcasts the planes along their missing axes
and sums them (the paper says concatenation, its code sums); a second video transformer turns the sum into patches.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from pvdm_jax.config import AutoencoderConfig
from pvdm_jax.models.latent import LatentSpec, Tokens
from pvdm_jax.models.ops.layers import linear, uniform
from pvdm_jax.models.transformer import DividedBlock, PlaneBlock, scan, scan_to_first, stack
from pvdm_jax.models.triplane import Planes, PlaneShape, unpack


def plane_shape(config: AutoencoderConfig) -> PlaneShape:
    """The latent grid of a clip."""
    return PlaneShape(config.frames, config.height // config.patch_size, config.width // config.patch_size)


def latent_spec(config: AutoencoderConfig) -> LatentSpec:
    """The description of a clip's latent."""
    return plane_shape(config).latent_spec(config.latent_channels)


class PlaneProjection(nnx.Module):
    """Tokens along the reduced axis, a learned token after them and learned positions go through a transformer; the
    output at index 0 is read, mapped to the latent's channels and bounded by tanh."""

    def __init__(self, config: AutoencoderConfig, length: int, *, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(1.0)
        channels, dtype = config.channels, jnp.dtype(config.dtype)
        self.token = nnx.Param(normal(rngs.params(), (channels,), jnp.float32))
        self.positions = nnx.Param(normal(rngs.params(), (length + 1, channels), jnp.float32))

        def block(rngs):
            heads = config.plane_num_heads, config.plane_head_dim
            return PlaneBlock(channels, *heads, config.plane_mlp_dim, dtype=dtype, rngs=rngs)

        self.blocks, self.policy = stack(block, config.plane_depth, rngs), config.remat
        self.out = linear(channels, config.latent_channels, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """(b, length, channels) to (b, latent_channels)."""
        token = jnp.broadcast_to(self.token[...].astype(tokens.dtype), (tokens.shape[0], 1, tokens.shape[-1]))
        x = jnp.concatenate([tokens, token], axis=1) + self.positions[None].astype(tokens.dtype)
        return jnp.tanh(self.out(scan_to_first(self.blocks, x, self.policy)))


class Autoencoder(nnx.Module):
    """Video in [-1, 1] to packed planes and back."""

    # Layers that read or write pixels or latents, which matrix optimizers (Muon) must not update.
    NOT_MATRICES = (
        "from_pixels",
        "to_pixels",
        "lift_yx",
        "lift_tx",
        "lift_ty",
        "project_yx/out",
        "project_tx/out",
        "project_ty/out",
    )
    BLOCKS = ("encoder", "decoder", "project_yx/blocks", "project_tx/blocks", "project_ty/blocks")

    def __init__(self, config: AutoencoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        channels, dtype = config.channels, jnp.dtype(config.dtype)
        pixels = 3 * config.patch_size**2
        shape = plane_shape(config)

        def block(rngs):
            heads = config.num_heads, config.head_dim
            return DividedBlock(channels, *heads, config.mlp_ratio, dtype=dtype, rngs=rngs)

        self.from_pixels = linear(pixels, channels, dtype=dtype, rngs=rngs)
        self.encoder = stack(block, config.depth, rngs)
        self.project_yx = PlaneProjection(config, shape.frames, rngs=rngs)
        self.project_tx = PlaneProjection(config, shape.height, rngs=rngs)
        self.project_ty = PlaneProjection(config, shape.width, rngs=rngs)
        self.lift_yx, self.lift_tx, self.lift_ty = (
            linear(config.latent_channels, channels, dtype=dtype, rngs=rngs) for _ in range(3)
        )
        self.decoder = stack(block, config.depth, rngs)
        # Equivalent to a transposed convolution of stride patch_size: one bias per colour, initialised by its fan-in.
        self.to_pixels = linear(channels, pixels, bias=False, init=uniform(pixels), dtype=dtype, rngs=rngs)
        self.colour_bias = nnx.Param(uniform(pixels)(rngs.params(), (3,)))

    def encode(self, video: jax.Array) -> Tokens:
        """Video (b, frames, height, width, 3), float in [-1, 1], to latents (b, positions, channels) in (-1, 1),
        float32.

        Raises ValueError for a video of another size than the configured one.
        """
        config = self.config
        expected = (config.frames, config.height, config.width, 3)
        if video.ndim != 5 or video.shape[1:] != expected:
            raise ValueError(f"video has shape {video.shape}; this autoencoder takes (batch, {expected})")

        # Tokens of a (t, h, w) grid.
        p = config.patch_size
        patches = rearrange(video, "b t (h p) (w q) c -> b t h w (p q c)", p=p, q=p)
        grid = scan(self.encoder, self.from_pixels(patches.astype(config.dtype)), config.remat)

        # Three planes.
        batch, frames, height, width, _ = grid.shape
        over_time = self.project_yx(rearrange(grid, "b t h w c -> (b h w) t c"))
        over_rows = self.project_tx(rearrange(grid, "b t h w c -> (b t w) h c"))
        over_columns = self.project_ty(rearrange(grid, "b t h w c -> (b t h) w c"))
        planes = Planes(
            yx=over_time.reshape(batch, height, width, -1),
            tx=over_rows.reshape(batch, frames, width, -1),
            ty=over_columns.reshape(batch, frames, height, -1),
        )
        return planes.pack().astype(jnp.float32)

    def decode(self, latents: Tokens) -> jax.Array:
        """Latents (b, positions, channels) to video (b, frames, height, width, 3), float32 in [-1, 1]."""
        p = self.config.patch_size
        planes = unpack(latents.astype(self.config.dtype), plane_shape(self.config))
        lifted = Planes(yx=self.lift_yx(planes.yx), tx=self.lift_tx(planes.tx), ty=self.lift_ty(planes.ty))
        patches = self.to_pixels(scan(self.decoder, lifted.expand(), self.config.remat)).astype(jnp.float32)
        video = rearrange(patches, "b t h w (p q c) -> b t (h p) (w q) c", p=p, q=p)
        return 2 * jax.nn.sigmoid(video + self.colour_bias[None, None, None, None]) - 1

    def __call__(self, video: jax.Array) -> jax.Array:
        """The reconstruction of a video."""
        return self.decode(self.encode(video))
