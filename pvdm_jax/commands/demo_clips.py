"""The clips that `pvdm demo` judges, and the numbers that tell whether they are any good.

Each number stands beside its values for something good and for something worthless, so that a failure shows. Nearly all
numbers are those of the evaluation card.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pvdm_jax.evaluation.frechet import frechet_distance
from pvdm_jax.evaluation.neighbours import nearest_distance
from pvdm_jax.evaluation.scattering import video_features
from pvdm_jax.inference.pipeline import PVDM
from pvdm_jax.runtime.keys import make_key

SEED = 1  # of the samples
LONG_CLIPS = 8  # clips of a long video
BATCH = 16  # videos sampled at once, everywhere in the demo: the sampler is compiled once

# The numbers that have another name on the card; {} stands for the number of frames of a clip.
CARD_NAMES = {
    "frechet_generated": "frechet_scattering_{}",
    "frechet_reconstructed": "reconstruction_frechet_scattering_{}",
    "frechet_real": "real_frechet_scattering_{}",
    "frechet_noise": "noise_frechet_scattering_{}",
    "seam_long": "seam_score",
}
LONG_RATES = "shapes_long"  # the rates of the clips of long videos


@dataclasses.dataclass(frozen=True)
class Clips:
    """What the report shows and judges, all uint8 (n, frames, height, width, 3)."""

    held_out: np.ndarray
    others: np.ndarray  # further held-out clips, of other videos
    training: np.ndarray
    reconstructed: np.ndarray  # of `held_out`
    generated: np.ndarray
    long: np.ndarray


def sample_videos(model: PVDM, count: int, frames: int, *, labels: Sequence[int] | None, batch: int) -> np.ndarray:
    """The first `count` videos of the demo's key, clip by clip and a batch at a time."""
    batches = []
    for start in range(0, count, batch):
        indices = range(start, min(start + batch, count))
        shown = labels and [labels[i] for i in indices]
        clips = model.stream(make_key(SEED), len(indices), frames, labels=shown, indices=indices)
        batches.append(np.concatenate(list(clips), axis=1))
    return np.concatenate(batches)


def judge(clips: Clips) -> dict[str, float]:
    """The numbers that the card lacks, by name.

    frechet_mean: the Frechet distance of the training set's mean clip in the scattering space. nearest_generated,
    nearest_held_out: RMS distances to the nearest training clip, on a scale of 0 to 255.
    """
    mean = np.rint(clips.training.mean(axis=0)).astype(np.uint8)
    # A set of equal clips has a covariance of zero, which the distance allows.
    means = np.broadcast_to(mean, clips.held_out.shape)
    return {
        "frechet_mean": frechet_distance(video_features(means), video_features(clips.held_out)),
        "nearest_generated": float(np.mean(nearest_distance(clips.generated, clips.training))),
        "nearest_held_out": float(np.mean(nearest_distance(clips.held_out, clips.training))),
    }


def card_numbers(card: Mapping[str, Any], frames: int) -> dict[str, Any]:
    """The values of a card by their names in the report; `shapes_long` is the list of the rates of clips 1, 2, 4, ...

    frames: the number of frames of a clip.
    """
    values = {name: entry["value"] for name, entry in card["results"].items()}
    numbers: dict[str, Any] = {}
    for name, of_card in CARD_NAMES.items():
        if (of_card := of_card.format(frames)) in values:
            numbers[name] = values.pop(of_card)
    rates = [name for name in values if name.startswith(f"{LONG_RATES}_")]
    if rates:
        numbers[LONG_RATES] = [values.pop(name) for name in rates]
    return numbers | values


def all_numbers(clips: Clips, card: Mapping[str, Any]) -> dict[str, Any]:
    """The report's numbers by name: those of the card and those of `judge`.

    PSNR is in dB, Frechet distances are in the scattering space, position errors are in pixels, and the others are
    rates from 0 to 1 or ratios.
    """
    return card_numbers(card, clips.generated.shape[1]) | judge(clips)
