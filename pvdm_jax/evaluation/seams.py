"""Whether the clips of a long video follow from one another: the change across their borders, against that inside."""

import numpy as np


def seam_score(videos: np.ndarray, clip_frames: int) -> float:
    """How much more two neighbouring frames differ where two clips meet than elsewhere, as a factor.

    videos: uint8 (n, t, height, width, 3) of clips of `clip_frames`, t of at least two of them. The mean absolute
    difference of neighbouring frames across borders is divided by that of the two pairs of frames next to each border
    on either side, so that a video that moves more later on is compared with itself there. 1 is a video without seams;
    real ones lie within a few percent of it. Raises ValueError for shorter videos, or clips of less than two frames.
    """
    across, inside = seam_changes(videos, clip_frames)
    return seam_ratio(across, inside)


def seam_changes(videos: np.ndarray, clip_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """What `seam_score` compares, for each video: the mean change across borders, and beside them; float64 (n,)."""
    if clip_frames < 2 or videos.ndim != 5 or videos.shape[1] < 2 * clip_frames:
        raise ValueError(
            f"videos have shape {videos.shape}, clips {clip_frames} frames; two clips of at least two frames are needed"
        )
    across, inside = [], []
    for border in range(clip_frames, videos.shape[1], clip_frames):
        # Change i is that from frame i to frame i + 1; the one across the border is the second of these.
        window = videos[:, border - 2 : border + 2].astype(np.int16)
        changes = np.abs(np.diff(window, axis=1)).mean(axis=(2, 3, 4))
        across.append(changes[:, 1])
        inside += list(np.delete(changes, 1, axis=1).T)
    return np.mean(across, axis=0), np.mean(inside, axis=0)


def seam_ratio(across: np.ndarray, inside: np.ndarray) -> float:
    """The score of the changes (n,) of several videos."""
    if np.mean(inside) == 0:
        return 1.0 if np.mean(across) == 0 else float("inf")
    return float(np.mean(across) / np.mean(inside))
