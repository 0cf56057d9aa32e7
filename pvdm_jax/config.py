"""Settings as frozen dataclasses, checked when they are made.

A configuration file (`configs/*.py`, ml_collections) becomes one `Config` at the edge of the program, through
`config_from_dict`; whoever builds an object afterwards takes its own part and nothing larger. Every refusal is a
`ConfigError` that names the field, its value and what is allowed.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any


class ConfigError(ValueError):
    """A setting that can't work: the message names the field, its value and what is allowed."""


def require(condition: bool, field: str, value: Any, allowed: str) -> None:
    """Raises ConfigError(`field is value; allowed`) unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{field} is {value!r}; {allowed}")


def _positive(section: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{section}.{name}", value, "it must be positive")


def _at_least_zero(section: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value >= 0, f"{section}.{name}", value, "it can't be negative")


def _probability(section: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(0 <= value <= 1, f"{section}.{name}", value, "a probability lies between 0 and 1")


def _one_of(section: str, config: Any, name: str, allowed: tuple[str, ...]) -> None:
    value = getattr(config, name)
    require(value in allowed, f"{section}.{name}", value, f"choose one of {', '.join(allowed)}")


DTYPES = ("float32", "bfloat16")


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

    def __post_init__(self):
        fields = [f.name for f in dataclasses.fields(self) if f.type in (int, "int")]
        _positive("autoencoder", self, *fields)
        _one_of("autoencoder", self, "dtype", DTYPES)
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
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    cond_model: bool = True  # takes the previous clip's planes, concatenated on channels
    position_embedding: bool = False  # tells planes and positions apart; the official code has none
    num_classes: int = 0  # 0: no class input
    dtype: str = "float32"

    def __post_init__(self):
        _positive("unet", self, "latent_channels", "model_channels", "num_res_blocks", "num_heads")
        _at_least_zero("unet", self, "num_classes")
        _one_of("unet", self, "dtype", DTYPES)
        require(len(self.channel_mult) > 0, "unet.channel_mult", self.channel_mult, "name at least one level")
        for mult in self.channel_mult:
            channels = mult * self.model_channels
            allowed = (
                f"{mult} x model_channels must be a multiple of 32 (group norm) and of num_heads ({self.num_heads})"
            )
            require(
                mult > 0 and channels % 32 == 0 and channels % self.num_heads == 0,
                "unet.model_channels",
                self.model_channels,
                allowed,
            )

    @property
    def downsampling(self) -> int:
        """How often the planes' sides are halved, as a factor."""
        return 2 ** (len(self.channel_mult) - 1)


