"""Distance of clips to their nearest training clip: generated clips much nearer than held-out ones are copies."""

import numpy as np

_CHUNK_BYTES = 64 * 2**20  # of float64 pixels held at a time, for each of the two sets


def nearest_distance(clips: np.ndarray, training_clips: np.ndarray) -> np.ndarray:
    """Root-mean-square pixel distance (0 to 255) of each clip to the nearest training clip.

    clips (n, frames, height, width, 3) and training_clips (m, frames, height, width, 3) are uint8; the result is
    float64 (n,). Distances are exact, 0 only for a copy: squares of uint8 differences add up without rounding in
    float64. One matrix product compares a chunk of pairs. Raises ValueError if types or sizes differ from these, or if
    there is no training clip.
    """
    for name, array in (("clips", clips), ("training_clips", training_clips)):
        if array.dtype != np.uint8 or array.ndim != 5:
            raise ValueError(f"{name} is {array.dtype} {array.shape}; uint8 (n, frames, height, width, 3) is needed")
    if clips.shape[1:] != training_clips.shape[1:]:
        raise ValueError(f"clips are {clips.shape[1:]}, training clips {training_clips.shape[1:]}; sizes must be equal")
    if len(training_clips) == 0:
        raise ValueError("training_clips is empty; at least one clip is needed")
    values = int(np.prod(clips.shape[1:]))
    chunk = max(1, _CHUNK_BYTES // (8 * values))
    nearest = np.full(len(clips), np.inf)
    for start in range(0, len(clips), chunk):
        rows = slice(start, start + chunk)
        ours = clips[rows].reshape(-1, values).astype(np.float64)
        squares = np.einsum("nv,nv->n", ours, ours)
        for other in range(0, len(training_clips), chunk):
            theirs = training_clips[other : other + chunk].reshape(-1, values).astype(np.float64)
            distances = squares[:, None] + np.einsum("mv,mv->m", theirs, theirs) - 2 * ours @ theirs.T
            nearest[rows] = np.minimum(nearest[rows], distances.min(1))
    return np.sqrt(nearest / values)
