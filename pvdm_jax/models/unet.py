"""The denoiser: an image U-Net applied with the same weights to each plane, with attention across the planes
(paper section 3.2, figure 3; the image U-Net is that of guided diffusion, Dhariwal and Nichol 2021).

Every stage is a `UNetBlock`: layers that see each plane as a separate image (residual blocks, attention within the
plane, down- or upsampling), then one attention over the positions of all three planes together. Blocks on the way up
take the output of their counterpart on the way down as additional channels. The layers take `Images`: the planes as
batches of images, those of one size together.

Shared weights and attention cannot tell the two motion planes apart if these have the same size: exchanging them in the
input exchanges them in the output. Without a previous clip, half of all samples therefore have them exchanged, which
the autoencoder decodes to garbage. Nor does attention across the planes know which of their positions belong together.
`position_embedding` tells the network both; `shared_axes` adds up what belongs together; `axis_mixing` follows paths
through the frames. The official code has none of them.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from pvdm_jax.config import UNetConfig
from pvdm_jax.models import functional
from pvdm_jax.models.axis_mixing import AxisMixing
from pvdm_jax.models.condition import Condition
from pvdm_jax.models.embeddings import POSITION_FEATURES, class_embedding, position_features, time_embedding
from pvdm_jax.models.latent import LatentSpec, Tokens
from pvdm_jax.models.ops.attention import attention
from pvdm_jax.models.ops.layers import convolution, fusion_barrier, linear, silu, zeros
from pvdm_jax.models.ops.norms import group_norm
from pvdm_jax.models.ops.remat import remat
from pvdm_jax.models.shared_axes import SharedAxes
from pvdm_jax.models.triplane import Planes, PlaneShape, unpack

Images = tuple[jax.Array, ...]  # (n, rows, columns, features) each

EDGE_PARTS = 3  # what `edge_features` adds for each channel of a neighbouring clip
EDGE_STEP = 2  # frames over which `edge_features` measure motion


def _upsample(x: jax.Array) -> jax.Array:
    """(b, h, w, c) to (b, 2h, 2w, c), nearest neighbour."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def _average_pool(x: jax.Array) -> jax.Array:
    """(b, h, w, c) to (b, h/2, w/2, c)."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def _unchanged(x: jax.Array) -> jax.Array:
    return x


class ResBlock(nnx.Module):
    """Group norm, SiLU, convolution, twice, plus a shortcut; the step's embedding scales and shifts the second norm
    (or, without `use_scale_shift_norm`, is added before it). `resample` is applied before the first convolution."""

    def __init__(self, config: UNetConfig, features_in: int, features: int, resample=_unchanged, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        embedded = 4 * config.model_channels
        self.scale_shift = config.use_scale_shift_norm
        self.resample = resample
        self.norm_in = group_norm(features_in, dtype=dtype, rngs=rngs)
        self.conv_in = convolution(features_in, features, dtype=dtype, rngs=rngs)
        self.embed = linear(embedded, (1 + self.scale_shift) * features, dtype=dtype, rngs=rngs)
        self.norm_out = group_norm(features, dtype=dtype, rngs=rngs)
        self.conv_out = convolution(features, features, init=zeros, dtype=dtype, rngs=rngs)
        if features_in != features:
            self.shortcut = linear(features_in, features, dtype=dtype, rngs=rngs)
        else:
            self.shortcut = _unchanged

    def __call__(self, images: Images, embedding: jax.Array, planes: Sequence[int]) -> Images:
        """Images of features_in and SiLU'd embedding (b, 4 * model_channels) to images of `features`.

        planes: how many planes of each clip are in each batch of images.
        """
        embedded = self.embed(embedding)
        changed = self.conv_in(*(self.resample(silu(self.norm_in(x))) for x in images))
        embedded = [jnp.repeat(embedded, count, axis=0) for count in planes]
        changed = self.conv_out(*(silu(self._embed(y, e)) for y, e in zip(changed, embedded, strict=True)))
        return tuple(self.shortcut(self.resample(x)) + y for x, y in zip(images, changed, strict=True))

    def _embed(self, y: jax.Array, embedded: jax.Array) -> jax.Array:
        """The second norm of images (n, rows, columns, features), with the embedding of each (n, features)."""
        if self.scale_shift:
            return self.norm_out(y, *jnp.split(embedded, 2, axis=-1))
        return self.norm_out(y + embedded[:, None, None])


class AttentionBlock(nnx.Module):
    """Residual self-attention over all positions of (b, ..., features), after a group norm over them."""

    def __init__(self, config: UNetConfig, features: int, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        self.num_heads = features // config.num_head_channels if config.num_head_channels else config.num_heads
        self.norm = group_norm(features, dtype=dtype, rngs=rngs)
        self.query, self.key, self.value = (linear(features, features, dtype=dtype, rngs=rngs) for _ in range(3))
        self.out = linear(features, features, init=zeros, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        batch, features = x.shape[0], x.shape[-1]
        y = self.norm(x.reshape(batch, -1, features))
        heads = (batch, y.shape[1], self.num_heads, features // self.num_heads)
        projected = (project(y).reshape(heads) for project in (self.query, self.key, self.value))
        y = attention(*projected)
        return x + self.out(y.reshape(batch, -1, features)).reshape(x.shape)


class Downsample(nnx.Module):
    """A convolution of stride 2, or without `conv_resample` an average over 2 x 2."""

    def __init__(self, config: UNetConfig, features: int, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        self.conv = convolution(features, features, stride=2, dtype=dtype, rngs=rngs) if config.conv_resample else None

    def __call__(self, images: Images) -> Images:
        return tuple(map(_average_pool, images)) if self.conv is None else self.conv(*images)


class Upsample(nnx.Module):
    """Nearest-neighbour upsampling and, with `conv_resample`, a convolution."""

    def __init__(self, config: UNetConfig, features: int, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        self.conv = convolution(features, features, dtype=dtype, rngs=rngs) if config.conv_resample else None

    def __call__(self, images: Images) -> Images:
        images = tuple(map(_upsample, images))
        return images if self.conv is None else self.conv(*images)


class UNetBlock(nnx.Module):
    """`layers` on each plane, then an exchange between the planes: along shared axes, by attention, or both.

    mixed: the planes' size, if this block has dense layers along their axes between the two; None: no such layers.
    """

    def __init__(
        self,
        config: UNetConfig,
        features: int,
        layers: list[nnx.Module],
        mixed: PlaneShape | None = None,
        *,
        rngs: nnx.Rngs,
    ):
        dtype = jnp.dtype(config.dtype)
        self.layers = nnx.List(layers)
        self.shared_axes = SharedAxes(features, dtype=dtype, rngs=rngs) if config.shared_axes else None
        self.mixing = None if mixed is None else AxisMixing(features, mixed, dtype=dtype, rngs=rngs)
        self.across = AttentionBlock(config, features, rngs=rngs) if config.attention_across else None

    def __call__(self, planes: Planes, embedding: jax.Array, skip: Planes | None = None) -> Planes:
        """skip: additional channels of the input."""
        planes = planes if skip is None else _concatenate(planes, skip)
        images, stacked = _to_images(planes)
        for layer in self.layers:
            match layer:
                case ResBlock():
                    images = layer(images, embedding, stacked)
                case AttentionBlock():
                    images = tuple(map(layer, images))
                case _:
                    images = layer(images)
        planes = fusion_barrier(_to_planes(images))
        if self.shared_axes is not None:
            planes = fusion_barrier(self.shared_axes(planes))
        if self.mixing is not None:
            planes = fusion_barrier(self.mixing(planes))
        if self.across is None:
            return planes
        return fusion_barrier(unpack(self.across(planes.pack()), planes.shape))


def _to_images(planes: Planes) -> tuple[Images, tuple[int, ...]]:
    """The planes as batches of images, and how many planes of each clip are in each batch.

    Motion planes of equal size are one batch, with those of a clip side by side, so that a batch split over devices is
    not moved.
    """
    if planes.tx.shape == planes.ty.shape:
        both = jnp.stack([planes.tx, planes.ty], axis=1)
        return (planes.yx, both.reshape(-1, *both.shape[2:])), (1, 2)
    return (planes.yx, planes.tx, planes.ty), (1, 1, 1)


def _to_planes(images: Images) -> Planes:
    if len(images) == 3:
        return Planes(*images)
    yx, both = images
    both = both.reshape(-1, 2, *both.shape[1:])
    return Planes(yx, both[:, 0], both[:, 1])


def _concatenate(first: Planes, second: Planes) -> Planes:
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b.astype(a.dtype)], axis=-1), first, second)


def _edge(neighbour: Planes, from_end: bool) -> Planes:
    """Channels that show how a neighbouring clip meets this one: EDGE_PARTS times its own channels.

    At every frame of the motion planes: the frame that touches this clip, its difference from the frame EDGE_STEP
    further inside, and the neighbour in reverse, whose frames are as far from the border as this clip's. The content
    plane has no frames and gets zeros. from_end: the neighbour's last frame touches this clip, not its first one.
    """

    def parts(plane):
        inwards = plane[:, ::-1] if from_end else plane  # (b, t, positions, channels), the touching frame first
        touching = inwards[:, :1]
        change = touching - inwards[:, min(EDGE_STEP, plane.shape[1] - 1)][:, None]
        return jnp.concatenate(
            [jnp.broadcast_to(touching, plane.shape), jnp.broadcast_to(change, plane.shape), inwards], axis=-1
        )

    content = jnp.zeros((*neighbour.yx.shape[:-1], EDGE_PARTS * neighbour.yx.shape[-1]), neighbour.yx.dtype)
    return Planes(content, parts(neighbour.tx), parts(neighbour.ty))


class UNet(nnx.Module):
    """Predicts the noise (or x_0, v, the flow) in noisy latents; a `models.denoiser.Denoiser` of packed planes.

    Neighbouring clips are additional channels of the input, the previous one before the next one; a missing one is
    zeros. With `edge_features`, each is followed by channels that show how it meets this clip.
    """

    # Layers that read or write latents, which matrix optimizers (Muon) must not update.
    NOT_MATRICES = ("conv_in", "conv_out")
    BLOCKS = ("input_blocks", "middle_block", "output_blocks")

    def __init__(self, config: UNetConfig, spec: LatentSpec, *, rngs: nnx.Rngs):
        self.config, self.spec = config, spec
        width, dtype = config.model_channels, jnp.dtype(config.dtype)
        each = 1 + EDGE_PARTS * config.edge_features  # planes of the input for each neighbouring clip
        planes_in = (1 + each * len(config.neighbours)) * config.latent_channels
        self.embed_in = linear(width, 4 * width, dtype=dtype, rngs=rngs)
        self.embed_out = linear(4 * width, 4 * width, dtype=dtype, rngs=rngs)
        if config.num_classes:
            normal = nnx.initializers.normal(1.0)
            self.classes = nnx.Embed(config.num_classes, 4 * width, embedding_init=normal, dtype=dtype, rngs=rngs)
        self.conv_in = convolution(planes_in, width, dtype=dtype, rngs=rngs)

        if config.position_embedding:
            normal = nnx.initializers.normal(0.1)
            self.embed_position = linear(POSITION_FEATURES, width, bias=False, init=normal, dtype=dtype, rngs=rngs)

        skips, features, factor = [width], width, 1
        mixed = PlaneShape.of(spec) if config.axis_mixing else None  # in the first and the last block
        blocks = []
        for level, multiplier in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                layers = self._layers(features, multiplier * width, factor, rngs)
                features = multiplier * width
                blocks.append(UNetBlock(config, features, layers, None if blocks else mixed, rngs=rngs))
                skips.append(features)
            if level != len(config.channel_mult) - 1:
                if config.resblock_updown:
                    down = ResBlock(config, features, features, _average_pool, rngs=rngs)
                else:
                    down = Downsample(config, features, rngs=rngs)
                blocks.append(UNetBlock(config, features, [down], rngs=rngs))
                skips.append(features)
                factor *= 2
        self.input_blocks = nnx.List(blocks)

        layers = [
            ResBlock(config, features, features, rngs=rngs),
            AttentionBlock(config, features, rngs=rngs),
            ResBlock(config, features, features, rngs=rngs),
        ]
        self.middle_block = UNetBlock(config, features, layers, rngs=rngs)

        blocks = []
        for level, multiplier in reversed(list(enumerate(config.channel_mult))):
            for index in range(config.num_res_blocks + 1):
                layers = self._layers(features + skips.pop(), multiplier * width, factor, rngs)
                features = multiplier * width
                if level and index == config.num_res_blocks:
                    if config.resblock_updown:
                        layers.append(ResBlock(config, features, features, _upsample, rngs=rngs))
                    else:
                        layers.append(Upsample(config, features, rngs=rngs))
                    factor //= 2
                last = level == 0 and index == config.num_res_blocks
                blocks.append(UNetBlock(config, features, layers, mixed if last else None, rngs=rngs))
        self.output_blocks = nnx.List(blocks)

        self.norm_out = group_norm(features, dtype=dtype, rngs=rngs)
        self.conv_out = convolution(features, config.latent_channels, init=zeros, dtype=dtype, rngs=rngs)

    def _layers(self, features_in: int, features: int, factor: int, rngs: nnx.Rngs) -> list[nnx.Module]:
        layers = [ResBlock(self.config, features_in, features, rngs=rngs)]
        if factor in self.config.attention_resolutions:
            layers.append(AttentionBlock(self.config, features, rngs=rngs))
        return layers

    def __call__(self, x: Tokens, time: jax.Array, condition: Condition) -> Tokens:
        """As `models.denoiser.Denoiser`. Raises ValueError for a condition that the model doesn't take."""
        config, shape = self.config, PlaneShape.of(self.spec)
        condition.check(config)

        # Embedding of time and class.
        embedding = self.embed_out(silu(self.embed_in(time_embedding(time, config.model_channels))))
        if condition.label is not None:
            embedding = embedding + class_embedding(self.classes, condition.label)
        embedding = silu(embedding)

        # Input: the planes, with those of the neighbouring clips as additional channels.
        planes = fusion_barrier(unpack(x, shape))
        for name in config.neighbours:
            neighbour = unpack(getattr(condition, name).visible(), shape)
            planes = _concatenate(planes, neighbour)
            if config.edge_features:
                planes = _concatenate(planes, _edge(neighbour, from_end=name == "previous"))
        images, _ = _to_images(planes)
        planes = _to_planes(self.conv_in(*images))
        if config.position_embedding:
            features = unpack(jnp.asarray(position_features(self.spec))[None], shape)
            planes = jax.tree.map(lambda plane, place: plane + self.embed_position(place), planes, features)

        # Down, through the middle, and up again with the outputs of the way down.
        skips = [planes]
        for block in self.input_blocks:
            planes = self._apply(block, planes, embedding)
            skips.append(planes)
        planes = self._apply(self.middle_block, planes, embedding)
        for block in self.output_blocks:
            planes = self._apply(block, planes, embedding, skips.pop())

        # Prediction.
        images, _ = _to_images(planes)
        planes = _to_planes(self.conv_out(*(silu(self.norm_out(image)) for image in images)))
        planes = fusion_barrier(jax.tree.map(lambda plane: plane.astype(jnp.float32), planes))
        return planes.pack()

    def _apply(self, block: UNetBlock, *inputs: Planes | jax.Array) -> Planes:
        if self.config.remat == "none":
            return block(*inputs)
        graphdef, params = functional.split(block)

        def call(params, *inputs):
            return functional.merge(graphdef, functional.prepared_block(params))(*inputs)

        return remat(call, self.config.remat)(params, *inputs)
