"""`pvdm demo`: both stages on moving shapes, and a report with what they made and numbers that tell whether it works.

Everything is judged on clips that training never saw. A number stands beside what it would be for something good and
for something worthless, so that a failure shows.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from pvdm_jax.config import Config, ConfigError
from pvdm_jax.config.evaluation import PROTOCOLS, ProtocolConfig
from pvdm_jax.data.loader import fixed_clips
from pvdm_jax.data.sources import VideoSource, open_source
from pvdm_jax.evaluation.card import card_sections, write_card
from pvdm_jax.evaluation.evaluate import EvaluationPaths, evaluate_model
from pvdm_jax.evaluation.frechet import frechet_distance
from pvdm_jax.evaluation.neighbours import nearest_distance
from pvdm_jax.evaluation.reconstruction import psnr, still_psnr
from pvdm_jax.evaluation.scattering import video_features
from pvdm_jax.evaluation.shapes import shows_shapes
from pvdm_jax.inference.pipeline import PVDM, load
from pvdm_jax.reporting.report import (
    Code,
    Curves,
    Section,
    Table,
    Text,
    Videos,
    metric_curves,
    write_report,
)
from pvdm_jax.storage import buckets
from pvdm_jax.storage.run_folder import RunFolder, read_metrics
from pvdm_jax.training import autoencoder, diffusion, latents
from pvdm_jax.video import media

SHOWN = 16  # generated clips in the report
JUDGED = 128  # generated clips, and clips of each set they are compared with
LONG_CLIPS = 8  # clips of a long video
LONG_VIDEOS = 4
FPS = 8.0
SEED = 1  # of the samples


@dataclasses.dataclass(frozen=True)
class Clips:
    """What the report shows and judges, all uint8 (n, frames, height, width, 3)."""

    held_out: np.ndarray
    others: np.ndarray  # further held-out clips, of other videos
    training: np.ndarray
    reconstructed: np.ndarray  # of `held_out`
    generated: np.ndarray
    long: np.ndarray


def run(config: Config, workdir: str | pathlib.Path) -> pathlib.Path:
    """Trains both stages in `workdir`, samples, judges, and writes report.html; returns its path.

    What is already done there is not done again. Raises ConfigError for a configuration of another source than the
    synthetic one, whose truth the demo's judgements need.
    """
    if config.data.source != "synthetic":
        raise ConfigError(f"data.source is {config.data.source!r}; the demo needs the synthetic source")
    workdir = pathlib.Path(workdir)
    clock = _Clock(workdir / "seconds.json")
    clock.measure("autoencoder training", lambda: autoencoder.train(config, workdir))
    print(clock.measure("encoding", lambda: latents.encode(config, workdir)))
    clock.measure("denoiser training", lambda: diffusion.train(config, workdir))
    model = load(workdir)
    clips = clock.measure("sampling", lambda: _collect(model, config))
    numbers = clock.measure("judging", lambda: judge(clips))
    card = clock.measure("evaluation", lambda: _evaluate(model, clips, workdir))
    if jax.process_index() == 0:
        _write_videos(workdir / "samples", clips)
        (workdir / "numbers.json").write_text(json.dumps(numbers, indent=2) + "\n")
        write_card(workdir / "evaluation", card)
        sections = _sections(config, workdir, clips, numbers, clock.seconds, model, card)
        write_report(workdir / "report.html", "pvdm demo: moving shapes", sections)
        buckets.push(workdir)
    print("\n".join(f"{name}: {value:.3f}" for name, value in numbers.items()))
    print(f"report: {workdir / 'report.html'}")
    return workdir / "report.html"


def judge(clips: Clips) -> dict[str, float]:
    """The report's numbers: PSNR in dB, Frechet distances in the scattering space, rates, RMS distances of 0..255."""
    real = video_features(clips.held_out)
    rng = np.random.default_rng(SEED)
    noise = rng.integers(0, 256, clips.held_out.shape, np.uint8)
    mean = np.rint(clips.training.mean(axis=0)).astype(np.uint8)
    # A set without any variety has no covariance to speak of, which the distance allows.
    means = np.broadcast_to(mean, clips.held_out.shape)
    return {
        "psnr": float(np.mean(psnr(clips.held_out, clips.reconstructed))),
        "still_psnr": float(np.mean(still_psnr(clips.held_out))),
        "frechet_generated": frechet_distance(video_features(clips.generated), real),
        "frechet_reconstructed": frechet_distance(video_features(clips.reconstructed), real),
        "frechet_real": frechet_distance(video_features(clips.others), real),
        "frechet_noise": frechet_distance(video_features(noise), real),
        "frechet_mean": frechet_distance(video_features(means), real),
        "shapes_real": _rate(clips.held_out),
        "shapes_reconstructed": _rate(clips.reconstructed),
        "shapes_generated": _rate(clips.generated),
        "nearest_generated": float(np.mean(nearest_distance(clips.generated, clips.training))),
        "nearest_held_out": float(np.mean(nearest_distance(clips.held_out, clips.training))),
    }


