"""Commands that use a trained model."""

import argparse
from pathlib import Path

import pvdm_jax
from pvdm_jax.cli.arguments import AddCommand, add_model, positive, positive_number
from pvdm_jax.config.diffusion import GRIDS, PLANE_ORDERS, SAMPLERS


def _sample(args: argparse.Namespace) -> None:
    from pvdm_jax.commands import generate
    from pvdm_jax.runtime import distributed

    distributed.start_distributed()
    generate.sample(
        pvdm_jax.load(args.model),
        args.output,
        num_videos=args.num_videos,
        num_frames=args.num_frames,
        first_video=args.first_video,
        videos=args.videos,
        **_making(args),
        preview_every=args.preview_every,
    )


def _extend(args: argparse.Namespace) -> None:
    from pvdm_jax.commands import generate

    generate.extend(
        pvdm_jax.load(args.model),
        args.source,
        args.output,
        num_frames=args.num_frames,
        original_frames=args.original_frames,
        **_making(args),
    )


def _interpolate(args: argparse.Namespace) -> None:
    from pvdm_jax.commands import generate

    generate.interpolate(
        pvdm_jax.load(args.model),
        args.first,
        args.second,
        args.output,
        num_videos=args.num_videos,
        **_making(args),
    )


def _reconstruct(args: argparse.Namespace) -> None:
    from pvdm_jax.commands import generate

    generate.reconstruct(
        pvdm_jax.load(args.model),
        args.source,
        args.output,
        max_frames=args.max_frames,
        formats=args.formats,
        fps=args.fps,
    )


def _export(args: argparse.Namespace) -> None:
    from pvdm_jax.commands import export

    folder = export.export(
        args.model,
        args.output,
        dtype=args.dtype,
        sampler=args.sampler_program,
        num_frames=args.num_frames,
        options=_sampling_options(args),
        platforms=args.platforms.split(","),
        batch_size=args.batch_size,
        weights_inside=args.weights_inside,
    )
    print(f"exported to {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


def _making(args: argparse.Namespace) -> dict:
    """What `_add_sampling` and `add_model` let one say, of everything that is made by sampling."""
    return {
        "seed": args.seed,
        "batch_size": args.batch_size,
        "options": _sampling_options(args),
        "classes": _classes(args),
        "formats": args.formats,
        "fps": args.fps,
    }


# Options of sampling that are fields of SampleConfig as they are; --steps sets two.
_FIELDS = (
    *("sampler", "grid", "eta", "guidance", "class_guidance", "guidance_from", "guidance_to"),
    *("clip_x0", "reencode", "plane_order"),
)


def _sampling_options(args: argparse.Namespace) -> dict:
    """The options of the sampler that were given; for the others the model's own settings hold."""
    first, later = args.steps or (None, None)
    given = {"steps": first, "later_steps": args.later_steps or later}
    given |= {name: getattr(args, name) for name in _FIELDS}
    return {name: value for name, value in given.items() if value is not None}


def _classes(args: argparse.Namespace) -> list[str] | None:
    """`--classes 3,7 spin` as ["3", "7", "spin"]."""
    if args.classes is None:
        return None
    return [name.strip() for text in args.classes for name in text.split(",") if name.strip()]


def _steps(text: str) -> tuple[int, int | None]:
    """ "400" or "400/20": the first clip's, and each later one's."""
    first, slash, later = text.partition("/")
    return positive(first), positive(later) if slash else None


def _numbers(text: str) -> list[int]:
    """ "37" or "3,7,10-20" """
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        numbers += range(int(first), int(last if dash else first) + 1)
    if not numbers:
        raise argparse.ArgumentTypeError(f"{text} names no video")
    return numbers


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
    help = "number of the first one; video 37 is the same whatever is made with it (default: 0)"
    command.add_argument("--first-video", type=int, default=0, metavar="NUMBER", help=help)
    help = "the numbers of the videos, such as 37 or 3,7,10-20, instead of --num-videos"
    command.add_argument("--videos", type=_numbers, metavar="NUMBERS", help=help)
    help = "frames per second of the files (default: 8)"
    command.add_argument("--fps", type=positive_number, default=8.0, help=help)
    help = "also write a video of the denoising: the first clips after every so many calls of the denoiser"
    command.add_argument("--preview-every", type=positive, default=0, metavar="CALLS", help=help)
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
        "interpolate",
        _interpolate,
        "make the clip between two videos, with a model that was trained for it (denoiser.next_clip)",
        "pvdm interpolate --model=runs/between --first=a.mp4 --second=b.mp4 --output=between --num-videos=4",
    )
    add_model(command)
    command.add_argument("--first", type=Path, required=True, help="video file whose last clip comes before")
    command.add_argument("--second", type=Path, required=True, help="video file whose first clip comes after")
    command.add_argument("--num-videos", type=positive, default=1, help="how many, with other noise (default: 1)")
    _add_fps(command)
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

    command = add(
        "export",
        _export,
        "make a model folder to share, and a sampler that runs without pvdm_jax",
        "pvdm export --model=runs/demo --output=exported/demo --sampler-program --steps=50",
    )
    command.add_argument("--model", type=Path, required=True, help="folder of a run with trained stages")
    command.add_argument("--output", type=Path, required=True, help="the model folder, new or empty")
    help = "of the weight files: float32, bfloat16 or float16 (default: float32)"
    command.add_argument("--dtype", default="float32", help=help)
    help = "also write sampler.jax: the whole sampler as a portable program (needs the extra pvdm_jax[export])"
    command.add_argument("--sampler-program", action="store_true", help=help)
    command.add_argument("--num-frames", type=positive, help="of the program's videos (default: one clip)")
    help = "that the program runs on, of cpu, cuda, rocm, tpu (default: cpu,cuda,tpu)"
    command.add_argument("--platforms", default="cpu,cuda,tpu", help=help)
    command.add_argument("--batch-size", type=positive, help="of the program (default: any)")
    command.add_argument("--weights-inside", action="store_true", help="put the weights into the program")
    _add_settings(command)


