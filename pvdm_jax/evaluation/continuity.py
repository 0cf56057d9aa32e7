"""Continuity of long videos: whether the picture changes more where two clips meet (a seam) than within the clips."""

import numpy as np


def seam_score(videos: np.ndarray, clip_frames: int) -> float:
    """How much more two neighbouring frames differ across seams than beside them, as a factor.

    videos: uint8 (n, t, height, width, 3), made of clips of `clip_frames`; t must cover at least two of them. The mean
    absolute difference of neighbouring frames across seams is divided by that of the two pairs of frames next to each
    seam, one on either side, so that a video whose motion gets faster is compared with itself at that time. A video
    without seams scores 1; real videos score within a few percent of it.

    Raises TypeError for pixels of another type, ValueError if videos are shorter than two clips or clips shorter than
    two frames.
    """
    across, inside = seam_changes(videos, clip_frames)
    return seam_ratio(across, inside)


def seam_changes(videos: np.ndarray, clip_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """The two changes that `seam_score` compares: each video's mean across seams and beside them, float64 (n,)."""
    if videos.dtype != np.uint8:
        raise TypeError(f"videos are {videos.dtype}; pixels are needed as uint8, from 0 to 255")
    if clip_frames < 2 or videos.ndim != 5 or videos.shape[1] < 2 * clip_frames:
        raise ValueError(
            f"videos have shape {videos.shape}, clips {clip_frames} frames; two clips of at least two frames are needed"
        )
    across, inside = [], []
    for seam in range(clip_frames, videos.shape[1], clip_frames):
        # Change i is that from frame i to frame i + 1; the one across the seam is the second of these.
        window = videos[:, seam - 2 : seam + 2].astype(np.int16)
        changes = np.abs(np.diff(window, axis=1)).mean(axis=(2, 3, 4))
        across.append(changes[:, 1])
        inside += list(np.delete(changes, 1, axis=1).T)
    return np.mean(across, axis=0), np.mean(inside, axis=0)


def seam_ratio(across: np.ndarray, inside: np.ndarray) -> float:
    """The score of the changes (n,) of several videos."""
    if np.mean(inside) == 0:
        return 1.0 if np.mean(across) == 0 else float("inf")
    return float(np.mean(across) / np.mean(inside))
