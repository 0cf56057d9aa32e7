"""The clips that `pvdm demo` judges, and the numbers that tell whether they are any good.

Each number has companions: what it would be for something good and for something worthless, so that a failure shows.
"""

import dataclasses

import numpy as np

from pvdm_jax.evaluation.frechet import frechet_distance
from pvdm_jax.evaluation.neighbours import nearest_distance
from pvdm_jax.evaluation.reconstruction import psnr, still_psnr
from pvdm_jax.evaluation.scattering import video_features
from pvdm_jax.evaluation.shapes import shows_shapes

NOISE_SEED = 1  # of the clips of noise that generated ones are compared with


@dataclasses.dataclass(frozen=True)
class Clips:
    """What the report shows and judges, all uint8 (n, frames, height, width, 3)."""

    held_out: np.ndarray
    others: np.ndarray  # further held-out clips, of other videos
    training: np.ndarray
    reconstructed: np.ndarray  # of `held_out`
    generated: np.ndarray
    long: np.ndarray


def judge(clips: Clips) -> dict[str, float]:
    """The report's numbers by name.

    PSNR is in dB, Frechet distances are in the scattering space, distances to neighbours are RMS on 0..255, and the
    others are rates from 0 to 1.
    """
    real = video_features(clips.held_out)
    noise = np.random.default_rng(NOISE_SEED).integers(0, 256, clips.held_out.shape, np.uint8)
    mean = np.rint(clips.training.mean(axis=0)).astype(np.uint8)
    # A set without any variety has a covariance of zero, which the distance allows.
    means = np.broadcast_to(mean, clips.held_out.shape)
    return {
        "psnr": float(np.mean(psnr(clips.held_out, clips.reconstructed))),
        "still_psnr": float(np.mean(still_psnr(clips.held_out))),
        "frechet_generated": frechet_distance(video_features(clips.generated), real),
        "frechet_reconstructed": frechet_distance(video_features(clips.reconstructed), real),
        "frechet_real": frechet_distance(video_features(clips.others), real),
        "frechet_noise": frechet_distance(video_features(noise), real),
        "frechet_mean": frechet_distance(video_features(means), real),
        "shapes_real": _shape_rate(clips.held_out),
        "shapes_reconstructed": _shape_rate(clips.reconstructed),
        "shapes_generated": _shape_rate(clips.generated),
        "nearest_generated": float(np.mean(nearest_distance(clips.generated, clips.training))),
        "nearest_held_out": float(np.mean(nearest_distance(clips.held_out, clips.training))),
    }


def _shape_rate(clips: np.ndarray) -> float:
    """The fraction of clips that show two or three shapes."""
    return float(np.mean([shows_shapes(clip) for clip in clips]))
