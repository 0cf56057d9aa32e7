"""What the commands share: types of arguments, groups of arguments, and the configuration that they name."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pvdm_jax
from pvdm_jax.config import Config
from pvdm_jax.runtime.allocator import fill_holes_after_compiling
from pvdm_jax.video.defaults import DEFAULT_FORMATS

AddCommand = Callable[..., argparse.ArgumentParser]


def command_adder(commands: Any) -> AddCommand:
    """Returns the function add(name, run, help, example) with which each `add_commands` declares its commands."""

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
    """The configuration of --config, with the given fields changed. Doesn't import jax: `plan` chooses its platform."""
    from pvdm_jax.config.loading import load_settings

    return load_settings(args.config, args.overrides)


def load_model(args: argparse.Namespace) -> Any:
    """The trained model of --model."""
    fill_holes_after_compiling()
    return pvdm_jax.load(args.model)


def load_distributed_config(args: argparse.Namespace) -> Config:
    """The configuration, checked before this process waits for the others of a multi-host run."""
    config = load_config(args)

    from pvdm_jax.runtime import distributed

    fill_holes_after_compiling()
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
    """Adds --config; `config` is its default."""
    default = f" (default: {config})" if config else ""
    help = (
        "configuration: file.py[:variant], or one of demo, video_folder, ucf101[:s], sky_timelapse[:s]; "
        f"--config.some.field=value changes a field of it{default}"
    )
    command.add_argument("--config", required=required and config is None, default=config, help=help)


def add_config(command: argparse.ArgumentParser, config: str | None = None, workdir: str | None = None) -> None:
    """Adds --config and --workdir, with these defaults."""
    add_settings(command, config)
    default = f" (default: {workdir})" if workdir else ""
    help = f"folder of the run, or gs://BUCKET/PATH; an interrupted run resumes{default}"
    command.add_argument("--workdir", type=Path, required=workdir is None, default=workdir, help=help)


def add_model(command: argparse.ArgumentParser) -> None:
    """Adds --model, --output and --formats."""
    command.add_argument("--model", type=Path, required=True, help="folder of a trained run, or a model folder")
    command.add_argument("--output", type=Path, required=True, help="folder for the results, new or empty")
    help = f"formats to write each video in (default: {' '.join(DEFAULT_FORMATS)})"
    command.add_argument("--formats", nargs="+", default=DEFAULT_FORMATS, metavar="FORMAT", help=help)
