"""The command that evaluates a trained model or two folders of videos, by a protocol that the result records."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import pvdm_jax
from pvdm_jax.cli.arguments import MODEL_HELP, AddCommand, load_config, load_model, path, positive
from pvdm_jax.config import ConfigError, DataConfig, require
from pvdm_jax.config.evaluation import FEATURES, PROTOCOLS
from pvdm_jax.storage.cache import cache_folder
from pvdm_jax.storage.files import check_new_folder


def _evaluate(args: argparse.Namespace) -> None:
    modes = {
        "--model": args.model is not None,
        "--real and --fake": args.real is not None or args.fake is not None,
        "--compare": args.compare is not None,
    }
    chosen = [name for name, given in modes.items() if given]
    if len(chosen) != 1:
        given = " and ".join(chosen) or "none of them"
        raise ConfigError(f"name one of {', '.join(modes)}; {given} is given")
    if args.compare is not None:
        _compare(args.compare)
        return
    sets = args.real is not None or args.fake is not None
    if args.output is None and not sets:
        raise ConfigError("--output is not given; name a folder for the card, new or empty")
    require(args.config is None or args.model is not None, "--config", args.config, "it needs --model")
    shown = None if args.data is None else str(args.data)
    require(shown is None or args.model is not None, "--data", shown, "it needs --model")
    require(shown is None or args.config is None, "--data", shown, "--config names data as well; give only one of them")
    require(not args.overrides or args.config is not None, "--config.field=value", args.overrides, "it needs --config")
    if args.output is not None:
        check_new_folder(args.output)

    data = load_config(args).data if args.config is not None else None
    if args.data is not None:
        data = _stored_data(args.data)

    from pvdm_jax.evaluation.protocols import load_protocol
    from pvdm_jax.weights.foreign_files import WeightFileError

    protocol = load_protocol(args.protocol, args.set, args.features)
    try:
        card = _of_model(args, protocol, data) if args.model is not None else _of_sets(args, protocol)
    except WeightFileError as error:
        raise ConfigError(str(error)) from error

    from pvdm_jax.commands.evaluation_card import write_and_print

    write_and_print(card, args.output, version=pvdm_jax.__version__)


def _of_model(args: argparse.Namespace, protocol: Any, data: DataConfig | None) -> dict[str, Any]:
    if args.data is not None:  # nothing was held out from these videos
        protocol = dataclasses.replace(protocol, split="all" if protocol.split == "holdout" else protocol.split)

    from pvdm_jax.runtime import distributed

    distributed.start_distributed()

    from pvdm_jax.commands import familiarity
    from pvdm_jax.evaluation.evaluate import evaluate_model

    model = load_model(args)
    familiarity.check_dataset(model, data or model.config.data)
    return evaluate_model(model, protocol, _paths(args), data=data, batch_size=args.batch_size, name=args.model.name)


def _stored_data(path: Path) -> DataConfig:
    """The settings that read all videos of a dataset, none of which the model was trained on."""
    from pvdm_jax.data.dataset_files import NO_DATASET, is_dataset

    require(is_dataset(path), "--data", str(path), NO_DATASET.format(path=path))
    return DataConfig(source="tfds", path=str(path), split="all", holdout=0.0)


def _of_sets(args: argparse.Namespace, protocol: Any) -> dict[str, Any]:
    for name in ("real", "fake"):
        if getattr(args, name) is None:
            raise ConfigError(f"--{name} is not given; --real and --fake go together")

    from pvdm_jax.runtime import distributed

    distributed.start_distributed()

    from pvdm_jax.evaluation.evaluate_sets import evaluate_sets

    return evaluate_sets(args.real, args.fake, protocol, _paths(args), args.batch_size)


def _compare(paths: list[Path]) -> None:
    from pvdm_jax.evaluation.card import compare, read_card

    print(compare(*(read_card(path) for path in paths), names=tuple(map(str, paths))))


def _paths(args: argparse.Namespace) -> Any:
    from pvdm_jax.evaluation.feature_spaces import EvaluationPaths

    return EvaluationPaths(args.cache or cache_folder("evaluation"), args.weights, args.features_file)


def add_commands(add: AddCommand) -> None:
    command = add(
        "evaluate",
        _evaluate,
        "evaluate a model, or two folders of videos; compare two results",
        "pvdm evaluate --real=real_videos --fake=generated_videos --output=evaluation\n"
        "  pvdm evaluate --model=runs/demo --protocol=quick --output=evaluation\n"
        "  pvdm evaluate --compare one/card.json other/card.json",
    )
    command.add_argument("--model", type=path, help=f"{MODEL_HELP}; compared with its own data unless --data is given")
    help = "dataset of `pvdm prepare` to compare the model with, in place of its own data; frames are resized"
    command.add_argument("--data", type=path, metavar="DIR", help=help)
    help = "configuration whose data the model is compared with (default: that of its run)"
    command.add_argument("--config", help=help)
    command.add_argument("--real", type=path, help="folder of real videos, or a dataset of `pvdm prepare`")
    command.add_argument("--fake", type=path, help="folder of generated videos")
    help = "show the numbers of two cards side by side, or the reasons why they can't be compared"
    command.add_argument("--compare", type=path, nargs=2, metavar="CARD", help=help)
    help = f"protocol: {', '.join(PROTOCOLS)}, or a .json file with the fields of one (default: quick)"
    command.add_argument("--protocol", default="quick", help=help)
    help = "fields of the protocol to change, such as samples=64 frames=16,32"
    command.add_argument("--set", nargs="+", default=(), metavar="FIELD=VALUE", help=help)
    help = f"feature spaces to use instead of the protocol's, such as i3d,scattering; there are {', '.join(FEATURES)}"
    command.add_argument("--features", metavar="NAME[,NAME]", help=help)
    help = "weights of the feature network, if the file doesn't have its usual name"
    command.add_argument("--features-file", type=path, metavar="FILE", help=help)
    help = "folder of the weights (default: $PVDM_WEIGHTS, or ~/.cache/pvdm_jax/weights)"
    command.add_argument("--weights", type=path, metavar="DIR", help=help)
    help = "folder for measured features (default: ~/.cache/pvdm_jax/evaluation)"
    command.add_argument("--cache", type=path, metavar="DIR", help=help)
    command.add_argument("--batch-size", type=positive, default=16, help="clips evaluated at once (default: 16)")
    help = "folder for the card, new or empty; optional with --real and --fake, whose card is also printed"
    command.add_argument("--output", type=path, help=help)
