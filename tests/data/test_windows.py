"""Windows of consecutive clips, and fixed clips, which are the same in every call."""

import collections

import numpy as np
import pytest
from telling_videos import assert_same, source

from pvdm_jax.config import AutoencoderConfig, DataConfig
from pvdm_jax.data.loader import clip_pairs, fixed_clips
from pvdm_jax.data.samples import PairSpec

CLIP = AutoencoderConfig(frames=4, height=8, width=8)
DATA = DataConfig()


def test_held_out_pairs_are_not_augmented():
    videos = source([40] * 3)
    data = DataConfig(flip=True, crop_scale=0.5)
    pairs = clip_pairs(videos, CLIP, data, PairSpec(4, augment=False), seed=0)
    assert all((pairs[i]["video"][..., 2] == np.arange(8)[None, None]).all() for i in range(12))
    assert all(video.crop is None for video in videos)
    augmented = clip_pairs(videos, CLIP, data, PairSpec(4), seed=0)
    assert len({bool((augmented[i]["video"][..., 0, 2] == 0).all()) for i in range(12)}) == 2
    assert all(video.crop is not None for video in videos)


def test_pairs_are_two_consecutive_clips():
    pairs = clip_pairs(source([40, 8, 7]), CLIP, DATA, PairSpec(windows=5), seed=0)
    assert len(pairs) == 15
    starts = set()
    for i in range(15):
        pair = pairs[i]
        assert pair["video"].shape == (8, 8, 8, 3) and pair["index"] == i and pair["label"] == i // 5 % 2
        frames = pair["video"][:, 0, 0, 1].astype(int)
        if i < 10:
            assert pair["has_previous"] and (np.diff(frames) == 1).all()
            assert (pair["video"][..., 0] == i // 5).all()
            starts.add(int(frames[0]))
        else:
            assert not pair["has_previous"] and (pair["video"][:4] == 0).all()
            assert (np.diff(frames[4:]) == 1).all() and (pair["video"][4:, ..., 0] == 2).all()
    assert len(starts) > 3


def test_unconditional_clips_begin_anywhere_in_their_window():
    """One more clip after the window's own, equally often at each of the 5 places that 8 frames have for 4."""
    plain, extended = (
        clip_pairs(source([40, 7]), CLIP, DATA, PairSpec(500, unconditional=extra), seed=0) for extra in (False, True)
    )
    offsets = collections.Counter()
    for i in range(0, 1000, 3):
        pair, frames = extended[i], extended[i]["video"][:, 0, 0, 1].astype(int)
        assert_same([{"video": pair["video"][:8]}], [{"video": plain[i]["video"]}])  # the windows stay the same
        assert len(frames) == 12 and (np.diff(frames[8:]) == 1).all()
        if pair["has_previous"]:
            offsets[int(frames[8] - frames[0])] += 1
        else:
            np.testing.assert_array_equal(pair["video"][8:], pair["video"][4:8])
    assert set(offsets) == set(range(5)) and sum(offsets.values()) == 167
    assert max(offsets.values()) < 167 / 5 + 4 * (167 * 0.2 * 0.8) ** 0.5


def test_pairs_are_a_function_of_seed_and_index():
    def make(seed):
        return clip_pairs(source([200] * 3), CLIP, DataConfig(stride=2), PairSpec(windows=4), seed)

    one, again, other = make(0), make(0), make(1)
    assert_same([one[7], one[2]], [again[7], again[2]])
    assert any((one[i]["video"] != other[i]["video"]).any() for i in range(12))
    assert np.diff(one[3]["video"][:, 0, 0, 1].astype(int)).tolist() == [2] * 7


@pytest.mark.parametrize(("lengths", "count", "expected"), [([9] * 40, 8, 8), ([9, 30], 10, 10), ([5, 4, 6], 50, 6)])
def test_fixed_clips_are_different_windows_spread_over_the_videos(lengths, count, expected):
    clips = fixed_clips(source(lengths), CLIP, DATA, count)
    assert clips["video"].shape == (expected, 4, 8, 8, 3) and clips["label"].shape == (expected,)
    windows = [(int(video[0, 0, 0, 0]), int(video[0, 0, 0, 1])) for video in clips["video"]]
    assert len(set(windows)) == expected
    assert clips["name"] == [f"video{index}" for index, _ in windows]
    np.testing.assert_array_equal(clips["label"], [index % 2 for index, _ in windows])
    visited = sorted({index for index, _ in windows})
    assert len(visited) == min(len(lengths), expected)
    assert max(np.diff(visited), default=1) <= max(1, -(-len(lengths) // count))
    assert_same([clips], [fixed_clips(source(lengths), CLIP, DATA, count)])


def test_fixed_clips_skip_broken_videos(caplog):
    clips = fixed_clips(source([9] * 4, broken={1}), CLIP, DATA, 4)
    assert clips["name"] == ["video0", "video2", "video3"]
    assert "skipped in the fixed clips: video1" in caplog.text
