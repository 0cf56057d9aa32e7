"""Continuity of long videos: whether the picture changes more where two clips meet (a seam) than within the clips."""

import numpy as np


def seam_rows(videos: np.ndarray, clip_frames: int) -> dict[str, np.ndarray]:
    """How much neighbouring frames differ, "across" seams and "inside" clips: each video's mean, float64 (n,).

    videos: uint8 (n, t, height, width, 3), made of clips of `clip_frames`; t must cover at least two of them. "inside"
    takes the two pairs of frames next to each seam, one on either side, so a video whose motion gets faster is compared
    with itself at that time.

    Raises TypeError for pixels of another type, ValueError if videos are shorter than two clips or clips shorter than
    two frames.
    """
    if videos.dtype != np.uint8:
        raise TypeError(f"videos are {videos.dtype}; pixels are needed as uint8, from 0 to 255")
    if clip_frames < 2 or videos.ndim != 5 or videos.shape[1] < 2 * clip_frames:
        raise ValueError(
            f"videos have shape {videos.shape}, clips {clip_frames} frames; two clips of at least two frames are needed"
        )
    across, inside = [], []
    for seam in range(clip_frames, videos.shape[1], clip_frames):
        # Change i is the change from frame i to frame i + 1; the second of these three is the one across the seam.
        window = videos[:, seam - 2 : seam + 2].astype(np.int16)
        changes = np.abs(np.diff(window, axis=1)).mean(axis=(2, 3, 4))
        across.append(changes[:, 1])
        inside += list(np.delete(changes, 1, axis=1).T)
    return {"across": np.mean(across, axis=0), "inside": np.mean(inside, axis=0)}


def seam_ratio(across: np.ndarray, inside: np.ndarray) -> float:
    """The seam score of several videos, from their changes (n,): a ratio. It is 1 without seams; real videos are within
    a few percent of 1."""
    if np.mean(inside) == 0:
        return 1.0 if np.mean(across) == 0 else float("inf")
    return float(np.mean(across) / np.mean(inside))
