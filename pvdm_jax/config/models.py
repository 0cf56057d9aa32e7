"""The settings of the autoencoder and of the discriminators that it trains against."""

import dataclasses

from pvdm_jax.config.checks import at_most, one_of, positive, require

DTYPES = ("float32", "bfloat16")
MAX_WIDTH = 2**16  # of any layer: a square matrix of this width takes 16 GiB
MAX_DEPTH = 2**10  # layers of a stack
MAX_CLIP = 2**31 - 1  # bytes of a clip's pixels
REMAT_POLICIES = ("none", "dots", "blocks")  # pvdm_jax/models/ops/remat.py says what they keep


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The triplane autoencoder (paper section 3.1; the defaults are its published size, 62.06 M parameters)."""

    frames: int = 16  # frames of a clip
    height: int = 256  # pixels
    width: int = 256  # pixels
    patch_size: int = 8  # pixels of a patch's side
    channels: int = 384  # width of the token stream
    latent_channels: int = 4  # channels of each plane
    depth: int = 8  # divided-attention blocks, in the encoder and again in the decoder
    num_heads: int = 8
    head_dim: int = 64
    mlp_ratio: int = 4
    plane_depth: int = 4  # layers of each of the three projections
    plane_num_heads: int = 4
    plane_head_dim: int = 48
    plane_mlp_dim: int = 512
    dtype: str = "float32"  # of the computation; parameters are float32
    remat: str = "none"  # what is recomputed for the gradient, to save memory: none, dots or blocks

    def __post_init__(self):
        fields = [f.name for f in dataclasses.fields(self) if f.type in (int, "int")]
        positive("autoencoder", self, *fields)
        at_most(
            "autoencoder", self, MAX_WIDTH, "channels", "latent_channels", "num_heads", "head_dim", "plane_num_heads"
        )
        at_most("autoencoder", self, MAX_WIDTH, "plane_head_dim", "plane_mlp_dim", "patch_size")
        at_most("autoencoder", self, MAX_DEPTH, "depth", "plane_depth", "mlp_ratio")
        for heads, size in (("num_heads", "head_dim"), ("plane_num_heads", "plane_head_dim")):
            width = getattr(self, heads) * getattr(self, size)
            require(
                width <= MAX_WIDTH, f"autoencoder.{heads}", getattr(self, heads), f"times {size}, {MAX_WIDTH} at most"
            )
        allowed = f"frames x height x width x 3 can be {MAX_CLIP:,} at most"
        require(self.frames * self.height * self.width * 3 <= MAX_CLIP, "autoencoder.frames", self.frames, allowed)
        one_of("autoencoder", self, "dtype", DTYPES)
        one_of("autoencoder", self, "remat", REMAT_POLICIES)
        for name in ("height", "width"):
            size = getattr(self, name)
            allowed = f"it must be a multiple of autoencoder.patch_size ({self.patch_size})"
            require(size % self.patch_size == 0, f"autoencoder.{name}", size, allowed)
        require(
            self.head_dim % 4 == 0,
            "autoencoder.head_dim",
            self.head_dim,
            "axial rotary embeddings need a multiple of 4",
        )


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """Stage 1's two patch discriminators, of images and of videos (the defaults are the official ones)."""

    width: int = 64  # features of the first layer; they double with every layer, up to 512
    layers: int = 3  # of stride 2
    dtype: str = "float32"  # of the computation; parameters and norms are float32

    def __post_init__(self):
        positive("discriminator", self, "width", "layers")
        at_most("discriminator", self, MAX_WIDTH, "width")
        at_most("discriminator", self, 16, "layers")
        one_of("discriminator", self, "dtype", DTYPES)
