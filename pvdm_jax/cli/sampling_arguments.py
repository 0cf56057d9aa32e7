"""The arguments of sampling: options that replace fields of the model's `SampleConfig`."""

import argparse
import dataclasses
from typing import Any

from pvdm_jax.cli.arguments import number, positive
from pvdm_jax.config.diffusion import GRIDS, PLANE_ORDERS, SAMPLERS, SampleConfig

# Every field of SampleConfig is an option of the same name. --steps sets two fields.
_FIELDS = [field.name for field in dataclasses.fields(SampleConfig) if field.name not in ("steps", "later_steps")]


def sampling_options(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of SampleConfig that were given; the others keep the model's own settings."""
    first, later = args.steps or (None, None)
    given = {"steps": first, "later_steps": args.later_steps or later}
    given |= {name: getattr(args, name) for name in _FIELDS}
    return {name: value for name, value in given.items() if value is not None}


def add_sampling(command: argparse.ArgumentParser) -> None:
    """Adds the options that `sampling_options` reads."""
    group = command.add_argument_group("sampling", "The defaults are those of the model's configuration.")
    help = "denoising steps, or FIRST/LATER for the first clip and for each continuation, such as 400/20"
    group.add_argument("--steps", type=_steps, metavar="STEPS", help=help)
    group.add_argument("--later-steps", type=positive, help="denoising steps of each continuation")
    group.add_argument("--sampler", choices=SAMPLERS, help="sampler")
    group.add_argument("--grid", choices=GRIDS, help="grid of the times that the sampler visits")
    group.add_argument("--later-sampler", choices=SAMPLERS, help="sampler of each continuation, if it differs")
    group.add_argument("--later-grid", choices=GRIDS, help="grid of each continuation, if it differs")
    group.add_argument("--eta", type=number, help="noise of DDIM, from 0 to 1")
    help = "weight w of (1 + w) f(previous clip) - w f(nothing), f being the denoiser"
    group.add_argument("--guidance", type=number, metavar="WEIGHT", help=help)
    group.add_argument("--class-guidance", type=number, metavar="WEIGHT", help="the same for the class")
    help = "weight of guidance away from normally distributed latents (docs/sampling.md)"
    group.add_argument("--prior-guidance", type=number, metavar="WEIGHT", help=help)
    help = "the same weight for each continuation, if it differs"
    group.add_argument("--later-prior-guidance", type=number, metavar="WEIGHT", help=help)
    help = "apply guidance from this fraction of the process (0: the data) ..."
    group.add_argument("--guidance-from", type=number, metavar="TIME", help=help)
    group.add_argument("--guidance-to", type=number, metavar="TIME", help="... up to this one (1: the noise)")
    help = "clip the predicted latents to the autoencoder's range"
    group.add_argument("--clip-x0", action=argparse.BooleanOptionalAction, help=help)
    help = "condition each continuation on the re-encoded latents of the decoded clip, not on the sampled latents"
    group.add_argument("--reencode", action=argparse.BooleanOptionalAction, help=help)
    help = "order of a first clip's motion planes: keep it, confirm it with the autoencoder, or auto (if needed)"
    group.add_argument("--plane-order", choices=PLANE_ORDERS, help=help)


def _steps(text: str) -> tuple[int, int | None]:
    """Parses "400" or "400/20": the steps of the first clip and of each later one."""
    first, slash, later = text.partition("/")
    return positive(first), positive(later) if slash else None