def _add_source(command: argparse.ArgumentParser) -> None:
    help = "video files, and folders of them"
    command.add_argument("--source", type=Path, nargs="+", required=True, metavar="PATH", help=help)
    _add_fps(command)


def _add_fps(command: argparse.ArgumentParser) -> None:
    help = "frames per second of the files (default: the source's)"
    command.add_argument("--fps", type=positive_number, help=help)


def _add_sampling(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=int, default=0, help="the same seed gives the same videos (default: 0)")
    help = "videos generated at once (default: 4)"
    command.add_argument("--batch-size", type=positive, default=4, help=help)
    help = "classes to generate in turn, by name or number: 3,7"
    command.add_argument("--classes", nargs="+", metavar="NAME", help=help)
    _add_settings(command)


def _add_settings(command: argparse.ArgumentParser) -> None:
    """Fields of SampleConfig."""
    group = command.add_argument_group("sampling", "What is not given is as in the model's configuration.")
    help = "denoising steps, or FIRST/LATER: of a first clip and of each continuation, such as 400/20"
    group.add_argument("--steps", type=_steps, metavar="STEPS", help=help)
    group.add_argument("--later-steps", type=positive, help="denoising steps of each continuation")
    group.add_argument("--sampler", choices=SAMPLERS, help="kind of sampler")
    group.add_argument("--grid", choices=GRIDS, help="which times it visits")
    group.add_argument("--eta", type=float, help="noise of DDIM, 0 to 1")
    group.add_argument("--guidance", type=float, help="weight w of (1 + w) f(previous clip) - w f(nothing)")
    group.add_argument("--class-guidance", type=float, metavar="WEIGHT", help="the same for the class")
    help = "guidance is on from this fraction of the process (0: the data) ..."
    group.add_argument("--guidance-from", type=float, metavar="TIME", help=help)
    group.add_argument("--guidance-to", type=float, metavar="TIME", help="... to this one (1: the noise)")
    help = "clip the predicted latents to [-1, 1]"
    group.add_argument("--clip-x0", action=argparse.BooleanOptionalAction, help=help)
    help = "give the next clip the latents of the decoded clip, not the sampled ones"
    group.add_argument("--reencode", action=argparse.BooleanOptionalAction, help=help)
    help = "order of a first clip's motion planes: kept, confirmed by the autoencoder, or auto (where it is needed)"
    group.add_argument("--plane-order", choices=PLANE_ORDERS, help=help)
