"""Commands that prepare and show data sets."""

import argparse
from pathlib import Path

from pvdm_jax.cli.arguments import AddCommand, add_settings, frame_rate, load_config, positive


def _prepare(args: argparse.Namespace) -> None:
    from pvdm_jax.data.prepare import folder
    from pvdm_jax.data.prepare.options import PrepareOptions

    options = PrepareOptions(
        min_frames=args.min_frames,
        storage=args.storage,
        height=args.height or 0,
        width=args.width or 0,
        resize=args.resize,
        quality=args.quality,
        fps=args.fps or 0.0,
    )
    summary = folder.prepare(
        args.source,
        args.output,
        options,
        layout=args.layout,
        split=args.split,
        list_number=args.list,
        workers=args.workers or 0,
    )
    print(summary)


def _data(args: argparse.Namespace) -> None:
    config = load_config(args)

    from pvdm_jax.data import preview

    print(preview.preview(config.data, config.autoencoder, config.seed, args.output, args.clips))


def add_commands(add: AddCommand) -> None:
    command = add(
        "prepare",
        _prepare,
        "make a data set from a folder of videos",
        "pvdm prepare --source=my_videos --output=data/videos\n"
        "  pvdm prepare --source=UCF-101 --layout=ucf101 --list=1 --output=data/ucf101",
    )
    help = "folder of videos, or a data set that TFDS built (its folder or name)"
    command.add_argument("--source", type=Path, required=True, help=help)
    command.add_argument("--output", type=Path, required=True, help="folder of the data set, new or empty")
    help = "how the folder is laid out: a layout of docs/data.md, or auto to find out (default: auto)"
    command.add_argument("--layout", metavar="NAME", default="auto", help=help)
    help = "which of the folder's videos to take (default: all; they stay apart)"
    command.add_argument("--split", choices=("train", "test", "all"), default="all", help=help)
    help = "official list of UCF-101 that separates training from test videos (default: 1)"
    command.add_argument("--list", type=int, choices=(1, 2, 3), default=1, help=help)
    command.add_argument("--min-frames", type=positive, default=16, help="skip videos with fewer frames (default: 16)")
    help = "frames per second of folders of frames and of arrays (default: unknown)"
    command.add_argument("--fps", type=frame_rate, help=help)
    command.add_argument("--workers", type=positive, help="number of processes (default: one per core)")
    group = command.add_argument_group("storage", "docs/data.md compares the three in a table.")
    help = "store videos as they are, as jpeg pictures, or as uncompressed frames (default: video)"
    group.add_argument("--storage", choices=("video", "jpeg", "frames"), default="video", help=help)
    help = "for jpeg and frames: crop at the centre and resize to this height (default: the video's own)"
    group.add_argument("--height", type=positive, help=help)
    group.add_argument("--width", type=positive, help="for jpeg and frames: likewise the width")
    help = "resize with antialiasing, or without it like the official code (default: antialias)"
    group.add_argument("--resize", choices=("antialias", "bilinear"), default="antialias", help=help)
    group.add_argument("--quality", type=positive, default=95, help="quality of the jpeg pictures (default: 95)")

    command = add(
        "data",
        _data,
        "show what the model will see: clips, numbers, problems",
        "pvdm data --config=ucf101 --output=out/data",
    )
    add_settings(command)
    help = "folder for the videos and index.html, new or empty"
    command.add_argument("--output", type=Path, required=True, help=help)
    command.add_argument("--clips", type=positive, default=16, help="number of clips to show (default: 16)")
