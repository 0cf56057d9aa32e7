"""What the commands share: kinds of arguments, groups of them, and the settings that they name."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pvdm_jax.config import Config

AddCommand = Callable[..., argparse.ArgumentParser]


def command_adder(commands: Any) -> AddCommand:
    """The function add(name, run, help, example) by which each `add_commands` declares its commands."""

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

    return add


def load_config(args: argparse.Namespace) -> Config:
    from pvdm_jax.config.loading import load_settings

    return load_settings(args.config, args.overrides)


def load_distributed_config(args: argparse.Namespace) -> Config:
    """The settings, checked before this process waits for the others of a multi-host run."""
    config = load_config(args)

    from pvdm_jax.runtime import distributed

    distributed.start_distributed()
    return config


def positive(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive integer")
    return value


def positive_number(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def add_settings(command: argparse.ArgumentParser, config: str | None = None, required: bool = True) -> None:
    default = f" (default: {config})" if config else ""
    help = (
        "file.py[:variant], or one of demo, video_folder, ucf101[:s], sky_timelapse[:s]; any field of it is set by "
        f"--config.some.field=value{default}"
    )
    command.add_argument("--config", required=required and config is None, default=config, help=help)


def add_config(command: argparse.ArgumentParser, config: str | None = None, workdir: str | None = None) -> None:
    add_settings(command, config)
    default = f" (default: {workdir})" if workdir else ""
    help = f"the run's folder, or gs://BUCKET/PATH; a run that was stopped goes on{default}"
    command.add_argument("--workdir", type=Path, required=workdir is None, default=workdir, help=help)


def add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", type=Path, required=True, help="folder of a run with trained stages")
    command.add_argument("--output", type=Path, required=True, help="folder for the results, new or empty")
    help = "files to write of each video (default: mp4 gif)"
    command.add_argument("--formats", nargs="+", default=("mp4", "gif"), metavar="FORMAT", help=help)
