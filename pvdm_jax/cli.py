"""The `pvdm` command: parses, sets up devices, calls one function.

What a command needs is imported when it runs, so that `pvdm --help` and a refusal of wrong arguments come at once.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pvdm_jax
from pvdm_jax.config import Config, ConfigError

# What a user can put right; anything else keeps its trace.
EXPECTED_ERRORS = (
    ConfigError,
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0, or 2 after an error that the user can put right."""
    parser = _parser()
    args, overrides = parser.parse_known_args(argv)
    if overrides and not ("config" in args and all(_is_override(text) for text in overrides)):
        hint = " (fields are set by --config.some.field=value)" if "config" in args else ""
        parser.error(f"unrecognized arguments: {' '.join(overrides)}{hint}")
    args.overrides = overrides
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_compilation_cache()))  # read when jax is first imported

    from pvdm_jax.media import VideoError

    try:
        args.run(args)
    except (*EXPECTED_ERRORS, VideoError) as error:
        print(f"pvdm: error: {error}", file=sys.stderr)
        return 2
    return 0


def _is_override(text: str) -> bool:
    return text.startswith(("--config.", "--noconfig."))


def _compilation_cache() -> Path:
    """Where compiled programs are kept from run to run."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "pvdm_jax" / "compiled"


def _load_config(args: argparse.Namespace) -> Config:
    from pvdm_jax.settings import load_settings

    return load_settings(args.config, args.overrides)


def _load_distributed_config(args: argparse.Namespace) -> Config:
    """The settings, checked before this process waits for the others of a multi-host run."""
    config = _load_config(args)

    from pvdm_jax import sharding

    sharding.start_distributed()
    return config


def _demo(args: argparse.Namespace) -> None:
    config = _load_config(args)

    from pvdm_jax import demo

    demo.run(config, args.workdir)


def _prepare(args: argparse.Namespace) -> None:
    from pvdm_jax.data.builders import folder

    print(folder.prepare(args.source, args.output, min_frames=args.min_frames))


def _train_autoencoder(args: argparse.Namespace) -> None:
    config = _load_distributed_config(args)

    from pvdm_jax.training import autoencoder

    autoencoder.train(config, args.workdir)


def _encode(args: argparse.Namespace) -> None:
    config = _load_distributed_config(args)

    from pvdm_jax.training import latents

    latents.encode(config, args.workdir)


def _train_diffusion(args: argparse.Namespace) -> None:
    config = _load_distributed_config(args)

    from pvdm_jax.training import diffusion

    diffusion.train(config, args.workdir)


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


def _positive(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive integer")
    return value


def _positive_number(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pvdm",
        description="Video generation in JAX with projected latent video diffusion models.",
        epilog="pvdm COMMAND --help has an example of each command. Start with: pvdm demo",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pvdm_jax {pvdm_jax.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], None], help: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.set_defaults(run=run)
        return command

    command = add(
        "demo",
        _demo,
        "train on synthetic videos, generate, write a report",
        "pvdm demo --workdir=runs/demo --config.seed=1",
    )
    _add_config(command, config="demo", workdir="runs/demo")

    command = add(
        "prepare",
        _prepare,
        "make a data set of a folder of video files",
        "pvdm prepare --source=my_videos --output=data/videos",
    )
    command.add_argument("--source", type=Path, required=True, help="folder of videos; its subfolders are classes")
    command.add_argument("--output", type=Path, required=True, help="folder of the data set, new or empty")
    command.add_argument("--min-frames", type=_positive, default=16, help="shorter videos are skipped (default: 16)")

    for name, run, help in (
        ("train-autoencoder", _train_autoencoder, "train stage 1, from clips to latent planes and back"),
        ("encode", _encode, "encode the training videos to the latents that stage 2 trains from"),
        ("train-diffusion", _train_diffusion, "train stage 2, the denoiser of the latents"),
    ):
        example = f"pvdm {name} --config=ucf101:s --config.data.path=data/ucf101 --workdir=runs/ucf101"
        _add_config(add(name, run, help, example))

    command = add(
        "sample",
        _sample,
        "generate videos",
        "pvdm sample --model=runs/demo --output=samples --num-videos=16 --num-frames=64",
    )
    _add_model(command)
    command.add_argument("--num-videos", type=_positive, default=8, help="how many (default: 8)")
    command.add_argument("--num-frames", type=_positive, help="frames of each video (default: one clip)")
    help = "frames per second of the files (default: 8)"
    command.add_argument("--fps", type=_positive_number, default=8.0, help=help)
    command.add_argument("--classes", nargs="+", metavar="NAME", help="classes to generate in turn, by name")
    _add_sampling(command)

    command = add(
        "extend",
        _extend,
        "continue videos",
        "pvdm extend --model=runs/demo --source holiday.mp4 more_videos/ --output=extended --num-frames=64",
    )
    _add_model(command)
    _add_source(command)
    command.add_argument("--num-frames", type=_positive, default=64, help="new frames (default: 64)")
    help = "frames of the original that are kept, from its end (default: 32)"
    command.add_argument("--original-frames", type=_positive, default=32, help=help)
    _add_sampling(command)

    command = add(
        "reconstruct",
        _reconstruct,
        "encode and decode videos: original and reconstruction side by side",
        "pvdm reconstruct --model=runs/demo --source my_videos/ --output=reconstructed",
    )
    _add_model(command)
    _add_source(command)
    command.add_argument("--max-frames", type=_positive, default=128, help="of each video's start (default: 128)")
    return parser


def _add_config(command: argparse.ArgumentParser, config: str | None = None, workdir: str | None = None) -> None:
    default = f" (default: {config})" if config else ""
    help = (
        "file.py[:variant], or one of demo, video_folder, ucf101[:s], sky_timelapse[:s]; any field of it is set by "
        f"--config.some.field=value{default}"
    )
    command.add_argument("--config", required=config is None, default=config, help=help)
    default = f" (default: {workdir})" if workdir else ""
    help = f"the run's folder; a run that was stopped goes on{default}"
    command.add_argument("--workdir", type=Path, required=workdir is None, default=workdir, help=help)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", type=Path, required=True, help="folder of a run with trained stages")
    command.add_argument("--output", type=Path, required=True, help="folder for the results, new or empty")
    help = "files to write of each video (default: mp4 gif)"
    command.add_argument("--formats", nargs="+", default=("mp4", "gif"), metavar="FORMAT", help=help)


def _add_source(command: argparse.ArgumentParser) -> None:
    help = "video files, and folders of them"
    command.add_argument("--source", type=Path, nargs="+", required=True, metavar="PATH", help=help)
    help = "frames per second of the files (default: the source's)"
    command.add_argument("--fps", type=_positive_number, help=help)


def _add_sampling(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=int, default=0, help="the same seed gives the same videos (default: 0)")
    help = "videos generated at once (default: 4)"
    command.add_argument("--batch-size", type=_positive, default=4, help=help)
    group = command.add_argument_group("sampling", "What is not given is as in the model's configuration.")
    group.add_argument("--steps", type=_positive, help="denoising steps of a first clip")
    group.add_argument("--later-steps", type=_positive, help="denoising steps of each continuation")
    group.add_argument("--sampler", choices=("ddim", "ddpm"), help="kind of sampler")
    group.add_argument("--eta", type=float, help="noise of DDIM, 0 to 1")
    group.add_argument("--guidance", type=float, help="weight w of (1 + w) eps(previous clip) - w eps(nothing)")


if __name__ == "__main__":
    sys.exit(main())
