"""The report of `pvdm demo`: its videos, numbers and curves, as sections of a page."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from pvdm_jax.commands.demo_clips import Clips
from pvdm_jax.commands.output_folder import write_for_viewing
from pvdm_jax.config import Config
from pvdm_jax.evaluation.card import card_sections, title
from pvdm_jax.evaluation.yardstick_numbers import sentence
from pvdm_jax.inference.sampler import clips_of
from pvdm_jax.reporting.sections import Code, Curves, Section, Table, Text, Videos, metric_curves
from pvdm_jax.storage.run_folder import RunFolder, read_metrics
from pvdm_jax.video.defaults import DEFAULT_FORMATS, DEFAULT_FPS
from pvdm_jax.video.grid import video_grid

SHOWN = 16  # generated clips
SHOWN_LONG = 4
SHOWN_REAL = 8
SHOWN_PAIRS = 4  # held-out clips and their reconstructions


def write_videos(folder: pathlib.Path, clips: Clips) -> None:
    """Writes generated.mp4 and long.mp4, each also as gif."""
    for name, grid in (
        ("generated", video_grid(clips.generated[:SHOWN], columns=4)),
        ("long", video_grid(clips.long[:SHOWN_LONG], columns=2)),
    ):
        write_for_viewing(folder / name, grid, formats=DEFAULT_FORMATS, fps=DEFAULT_FPS)


def report_sections(
    config: Config,
    workdir: pathlib.Path,
    *,
    clips: Clips,
    numbers: Mapping[str, Any],
    seconds: Mapping[str, float],
    class_names: Sequence[str],
    card: Mapping[str, Any],
    packaged: Sequence[Section] = (),
) -> list[Section]:
    """The whole report.

    Args:
        config: The run's configuration.
        workdir: The run's folder.
        clips: What is shown.
        numbers: What `all_numbers` returned.
        seconds: The time that each phase took.
        class_names: The names of the model's classes.
        card: The evaluation card.
        packaged: What the packaged model generates, for comparison.
    """
    return [
        Text(
            f"A triplane autoencoder and a latent denoiser, trained on {config.data.synthetic_videos} synthetic videos "
            f"of {config.autoencoder.height} x {config.autoencoder.width} pixels in clips of "
            f"{config.autoencoder.frames} frames. All numbers are of held-out clips."
        ),
        *_generated(config, clips, class_names),
        *packaged,
        *_together(card, config.autoencoder.frames),
        *_judgement(clips, numbers),
        *_reconstructions(clips, numbers),
        Text(heading="Evaluation card"),
        *card_sections(card),
        Text(heading="Training"),
        *_training_curves(workdir),
        Table(("Phase", "seconds"), [(name, f"{value:.0f}") for name, value in seconds.items()]),
        Text("The commands that do the same step by step:"),
        Code(
            [
                f"pvdm train-autoencoder --config=demo --workdir={workdir}",
                f"pvdm encode --config=demo --workdir={workdir}",
                f"pvdm train-diffusion --config=demo --workdir={workdir}",
                f"pvdm evaluate --model={workdir} --protocol=shapes --output={workdir}/shapes",
                f"pvdm sample --model={workdir} --output={workdir}/more --num-videos=16",
            ]
        ),
    ]


def _generated(config: Config, clips: Clips, names: Sequence[str]) -> list[Section]:
    classes = [names[i % len(names)] if config.denoiser.num_classes else "" for i in range(SHOWN)]
    long_frames = clips.long.shape[1]
    long_clips = clips_of(config, long_frames)
    return [
        Text(heading="Generated videos"),
        Videos("Generated clips", list(zip(classes, clips.generated[:SHOWN], strict=True)), DEFAULT_FPS),
        Videos(
            f"Long videos: {long_clips} clips, each generated from the previous clip",
            [(f"{long_frames} frames", video) for video in clips.long[:SHOWN_LONG]],
            DEFAULT_FPS,
        ),
        Videos("Real clips, for comparison", [("", video) for video in clips.others[:SHOWN_REAL]], DEFAULT_FPS),
    ]


def _together(card: Mapping[str, Any], frames: int) -> list[Section]:
    """How well videos hold together: the card's numbers whose truth is known, each beside its bounds."""
    results = card["results"]
    names = ["next_psnr", *(f"position_error_{frame}" for frame in (1, frames // 2, frames))]
    names += ["next_colours_kept", "next_kinds_kept", "next_sizes_kept", "seam_next", "seam_score"]
    names += ["shapes_reconstructed", "shapes_generated", "shapes_next"]
    names += [name for name in results if name.startswith("shapes_long_")]
    names += ["loss_given_previous", "loss_unconditional"]
    return [
        Text(heading="Do videos hold together?"),
        Table(
            ("measure", "value [95 % interval]; what something bad and something good would reach"),
            [(title(name), sentence(name, results)) for name in names if name in results],
            "A continuation is the clip that the model samples after a real held-out clip; the source draws the true "
            "one. The detector finds two or three shapes in a clip and tracks them; it errs on some real clips too.",
        ),
    ]


def _judgement(clips: Clips, numbers: Mapping[str, float]) -> list[Section]:
    return [
        Table(
            (f"Frechet distance to {len(clips.held_out)} real clips", "lower is better"),
            [
                ("other real clips (the best possible)", numbers["frechet_real"]),
                ("reconstructed clips", numbers["frechet_reconstructed"]),
                ("generated clips", numbers["frechet_generated"]),
                ("noise", numbers["frechet_noise"]),
                ("the training set's mean clip", numbers["frechet_mean"]),
            ],
            f"Each set has {len(clips.generated)} clips. The distance compares means and covariances of 66 features: "
            "responses of fixed random space-time filters at three scales, in octaves, and the mean colours of the "
            "picture's quarters. Nothing in them is trained, and they react to blur, noise, wrong colours, and frozen "
            "or shuffled frames. Distances in this space can't be compared with FVD.",
        ),
        Table(
            ("RMS distance to the nearest training clip, on 0 to 255", "mean"),
            [("held-out clips", numbers["nearest_held_out"]), ("generated clips", numbers["nearest_generated"])],
            "Generated clips that are much nearer than held-out clips would be copies.",
        ),
    ]


def _reconstructions(clips: Clips, numbers: Mapping[str, float]) -> list[Section]:
    pairs = []
    for real, reconstructed in zip(clips.held_out[:SHOWN_PAIRS], clips.reconstructed[:SHOWN_PAIRS], strict=True):
        pairs += [("real", real), ("reconstructed", reconstructed)]
    return [
        Text(heading="Reconstructions"),
        Videos("Held-out clips and their reconstructions", pairs, DEFAULT_FPS),
        Table(
            ("Reconstruction of held-out clips", "PSNR, dB"),
            [
                ("autoencoder", numbers["psnr"]),
                ("each clip's own mean over time, as a still", numbers["still_psnr"]),
                ("difference", numbers["psnr"] - numbers["still_psnr"]),
            ],
        ),
    ]


def _training_curves(workdir: pathlib.Path) -> list[Section]:
    sections = []
    for stage, folder in RunFolder(workdir).stages.items():
        metrics = metric_curves(read_metrics(folder.metrics))
        losses = {name: values for name, values in metrics.items() if "loss" in name}
        sections.append(Curves(f"Loss of the {stage} stage", losses, log_y=True, y_label="loss"))
        distances = {name: values for name, values in metrics.items() if "frechet" in name}
        if distances:
            caption = "Frechet distance between samples and held-out clips, during training"
            sections.append(Curves(caption, distances, log_y=True, y_label="distance"))
    return sections
