"""Everything that a run is made from, and the mesh it runs on."""

import dataclasses

from pvdm_jax.config.checks import require
from pvdm_jax.config.data import DataConfig, EncodeConfig
from pvdm_jax.config.diffusion import ProcessConfig, SampleConfig
from pvdm_jax.config.models import AutoencoderConfig, UNetConfig
from pvdm_jax.config.training import AutoencoderTrainingConfig, DiffusionTrainingConfig


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
        for metric, field in (("loss_given_previous", "cond_model"), ("loss_given_both", "cond_next")):
            measured = self.train_diffusion.best_metric != metric or getattr(unet, field)
            require(measured, "train_diffusion.best_metric", metric, f"it is measured with unet.{field} only")
        for name in ("steps", "later_steps"):
            steps, most = getattr(self.sample, name), self.process.num_steps
            require(steps <= most, f"sample.{name}", steps, f"at most process.num_steps ({most})")
