"""Commands that use a trained model."""

import argparse
from pathlib import Path

import pvdm_jax
from pvdm_jax.cli.arguments import AddCommand, add_model, positive, positive_number


def _sample(args: argparse.Namespace) -> None:
    from pvdm_jax import generate

    generate.sample(
        pvdm_jax.load(args.model),
        args.output,
        num_videos=args.num_videos,
        num_frames=args.num_frames,
        seed=args.seed,
        batch_size=args.batch_size,
        options=_sampling_options(args),
        classes=args.classes,
        formats=args.formats,
        fps=args.fps,
    )


def _extend(args: argparse.Namespace) -> None:
    from pvdm_jax import generate

    generate.extend(
        pvdm_jax.load(args.model),
        args.source,
        args.output,
        num_frames=args.num_frames,
        original_frames=args.original_frames,
        seed=args.seed,
        batch_size=args.batch_size,
        options=_sampling_options(args),
        formats=args.formats,
        fps=args.fps,
    )


def _reconstruct(args: argparse.Namespace) -> None:
    from pvdm_jax import generate

    generate.reconstruct(
        pvdm_jax.load(args.model),
        args.source,
        args.output,
        max_frames=args.max_frames,
        formats=args.formats,
        fps=args.fps,
    )


def _sampling_options(args: argparse.Namespace) -> dict:
    """The options of the sampler that were given; for the others the model's own settings hold."""
    names = ("steps", "later_steps", "sampler", "eta", "guidance")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def add_commands(add: AddCommand) -> None:
    command = add(
        "sample",
        _sample,
        "generate videos",
        "pvdm sample --model=runs/demo --output=samples --num-videos=16 --num-frames=64",
    )
    add_model(command)
    command.add_argument("--num-videos", type=positive, default=8, help="how many (default: 8)")
    command.add_argument("--num-frames", type=positive, help="frames of each video (default: one clip)")
    help = "frames per second of the files (default: 8)"
    command.add_argument("--fps", type=positive_number, default=8.0, help=help)
    command.add_argument("--classes", nargs="+", metavar="NAME", help="classes to generate in turn, by name")
    _add_sampling(command)

    command = add(
        "extend",
        _extend,
        "continue videos",
        "pvdm extend --model=runs/demo --source holiday.mp4 more_videos/ --output=extended --num-frames=64",
    )
    add_model(command)
    _add_source(command)
    command.add_argument("--num-frames", type=positive, default=64, help="new frames (default: 64)")
    help = "frames of the original that are kept, from its end (default: 32)"
    command.add_argument("--original-frames", type=positive, default=32, help=help)
    _add_sampling(command)

    command = add(
        "reconstruct",
        _reconstruct,
        "encode and decode videos: original and reconstruction side by side",
        "pvdm reconstruct --model=runs/demo --source my_videos/ --output=reconstructed",
    )
    add_model(command)
    _add_source(command)
    command.add_argument("--max-frames", type=positive, default=128, help="of each video's start (default: 128)")


def _add_source(command: argparse.ArgumentParser) -> None:
    help = "video files, and folders of them"
    command.add_argument("--source", type=Path, nargs="+", required=True, metavar="PATH", help=help)
    help = "frames per second of the files (default: the source's)"
    command.add_argument("--fps", type=positive_number, help=help)


def _add_sampling(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=int, default=0, help="the same seed gives the same videos (default: 0)")
    help = "videos generated at once (default: 4)"
    command.add_argument("--batch-size", type=positive, default=4, help=help)
    group = command.add_argument_group("sampling", "What is not given is as in the model's configuration.")
    group.add_argument("--steps", type=positive, help="denoising steps of a first clip")
    group.add_argument("--later-steps", type=positive, help="denoising steps of each continuation")
    group.add_argument("--sampler", choices=("ddim", "ddpm"), help="kind of sampler")
    group.add_argument("--eta", type=float, help="noise of DDIM, 0 to 1")
    group.add_argument("--guidance", type=float, help="weight w of (1 + w) eps(previous clip) - w eps(nothing)")
