"""Commands that say what things cost: measured on this machine, and planned for another."""

import argparse
import os
from pathlib import Path

from pvdm_jax.cli.arguments import AddCommand, add_settings, load_config, positive, positive_number


def _benchmark(args: argparse.Namespace) -> None:
    from pvdm_jax import benchmark

    benchmark.run(
        sizes=args.size.split(","),
        dtypes=args.dtype.split(","),
        batch_size=args.batch_size,
        only=args.only.split(",") if args.only else None,
        repeats=args.repeats,
        limit=args.limit,
        steps=args.steps,
        scaling=args.scaling,
        output=args.output,
    )


def _plan(args: argparse.Namespace) -> None:
    config = load_config(args)
    if args.topology != "local":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing runs; a TPU that isn't here need not be looked for

    from pvdm_jax import plan

    for stage in (args.stage,) if args.stage else (1, 2):
        found = plan.plan(
            config,
            args.topology,
            stage,
            remat=args.remat,
            chip_memory=args.chip_memory and args.chip_memory * 1e9,
            search=args.search,
            say=lambda text: print(f"  {text}", flush=True),
        )
        print(found, flush=True)
        if args.output:
            plan.write(found, args.output)


def add_commands(add: AddCommand) -> None:
    command = add(
        "benchmark",
        _benchmark,
        "time the models on this device, beside what the device can do",
        "pvdm benchmark --size=demo,s --dtype=float32 --output=runs/benchmark",
    )
    help = "sizes of the models: demo, s (PVDM-S), l (PVDM-L), separated by commas (default: demo)"
    command.add_argument("--size", default="demo", help=help)
    help = "float32, bfloat16 or both, separated by a comma (default: float32)"
    command.add_argument("--dtype", default="float32", help=help)
    help = "clips at once (default: 8 of the demo's size; of the others 1 on a CPU, else 8)"
    command.add_argument("--batch-size", type=positive, help=help)
    help = (
        "operations, separated by commas: encode, decode, autoencoder_train, denoiser, denoiser_train, sample, data "
        "(default: all)"
    )
    command.add_argument("--only", help=help)
    command.add_argument("--repeats", type=positive, default=10, help="calls timed of each, at most (default: 10)")
    help = "seconds for an operation's calls; what would take longer is left out (default: 60)"
    command.add_argument("--limit", type=positive_number, default=60.0, help=help)
    help = "denoising steps of the sampling call (default: 100, or as many as fit into the limit)"
    command.add_argument("--steps", type=positive, help=help)
    help = "time steps of training against batch, resolution and frames instead, and fit exponents"
    command.add_argument("--scaling", action="store_true", help=help)
    help = "folder for benchmark.json, benchmark.txt and roofline.svg"
    command.add_argument("--output", type=Path, help=help)

    command = add(
        "plan",
        _plan,
        "say what training will cost on devices that aren't here: memory, time, the largest batch",
        "pvdm plan --config=ucf101:l --topology=v5e:4x4 --stage=2 --config.mesh.data=1 --config.mesh.fsdp=-1",
    )
    add_settings(command)
    help = "a TPU's kind and shape, such as v5e:4x4, v5p:4x4x4, v6e:8x8; or local (default: local)"
    command.add_argument("--topology", default="local", help=help)
    command.add_argument("--stage", type=int, choices=(1, 2), help="one stage (default: both)")
    help = "none, dots, blocks, or auto: the first with which the batch fits (default: the configured one)"
    command.add_argument("--remat", help=help)
    help = "GB of a chip's memory that may be used (default: all that it has)"
    command.add_argument("--chip-memory", type=positive_number, help=help)
    help = "leave out the search for the largest batch that fits"
    command.add_argument("--no-search", dest="search", action="store_false", help=help)
    help = "folder for the numbers as JSON"
    command.add_argument("--output", type=Path, help=help)
