"""`pvdm demo`: trains both stages on moving shapes, samples, evaluates on held-out clips, writes a report.

A first report shows what the packaged model generates, long before the demo's own model is trained.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax

from pvdm_jax.commands.demo_clips import BATCH, LONG_CLIPS, SEED, Clips, all_numbers, sample_videos
from pvdm_jax.commands.demo_packaged import PackagedVideos, packaged_sections, packaged_videos
from pvdm_jax.commands.demo_report import report_sections, write_videos
from pvdm_jax.config import Config, ConfigError
from pvdm_jax.config.evaluation import PROTOCOLS, ProtocolConfig
from pvdm_jax.data.loader import fixed_clips
from pvdm_jax.data.sources import VideoSource, open_source
from pvdm_jax.evaluation.card import write_card
from pvdm_jax.evaluation.evaluate import evaluate_model
from pvdm_jax.evaluation.feature_spaces import EvaluationPaths
from pvdm_jax.inference.loading import load
from pvdm_jax.inference.pipeline import PVDM
from pvdm_jax.reporting.html import write_page
from pvdm_jax.storage import buckets
from pvdm_jax.storage.files import write_json
from pvdm_jax.storage.json_files import try_read_json
from pvdm_jax.storage.run_lock import single_writer
from pvdm_jax.training import autoencoder, diffusion
from pvdm_jax.training.encode import encode

# In the run's folder.
REPORT_FILE = "report.html"
NUMBERS_FILE = "numbers.json"
SECONDS_FILE = "seconds.json"
SAMPLES_FOLDER = "samples"
EVALUATION_FOLDER = "evaluation"

JUDGED = 128  # generated clips that are judged, and clips in each set that they are compared with
LONG_VIDEOS = 16
CONTINUATIONS = 64  # held-out clips whose next clip is sampled
TITLE = "pvdm demo: moving shapes"


@single_writer
def run(config: Config, workdir: str | pathlib.Path) -> pathlib.Path:
    """Trains both stages in `workdir`, samples, evaluates, writes the report and returns its path.

    Finished phases are not repeated. Raises ConfigError if the data source is not the synthetic one: the evaluation
    needs its ground truth.
    """
    if config.data.source != "synthetic":
        raise ConfigError(f"data.source is {config.data.source!r}; the demo needs the synthetic source")
    workdir = pathlib.Path(workdir)
    report = workdir / REPORT_FILE
    clock = _Clock(workdir / SECONDS_FILE)
    packaged = clock.measure("videos of the packaged model", lambda: _first_report(report))
    clock.measure("autoencoder training", lambda: autoencoder.train(config, workdir))
    print(clock.measure("encoding", lambda: encode(config, workdir)))
    clock.measure("denoiser training", lambda: diffusion.train(config, workdir))
    model = load(workdir)
    clips = clock.measure("sampling", lambda: _collect(model, config))
    card = clock.measure("evaluation", lambda: _evaluate(model, clips, workdir))
    numbers = clock.measure("judging", lambda: all_numbers(clips, card))
    if jax.process_index() == 0:
        write_videos(workdir / SAMPLES_FOLDER, clips)
        write_json(workdir / NUMBERS_FILE, numbers)
        write_card(workdir / EVALUATION_FOLDER, card)
        sections = report_sections(
            config,
            workdir,
            clips=clips,
            numbers=numbers,
            seconds=clock.seconds,
            class_names=model.class_names,
            card=card,
            packaged=packaged_sections(packaged, first=False) if packaged else [],
        )
        write_page(report, TITLE, sections)
        buckets.push(workdir)
    values = {name: value for name, value in numbers.items() if isinstance(value, float)}
    print("\n".join(f"{name}: {value:.3f}" for name, value in values.items()))
    print(f"report: {report}")
    return report


def _first_report(report: pathlib.Path) -> PackagedVideos | None:
    """Writes a report of the packaged model's videos, if there is such a model and no report yet."""
    packaged = packaged_videos()
    if packaged and jax.process_index() == 0 and not report.exists():
        write_page(report, TITLE, packaged_sections(packaged, first=True))
        print(f"videos of the packaged model: {report}")
    return packaged


def demo_protocol(config: Config) -> ProtocolConfig:
    """The protocol by which `pvdm evaluate` compares what `_collect` samples with as many held-out clips."""
    return dataclasses.replace(
        PROTOCOLS["shapes"],
        name="demo",
        samples=JUDGED,
        real_samples=JUDGED,
        reconstruction_samples=JUDGED,
        frames=(config.autoencoder.frames,),
        stride=config.data.stride,
        seam_samples=LONG_VIDEOS,
        seam_clips=LONG_CLIPS,
        continuations=CONTINUATIONS,
        classes="turn",
        seed=SEED,
    )


def _collect(model: PVDM, config: Config) -> Clips:
    held_out = open_source(config.data, config.autoencoder, "holdout", config.seed)
    training = open_source(config.data, config.autoencoder, "train", config.seed)
    # Fixed clips are spread over all held-out videos: taking every second one gives two sets of different videos.
    real = fixed_clips(held_out, config.autoencoder, config.data, 2 * JUDGED)["video"]
    stored = fixed_clips(training, config.autoencoder, config.data, len(training))["video"]
    labels = _labels(held_out, config)
    frames = LONG_CLIPS * config.autoencoder.frames
    return Clips(
        held_out=real[::2],
        others=real[1::2],
        training=stored,
        reconstructed=model.reconstruct(real[::2]),
        generated=sample_videos(model, JUDGED, config.autoencoder.frames, labels=labels, batch=BATCH),
        # These begin with the first of the generated clips.
        long=sample_videos(model, LONG_VIDEOS, frames, labels=labels, batch=BATCH),
    )


def _evaluate(model: PVDM, clips: Clips, workdir: pathlib.Path) -> dict[str, Any]:
    paths = EvaluationPaths(workdir / EVALUATION_FOLDER / "measured")
    protocol = demo_protocol(model.config)
    return evaluate_model(
        model,
        protocol,
        paths,
        batch_size=BATCH,
        name=workdir.name,
        sampled=clips.generated,
        sampled_long=clips.long,
    )


def _labels(source: VideoSource, config: Config) -> list[int] | None:
    """Each class in turn, for a model that knows classes."""
    if config.denoiser.num_classes == 0:
        return None
    return [index % len(source.class_names) for index in range(max(JUDGED, LONG_VIDEOS))]


class _Clock:
    """Seconds of each phase, summed over the runs of a demo that was interrupted."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        kept = try_read_json(path, {str: float}, print, "the times of earlier runs are not counted")
        self.seconds: dict[str, float] = kept or {}

    def measure(self, name: str, phase: Callable[[], Any]) -> Any:
        """Runs a phase and returns its result."""
        print(f"demo: {name}")
        began = time.perf_counter()
        result = phase()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        if jax.process_index() == 0:
            write_json(self._path, self.seconds)
        return result
