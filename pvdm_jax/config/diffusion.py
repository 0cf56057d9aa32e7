"""The diffusion process, and how it is sampled."""

import dataclasses
import itertools
import operator

from pvdm_jax.config.checks import at_least_zero, at_most, check_numbers, one_of, positive, require

PREDICTIONS = ("eps", "x0", "v", "flow")
LOSS_WEIGHTS = ("uniform", "min_snr")
SAMPLERS = ("ddim", "ddpm", "dpmpp", "dpmpp_sde", "heun", "euler")
GRIDS = ("uniform", "trailing", "logsnr", "quadratic")
PLANE_ORDERS = ("auto", "keep", "confirm")
MIN_BETA = 1e-8  # less noise at the first step would vanish in float32
MIN_SIGNAL = 1e-12  # least share of the data at the last step, by which samplers divide
MIN_DEVIATION = 1e-6  # least standard deviation of latents, by which they are divided


@dataclasses.dataclass(frozen=True)
class ProcessConfig:
    """The diffusion process: betas = linspace(sqrt(beta_start), sqrt(beta_end), num_steps)^2.

    With prediction=flow the process is rectified flow instead: x_t = (1 - u) x_0 + u noise, u = (t + 1) / num_steps.
    """

    num_steps: int = 1000
    beta_start: float = 0.0015
    beta_end: float = 0.0195
    prediction: str = "eps"  # what the denoiser learns: eps (the noise), x0, v, or flow (rectified flow)
    loss_weight: str = "uniform"  # weight of each step's loss: uniform, or min_snr (Hang et al. 2023)
    min_snr_gamma: float = 5.0  # min_snr: the signal-to-noise ratio at which the weight stops growing

    def __post_init__(self):
        check_numbers("process", self)
        positive("process", self, "num_steps", "min_snr_gamma")
        at_most("process", self, 10**6, "num_steps")
        one_of("process", self, "prediction", PREDICTIONS)
        one_of("process", self, "loss_weight", LOSS_WEIGHTS)
        require(
            MIN_BETA <= self.beta_start <= self.beta_end < 1,
            "process.beta_start",
            self.beta_start,
            f"{MIN_BETA:g} <= beta_start <= beta_end ({self.beta_end}) < 1",
        )
        left = 1.0 if self.prediction == "flow" else self.cumulative()[-1] ** 0.5
        allowed = f"with {self.num_steps} steps so little of the data is left that 32 bits lose it; lower either"
        require(left >= MIN_SIGNAL, "process.beta_end", self.beta_end, allowed)

    def cumulative(self) -> list[float]:
        """A_t of `diffusion.process` for every step t, the product of all 1 - beta up to it."""
        first, last = self.beta_start**0.5, self.beta_end**0.5
        width = (last - first) / max(self.num_steps - 1, 1)
        roots = [first + width * step for step in range(self.num_steps - 1)] + [last if self.num_steps > 1 else first]
        return list(itertools.accumulate((1 - root * root for root in roots), operator.mul))


@dataclasses.dataclass(frozen=True)
class LatentsConfig:
    """How the process sees the autoencoder's latents: as they are, or with mean 0 and deviation 1.

    mean, std: one number for each channel of each segment of the latent, in order. Training measures them on its
    latents, and the model keeps them.
    """

    normalize: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self):
        check_numbers("latents", self)
        allowed = f"as many as latents.mean ({len(self.mean)})"
        require(len(self.std) == len(self.mean), "latents.std", self.std, allowed)
        allowed = f"deviations are positive, at least {MIN_DEVIATION:g}"
        require(min(self.std, default=1) >= MIN_DEVIATION, "latents.std", self.std, allowed)
        allowed = "it needs latents.normalize=True"
        require(self.normalize or not self.mean, "latents.mean", self.mean, allowed)


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How clips are sampled. "100/20" of the paper is steps=100, later_steps=20."""

    sampler: str = "ddim"  # ddim, ddpm (ancestral, all steps of the process), dpmpp, dpmpp_sde (2M), heun, euler
    steps: int = 100  # of the first clip
    later_steps: int = 100  # of each continuation
    grid: str = "uniform"  # the times visited: uniform (the official one), trailing, logsnr, quadratic
    later_sampler: str = ""  # of each continuation; "": the same
    later_grid: str = ""  # likewise
    eta: float = 1.0  # DDIM's noise, 0 to 1
    clip_x0: bool = True  # clip the predicted latents to the autoencoder's range, [-1, 1] before normalisation
    guidance: float = 0.0  # w of (1 + w) f(previous clip) - w f(nothing), f being the denoiser
    class_guidance: float = 0.0  # the same for the class
    prior_guidance: float = 0.0  # weight of guidance away from normally distributed latents (`diffusion.guidance`)
    later_prior_guidance: float = -1.0  # of each continuation; -1: the same
    guidance_from: float = 0.0  # guidance is on between these two times, as fractions of the process:
    guidance_to: float = 1.0  # 0 is the data, 1 the noise
    reencode: bool = False  # condition on the re-encoded latents of the decoded clip, not on the sampled ones
    plane_order: str = "auto"  # of first clips: confirm (with the autoencoder), keep, or auto: confirm if needed

    def __post_init__(self):
        check_numbers("sample", self)
        one_of("sample", self, "sampler", SAMPLERS)
        one_of("sample", self, "grid", GRIDS)
        one_of("sample", self, "later_sampler", ("", *SAMPLERS))
        one_of("sample", self, "later_grid", ("", *GRIDS))
        one_of("sample", self, "plane_order", PLANE_ORDERS)
        positive("sample", self, "steps", "later_steps")
        at_least_zero("sample", self, "guidance", "class_guidance", "prior_guidance")
        later = self.later_prior_guidance
        require(later == -1 or later >= 0, "sample.later_prior_guidance", later, "0 or more, or -1 for the same")
        require(0 <= self.eta <= 1, "sample.eta", self.eta, "it must lie between 0 and 1")
        require(
            0 <= self.guidance_from < self.guidance_to <= 1,
            "sample.guidance_from",
            self.guidance_from,
            f"0 <= guidance_from < guidance_to ({self.guidance_to}) <= 1",
        )

    def prior_weight(self, later: bool) -> float:
        """The weight of guidance away from normally distributed latents, for first clips or (`later`) continuations."""
        return self.later_prior_guidance if later and self.later_prior_guidance >= 0 else self.prior_guidance

    def solver(self, later: bool) -> tuple[str, int, str]:
        """The sampler, its steps and their grid, of a first clip or (`later`) a continuation."""
        if later:
            return self.later_sampler or self.sampler, self.later_steps, self.later_grid or self.grid
        return self.sampler, self.steps, self.grid
