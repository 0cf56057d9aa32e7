"""Frame rates and times: what a file's header says, checked against the time stamps of its frames."""

from collections.abc import Sequence

import numpy as np

TOLERANCE = 0.1  # of a frame's duration: how far the frames of a constant rate may be from their places


def frame_timing(
    stamps: Sequence[float | None], header_rate: float, tick: float
) -> tuple[float, tuple[float, ...] | None]:
    """The frame rate of a video, and the times of its frames if they don't follow from it.

    Args:
        stamps: The time stamp of each frame in seconds; None where the file has none.
        header_rate: Frames per second according to the file; 0 if it doesn't say.
        tick: The unit of the time stamps, in seconds.

    Returns:
        Frames per second, and None if frame k is shown at k / fps. Otherwise the mean rate, and the seconds from the
        first frame to each frame. Without usable time stamps: the header's rate, and None.
    """
    if len(stamps) < 2 or None in stamps:
        return header_rate, None
    times = np.asarray(stamps, np.float64) - stamps[0]
    if not np.all(np.diff(times) > 0):
        return header_rate, None
    mean_rate = (len(times) - 1) / times[-1]
    for rate in (header_rate, mean_rate):
        if rate > 0 and np.abs(times - np.arange(len(times)) / rate).max() <= max(TOLERANCE / rate, 0.51 * tick):
            return float(rate), None
    return float(mean_rate), tuple(np.round(times, 4).tolist())
