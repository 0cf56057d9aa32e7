"""Commands that make videos with a trained model."""

import argparse
import collections
from typing import Any

from pvdm_jax.cli.arguments import AddCommand, add_model, frame_rate, load_model, path, positive, seed
from pvdm_jax.cli.sampling_arguments import add_sampling, sampling_options
from pvdm_jax.config import require
from pvdm_jax.video.defaults import DEFAULT_FPS, MAX_VIDEOS


def _sample(args: argparse.Namespace) -> None:
    from pvdm_jax.commands import generate
    from pvdm_jax.runtime import distributed

    distributed.start_distributed()
    generate.sample(
        load_model(args),
        args.output,
        num_videos=args.num_videos,
        num_frames=args.num_frames,
        first_video=args.first_video,
        videos=args.videos,
        **_generation_keywords(args),
        preview_every=args.preview_every,
    )


def _extend(args: argparse.Namespace) -> None:
    from pvdm_jax.commands import generate

    generate.extend(
        load_model(args),
        args.source,
        args.output,
        num_frames=args.num_frames,
        original_frames=args.original_frames,
        **_generation_keywords(args),
    )


def _interpolate(args: argparse.Namespace) -> None:
    from pvdm_jax.commands import generate

    generate.interpolate(
        load_model(args),
        args.first,
        args.second,
        args.output,
        num_videos=args.num_videos,
        **_generation_keywords(args),
    )


def _reconstruct(args: argparse.Namespace) -> None:
    from pvdm_jax.commands import reconstruct

    reconstruct.reconstruct(
        load_model(args),
        args.source,
        args.output,
        max_frames=args.max_frames,
        formats=args.formats,
        fps=args.fps,
    )


def _generation_keywords(args: argparse.Namespace) -> dict[str, Any]:
    """The keywords that `sample`, `extend` and `interpolate` share."""
    return {
        "seed": args.seed,
        "batch_size": args.batch_size,
        "options": sampling_options(args),
        "classes": _classes(args),
        "formats": args.formats,
        "fps": args.fps,
    }


def _classes(args: argparse.Namespace) -> list[str] | None:
    """Turns `--classes 3,7 spin` into ["3", "7", "spin"]."""
    if args.classes is None:
        return None
    names = [name.strip() for text in args.classes for name in text.split(",") if name.strip()]
    require(len(names) > 0, "--classes", " ".join(args.classes), "name at least one class")
    return names


def _numbers(text: str) -> list[int]:
    """Parses "37" or "3,7,10-20" into distinct numbers, at most MAX_VIDEOS of them."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        lowest = seed(first)
        highest = seed(last) if dash else lowest
        if highest < lowest or len(numbers) + highest - lowest >= MAX_VIDEOS:
            raise argparse.ArgumentTypeError(f"{part[:40]!r} names no video, or more than {MAX_VIDEOS:,} in all")
        numbers += range(lowest, highest + 1)
    twice = [number for number, count in collections.Counter(numbers).items() if count > 1]
    if twice:
        raise argparse.ArgumentTypeError(f"video {twice[0]} is named twice")
    return numbers


def add_commands(add: AddCommand) -> None:
    command = add(
        "sample",
        _sample,
        "generate videos",
        "pvdm sample --model=runs/demo --output=samples --num-videos=16 --num-frames=64",
    )
    add_model(command)
    command.add_argument("--num-videos", type=positive, default=8, help="number of videos (default: 8)")
    command.add_argument("--num-frames", type=positive, help="frames of each video (default: one clip)")
    help = "number of the first video; a video depends on its number, not on what else is generated (default: 0)"
    command.add_argument("--first-video", type=seed, default=0, metavar="NUMBER", help=help)
    help = "numbers of the videos to generate, such as 37 or 3,7,10-20, in place of --num-videos and --first-video"
    command.add_argument("--videos", type=_numbers, metavar="NUMBERS", help=help)
    help = f"frames per second of the files (default: {DEFAULT_FPS:g})"
    command.add_argument("--fps", type=frame_rate, default=DEFAULT_FPS, help=help)
    help = "also write a video of the denoising: the first clips after every CALLS calls of the denoiser"
    command.add_argument("--preview-every", type=positive, default=0, metavar="CALLS", help=help)
    _add_generation(command)

    command = add(
        "extend",
        _extend,
        "continue videos",
        "pvdm extend --model=runs/demo --source holiday.mp4 more_videos/ --output=extended --num-frames=64",
    )
    add_model(command)
    _add_source(command)
    command.add_argument("--num-frames", type=positive, default=64, help="new frames of each video (default: 64)")
    help = "frames kept from the end of the original (default: 32)"
    command.add_argument("--original-frames", type=positive, default=32, help=help)
    _add_generation(command)

    command = add(
        "interpolate",
        _interpolate,
        "generate the clip between two videos, with a model that was trained for it (denoiser.next_clip)",
        "pvdm interpolate --model=runs/between --first=a.mp4 --second=b.mp4 --output=between --num-videos=4",
    )
    add_model(command)
    command.add_argument("--first", type=path, required=True, help="video file whose last clip precedes the new one")
    command.add_argument("--second", type=path, required=True, help="video file whose first clip follows the new one")
    help = "number of clips to generate, each from different noise (default: 1)"
    command.add_argument("--num-videos", type=positive, default=1, help=help)
    _add_fps(command)
    _add_generation(command)

    command = add(
        "reconstruct",
        _reconstruct,
        "encode and decode videos, and show each next to its reconstruction",
        "pvdm reconstruct --model=runs/demo --source my_videos/ --output=reconstructed",
    )
    add_model(command)
    _add_source(command)
    help = "frames taken from the start of each video (default: 128)"
    command.add_argument("--max-frames", type=positive, default=128, help=help)


def _add_source(command: argparse.ArgumentParser) -> None:
    help = "video files, and folders of video files"
    command.add_argument("--source", type=path, nargs="+", required=True, metavar="PATH", help=help)
    _add_fps(command)


def _add_fps(command: argparse.ArgumentParser) -> None:
    help = "frames per second of the files (default: the source's)"
    command.add_argument("--fps", type=frame_rate, help=help)


def _add_generation(command: argparse.ArgumentParser) -> None:
    """Adds what `_generation_keywords` reads, except what `add_model` and --fps add."""
    command.add_argument("--seed", type=seed, default=0, help="the same seed gives the same videos (default: 0)")
    command.add_argument("--batch-size", type=positive, default=4, help="videos generated at once (default: 4)")
    help = "classes, which the videos get in turn, by name or by number: 3,7"
    command.add_argument("--classes", nargs="+", metavar="NAME", help=help)
    add_sampling(command)
