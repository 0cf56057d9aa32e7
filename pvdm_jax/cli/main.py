"""The command line: one parser for all commands, and the handling of their errors."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import pvdm_jax
from pvdm_jax.cli import data, evaluate, generate, measure, model_folders, train
from pvdm_jax.cli.arguments import command_adder
from pvdm_jax.cli.endings import run_to_end
from pvdm_jax.config import require
from pvdm_jax.config.checks import one_line
from pvdm_jax.runtime.allocator import keep_memory
from pvdm_jax.storage import buckets
from pvdm_jax.storage.cache import cache_folder

# These override the environment: JAX's settings that would change numbers, or refuse code that is correct.
JAX_SETTINGS = {
    "JAX_ENABLE_X64": "0",  # every number here has at most 32 bits
    "JAX_THREEFRY_PARTITIONABLE": "1",  # a seed gives the same numbers everywhere
    "JAX_NUMPY_DTYPE_PROMOTION": "standard",
    "JAX_NUMPY_RANK_PROMOTION": "allow",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code, see `cli.endings`. SIGTERM raises SystemExit(143)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    return run_to_end(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    """Parses the arguments and calls the command's function."""
    parser = make_parser()
    args, overrides = parser.parse_known_args(argv)
    if overrides and not ("config" in args and all(_is_override(text) for text in overrides)):
        hint = " (fields are set by --config.some.field=value)" if "config" in args else ""
        parser.error(f"unrecognized arguments: {' '.join(overrides)}{hint}")
    args.overrides = overrides
    keep_memory()
    # These are read when jax is first imported.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder("compiled")))
    os.environ.update(JAX_SETTINGS)
    _resolve(args)
    args.run(args)


def _resolve(args: argparse.Namespace) -> None:
    """Replaces gs:// folders by their local counterparts. Raises ConfigError for arguments that must be local."""
    for name, value in vars(args).items():
        paths = [path for path in (value if isinstance(value, list) else [value]) if buckets.in_bucket(path)]
        allowed = "only --workdir, --model and --config.data.path can be in a bucket; copy the others to this machine"
        shown = paths and buckets.shown(paths[0])
        require(not paths or name in ("workdir", "model"), f"--{name.replace('_', '-')}", shown, allowed)
        if paths:
            setattr(args, name, buckets.local(value))


def _is_override(text: str) -> bool:
    return text.startswith(("--config.", "--noconfig."))


class _Parser(argparse.ArgumentParser):
    """argparse's parser with refusals of one line, and without ignoring errors while it prints its help."""

    def error(self, message: str) -> NoReturn:
        super().error(one_line(message))

    def _print_message(self, message, file=None):
        (file or sys.stderr).write(message or "")


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of `pvdm`. The parsed arguments have the command's function as `run`."""
    parser = _Parser(
        prog="pvdm",
        description="Video generation in JAX with projected latent video diffusion models.",
        epilog="pvdm COMMAND --help has an example of each command. Start with: pvdm demo",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pvdm_jax {pvdm_jax.__version__}")
    add = command_adder(parser.add_subparsers(dest="command", metavar="COMMAND", required=True))
    for group in (train, data, generate, evaluate, model_folders, measure):
        group.add_commands(add)
    return parser
