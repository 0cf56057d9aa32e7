"""What the commands share: types of arguments, groups of arguments, and the configuration that they name."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pvdm_jax
from pvdm_jax.config import Config, ConfigError
from pvdm_jax.config.checks import LARGEST, MAX_SEED
from pvdm_jax.config.data import MAX_FPS, MIN_FPS
from pvdm_jax.runtime.allocator import fill_holes_after_compiling
from pvdm_jax.storage import buckets
from pvdm_jax.video.defaults import DEFAULT_FORMATS, FORMATS

MODEL_HELP = "folder of a trained run, a model folder, or the name of a packaged model (`pvdm models` lists them)"
AddCommand = Callable[..., argparse.ArgumentParser]


def command_adder(commands: Any) -> AddCommand:
    """Returns the function add(name, run, help, example) by which each `add_commands` declares its commands."""

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


def integer(text: str, lowest: int, highest: int) -> int:
    """Parses an integer. Raises ArgumentTypeError for any other text, and for an integer beyond the bounds."""
    if not (text.removeprefix("-").isdecimal() and len(text) < 30 and lowest <= int(text) <= highest):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not an integer from {lowest} to {highest}")
    return int(text)


def positive(text: str) -> int:
    """A number of things: at least 1."""
    if text.isdecimal() and text.strip("0") == "":
        raise argparse.ArgumentTypeError(f"{text[:40]} is not positive")
    return integer(text, 1, LARGEST)


def seed(text: str) -> int:
    """A seed, or the number of a video: an unsigned integer of 32 bits."""
    return integer(text, 0, MAX_SEED)


def path(text: str) -> Path:
    """The name of a file or folder. An empty one, from an unset shell variable, would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; write . for the current folder")
    try:
        buckets.check_spelling(text)  # before Path drops a slash
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return Path(text)


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a finite number")
    return value


def positive_number(text: str) -> float:
    """A finite number above 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text[:40]} is not positive")
    return value


def frame_rate(text: str) -> float:
    """The frames per second of a file."""
    value = positive_number(text)
    if not MIN_FPS <= value <= MAX_FPS:
        raise argparse.ArgumentTypeError(f"{text[:40]} is not between {MIN_FPS:g} and {MAX_FPS:g}")
    return value


def video_format(text: str) -> str:
    """One of the formats that videos are written in."""
    if text not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not one of {', '.join(FORMATS)}")
    return text


class EachOnce(argparse.Action):
    """Takes several values, and refuses one that occurs twice."""

    def __call__(self, parser, namespace, values, option_string=None):
        twice = [str(value) for value in values if values.count(value) > 1]
        if twice:
            parser.error(f"argument {option_string}: {twice[0]} is named twice")
        setattr(namespace, self.dest, values)


def add_settings(command: argparse.ArgumentParser, config: str | None = None, required: bool = True) -> None:
    """Adds --config; `config` is its default."""
    default = f" (default: {config})" if config else ""
    help = (
        "configuration: file.py[:variant], or one of demo, video_folder, doom[:128], ucf101[:s], sky_timelapse[:s]; "
        f"--config.some.field=value changes one of its fields{default}"
    )
    command.add_argument("--config", required=required and config is None, default=config, help=help)


def add_config(command: argparse.ArgumentParser, config: str | None = None, workdir: str | None = None) -> None:
    """Adds --config and --workdir, with these defaults."""
    add_settings(command, config)
    default = f" (default: {workdir})" if workdir else ""
    help = f"folder of the run, or gs://BUCKET/PATH; an interrupted run resumes{default}"
    command.add_argument("--workdir", type=path, required=workdir is None, default=workdir, help=help)


def add_model(command: argparse.ArgumentParser) -> None:
    """Adds --model, --output and --formats."""
    command.add_argument("--model", type=path, required=True, help=MODEL_HELP)
    command.add_argument("--output", type=path, required=True, help="folder for the results, new or empty")
    help = f"formats to write each video in (default: {' '.join(DEFAULT_FORMATS)})"
    command.add_argument(
        "--formats", nargs="+", type=video_format, action=EachOnce, default=DEFAULT_FORMATS, metavar="FORMAT", help=help
    )
