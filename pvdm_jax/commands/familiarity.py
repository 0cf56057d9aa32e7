"""Whether a video is like those that a model was trained on, judged by how well the model reconstructs it.

A model's card has the PSNR of its reconstructions of held-out clips. A video is far from the training data if its
clips are reconstructed worse than 99 of 100 held-out clips; results on such a video say little about the model. The
reverse does not hold: the autoencoder may well reconstruct content that the denoiser never generates.
docs/model_folder.md shows what the criterion accepts and rejects, for videos of known kinds.
"""

import logging
from typing import Any

import numpy as np

from pvdm_jax.config import DataConfig
from pvdm_jax.data.loader import fixed_clips
from pvdm_jax.data.sources import open_held_out, open_source
from pvdm_jax.evaluation.reconstruction import psnr
from pvdm_jax.inference.pipeline import PVDM

BATCH = 16  # clips reconstructed at once
PERCENTILE = 1.0  # of the held-out clips' PSNR: what lies below is far from the training data
CHECKED_CLIPS = 64  # clips of a dataset that are checked


def measure_held_out(model: PVDM, count: int) -> dict[str, Any]:
    """The entry "held_out" of a card: the PSNR of `count` held-out clips of the model's own data, reconstructed.

    Raises ConfigError if the data are not available.
    """
    config = model.config
    source = open_held_out(config.data, config.autoencoder, config.seed)
    clips = fixed_clips(source, config.autoencoder, config.data, count)["video"]
    values = reconstruction_psnr(model, clips)
    return {
        "clips": len(values),
        "psnr_mean": float(values.mean()),
        "psnr_median": float(np.median(values)),
        "psnr_lowest_percent": float(np.percentile(values, PERCENTILE)),
    }


def reconstruction_psnr(model: PVDM, clips: np.ndarray) -> np.ndarray:
    """The PSNR in dB of each clip's reconstruction, float64 (n,); clips is uint8 (n, frames, height, width, 3)."""
    values = []
    for start in range(0, len(clips), BATCH):
        # The last batch is filled with repeated clips, so that one compiled program serves all.
        batch = clips[np.minimum(np.arange(start, start + BATCH), len(clips) - 1)]
        values.append(psnr(batch, model.reconstruct(batch)))
    return np.concatenate(values)[: len(clips)]


def check_video(model: PVDM, name: str, values: np.ndarray) -> bool | None:
    """Whether a video is like the model's training data; warns if not. None if the model's card cannot tell.

    name: the video's name, for the warning. values: the PSNR of its clips' reconstructions, (n,).
    """
    lowest = lowest_psnr(model)
    if lowest is None:
        return None
    found = float(np.median(values))
    if found < lowest:
        logging.warning(
            "%s is far from what this model was trained on: its clips are reconstructed at %.1f dB, "
            "99 of 100 held-out clips at %.1f dB or better; don't expect good results on it",
            name,
            found,
            lowest,
        )
    return found >= lowest


def check_clips(model: PVDM, name: str, clips: np.ndarray) -> bool | None:
    """`check_video` for clips that are not reconstructed yet, uint8 (n, frames, height, width, 3)."""
    if lowest_psnr(model) is None:
        return None
    return check_video(model, name, reconstruction_psnr(model, clips))


def check_dataset(model: PVDM, data: DataConfig) -> bool | None:
    """`check_video` for held-out clips of the data that a model is evaluated against."""
    if lowest_psnr(model) is None:
        return None
    clip = model.config.autoencoder
    source = open_source(data, clip, "holdout", model.config.seed)
    if not len(source):
        source = open_source(data, clip, "train", model.config.seed)
    clips = fixed_clips(source, clip, data, CHECKED_CLIPS)["video"]
    return check_clips(model, data.path or f"the {data.source} source", clips)


def lowest_psnr(model: PVDM) -> float | None:
    """The PSNR that 99 of 100 held-out clips exceed, from the model's card; None if it has none."""
    held_out = model.card.get("held_out")
    return held_out["psnr_lowest_percent"] if held_out else None
