"""The command that makes a model folder of official weights."""

import argparse
from pathlib import Path

from pvdm_jax.cli.arguments import AddCommand, positive

AUTOENCODER_FIELDS = ("num_heads", "plane_num_heads")
DENOISER_FIELDS = ("num_heads", "num_head_channels")


def _convert(args: argparse.Namespace) -> None:
    from pvdm_jax.weights.official.convert import convert_files

    given = {name: value for name, value in vars(args).items() if value is not None}
    folder = convert_files(
        args.output,
        args.autoencoder,
        args.denoiser,
        {name: given[f"autoencoder_{name}"] for name in AUTOENCODER_FIELDS if f"autoencoder_{name}" in given},
        {name: given[name] for name in DENOISER_FIELDS if name in given},
        args.dtype,
    )
    print((folder / "README.md").read_text(encoding="utf-8"))
    print(f"written: {folder}")


def add_commands(add: AddCommand) -> None:
    command = add(
        "convert",
        _convert,
        "make a model folder of weights of the official PyTorch code",
        "pvdm convert --autoencoder=model_last.pth --denoiser=ema_model_850000.pth --output=models/ucf101",
    )
    kinds = ".pth, .pt, .npz or .safetensors with the official names, or a model folder"
    command.add_argument("--autoencoder", type=Path, metavar="FILE", help=f"the autoencoder's weights: {kinds}")
    command.add_argument("--denoiser", type=Path, metavar="FILE", help="the denoiser's weights, likewise")
    command.add_argument("--output", type=Path, required=True, help="the model folder, new or empty")
    help = "of the files in it (default: float32); half as large in bfloat16 and float16, and less exact"
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help=help)
    group = command.add_argument_group("what shapes don't tell", "The defaults are the paper's.")
    group.add_argument("--num-heads", type=positive, help="attention heads of the denoiser (default: 8)")
    group.add_argument(
        "--num-head-channels", type=positive, help="channels of each of its heads, instead of --num-heads"
    )
    help = "attention heads of the autoencoder's transformers (default: 8)"
    group.add_argument("--autoencoder-num-heads", type=positive, help=help)
    help = "attention heads of the autoencoder's projections to planes (default: 4)"
    group.add_argument("--autoencoder-plane-num-heads", type=positive, help=help)
