"""The diffusion process, and how it is sampled."""

import dataclasses

from pvdm_jax.config.checks import at_least_zero, one_of, positive, require


@dataclasses.dataclass(frozen=True)
class ProcessConfig:
    """The diffusion process: betas = linspace(sqrt(beta_start), sqrt(beta_end), num_steps)^2."""

    num_steps: int = 1000
    beta_start: float = 0.0015
    beta_end: float = 0.0195

    def __post_init__(self):
        positive("process", self, "num_steps")
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
        one_of("sample", self, "sampler", ("ddim", "ddpm"))
        positive("sample", self, "steps", "later_steps")
        at_least_zero("sample", self, "guidance")
        require(0 <= self.eta <= 1, "sample.eta", self.eta, "it lies between 0 and 1")
