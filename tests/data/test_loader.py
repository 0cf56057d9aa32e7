"""Batches are a function of (seed, step): after a restart, shared by processes, and when videos fail."""

import collections
import dataclasses
import logging
import tracemalloc

import numpy as np
import pytest
from telling_videos import assert_same, source, take, videos_of

from pvdm_jax.config import AutoencoderConfig, DataConfig
from pvdm_jax.data.loader import clip_pairs, fixed_clips, latent_batches, pair_batches, train_batches
from pvdm_jax.data.samples import PairSpec
from pvdm_jax.data.sources import open_source
from pvdm_jax.data.streams import BatchSpec, ProcessShare
from pvdm_jax.video.errors import VideoError

CLIP = AutoencoderConfig(frames=4, height=8, width=8)
DATA = DataConfig()


def test_shapes_types_and_labels():
    batch = next(train_batches(source([9] * 5), CLIP, DATA, BatchSpec(6, seed=0)))
    assert batch["video"].shape == (6, 4, 8, 8, 3) and batch["video"].dtype == np.uint8
    assert batch["label"].shape == (6,) and batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["label"], batch["video"][:, 0, 0, 0, 0] % 2)


@pytest.mark.parametrize("stride", [1, 3])
def test_windows_are_consecutive_and_reach_both_ends(stride):
    data = DataConfig(stride=stride)
    batches = take(train_batches(source([20, 4 * stride]), CLIP, data, BatchSpec(20, seed=0)), 10)
    frames = np.concatenate([batch["video"][..., 0, 0, 1] for batch in batches]).astype(int)
    assert (np.diff(frames, axis=1) == stride).all()
    starts = frames[np.array(videos_of(batches)) == 0, 0]
    assert set(starts) == set(range(20 - 4 * stride + 1))


def test_a_batch_names_its_videos_without_being_made():
    """Every process gets the names of the global batch, for any step."""
    lengths = [30] * 7
    batches = train_batches(source(lengths), CLIP, DATA, BatchSpec(4, seed=1, start_step=2))
    for step in (2, 3, 4):
        found = [f"video{index}" for index in videos_of([next(batches)])]
        assert batches.videos(step) == found
        other = BatchSpec(4, seed=1, share=ProcessShare(1, 2))
        assert train_batches(source(lengths), CLIP, DATA, other).videos(step) == found
    for windows, flips in ((2, False), (2, True), (0, True)):
        pairs = pair_batches(source(lengths), CLIP, DATA, PairSpec(windows, flips=flips), BatchSpec(4, seed=1))
        for step in range(3):
            assert pairs.videos(step) == [f"video{index}" for index in next(pairs)["source"]]
    plain = latent_batches([{"x": np.zeros(1)}] * 3, DATA, BatchSpec(3, seed=0))
    assert sorted(plain.videos(5)) == ["item 0", "item 1", "item 2"]


