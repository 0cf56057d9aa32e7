"""Trains a small autoencoder with L1 alone and with all losses of stage 1, and draws the effect on detail.

    pvdm prepare --source=VIDEOS --output=data/videos
    python examples/stage_one_losses.py --data=data/videos --workdir=runs/losses --picture=docs/images/stage1_losses.png

Both runs have the same networks, batches, learning rates and number of updates. One minimises L1. The other minimises
L1 and the perceptual distance, and from --start-step on the adversarial losses too, by the `default` recipe. Both are
compared on held-out clips by SSIM, PSNR and the share of gradient energy kept.

LPIPS's weights are not part of the package, so a VGG16 with fixed random weights is used instead. --narrow makes it a
quarter as wide, which suits a CPU. Runs that were stopped resume. Needs matplotlib.
"""

import argparse
import json
import pathlib

from pvdm_jax.config import Config, config_from_dict
from pvdm_jax.config.loading import default_config
from pvdm_jax.storage.run_folder import RunFolder, read_metrics
from pvdm_jax.training import autoencoder

SHOWN = {"eval/gradient_energy": "gradient energy kept", "eval/ssim": "SSIM", "eval/psnr": "PSNR (dB)"}


def make_config(data: str, start_step: int, steps: int, all_losses: bool) -> Config:
    """Settings for clips of 8 frames of 32 x 32: a model of 0.2 M parameters, discriminators of 8 features."""
    config = default_config()
    config.data.source, config.data.path, config.data.stride, config.data.flip = "tfds", data, 2, True
    config.data.crop_scale = 0.67  # random crops: a few videos are soon memorised
    model = config.autoencoder
    model.frames, model.height, model.width, model.patch_size = 8, 32, 32, 4
    model.channels, model.latent_channels, model.depth, model.num_heads, model.head_dim = 64, 8, 1, 2, 32
    model.mlp_ratio, model.plane_depth, model.plane_num_heads = 2, 1, 2
    model.plane_head_dim, model.plane_mlp_dim = 32, 128
    # Stage 2 is not run, but its settings must fit.
    config.denoiser.latent_channels, config.denoiser.channel_mult, config.denoiser.model_channels = 8, (1, 1), 32
    config.denoiser.num_heads, config.denoiser.attention_resolutions = 1, (1,)

    stage = config.train_autoencoder
    stage.steps, stage.batch_size, stage.ema_decay = steps, 4, 0.99
    stage.optimizer.learning_rate, stage.optimizer.muon_learning_rate = 1e-3, 8e-3
    stage.optimizer.b2, stage.optimizer.decay = 0.95, "cosine"
    stage.optimizer.warmup_steps, stage.optimizer.clip_norm = 50, 1.0
    stage.log_every, stage.eval_every, stage.eval_clips, stage.checkpoint_every = 50, 200, 32, 200
    if all_losses:
        stage.perceptual_weight = 4.0
        phase = stage.adversarial
        phase.start_step, phase.warmup_steps, phase.decay = start_step, 250, "cosine"
        phase.discriminator.width, phase.discriminator.layers = 8, 2
        phase.optimizer.learning_rate = 2e-4
    return config_from_dict(Config, config)


def narrow_stand_in() -> None:
    from pvdm_jax.losses import lpips

    lpips.STAGES = tuple(tuple(features // 4 for features in stage) for stage in lpips.STAGES)


def read(workdir: pathlib.Path, name: str) -> dict[int, float]:
    """The values of a metric by step."""
    reports = read_metrics(RunFolder(workdir).autoencoder.metrics)
    return {line["step"]: line[name] for line in reports if name in line}


def draw(runs: dict[str, pathlib.Path], start_step: int, path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(SHOWN) + 1, figsize=(13, 3), layout="constrained")
    for axis, (name, title) in zip(axes, SHOWN.items(), strict=False):
        for label, workdir in runs.items():
            values = read(workdir, name)
            axis.plot(values.keys(), values.values(), label=label)
        axis.axvline(start_step, color="grey", linestyle=":", linewidth=1)
        axis.set(title=title, xlabel="update")
    values = read(runs["all losses"], "eval/discriminator_loss")
    axes[-1].plot(values.keys(), values.values(), color="C1")
    axes[-1].set(title="discriminators' hinge loss", xlabel="update")
    axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--picture", type=pathlib.Path, required=True)
    parser.add_argument("--start-step", type=int, default=600)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--narrow", action="store_true")
    args = parser.parse_args()
    if args.narrow:
        narrow_stand_in()
    runs = {"L1 alone": args.workdir / "l1", "all losses": args.workdir / "all"}
    for label, workdir in runs.items():
        autoencoder.train(make_config(args.data, args.start_step, args.steps, label == "all losses"), workdir)
    draw(runs, args.start_step, args.picture)
    for label, workdir in runs.items():
        best = json.loads(RunFolder(workdir).autoencoder.best.read_text())["best_step"]
        numbers = ", ".join(f"{title} {read(workdir, name)[best]:.3f}" for name, title in SHOWN.items())
        print(f"{label}: exported from update {best}: {numbers}")


if __name__ == "__main__":
    main()
