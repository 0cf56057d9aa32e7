"""A diffusion transformer over the packed positions of a latent (DiT, Peebles and Xie 2023, arXiv 2212.09748).

Every position is a token. Time, class and the presence of neighbouring clips modulate each block by adaLN-zero (section
3.2): they scale and shift its norms and gate its residuals, and the gates start at zero. Queries and keys are
normalised (RMS norm over each head, Dehghani et al. 2023), which keeps attention logits bounded. Position features say
where each token lies on the axes t, y and x, and a learned vector which segment it belongs to.

Neighbouring clips enter as additional channels of the positions that they share, or as additional tokens (`context`).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pvdm_jax.config import DiTConfig
from pvdm_jax.models.condition import Condition
from pvdm_jax.models.embeddings import POSITION_FEATURES, class_embedding, position_features, time_embedding
from pvdm_jax.models.latent import LatentSpec, Tokens
from pvdm_jax.models.ops.attention import attention
from pvdm_jax.models.ops.layers import gelu, linear, silu, zeros
from pvdm_jax.models.transformer import scan, stack

TIME_FEATURES = 256
EPSILON = 1e-6


def _modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """Layer norm of (b, n, width) without weights of its own, then times 1 + scale, plus shift, both (b, width)."""
    centred = x.astype(jnp.float32)
    centred = centred - centred.mean(axis=-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + EPSILON)
    return normal.astype(x.dtype) * (1 + scale[:, None]) + shift[:, None]


class DiTBlock(nnx.Module):
    """Self-attention and a feed-forward layer, both modulated by the embedded conditions."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        width, dtype = config.width, jnp.dtype(config.dtype)
        self.heads = (config.num_heads, width // config.num_heads)
        self.modulation = linear(width, 6 * width, init=zeros, dtype=dtype, rngs=rngs)
        self.query = linear(width, width, dtype=dtype, rngs=rngs)
        self.key = linear(width, width, dtype=dtype, rngs=rngs)
        self.value = linear(width, width, dtype=dtype, rngs=rngs)
        self.query_norm = nnx.RMSNorm(self.heads[1], epsilon=EPSILON, dtype=dtype, rngs=rngs)
        self.key_norm = nnx.RMSNorm(self.heads[1], epsilon=EPSILON, dtype=dtype, rngs=rngs)
        self.out = linear(width, width, dtype=dtype, rngs=rngs)
        self.up = linear(width, config.mlp_ratio * width, dtype=dtype, rngs=rngs)
        self.down = linear(config.mlp_ratio * width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
        """Tokens (b, n, width) and embedded conditions (b, width) to tokens."""
        parts = jnp.split(self.modulation(embedding), 6, axis=-1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts

        # Attention.
        y = _modulate(x, shift, scale)
        query, key, value = (part(y).reshape(*y.shape[:2], *self.heads) for part in (self.query, self.key, self.value))
        attended = attention(self.query_norm(query), self.key_norm(key), value)
        x = x + gate[:, None] * self.out(attended.reshape(x.shape))

        # Feed-forward.
        y = _modulate(x, mlp_shift, mlp_scale)
        return x + mlp_gate[:, None] * self.down(gelu(self.up(y)))


class DiT(nnx.Module):
    """Predicts the noise (or x_0, v, the flow) in noisy latents; a `models.denoiser.Denoiser`."""

    # Layers that read or write latents, which matrix optimizers (Muon) must not update.
    NOT_MATRICES = ("embed_in", "out")
    BLOCKS = ("blocks",)

    def __init__(self, config: DiTConfig, spec: LatentSpec, *, rngs: nnx.Rngs):
        self.config, self.spec = config, spec
        width, dtype = config.width, jnp.dtype(config.dtype)
        small = nnx.initializers.normal(0.02)
        context_channels = len(config.neighbours) * spec.channels if config.context == "channels" else 0

        # Embedding of the tokens.
        self.embed_in = linear(spec.channels + context_channels, width, dtype=dtype, rngs=rngs)
        self.embed_position = linear(POSITION_FEATURES, width, bias=False, init=small, dtype=dtype, rngs=rngs)
        self.segment = nnx.Param(small(rngs.params(), (len(spec.parts), width), jnp.float32))
        if config.context == "tokens" and config.neighbours:
            self.neighbour = nnx.Param(small(rngs.params(), (len(config.neighbours), width), jnp.float32))

        # Embedding of the conditions.
        self.time_in = linear(TIME_FEATURES, width, init=small, dtype=dtype, rngs=rngs)
        self.time_out = linear(width, width, init=small, dtype=dtype, rngs=rngs)
        if config.num_classes:
            self.classes = nnx.Embed(config.num_classes, width, embedding_init=small, dtype=dtype, rngs=rngs)
        if config.neighbours:
            self.presence = nnx.Param(small(rngs.params(), (len(config.neighbours), width), jnp.float32))

        self.blocks = stack(lambda rngs: DiTBlock(config, rngs=rngs), config.depth, rngs)
        self.modulation = linear(width, 2 * width, init=zeros, dtype=dtype, rngs=rngs)
        self.out = linear(width, spec.channels, init=zeros, dtype=dtype, rngs=rngs)

    def __call__(self, x: Tokens, time: jax.Array, condition: Condition) -> Tokens:
        """As `models.denoiser.Denoiser`. Raises ValueError for a condition that the model doesn't take."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        condition.check(config)
        neighbours = [getattr(condition, name) for name in config.neighbours]

        # Embedded conditions.
        embedding = self.time_out(silu(self.time_in(time_embedding(time, TIME_FEATURES))))
        if condition.label is not None:
            embedding = embedding + class_embedding(self.classes, condition.label)
        for index, neighbour in enumerate(neighbours):
            embedding = embedding + jnp.where(neighbour.present[:, None], self.presence[index][None].astype(dtype), 0)
        embedding = silu(embedding)

        # Tokens.
        where = self._positions(dtype)[None]
        seen = [neighbour.visible() for neighbour in neighbours]
        if config.context == "channels":
            tokens = self.embed_in(jnp.concatenate([x, *seen], axis=-1).astype(dtype)) + where
        else:
            further = [
                self.embed_in(latents.astype(dtype)) + where + self.neighbour[index][None, None].astype(dtype)
                for index, latents in enumerate(seen)
            ]
            tokens = jnp.concatenate([self.embed_in(x.astype(dtype)) + where, *further], axis=1)

        tokens = scan(self.blocks, tokens, config.remat, embedding)[:, : x.shape[1]]

        # Prediction.
        shift, scale = jnp.split(self.modulation(embedding), 2, axis=-1)
        return self.out(_modulate(tokens, shift, scale)).astype(jnp.float32)

    def _positions(self, dtype) -> jax.Array:
        """What is added to the token of each position, (positions, width)."""
        number = np.concatenate([np.full(part.positions, index) for index, part in enumerate(self.spec.parts)])
        return self.embed_position(jnp.asarray(position_features(self.spec), dtype)) + self.segment[number].astype(
            dtype
        )
