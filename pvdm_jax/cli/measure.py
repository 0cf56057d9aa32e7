"""Commands that report costs: measured on this machine, or predicted for another."""

import argparse
import os

from pvdm_jax.cli.arguments import (
    MODEL_HELP,
    AddCommand,
    add_settings,
    load_config,
    load_model,
    path,
    positive,
    positive_number,
)
from pvdm_jax.config import require
from pvdm_jax.config.models import REMAT_POLICIES
from pvdm_jax.performance.choices import OPERATIONS, SIZES
from pvdm_jax.runtime.allocator import fill_holes_after_compiling
from pvdm_jax.storage.files import write_json

DATA_FILE = "data.json"
SAMPLING_FILE = "sampling.json"


def _benchmark(args: argparse.Namespace) -> None:
    for name, mode in (("config", "data"), ("step_seconds", "data"), ("model", "sampling")):
        value, option = getattr(args, name), f"--{name.replace('_', '-')}"
        require(value is None or getattr(args, mode), option, value, f"it needs --{mode}")
    alone = not (args.data or args.sampling or args.scaling)
    for name, value in (("trace", args.trace), ("remat", args.remat != "none"), ("resolution", args.resolution)):
        allowed = "it can't be combined with --data, --sampling or --scaling"
        require(alone or not value, f"--{name}", getattr(args, name), allowed)
    if args.data:
        return _benchmark_data(args)
    if args.sampling:
        return _benchmark_sampling(args)

    from pvdm_jax.performance import runner

    fill_holes_after_compiling()
    runner.run(
        sizes=args.size.split(","),
        dtypes=args.dtype.split(","),
        batch_size=args.batch_size,
        only=args.only.split(",") if args.only else None,
        repeats=args.repeats,
        limit=args.limit,
        steps=args.steps,
        trace=args.trace,
        scaling=args.scaling,
        output=args.output,
        remat=args.remat,
        resolution=args.resolution,
    )


def _benchmark_data(args: argparse.Namespace) -> None:
    require(args.config is not None, "--config", args.config, "--data measures the data of a configuration: name one")
    config = load_config(args)

    from pvdm_jax.performance import loading_cost

    fill_holes_after_compiling()
    found = loading_cost.measure_data(config, args.steps or 100, step_seconds=args.step_seconds or 0.0)
    print(loading_cost.describe(found))
    if args.output:
        write_json(args.output / DATA_FILE, found)


def _benchmark_sampling(args: argparse.Namespace) -> None:
    require(args.model is not None, "--model", args.model, "--sampling measures a trained model: name its folder")

    from pvdm_jax.performance import sampling_overhead

    options = {"steps": args.steps} if args.steps else {}
    found = sampling_overhead.measure_sampling(load_model(args), args.batch_size or 4, args.repeats, **options)
    print(sampling_overhead.describe(found))
    if args.output:
        write_json(args.output / SAMPLING_FILE, found)


def _plan(args: argparse.Namespace) -> None:
    config = load_config(args)
    if args.topology != "local":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing runs, so there is no need to look for devices

    from pvdm_jax.performance import plan

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
        "time the models on this device, and compare with the device's peak",
        "pvdm benchmark --size=demo,s --dtype=float32 --output=runs/benchmark",
    )
    help = f"sizes of the models, separated by commas: {', '.join(SIZES)}; s and l are the paper's (default: demo)"
    command.add_argument("--size", default="demo", help=help)
    help = "float32, bfloat16 or both, separated by a comma (default: float32)"
    command.add_argument("--dtype", default="float32", help=help)
    help = "clips in each call (default: 8 for the demo's size; for the others 1 on a CPU, else 8)"
    command.add_argument("--batch-size", type=positive, help=help)
    help = "height and width of the clips in pixels (default: those of the size)"
    command.add_argument("--resolution", type=positive, help=help)
    help = "rematerialisation policy: what is recomputed for the gradient (default: none)"
    command.add_argument("--remat", choices=REMAT_POLICIES, default="none", help=help)
    help = f"operations, separated by commas: {', '.join(OPERATIONS)} (default: all)"
    command.add_argument("--only", help=help)
    command.add_argument(
        "--repeats", type=positive, default=10, help="most timed calls of each operation (default: 10)"
    )
    help = "most seconds for each operation; one that is too slow is skipped (default: 60)"
    command.add_argument("--limit", type=positive_number, default=60.0, help=help)
    help = (
        "denoising steps of the sampling call (default: 100, or as many as the limit allows); of training with --data"
    )
    command.add_argument("--steps", type=positive, help=help)
    help = "folder for a profiler trace of one more call of each operation, for XProf, TensorBoard or ui.perfetto.dev"
    command.add_argument("--trace", type=path, help=help)
    instead = command.add_argument_group(
        "other measurements, in place of the models' operations"
    ).add_mutually_exclusive_group()
    help = "how the time of training steps grows with batch, resolution and frames, with fitted exponents"
    instead.add_argument("--scaling", action="store_true", help=help)
    help = "how fast the clips of --config are read and loaded, and how long training steps wait for them"
    instead.add_argument("--data", action="store_true", help=help)
    help = "the time of a sampling call of --model, and its overhead beyond the denoiser and the decoder"
    instead.add_argument("--sampling", action="store_true", help=help)
    add_settings(command, required=False)
    help = "with --data: seconds to pause in place of each training step (default: real steps of stage 1)"
    command.add_argument("--step-seconds", type=positive_number, help=help)
    command.add_argument("--model", type=path, help=f"with --sampling: {MODEL_HELP}")
    help = f"folder for benchmark.json, benchmark.txt and the rooflines, or for {DATA_FILE} or {SAMPLING_FILE}"
    command.add_argument("--output", type=path, help=help)

    command = add(
        "plan",
        _plan,
        "predict what training costs on devices that are not attached: memory, time, the largest batch",
        "pvdm plan --config=ucf101:l --topology=v5e:4x4 --stage=2 --config.mesh.data=1 --config.mesh.fsdp=-1",
    )
    add_settings(command)
    help = "devices, which need not be attached, such as v5e:4x4, v6e:8x8, h100:1, h100:2x8; or local (default: local)"
    command.add_argument("--topology", default="local", help=help)
    command.add_argument("--stage", type=int, choices=(1, 2), help="plan one stage (default: both)")
    help = "none, dots, blocks, or auto: the first of these with which the batch fits (default: the configured one)"
    command.add_argument("--remat", help=help)
    help = "how many GB of each chip's memory may be used (default: all)"
    command.add_argument("--chip-memory", type=positive_number, help=help)
    help = "skip the search for the largest batch that fits"
    command.add_argument("--no-search", dest="search", action="store_false", help=help)
    help = "folder for the numbers, as JSON"
    command.add_argument("--output", type=path, help=help)
