"""The denoisers' settings: those that all of them have, and a class for each kind.

A new kind is a subclass of `DenoiserConfig` with its own default for `name`; `models/denoiser.py` has the table of the
networks.
"""

import dataclasses
from typing import ClassVar

from pvdm_jax.config.checks import at_least_zero, at_most, one_of, positive, require
from pvdm_jax.config.models import DTYPES, MAX_DEPTH, MAX_WIDTH, REMAT_POLICIES

CONTEXTS = ("channels", "tokens")


@dataclasses.dataclass(frozen=True)
class DenoiserConfig:
    """The settings of every denoiser: its conditions, and how it is computed."""

    name: str = ""  # the kind: unet or dit
    latent_channels: int = 4
    previous_clip: bool = True  # takes the previous clip's latents
    next_clip: bool = False  # also takes the next clip's latents: for clips between two others
    num_classes: int = 0  # 0: no class input
    expert_from: int = 0  # clips with a neighbour have a second network, the expert, at times >= this; 0: none
    dtype: str = "float32"  # of the computation; parameters are float32
    remat: str = "none"  # what is recomputed for the gradient, to save memory: none, dots or blocks

    # Whether the network knows where each position of the latents lies. One that doesn't may exchange equal planes.
    knows_positions: ClassVar[bool] = True
    # Every side of the latent grid must be a multiple of this.
    grid_multiple: ClassVar[int] = 1

    def __post_init__(self):
        positive("denoiser", self, "latent_channels")
        at_least_zero("denoiser", self, "num_classes", "expert_from")
        at_most("denoiser", self, MAX_WIDTH, "latent_channels")
        at_most("denoiser", self, 2**20, "num_classes")
        one_of("denoiser", self, "dtype", DTYPES)
        one_of("denoiser", self, "remat", REMAT_POLICIES)
        allowed = "it needs denoiser.previous_clip"
        require(self.previous_clip or not self.next_clip, "denoiser.next_clip", self.next_clip, allowed)
        require(self.previous_clip or not self.expert_from, "denoiser.expert_from", self.expert_from, allowed)

    @property
    def neighbours(self) -> tuple[str, ...]:
        """The neighbouring clips that the denoiser takes, among "previous" and "next"."""
        return ("previous",) * self.previous_clip + ("next",) * self.next_clip

    @staticmethod
    def kinds() -> dict[str, "type[DenoiserConfig]"]:
        """The configuration class of every kind of denoiser, by name."""
        return {cls.name: cls for cls in DenoiserConfig.__subclasses__()}

    @staticmethod
    def kind(name: str) -> "type[DenoiserConfig]":
        """The configuration class of one kind. Raises ConfigError if there is no such kind."""
        kinds = DenoiserConfig.kinds()
        require(isinstance(name, str) and name in kinds, "denoiser.name", name, f"it must be one of {', '.join(kinds)}")
        return kinds[name]


@dataclasses.dataclass(frozen=True)
class UNetConfig(DenoiserConfig):
    """The paper's U-Net (section 3.2; the defaults are PVDM-L, 528.27 M parameters; model_channels=128 is PVDM-S)."""

    name: str = "unet"
    model_channels: int = 256
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (4, 2, 1)  # downsampling factors at which planes attend within themselves
    num_heads: int = 8
    num_head_channels: int = 0  # channels of each head, whatever the level's width; 0: num_heads heads everywhere
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True  # residual blocks change the planes' size; otherwise single layers do:
    conv_resample: bool = True  # a convolution of stride 2 and one after the upsampling; False: pooling alone
    edge_features: bool = False  # shows, at every frame, the neighbouring clips' frames that adjoin this clip
    attention_across: bool = True  # attention over the positions of all planes, after every block
    shared_axes: bool = False  # shows each position what the other planes hold on the axes that it shares with them
    axis_mixing: bool = False  # dense layers along the planes' rows and columns, in the first and the last block
    position_embedding: bool = False  # tells planes and positions apart; the official code has none

    def __post_init__(self):
        super().__post_init__()
        positive("denoiser", self, "model_channels", "num_res_blocks", "num_heads")
        at_most("denoiser", self, MAX_WIDTH, "model_channels", "num_heads")
        at_most("denoiser", self, 64, "num_res_blocks")
        at_least_zero("denoiser", self, "num_head_channels")
        require(len(self.channel_mult) > 0, "denoiser.channel_mult", self.channel_mult, "name at least one level")
        require(len(self.channel_mult) <= 16, "denoiser.channel_mult", self.channel_mult, "at most 16 levels")
        widest = max(self.channel_mult) * self.model_channels
        require(widest <= MAX_WIDTH, "denoiser.model_channels", self.model_channels, f"levels of {MAX_WIDTH} at most")
        require(
            self.attention_across or self.shared_axes,
            "denoiser.attention_across",
            self.attention_across,
            "the planes would know nothing of each other; leave it on, or set denoiser.shared_axes",
        )
        factors, allowed = self.attention_resolutions, "factors of downsampling are needed, such as 4,2,1"
        require(min(factors, default=1) > 0, "denoiser.attention_resolutions", factors, allowed)
        divisor_name = "num_head_channels" if self.num_head_channels else "num_heads"
        divisor = getattr(self, divisor_name)
        for mult in self.channel_mult:
            channels = mult * self.model_channels
            require(
                mult > 0 and channels % 32 == 0 and channels % divisor == 0,
                "denoiser.model_channels",
                self.model_channels,
                f"{mult} x model_channels must be a multiple of 32 (group norm) and of {divisor_name} ({divisor})",
            )

    @property
    def knows_positions(self) -> bool:
        return self.position_embedding

    @property
    def grid_multiple(self) -> int:
        """The factor by which the sides of the planes shrink towards the middle of the network."""
        return 2 ** (len(self.channel_mult) - 1)


@dataclasses.dataclass(frozen=True)
class DiTConfig(DenoiserConfig):
    """A diffusion transformer (Peebles and Xie 2023) over the packed positions. The defaults have PVDM-S's size."""

    name: str = "dit"
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: int = 4
    context: str = "channels"  # how neighbouring clips enter: as more channels of each position, or as more tokens

    def __post_init__(self):
        super().__post_init__()
        positive("denoiser", self, "width", "depth", "num_heads", "mlp_ratio")
        at_most("denoiser", self, MAX_WIDTH, "width", "num_heads")
        at_most("denoiser", self, MAX_DEPTH, "depth")
        at_most("denoiser", self, 64, "mlp_ratio")
        one_of("denoiser", self, "context", CONTEXTS)
        allowed = f"it must be a multiple of denoiser.num_heads ({self.num_heads})"
        require(self.width % self.num_heads == 0, "denoiser.width", self.width, allowed)
        require(self.width % 2 == 0, "denoiser.width", self.width, "it must be even")
