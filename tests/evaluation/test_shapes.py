"""The judge of synthetic clips: it finds the true shapes, passes real and slightly degraded clips, rejects imitations.

Comments give rates measured over 200 to 600 clips of each size; the tests use fewer.
"""

import numpy as np
import pytest

from pvdm_jax.data import synthetic
from pvdm_jax.evaluation.shapes import coverage_of, find_in, judge, shows_shapes

SIZES = (32, 48, 64)


def rate(clips: np.ndarray) -> float:
    return float(np.mean([shows_shapes(clip) for clip in clips]))


def find_shapes(clip):
    coverage, colours, _ = coverage_of(clip)
    return find_in(clip, coverage, colours)


def test_find_shapes_agrees_with_the_truth():
    source = synthetic.SyntheticVideos(12, 16, 48, 48, seed=0)
    checked = 0
    for i in range(len(source)):
        truth = source.truth(i)
        for t, found in enumerate(find_shapes(source[i].read(0, 16))):
            for j, shape in enumerate(truth):
                reach = [s.radius * synthetic.OUTER_RADIUS[s.kind] for s in truth]
                distances = [np.linalg.norm(shape.centre[t] - s.centre[t]) for s in truth]
                if any(d < reach[j] + reach[k] + 1 for k, d in enumerate(distances) if k != j):
                    continue  # it may be partly hidden
                (body,) = [d for d in found if tuple(synthetic.PALETTE[d.colour]) == shape.colour]
                size = {"circle": np.pi, "square": 2 * 1.2**2, "triangle": 3 * np.sqrt(3) / 4 * 1.3**2}[shape.kind]
                np.testing.assert_allclose(body.centre, shape.centre[t], atol=0.25)
                np.testing.assert_allclose(body.area, size * shape.radius**2, rtol=0.12)
                np.testing.assert_allclose(body.mean, shape.colour, atol=12)
                assert body.whole and body.compactness > 0.75
                checked += 1
    assert checked > 150


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("split", ["train", "holdout"])
def test_real_clips_pass(real_clips, size, split):
    assert rate(real_clips(80, size, split)) >= 0.95  # measured: 0.97 to 0.99


@pytest.mark.parametrize("size", SIZES)
def test_soft_and_noisy_clips_pass(real_clips, soften, size):
    clips = real_clips(40, size)
    assert rate(soften(clips, blur=0.7)) >= 0.95  # measured: 0.975 to 0.995
    assert rate(soften(clips, noise=6)) >= 0.95  # 0.97 to 0.99
    assert rate(soften(clips, blur=0.7, noise=6)) >= 0.95  # 0.98 to 0.995


@pytest.mark.parametrize("size", SIZES)
def test_pictures_without_bodies_fail(real_clips, soften, size):
    clips = real_clips(16, size)
    noise = np.random.default_rng(0).integers(0, 256, clips.shape).astype(np.uint8)
    pixels = np.random.default_rng(1).permuted(clips.reshape(16 * 16, -1, 3), axis=1).reshape(clips.shape)
    grey = clips.mean(-1, keepdims=True).astype(np.uint8).repeat(3, -1)
    mean = clips.mean((0, 1)).astype(np.uint8)
    for fake in (noise, pixels, grey, np.zeros_like(clips), np.broadcast_to(mean, clips.shape), soften(clips, blur=5)):
        assert rate(fake) == 0  # as measured


def test_even_clips_of_any_colour_fail():
    for colour in (*synthetic.PALETTE, *synthetic.BACKGROUNDS):
        assert not shows_shapes(np.broadcast_to(colour.astype(np.uint8), (16, 32, 32, 3)))


@pytest.mark.parametrize("size", SIZES)
def test_wrong_motion_fails(real_clips, size):
    clips, rng = real_clips(40, size), np.random.default_rng(0)
    shuffled = np.stack([clip[rng.permutation(16)] for clip in clips])
    spliced = np.concatenate([clips[:, :8], np.roll(clips, 1, axis=0)[:, 8:]], axis=1)
    assert rate(shuffled) <= 0.05  # measured: 0 to 0.003
    assert rate(spliced) <= 0.05  # 0
    assert rate(clips[:, :1].repeat(16, 1)) == 0
    assert rate(clips.mean(1, keepdims=True).astype(np.uint8).repeat(16, 1)) == 0


@pytest.mark.parametrize("size", SIZES)
def test_lost_bodies_fail(size):
    source = synthetic.SyntheticVideos(30, 16, size, size, seed=0)
    half, whole = [], []
    for i in range(len(source)):
        shapes = source.truth(i)
        without_first = np.broadcast_to(source[i].background, (16, size, size, 3)).copy()
        for shape in shapes[1:]:
            synthetic._draw(without_first, shape)
        without_first = np.rint(without_first).astype(np.uint8)
        half.append(np.concatenate([source[i].read(0, 8), without_first[8:]]))
        if len(shapes) == 2:
            whole.append(without_first)
    assert (
        rate(half) <= 0.1
    )  # measured: 0.035 to 0.055, clips in which that body was hidden or disappearing behind another
    assert len(whole) > 5 and rate(whole) == 0


def test_judge_names_the_reason(real_clips):
    clip = real_clips(1)[0]
    assert judge(clip) == ""
    assert judge(clip[:1].repeat(16, 0)) == "nothing moves"
    assert judge(255 - clip) == "the ground is not dark and even"


def test_refuses():
    with pytest.raises(ValueError, match="float32"):
        find_shapes(np.zeros((16, 32, 32, 3), np.float32))
    with pytest.raises(ValueError, match=r"\(32, 32, 3\)"):
        shows_shapes(np.zeros((32, 32, 3), np.uint8))
