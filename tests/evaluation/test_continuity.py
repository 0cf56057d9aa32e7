"""The seam score on videos whose seams are known."""

import numpy as np
import pytest

from pvdm_jax.data.synthetic import SyntheticVideos
from pvdm_jax.evaluation.continuity import seam_ratio, seam_rows


def seam_score(videos, clip_frames):
    return seam_ratio(**seam_rows(videos, clip_frames))


def ramp(*levels):
    """Videos of one grey each frame."""
    return np.broadcast_to(np.array(levels, np.uint8)[None, :, None, None, None], (2, len(levels), 4, 4, 3))


def test_known_changes():
    assert seam_score(ramp(0, 2, 4, 6, 8, 10, 12, 14), 4) == 1
    assert seam_score(ramp(0, 2, 4, 6, 16, 18, 20, 22), 4) == 5
    assert seam_score(ramp(0, 1, 2, 9, 10, 11), 3) == 7
    # Only what is near a border counts: a video that speeds up has no seam.
    assert seam_score(ramp(0, 90, 91, 92, 93, 94, 180, 180), 4) == 1
    # The mean over borders; a last clip may be cut off.
    assert seam_score(ramp(0, 1, 5, 6, 8, 9, 11), 2) == pytest.approx(((4 + 2 + 2) / 3) / 1)


def test_still_videos():
    assert seam_score(ramp(7, 7, 7, 7), 2) == 1
    assert seam_score(ramp(7, 7, 9, 9), 2) == float("inf")


def test_real_videos_have_none_and_shuffled_clips_do():
    source = SyntheticVideos(24, 48, 32, 32, 0)
    videos = np.stack([source[i].read(0, 48) for i in range(24)])
    assert 0.9 < seam_score(videos, 16) < 1.1
    strangers = np.concatenate([videos[:, :16], np.roll(videos, 1, axis=0)[:, 16:32]], axis=1)
    assert seam_score(strangers, 16) > 2


def test_too_short_videos_are_refused():
    with pytest.raises(ValueError, match="clips 4 frames"):
        seam_score(ramp(1, 2, 3, 4, 5), 4)
    with pytest.raises(ValueError, match="clips 1 frames"):
        seam_score(ramp(1, 2, 3, 4, 5), 1)