def test_every_epoch_visits_all_videos_in_a_new_order():
    seen = videos_of(take(train_batches(source([9] * 12), CLIP, DATA, BatchSpec(6, seed=0)), 8))
    epochs = [tuple(seen[i : i + 12]) for i in range(0, 48, 12)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len(set(epochs)) == 4


def test_windows_of_a_video_differ_between_epochs():
    batches = take(train_batches(source([100]), CLIP, DATA, BatchSpec(1, seed=0)), 20)
    assert len({int(batch["video"][0, 0, 0, 0, 1]) for batch in batches}) > 10


def test_same_seed_same_batches_whatever_the_threads():
    def make(seed=5, **data):
        return take(train_batches(source([30] * 7), CLIP, DataConfig(**data), BatchSpec(4, seed)), 6)

    one = make(threads=1, prefetch=1)
    assert_same(one, make(threads=4, prefetch=3))
    other = make(seed=6)
    assert any((a["video"] != b["video"]).any() for a, b in zip(one, other, strict=True))


def test_resuming_goes_on_with_the_undisturbed_stream():
    data = DataConfig(flip=True)
    stream = take(train_batches(source([30] * 7), CLIP, data, BatchSpec(4, seed=1)), 9)
    resumed = train_batches(source([30] * 7), CLIP, data, BatchSpec(4, seed=1, start_step=5))
    assert_same(stream[5:], take(resumed, 4))


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_shares_of_processes_make_up_the_global_batch(processes):
    def make(**share):
        batches = BatchSpec(6, seed=2, start_step=3, share=ProcessShare(**share))
        return take(train_batches(source([30] * 7), CLIP, DataConfig(flip=True), batches), 3)

    shares = [make(index=process, count=processes) for process in range(processes)]
    joined = [{k: np.concatenate([share[i][k] for share in shares]) for k in ("video", "label")} for i in range(3)]
    assert_same(make(), joined)


def test_uneven_shares_are_refused():
    with pytest.raises(ValueError, match="batch_size is 6; it must be a multiple of the number of processes"):
        BatchSpec(6, seed=0, share=ProcessShare(count=4))


def test_half_of_the_clips_are_mirrored_if_asked_for():
    def mirrored(flip):
        batches = take(train_batches(source([30] * 7), CLIP, DataConfig(flip=flip), BatchSpec(20, seed=0)), 10)
        rows = np.concatenate([batch["video"][:, 0, 0, :, 2] for batch in batches])
        forward, backward = (rows == np.arange(8)).all(axis=1), (rows == np.arange(8)[::-1]).all(axis=1)
        assert (forward ^ backward).all()
        return backward.mean()

    assert mirrored(False) == 0
    assert 0.35 < mirrored(True) < 0.65


def test_random_crops_are_a_function_of_seed_and_sample_and_leave_the_windows_as_they_were():
    def crops(start_step, seed=0, **data):
        videos = source([30] * 6)
        batches = train_batches(videos, CLIP, DataConfig(prefetch=1, threads=1, **data), BatchSpec(6, seed, start_step))
        batch = next(batches)
        return batch["video"], [video.crop for video in videos]

    video, first = crops(2, crop_scale=0.7)
    np.testing.assert_array_equal(video, crops(2)[0])
    assert all(0.7 <= crop.scale <= 1 for crop in first) and len(set(first)) == 6
    assert crops(2)[1] == [None] * 6


def test_a_broken_video_is_replaced_and_reported_once(caplog):
    with caplog.at_level(logging.WARNING):
        batches = take(train_batches(source([9] * 5, broken={2}), CLIP, DATA, BatchSpec(5, seed=0)), 6)
    counts = collections.Counter(videos_of(batches))
    assert counts[2] == 0 and sum(counts.values()) == 30 and min(counts[i] for i in (0, 1, 3, 4)) >= 6
    assert [record.message for record in caplog.records if "video2" in record.message] == [
        "replaced by another video from now on (number 1): video2: it can't be decoded"
    ]
    again = take(train_batches(source([9] * 5, broken={2}), CLIP, DATA, BatchSpec(5, seed=0, start_step=3)), 3)
    assert_same(batches[3:], again)


def test_nothing_but_broken_videos_is_an_error():
    with pytest.raises(VideoError, match="can't be decoded"):
        next(train_batches(source([9] * 3, broken={0, 1, 2}), CLIP, DATA, BatchSpec(2, seed=0)))
    with pytest.raises(VideoError, match="none of the 3 fixed clips"):
        fixed_clips(source([9] * 3, broken={0, 1, 2}), CLIP, DATA, 3)


def test_empty_source_is_refused():
    with pytest.raises(ValueError, match="the source is empty"):
        train_batches(source([]), CLIP, DATA, BatchSpec(2, seed=0))
    with pytest.raises(ValueError, match="the source is empty"):
        fixed_clips(source([]), CLIP, DATA, 2)


def test_training_batches_of_a_dataset_never_hold_its_held_out_frames(dataset, read_numbers):
    clip = AutoencoderConfig(frames=8, height=32, width=32)
    data = DataConfig(source="tfds", path=dataset, holdout=0.3)
    train = open_source(data, clip, "train", seed=0)
    limits = {0: 56, 1: 35, 2: 12}  # by the grey level at the bottom: walk/long, walk/middle, run/short
    seen = {0: [], 1: [], 2: []}
    for batch in take(train_batches(train, clip, data, BatchSpec(16, seed=0)), 12):
        for video in batch["video"]:
            numbers = read_numbers(video)
            assert numbers == list(range(numbers[0], numbers[0] + 8))
            seen[round(video[:, -4:].mean() / 120)].append(numbers[-1])
    assert all(max(seen[k]) < limits[k] for k in limits)
    assert max(seen[2]) == 11  # the last possible window does come


def test_latent_batches_are_stacked_shuffled_resumed_and_shared():
    items = [{"yx": np.full((2, 3), i, np.float32), "label": np.int32(i)} for i in range(10)]
    stream = take(latent_batches(items, DATA, BatchSpec(5, seed=0)), 6)
    assert stream[0]["yx"].shape == (5, 2, 3) and stream[0]["yx"].dtype == np.float32
    seen = np.concatenate([batch["label"] for batch in stream])
    np.testing.assert_array_equal(seen, np.concatenate([batch["yx"][:, 0, 0] for batch in stream]))
    epochs = seen.reshape(3, 10)
    assert (np.sort(epochs) == np.arange(10)).all() and len({tuple(epoch) for epoch in epochs}) == 3
    assert_same(stream[4:], take(latent_batches(items, DATA, BatchSpec(5, seed=0, start_step=4)), 2))
    shares = [take(latent_batches(items, DATA, BatchSpec(6, 0, 1, ProcessShare(p, 2))), 2) for p in range(2)]
    joined = [{k: np.concatenate([share[i][k] for share in shares]) for k in items[0]} for i in range(2)]
    assert_same(take(latent_batches(items, DATA, BatchSpec(6, seed=0, start_step=1)), 2), joined)


def test_batches_count_and_name_the_videos_that_were_replaced():
    batches = train_batches(source([9] * 5, broken={2, 4}), CLIP, DATA, BatchSpec(5, seed=0))
    take(batches, 4)
    assert batches.broken == {name: f"{name}: it can't be decoded" for name in ("video2", "video4")}


def test_worker_processes_make_the_same_batches():
    videos = open_source(DataConfig(synthetic_videos=5, synthetic_frames=12), CLIP, "train", seed=0)
    data = DataConfig(flip=True, crop_scale=0.8)
    spec = BatchSpec(4, seed=3, start_step=2)
    expected = take(train_batches(videos, CLIP, data, spec), 5)
    batches = train_batches(videos, CLIP, dataclasses.replace(data, workers=2), spec)
    try:
        assert_same(expected, take(batches, 5))
    finally:
        batches.close()


def test_flips_give_every_window_both_ways():
    plain = clip_pairs(source([40] * 2), CLIP, DATA, PairSpec(3), seed=0)
    both = clip_pairs(source([40] * 2), CLIP, DATA, PairSpec(3, flips=True), seed=0)
    assert len(both) == 12
    for i in range(6):
        np.testing.assert_array_equal(both[2 * i]["video"], plain[i]["video"])
        np.testing.assert_array_equal(both[2 * i + 1]["video"], plain[i]["video"][:, :, ::-1])
        assert [bool(both[2 * i + k]["mirrored"]) for k in (0, 1)] == [False, True]
        assert both[2 * i]["source"] == i // 3 and both[2 * i]["start"] == plain[i]["video"][0, 0, 0, 1]
    assert len(clip_pairs(source([40] * 2), CLIP, DATA, PairSpec(3, flips=True, augment=False), seed=0)) == 6


def test_batches_of_pairs_come_in_the_order_of_what_was_stored_of_them():
    videos = source([40] * 3)
    pairs = clip_pairs(videos, CLIP, DATA, PairSpec(2), seed=0)
    stored = [{"index": np.int32(i), "video": pairs[i]["video"]} for i in range(6)]
    batches = BatchSpec(4, seed=0, start_step=2)
    expected = take(latent_batches(stored, DATA, batches), 5)
    for old, new in zip(expected, take(pair_batches(videos, CLIP, DATA, PairSpec(2), batches), 5), strict=True):
        np.testing.assert_array_equal(old["index"], new["index"])
        np.testing.assert_array_equal(old["video"], new["video"])


def test_fresh_pairs_are_new_windows_in_every_epoch():
    def make(count, start_step=0):
        batches = BatchSpec(4, seed=0, start_step=start_step)
        return take(pair_batches(source([200] * 2), CLIP, DATA, PairSpec(windows=0), batches), count)

    batches = make(10)
    seen = {(int(v[0, 0, 0, 0]), int(v[0, 0, 0, 1])) for batch in batches for v in batch["video"]}
    assert len(seen) > 30
    assert_same(batches[6:], make(4, start_step=6))


def test_memory_does_not_grow_with_the_stream():
    """Over 1,000 epochs what the pipeline keeps grows by less than 200 kB."""
    items = [{"label": np.int32(i)} for i in range(10)]
    batches = latent_batches(items, DATA, BatchSpec(100, seed=0))
    take(batches, 20)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        take(batches, 100)
        assert tracemalloc.get_traced_memory()[0] - before < 200_000
    finally:
        tracemalloc.stop()
