"""Commands that prepare and show datasets."""

import argparse

from pvdm_jax.cli.arguments import AddCommand, add_settings, frame_rate, load_config, path, positive, seed
from pvdm_jax.config import DataConfig, require


def _prepare(args: argparse.Namespace) -> None:
    from pvdm_jax.data.prepare import folder, game
    from pvdm_jax.data.prepare.options import PrepareOptions

    if game.is_game(args.source):
        _prepare_game(args)
        return
    for name in ("num_videos", "held_out_videos", "frames", "seed", "hud"):
        value = getattr(args, name)
        require(not value, f"--{name.replace('_', '-')}", value, f"it needs --source={game.PREFIX}SCENARIO")
    options = PrepareOptions(
        min_frames=args.min_frames,
        storage=args.storage or "video",
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


def _prepare_game(args: argparse.Namespace) -> None:
    from pvdm_jax.data.dataset_identity import dataset_identity
    from pvdm_jax.data.prepare import game
    from pvdm_jax.data.prepare.options import GameOptions, PrepareOptions

    require(args.fps is None, "--fps", args.fps, "a game has its own frame rate")
    height = args.height or args.width or 64
    view = GameOptions(
        frames=args.frames or 128, height=height, width=args.width or height, seed=args.seed or 0, hud=args.hud
    )
    options = PrepareOptions(min_frames=1, storage=args.storage or "jpeg", quality=args.quality, game=view)
    summary = game.prepare_game(
        args.source,
        args.output,
        options,
        num_videos=args.num_videos or 1024,
        held_out_videos=args.held_out_videos,
        workers=args.workers or 0,
    )
    print(summary)
    identity = dataset_identity(DataConfig(source="tfds", path=str(args.output)))
    print(f"fingerprint {identity}")


def _data(args: argparse.Namespace) -> None:
    config = load_config(args)

    from pvdm_jax.data import preview

    print(preview.preview(config.data, config.autoencoder, config.seed, args.output, args.clips))


def add_commands(add: AddCommand) -> None:
    command = add(
        "prepare",
        _prepare,
        "make a dataset from a folder of videos",
        "pvdm prepare --source=my_videos --output=data/videos\n"
        "  pvdm prepare --source=UCF-101 --layout=ucf101 --list=1 --output=data/ucf101\n"
        "  pvdm prepare --source=vizdoom:all --num-videos=1024 --frames=128 --height=64 --width=64 --output=data/doom",
    )
    help = (
        "folder of videos, a dataset that TFDS built (its folder or name), or vizdoom:SCENARIO or vizdoom:all, which "
        "renders walks through a game (needs the extra pvdm_jax[doom])"
    )
    command.add_argument("--source", type=path, required=True, help=help)
    command.add_argument("--output", type=path, required=True, help="folder of the dataset, new or empty")
    help = "how the folder is laid out: a layout of docs/data.md, or auto to detect it (default: auto)"
    command.add_argument("--layout", metavar="NAME", default="auto", help=help)
    help = "split of the folder's videos to store (default: all; the splits stay separate)"
    command.add_argument("--split", choices=("train", "test", "all"), default="all", help=help)
    help = "official list of UCF-101 that separates training from test videos (default: 1)"
    command.add_argument("--list", type=int, choices=(1, 2, 3), default=1, help=help)
    command.add_argument("--min-frames", type=positive, default=16, help="skip videos with fewer frames (default: 16)")
    help = "frame rate of folders of frames and of arrays, which do not state it (default: unknown)"
    command.add_argument("--fps", type=frame_rate, help=help)
    command.add_argument("--workers", type=positive, help="number of processes (default: one per core)")
    group = command.add_argument_group("storage", "docs/data.md compares the three in a table.")
    help = "store videos as they are, as jpeg pictures, or as uncompressed frames (default: video; for a game, jpeg)"
    group.add_argument("--storage", choices=("video", "jpeg", "frames"), help=help)
    help = "for jpeg and frames: crop at the centre and resize to this height (default: the video's own)"
    group.add_argument("--height", type=positive, help=help)
    group.add_argument("--width", type=positive, help="for jpeg and frames: likewise the width")
    help = "resize with antialiasing, or without it like the official code (default: antialias)"
    group.add_argument("--resize", choices=("antialias", "bilinear"), default="antialias", help=help)
    group.add_argument("--quality", type=positive, default=95, help="quality of the jpeg pictures (default: 95)")
    group = command.add_argument_group("videos of a game", "The same seed and engine version give the same videos.")
    group.add_argument("--num-videos", type=positive, help="videos to train on (default: 1024)")
    help = "videos in each of the splits holdout and test (default: an eighth of --num-videos)"
    group.add_argument("--held-out-videos", type=positive, help=help)
    group.add_argument("--frames", type=positive, help="frames of each video (default: 128)")
    group.add_argument("--seed", type=seed, help="seed of the walks; splits never share a walk (default: 0)")
    group.add_argument("--hud", action="store_true", help="show the status bar and the weapon")

    command = add(
        "data",
        _data,
        "show what the model will see: clips, numbers, problems",
        "pvdm data --config=ucf101 --output=out/data",
    )
    add_settings(command)
    help = "folder for the videos and index.html, new or empty"
    command.add_argument("--output", type=path, required=True, help=help)
    command.add_argument("--clips", type=positive, default=16, help="number of clips to show (default: 16)")
