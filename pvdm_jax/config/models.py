"""The networks' settings."""

import dataclasses

from pvdm_jax.config.checks import at_least_zero, one_of, positive, require

DTYPES = ("float32", "bfloat16")
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
    remat: str = "none"  # what is computed again for the gradient, to save memory: none, dots or blocks

    def __post_init__(self):
        fields = [f.name for f in dataclasses.fields(self) if f.type in (int, "int")]
        positive("autoencoder", self, *fields)
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
class UNetConfig:
    """The denoiser (paper section 3.2; the defaults are PVDM-L, 528.27 M parameters; model_channels=128 is PVDM-S)."""

    latent_channels: int = 4
    model_channels: int = 256
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (4, 2, 1)  # downsampling factors at which planes attend within themselves
    num_heads: int = 8
    num_head_channels: int = 0  # channels of each head, whatever the level's width; 0: num_heads heads everywhere
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True  # residual blocks change the planes' size; otherwise single layers do:
    conv_resample: bool = True  # a convolution of stride 2 and one after the upsampling; False: pooling alone
    cond_model: bool = True  # takes the previous clip's planes, concatenated on channels
    cond_next: bool = False  # takes the next clip's planes too, after them: for clips between two others
    position_embedding: bool = False  # tells planes and positions apart; the official code has none
    num_classes: int = 0  # 0: no class input
    dtype: str = "float32"
    remat: str = "none"  # as the autoencoder's

    def __post_init__(self):
        positive("unet", self, "latent_channels", "model_channels", "num_res_blocks", "num_heads")
        at_least_zero("unet", self, "num_classes", "num_head_channels")
        one_of("unet", self, "dtype", DTYPES)
        one_of("unet", self, "remat", REMAT_POLICIES)
        allowed = "it needs unet.cond_model: the next clip's planes come after the previous one's"
        require(self.cond_model or not self.cond_next, "unet.cond_next", self.cond_next, allowed)
        require(len(self.channel_mult) > 0, "unet.channel_mult", self.channel_mult, "name at least one level")
        for mult in self.channel_mult:
            channels = mult * self.model_channels
            name = "num_head_channels" if self.num_head_channels else "num_heads"
            divisor = getattr(self, name)
            allowed = f"{mult} x model_channels must be a multiple of 32 (group norm) and of {name} ({divisor})"
            require(
                mult > 0 and channels % 32 == 0 and channels % divisor == 0,
                "unet.model_channels",
                self.model_channels,
                allowed,
            )

    @property
    def context_channels(self) -> int:
        """Channels of the neighbouring clips' planes that the denoiser takes."""
        return (self.cond_model + self.cond_next) * self.latent_channels

    @property
    def downsampling(self) -> int:
        """How often the planes' sides are halved, as a factor."""
        return 2 ** (len(self.channel_mult) - 1)


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """Stage 1's two patch discriminators, of images and of videos (the defaults are the official ones)."""

    width: int = 64  # features of the first layer; they double with every layer, up to 512
    layers: int = 3  # of stride 2
    dtype: str = "float32"  # of the computation; parameters and norms are float32

    def __post_init__(self):
        positive("discriminator", self, "width", "layers")
        one_of("discriminator", self, "dtype", DTYPES)
