"""Commands that train: the demo, and the stages one by one."""

import argparse

from pvdm_jax.cli.arguments import AddCommand, add_config, load_config, load_distributed_config, path
from pvdm_jax.runtime.allocator import fill_holes_after_compiling

AUTOENCODER_HELP = (
    "a model folder, another run's folder, or the name of a packaged model: this run imports its autoencoder instead "
    "of training its own; later commands find it in --workdir"
)


def _demo(args: argparse.Namespace) -> None:
    config = load_config(args)

    from pvdm_jax.commands import demo

    fill_holes_after_compiling()
    demo.run(config, args.workdir)


def _train_autoencoder(args: argparse.Namespace) -> None:
    config = load_distributed_config(args)

    from pvdm_jax.training import autoencoder

    autoencoder.train(config, args.workdir)


def _encode(args: argparse.Namespace) -> None:
    config = load_distributed_config(args)

    from pvdm_jax.training.encode import encode

    encode(config, args.workdir, args.autoencoder)


def _train_diffusion(args: argparse.Namespace) -> None:
    config = load_distributed_config(args)

    from pvdm_jax.training import diffusion

    diffusion.train(config, args.workdir, args.autoencoder)


def add_commands(add: AddCommand) -> None:
    command = add(
        "demo",
        _demo,
        "train both stages on synthetic videos, generate videos, write a report",
        "pvdm demo --workdir=runs/demo --config.seed=1",
    )
    add_config(command, config="demo", workdir="runs/demo")

    for name, run, help in (
        ("train-autoencoder", _train_autoencoder, "train stage 1, the autoencoder of clips"),
        ("encode", _encode, "encode the training videos to the latents that stage 2 trains on"),
        ("train-diffusion", _train_diffusion, "train stage 2, the denoiser of the latents"),
    ):
        example = f"pvdm {name} --config=ucf101:s --config.data.path=data/ucf101 --workdir=runs/ucf101"
        command = add(name, run, help, example)
        add_config(command)
        if name != "train-autoencoder":
            command.add_argument("--autoencoder", type=path, metavar="DIR", help=AUTOENCODER_HELP)