def _rate(clips: np.ndarray) -> float:
    return float(np.mean([shows_shapes(clip) for clip in clips]))


def _collect(model: PVDM, config: Config) -> Clips:
    held_out = open_source(config.data, config.autoencoder, "holdout", config.seed)
    training = open_source(config.data, config.autoencoder, "train", config.seed)
    # Clips of the fixed evaluation are spread over all held-out videos; halves of them come from different videos.
    real = fixed_clips(held_out, config.autoencoder, config.data, 2 * JUDGED)["video"]
    stored = fixed_clips(training, config.autoencoder, config.data, 2 * len(training))["video"]
    key = jax.random.key(SEED)
    labels = _labels(held_out, config)
    generated = model.sample(key, JUDGED, labels=labels)
    frames = LONG_CLIPS * config.autoencoder.frames
    # They begin with the first of the generated clips.
    long = model.sample(key, LONG_VIDEOS, frames, labels=labels and labels[:LONG_VIDEOS])
    first = real[::2]
    return Clips(first, real[1::2], stored, model.reconstruct(first), generated, long)


def demo_protocol(config: Config) -> ProtocolConfig:
    """That of `pvdm evaluate` for the demo's clips: what `_collect` samples, and as many held-out clips."""
    return dataclasses.replace(
        PROTOCOLS["quick"],
        name="demo",
        samples=JUDGED,
        real_samples=JUDGED,
        reconstruction_samples=JUDGED,
        frames=(config.autoencoder.frames,),
        stride=config.data.stride,
        seam_samples=LONG_VIDEOS,
        seam_clips=LONG_CLIPS,
        classes="turn",
        seed=SEED,
    )


def _evaluate(model: PVDM, clips: Clips, workdir: pathlib.Path) -> dict[str, Any]:
    paths = EvaluationPaths(workdir / "evaluation" / "measured")
    protocol = demo_protocol(model.config)
    return evaluate_model(model, protocol, paths, name=workdir.name, sampled=clips.generated, sampled_long=clips.long)


def _labels(source: VideoSource, config: Config) -> list[int] | None:
    """Each class in turn, on a model that knows classes."""
    if config.denoiser.num_classes == 0:
        return None
    return [index % len(source.class_names) for index in range(JUDGED)]


def _write_videos(folder: pathlib.Path, clips: Clips) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("mp4", "gif"):
        media.write_video(folder / f"generated.{suffix}", media.video_grid(clips.generated[:SHOWN], columns=4), FPS)
        media.write_video(folder / f"long.{suffix}", media.video_grid(clips.long, columns=2), FPS)


