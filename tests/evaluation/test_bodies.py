"""The bodies of a clip: found where the source drew them, of the right kind and size, and what a clip has lost."""

import numpy as np
import pytest

from pvdm_jax.data.synthetic import SyntheticVideos
from pvdm_jax.evaluation.bodies import find_bodies, kept, position_errors, true_bodies

COUNT, SIZE = 16, 32


@pytest.fixture(scope="module")
def source():
    return SyntheticVideos(COUNT, 16, SIZE, SIZE, seed=0)


def measure(source, spoil=lambda clip: clip):
    rates, errors = [], []
    for i in range(COUNT):
        found, truth = find_bodies(spoil(source[i].read(0, 16))), true_bodies(source.truth(i))
        rates.append(list(kept(found, truth).values()))
        errors.append(position_errors(found, truth, (SIZE, SIZE)).mean())
    return (*np.mean(rates, axis=0), np.mean(errors))


def test_real_clips(source):
    colours, kinds, sizes, error = measure(source)
    assert colours == 1 and kinds > 0.93 and sizes > 0.85  # over 100 clips: 1, 0.98, 0.91
    assert error < 0.5  # 0.3 to 0.36


def test_soft_and_noisy_clips(source, soften):
    colours, kinds, sizes, error = measure(source, lambda clip: soften(clip[None], blur=0.7, noise=6)[0])
    assert colours == 1 and kinds > 0.93 and sizes > 0.85 and error < 0.5  # over 100 clips: 1, 0.98, 0.91, 0.33


def test_another_kind_or_size_shows(source):
    clip, truth = source[0].read(0, 16), true_bodies(source.truth(0))
    found = find_bodies(clip)
    assert kept(found, truth) == {"colours": 1, "kinds": 1, "sizes": 1}
    larger = SyntheticVideos(COUNT, 16, 2 * SIZE, 2 * SIZE, seed=0)[0].read(0, 16)
    assert kept(find_bodies(larger), truth)["sizes"] == 0
    others = {colour: next(b for c, b in found.items() if c != colour) for colour in found}
    assert kept(others, truth)["kinds"] < 1  # no two bodies of this video are of one kind


def test_a_lost_body_counts(source):
    truth = true_bodies(source.truth(0))
    found = find_bodies(source[0].read(0, 16))
    lost = dict(list(found.items())[1:])
    assert kept(lost, truth)["colours"] == 0
    assert kept(lost, truth)["kinds"] == pytest.approx(1 - 1 / len(truth))
    # The missing body is taken to be in the middle of the picture.
    (colour,) = truth.keys() - lost.keys()
    expected = np.linalg.norm(truth[colour].centre - (SIZE - 1) / 2, axis=-1) / len(truth)
    errors = position_errors(lost, {colour: truth[colour]}, (SIZE, SIZE))
    np.testing.assert_allclose(errors, expected * len(truth))
    assert find_bodies(np.full((16, SIZE, SIZE, 3), 20, np.uint8)) == {}
