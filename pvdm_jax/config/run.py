"""Everything that a run is made from, and the mesh it runs on."""

import dataclasses

from pvdm_jax.config.checks import check_seed, require
from pvdm_jax.config.data import DataConfig, EncodeConfig
from pvdm_jax.config.denoisers import DenoiserConfig, UNetConfig
from pvdm_jax.config.diffusion import LatentsConfig, ProcessConfig, SampleConfig
from pvdm_jax.config.models import AutoencoderConfig
from pvdm_jax.config.training import AutoencoderTrainingConfig, DiffusionTrainingConfig


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The device mesh: `data` replicates parameters, `fsdp` shards them; both split batches. -1: the other devices."""

    data: int = -1
    fsdp: int = 1

    def __post_init__(self):
        for name in ("data", "fsdp"):
            value = getattr(self, name)
            require(
                value == -1 or 0 < value < 2**20,
                f"mesh.{name}",
                value,
                "a positive size below 2^20, or -1 for all devices that are left",
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
    denoiser: DenoiserConfig = UNetConfig()
    latents: LatentsConfig = LatentsConfig()
    process: ProcessConfig = ProcessConfig()
    train_autoencoder: AutoencoderTrainingConfig = AutoencoderTrainingConfig()
    encode: EncodeConfig = EncodeConfig()
    train_diffusion: DiffusionTrainingConfig = DiffusionTrainingConfig()
    sample: SampleConfig = SampleConfig()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self):
        check_seed("seed", self.seed)
        clip, denoiser = self.autoencoder, self.denoiser
        channels = denoiser.latent_channels
        allowed = f"it must equal autoencoder.latent_channels ({clip.latent_channels})"
        require(channels == clip.latent_channels, "denoiser.latent_channels", channels, allowed)
        for name, patch in (("frames", 1), ("height", clip.patch_size), ("width", clip.patch_size)):
            size, multiple = getattr(clip, name), patch * denoiser.grid_multiple
            allowed = (
                f"it must be a multiple of {multiple}: the denoiser shrinks the planes by {denoiser.grid_multiple}"
            )
            require(size % multiple == 0, f"autoencoder.{name}", size, allowed)
        for metric, field in (("loss_given_previous", "previous_clip"), ("loss_given_both", "next_clip")):
            measured = self.train_diffusion.best_metric != metric or getattr(denoiser, field)
            require(measured, "train_diffusion.best_metric", metric, f"it is measured with denoiser.{field} only")
        first, last = denoiser.expert_from, self.process.num_steps - 1
        require(first <= last, "denoiser.expert_from", first, f"at most process.num_steps - 1 ({last}), the last time")
        share = self.train_diffusion.context_last_time
        allowed = "0, as denoiser.expert_from gives that time to the expert"
        require(first == 0 or share == 0, "train_diffusion.context_last_time", share, allowed)
        for name in ("prior_guidance", "later_prior_guidance"):
            weight = getattr(self.sample, name)
            allowed = "0, as it needs latents.normalize=True: it leads away from values of mean 0 and deviation 1"
            require(weight <= 0 or self.latents.normalize, f"sample.{name}", weight, allowed)
        for name in ("steps", "later_steps"):
            steps, most = getattr(self.sample, name), self.process.num_steps
            require(steps <= most, f"sample.{name}", steps, f"at most process.num_steps ({most})")