def _sections(
    config: Config,
    workdir: pathlib.Path,
    clips: Clips,
    numbers: dict[str, float],
    seconds: dict[str, float],
    model: PVDM,
    card: dict[str, Any],
) -> list[Section]:
    names = model.class_names
    classes = [names[i % len(names)] if config.denoiser.num_classes else "" for i in range(SHOWN)]
    pairs = [
        (name, video)
        for real, found in zip(clips.held_out[:4], clips.reconstructed[:4], strict=True)
        for name, video in (("real", real), ("reconstructed", found))
    ]
    curves = []
    for stage, folder in RunFolder(workdir).stages.items():
        metrics = metric_curves(read_metrics(folder.metrics))
        losses = {name: values for name, values in metrics.items() if "loss" in name}
        curves.append(Curves(f"Loss of the {stage} stage", losses, log_y=True, y_label="loss"))
        distances = {name: values for name, values in metrics.items() if "frechet" in name}
        if distances:
            caption = "Frechet distance of samples from held-out clips, while it trained"
            curves.append(Curves(caption, distances, log_y=True, y_label="distance"))
    n = numbers
    return [
        Text(
            f"A triplane autoencoder and a latent denoiser, trained on {config.data.synthetic_videos} synthetic videos "
            f"of {config.autoencoder.height} x {config.autoencoder.width} pixels in clips of "
            f"{config.autoencoder.frames} frames. All numbers are of clips that training never saw."
        ),
        Text(heading="Generated videos"),
        Videos("Generated clips", list(zip(classes, clips.generated[:SHOWN], strict=True)), FPS),
        Videos(
            f"Long videos: {LONG_CLIPS} clips, each generated given the one before",
            [(f"{clips.long.shape[1]} frames", video) for video in clips.long],
            FPS,
        ),
        Videos("Real clips, for comparison", [("", video) for video in clips.others[:8]], FPS),
        Table(
            (f"Frechet distance to {len(clips.held_out)} real clips", "lower is better"),
            [
                ("other real clips (as near as it gets)", n["frechet_real"]),
                ("reconstructed clips", n["frechet_reconstructed"]),
                ("generated clips", n["frechet_generated"]),
                ("noise", n["frechet_noise"]),
                ("the training set's mean clip", n["frechet_mean"]),
            ],
            f"Each set has {len(clips.generated)} clips. The distance compares means and covariances of 66 features: "
            "responses of fixed random space-time filters at three scales, in octaves, and the mean colours of the "
            "picture's quarters. Nothing in them is trained, and they react to blur, noise, wrong colours, and frozen "
            "or shuffled frames. Distances in this space can't be compared with FVD.",
        ),
        Table(
            ("Clips in which a detector finds two or three shapes and tracks them", "rate"),
            [
                ("real", f"{n['shapes_real']:.0%}"),
                ("reconstructed", f"{n['shapes_reconstructed']:.0%}"),
                ("generated", f"{n['shapes_generated']:.0%}"),
            ],
        ),
        Table(
            ("RMS distance to the nearest training clip, on 0 to 255", "mean"),
            [("held-out clips", n["nearest_held_out"]), ("generated clips", n["nearest_generated"])],
            "A generated clip much nearer than held-out ones would be a copy.",
        ),
        Text(heading="Reconstructions"),
        Videos("Held-out clips and their reconstructions", pairs, FPS),
        Table(
            ("Reconstruction of held-out clips", "PSNR, dB"),
            [
                ("autoencoder", n["psnr"]),
                ("each clip's own mean over time, as a still", n["still_psnr"]),
                ("difference", n["psnr"] - n["still_psnr"]),
            ],
        ),
        Text(heading="Evaluation card"),
        *card_sections(card),
        Text(heading="Training"),
        *curves,
        Table(("Phase", "seconds"), [(name, f"{value:.0f}") for name, value in seconds.items()]),
        Text("The commands that make it, one by one:"),
        Code(
            [
                f"pvdm train-autoencoder --config=demo --workdir={workdir}",
                f"pvdm encode --config=demo --workdir={workdir}",
                f"pvdm train-diffusion --config=demo --workdir={workdir}",
                f"pvdm evaluate --model={workdir} --protocol=quick --output={workdir}/quick",
                f"pvdm sample --model={workdir} --output={workdir}/more --num-videos=16",
            ]
        ),
    ]


class _Clock:
    """Seconds of each phase, summed over the runs of a demo that was interrupted."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    def measure(self, name: str, phase: Callable[[], Any]) -> Any:
        """The phase's result."""
        print(f"demo: {name}")
        began = time.perf_counter()
        result = phase()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        if jax.process_index() == 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self.seconds, indent=2) + "\n")
        return result
