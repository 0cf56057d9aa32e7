"""The frames of a video by start, count and stride, for comparisons."""

import numpy as np

from pvdm_jax.video.read import decode_frames, video_frames


def read_video(source, start=0, count=None, stride=1, name="the video", **options):
    """Every stride-th frame of a file, or of its bytes, from `start` on: `count` of them, or all."""
    if count is None:
        return np.stack(list(video_frames(source, name)))[start::stride]
    return decode_frames(source, range(start, start + count * stride, stride), name, **options)
