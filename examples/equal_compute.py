"""Trains stage 2 by several recipes for the same time, judges them as they learn, and draws the curves.

    pvdm train-autoencoder --config=demo --workdir=runs/demo
    python examples/equal_compute.py --autoencoder=runs/demo --workdir=runs/equal --picture=runs/equal/curves.png

The recipes are variants of `configs/demo.py`: the official code's denoiser and objective, this project's recipe with
the U-Net, and the same with a transformer. They share the autoencoder, the windows of videos, the optimizer, the batch
and the sampler. Each is first timed for --trial updates; then it gets as many updates as fit into --seconds, so that
its learning rate has decayed when the time is over. Only the time of updates counts, without compiling and judging.

The curves show numbers of `pvdm evaluate --protocol=shapes`: the Frechet distance and the detector's rate of
unconditional clips, and the PSNR of the sampled next clip against the true one. If the command is repeated, finished
parts are kept. Needs matplotlib.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import statistics

from pvdm_jax.config import Config
from pvdm_jax.config.evaluation import PROTOCOLS
from pvdm_jax.config.loading import load_settings
from pvdm_jax.evaluation.evaluate import evaluate_model
from pvdm_jax.evaluation.feature_spaces import EvaluationPaths
from pvdm_jax.inference.loading import load
from pvdm_jax.storage.files import write_json
from pvdm_jax.storage.run_folder import RunFolder, read_metrics
from pvdm_jax.training import diffusion
from pvdm_jax.training.encode import encode

RECIPES = {"official": "demo:official", "U-Net": "demo", "transformer": "demo:dit"}
SHOWN = {
    "frechet_scattering_16": "Frechet distance",
    "shapes_generated": "clips that show whole shapes",
    "next_psnr": "next clip against the true one (dB)",
}
BOUNDS = {  # reconstructions are dashed, the last frame repeated is dotted
    "frechet_scattering_16": ("reconstruction_frechet_scattering_16", "--"),
    "shapes_generated": ("shapes_reconstructed", "--"),
    "next_psnr": ("repeat_psnr", ":"),
}
NUMBERS = "equal_compute.json"


def settings(name: str, steps: int, every: int, seed: int) -> Config:
    """A recipe for `steps` updates, with a checkpoint every `every` updates."""
    config = load_settings(RECIPES[name])
    stage = dataclasses.replace(
        config.train_diffusion, steps=steps, eval_every=steps, checkpoint_every=every, keep_every=every
    )
    return dataclasses.replace(config, train_diffusion=stage, seed=seed)


def seconds_per_update(workdir: pathlib.Path) -> float:
    """The median time per update in the run's log."""
    lines = read_metrics(RunFolder(workdir).diffusion.metrics)
    return statistics.median(line["time/step"] for line in lines if "time/step" in line)


def train(run: pathlib.Path, config: Config, args: argparse.Namespace) -> None:
    """Trains stage 2 in a run's folder. Recipes whose latents are the same share them."""
    encoded = args.workdir / ("encoded_anywhere" if config.encode.unconditional_anywhere else "encoded")
    encode(config, encoded, args.autoencoder)
    shutil.copytree(RunFolder(encoded).latents, RunFolder(run).latents, dirs_exist_ok=True)
    diffusion.train(config, run, args.autoencoder)


def train_recipe(name: str, args: argparse.Namespace) -> list[int]:
    """Trains a recipe for --seconds. Returns the updates after which there are checkpoints."""
    folder = args.workdir / name
    trial, plan = folder / "trial", folder / "plan.json"
    if not plan.exists():
        train(trial, settings(name, args.trial, args.trial, args.seed), args)
        write_json(plan, {"every": max(1, int(args.seconds / seconds_per_update(trial) / args.points))})
    every = json.loads(plan.read_text())["every"]
    train(folder / "run", settings(name, every * args.points, every, args.seed), args)
    return [every * (1 + index) for index in range(args.points)]


def judge(run: pathlib.Path, step: int, samples: int) -> dict[str, float]:
    """The numbers of a run's checkpoint after `step` updates."""
    card_file = run / f"card_{step}.json"
    if card_file.exists():
        return json.loads(card_file.read_text())
    best = RunFolder(run).diffusion.best
    write_json(best, json.loads(best.read_text()) | {"best_step": step})  # which checkpoint `load` takes
    protocol = dataclasses.replace(
        PROTOCOLS["shapes"],
        samples=samples,
        real_samples=samples,
        reconstruction_samples=samples,
        continuations=samples,
        measures=("fvd", "reconstruction", "shapes"),
        classes="turn",
        bootstrap=0,
    )
    card = evaluate_model(load(run), protocol, EvaluationPaths(run / "judged" / str(step)), batch_size=16)
    numbers = {name: result["value"] for name, result in card["results"].items()}
    write_json(card_file, numbers)
    return numbers


def draw(curves: dict[str, list[dict[str, float]]], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(SHOWN), figsize=(12, 6), layout="constrained", sharey="col")
    for row, (unit, label) in zip(axes, {"seconds": "seconds of training", "step": "updates"}.items(), strict=True):
        for axis, (name, title) in zip(row, SHOWN.items(), strict=True):
            for recipe, points in curves.items():
                axis.plot([p[unit] for p in points], [p[name] for p in points], marker="o", label=recipe)
            bound, style = BOUNDS[name]
            last = [points[-1][bound] for points in curves.values()]
            axis.axhline(statistics.mean(last), color="grey", linestyle=style, linewidth=1)
            axis.set(title=title, xlabel=label)
    axes[0, 0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--autoencoder", type=pathlib.Path, required=True, help="a run whose stage 1 is trained")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--picture", type=pathlib.Path, required=True)
    parser.add_argument("--seconds", type=float, default=480, help="of updates, for each recipe")
    parser.add_argument("--points", type=int, default=6, help="checkpoints that are judged")
    parser.add_argument("--trial", type=int, default=100, help="updates by which a recipe is timed")
    parser.add_argument("--samples", type=int, default=64, help="clips of each kind")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    steps = {name: train_recipe(name, args) for name in RECIPES}
    curves = {}
    for name, after in steps.items():
        run = args.workdir / name / "run"
        each = seconds_per_update(run)
        curves[name] = [{"step": s, "seconds": s * each} | judge(run, s, args.samples) for s in after]
        for point in curves[name]:
            print(name, " ".join(f"{key} {point[key]:.2f}" for key in ("step", "seconds", *SHOWN)))
    write_json(args.workdir / NUMBERS, curves)
    draw(curves, args.picture)


if __name__ == "__main__":
    main()
