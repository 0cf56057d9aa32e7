"""Decoded frames as arrays, rotated and mirrored as the file says."""

import threading
from typing import Any

import numpy as np

# Each thread has its own reformatter: making one per frame halves the speed, and threads that share one mix up their
# pictures.
_local = threading.local()


def frame_array(frame: Any) -> np.ndarray:
    """A decoded frame (of PyAV) as uint8 (height, width, 3), the right way up."""
    from av.video.reformatter import VideoReformatter

    if not hasattr(_local, "reformatter"):
        _local.reformatter = VideoReformatter()
    array = _local.reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    data = frame.side_data.get("DISPLAYMATRIX")
    return array if data is None else orient(array, np.frombuffer(data, np.int32))


def orient(frame: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Rotates and mirrors a frame (height, width, ...) by a display matrix.

    The matrix has nine numbers; a, b, c and d at 0, 1, 3 and 4 take a pixel at (x, y), with y downwards, to
    (a x + c y, b x + d y). A rotation in between is rounded to the nearest multiple of 90 degrees.
    """
    a, b, c, d = (int(matrix[k]) for k in (0, 1, 3, 4))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        flip_rows, flip_columns = d < 0, a < 0
    else:
        frame = frame.swapaxes(0, 1)
        flip_rows, flip_columns = b < 0, c < 0
    return frame[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