@dataclasses.dataclass(frozen=True)
class ProcessConfig:
    """The diffusion process: betas = linspace(sqrt(beta_start), sqrt(beta_end), num_steps)^2."""

    num_steps: int = 1000
    beta_start: float = 0.0015
    beta_end: float = 0.0195

    def __post_init__(self):
        _positive("process", self, "num_steps")
        require(
            0 < self.beta_start <= self.beta_end < 1,
            "process.beta_start",
            self.beta_start,
            f"0 < beta_start <= beta_end ({self.beta_end}) < 1",
        )


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How clips are sampled. "100/20" of the paper is steps=100, later_steps=20."""

    sampler: str = "ddim"  # ddim or ddpm (ancestral, all steps of the process)
    steps: int = 100  # of the first clip
    later_steps: int = 100  # of each continuation
    eta: float = 1.0  # DDIM's noise, 0 to 1
    guidance: float = 0.0  # w of (1 + w) eps(previous clip) - w eps(nothing)

    def __post_init__(self):
        _one_of("sample", self, "sampler", ("ddim", "ddpm"))
        _positive("sample", self, "steps", "later_steps")
        _at_least_zero("sample", self, "guidance")
        require(0 <= self.eta <= 1, "sample.eta", self.eta, "it lies between 0 and 1")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where clips come from. Their size is the autoencoder's."""

    source: str = "synthetic"  # synthetic: moving shapes made on the fly; tfds: a dataset that `pvdm prepare` wrote
    path: str = ""  # tfds: the dataset's folder
    stride: int = 1  # take every stride-th frame
    resize: str = "antialias"  # antialias, or bilinear (without antialiasing, as the official code)
    flip: bool = False  # mirror half of the training clips
    holdout: float = 0.15  # tfds: this last part of each video is kept out of training
    synthetic_videos: int = 1024  # training videos of the synthetic source
    synthetic_frames: int = 48  # frames of each
    threads: int = 2  # that read and decode ahead
    prefetch: int = 4  # batches made ahead

    def __post_init__(self):
        _one_of("data", self, "source", ("synthetic", "tfds"))
        _one_of("data", self, "resize", ("antialias", "bilinear"))
        _positive("data", self, "stride", "synthetic_videos", "synthetic_frames", "threads", "prefetch")
        require(0 <= self.holdout < 1, "data.holdout", self.holdout, "a fraction of each video, at least 0 and below 1")
        require(
            self.source != "tfds" or self.path != "",
            "data.path",
            self.path,
            "data.source=tfds needs the folder that `pvdm prepare` wrote",
        )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, its learning rate and the gradient's clipping."""

    learning_rate: float = 1e-4
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.01
    warmup_steps: int = 0  # linear, from 0
    decay: str = "constant"  # or cosine, to 0 at the last step
    clip_norm: float = 0.0  # global norm; 0: none

    def __post_init__(self):
        _positive("optimizer", self, "learning_rate")
        _at_least_zero("optimizer", self, "weight_decay", "warmup_steps", "clip_norm")
        _one_of("optimizer", self, "decay", ("constant", "cosine"))
        for name in ("b1", "b2"):
            require(0 <= getattr(self, name) < 1, f"optimizer.{name}", getattr(self, name), "at least 0 and below 1")


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """What both training stages share. Steps are optimizer updates; batches are global, over all devices."""

    steps: int = 100_000
    batch_size: int = 64
    accumulate: int = 1  # micro-batches that a batch is split into; their gradients are averaged
    optimizer: OptimizerConfig = OptimizerConfig()
    ema_decay: float = 0.9999
    ema_every: int = 1  # updates between two EMA updates; the n-th uses min(ema_decay, (1 + n) / (10 + n))
    log_every: int = 50
    eval_every: int = 1000
    eval_clips: int = 32
    checkpoint_every: int = 1000
    keep: int = 2  # newest checkpoints kept

    section: typing.ClassVar[str] = "train"  # how error messages name this part

    def __post_init__(self):
        _positive(
            self.section,
            self,
            "steps",
            "batch_size",
            "accumulate",
            "ema_every",
            "log_every",
            "eval_every",
            "eval_clips",
            "checkpoint_every",
            "keep",
        )
        require(0 <= self.ema_decay < 1, f"{self.section}.ema_decay", self.ema_decay, "at least 0 and below 1")
        require(
            self.batch_size % self.accumulate == 0,
            f"{self.section}.accumulate",
            self.accumulate,
            f"it must divide batch_size ({self.batch_size})",
        )


@dataclasses.dataclass(frozen=True)
class AutoencoderTrainingConfig(StageConfig):
    """Stage 1: a weighted sum of pixel losses on values in [-1, 1]."""

    l1_weight: float = 4.0
    l2_weight: float = 0.0

    section = "train_autoencoder"

    def __post_init__(self):
        super().__post_init__()
        _at_least_zero(self.section, self, "l1_weight", "l2_weight")
        require(
            self.l1_weight + self.l2_weight > 0,
            "train_autoencoder.l1_weight",
            self.l1_weight,
            "one of l1_weight and l2_weight must be positive",
        )


@dataclasses.dataclass(frozen=True)
class DiffusionTrainingConfig(StageConfig):
    """Stage 2: noise prediction, jointly with and without the previous clip (paper section 3.2)."""

    context_prob: float = 0.3  # of predicting a clip given the one before it
    label_prob: float = 0.9  # of showing the class, on a model with classes

    section = "train_diffusion"

    def __post_init__(self):
        super().__post_init__()
        _probability(self.section, self, "context_prob", "label_prob")


