"""Commands that make data sets."""

import argparse
from pathlib import Path

from pvdm_jax.cli.arguments import AddCommand, positive


def _prepare(args: argparse.Namespace) -> None:
    from pvdm_jax.data.builders import folder

    print(folder.prepare(args.source, args.output, min_frames=args.min_frames))


def add_commands(add: AddCommand) -> None:
    command = add(
        "prepare",
        _prepare,
        "make a data set of a folder of video files",
        "pvdm prepare --source=my_videos --output=data/videos",
    )
    command.add_argument("--source", type=Path, required=True, help="folder of videos; its subfolders are classes")
    command.add_argument("--output", type=Path, required=True, help="folder of the data set, new or empty")
    command.add_argument("--min-frames", type=positive, default=16, help="shorter videos are skipped (default: 16)")