@dataclasses.dataclass(frozen=True)
class EncodeConfig:
    """The cache of latents that stage 2 trains from."""

    windows: int = 4  # random windows of two consecutive clips, per training video
    batch_size: int = 32

    def __post_init__(self):
        _positive("encode", self, "windows", "batch_size")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The device mesh: `data` replicates parameters, `fsdp` shards them; both split batches. -1: what is left."""

    data: int = -1
    fsdp: int = 1

    def __post_init__(self):
        for name in ("data", "fsdp"):
            value = getattr(self, name)
            require(
                value == -1 or value > 0, f"mesh.{name}", value, "a positive size, or -1 for all devices that are left"
            )
        require(
            (self.data, self.fsdp) != (-1, -1), "mesh.data", self.data, "only one of mesh.data and mesh.fsdp can be -1"
        )


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run is made from."""

    seed: int = 0
    data: DataConfig = DataConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    unet: UNetConfig = UNetConfig()
    process: ProcessConfig = ProcessConfig()
    train_autoencoder: AutoencoderTrainingConfig = AutoencoderTrainingConfig()
    encode: EncodeConfig = EncodeConfig()
    train_diffusion: DiffusionTrainingConfig = DiffusionTrainingConfig()
    sample: SampleConfig = SampleConfig()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self):
        ae, unet = self.autoencoder, self.unet
        allowed = f"it must equal autoencoder.latent_channels ({ae.latent_channels})"
        require(unet.latent_channels == ae.latent_channels, "unet.latent_channels", unet.latent_channels, allowed)
        for name, patch in (("frames", 1), ("height", ae.patch_size), ("width", ae.patch_size)):
            size, multiple = getattr(ae, name), patch * unet.downsampling
            allowed = f"it must be a multiple of {multiple}: the U-Net shrinks the planes by {unet.downsampling}"
            require(size % multiple == 0, f"autoencoder.{name}", size, allowed)
        for name in ("steps", "later_steps"):
            steps, most = getattr(self.sample, name), self.process.num_steps
            require(steps <= most, f"sample.{name}", steps, f"at most process.num_steps ({most})")


def config_to_dict(config: Any) -> dict[str, Any]:
    """A dataclass of this file as nested plain dicts and lists, ready for JSON; `config_from_dict` is the inverse."""

    def plain(value):
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return list(value) if isinstance(value, tuple) else value

    return plain(config)


def config_from_dict(cls: type, values: Mapping[str, Any], path: str = "") -> Any:
    """Makes the dataclass `cls` from a mapping (a ConfigDict or parsed JSON), checking every name and type.

    Raises ConfigError for an unknown field (with the allowed ones), a wrong type, or a value that `cls` refuses. A
    field that is absent keeps its default; int is taken where float is declared.
    """
    hints = typing.get_type_hints(cls)
    allowed = [f.name for f in dataclasses.fields(cls)]
    made = {}
    for name, value in values.items():
        field = f"{path}{name}"
        require(
            name in allowed,
            field,
            value,
            f"there is no such field; {path.rstrip('.') or 'the config'} has {', '.join(allowed)}",
        )
        made[name] = _convert(hints[name], value, field)
    return cls(**made)


def _convert(hint: Any, value: Any, field: str) -> Any:
    if dataclasses.is_dataclass(hint):
        require(isinstance(value, Mapping) or hasattr(value, "items"), field, value, "a group of fields is needed here")
        return config_from_dict(hint, value, f"{field}.")
    if typing.get_origin(hint) in (tuple, types.GenericAlias):
        require(isinstance(value, list | tuple), field, value, "a list of integers is needed here")
        return tuple(_convert(typing.get_args(hint)[0], item, field) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    correct = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    require(correct, field, value, f"{hint.__name__} is needed here, not {type(value).__name__}")
    if hint is float:
        require(math.isfinite(value), field, value, "a finite number is needed here")
    return value
