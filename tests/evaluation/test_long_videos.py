"""Drift, borders and cuts of long videos, with a feature space and a detector that are easy to follow."""

import dataclasses

import numpy as np
import pytest

from pvdm_jax.config import MeshConfig
from pvdm_jax.config.evaluation import ProtocolConfig
from pvdm_jax.evaluation.clip_sets import choose_windows
from pvdm_jax.evaluation.feature_spaces import FeatureSpace
from pvdm_jax.evaluation.frechet import frechet_distance
from pvdm_jax.evaluation.long_videos import LongVideos
from pvdm_jax.evaluation.results import EvaluationResults
from pvdm_jax.runtime import sharding

PROTOCOL = ProtocolConfig(measures=("drift", "borders", "cuts"), long_clips=4, bootstrap=10)
CLIP = 4


class Videos:
    def __init__(self, videos, name):
        self.videos, self.facts = videos, {"videos": name}

    def __len__(self):
        return len(self.videos)

    def batch(self, start, stop):
        return self.videos[start:stop]


def make_videos(rng: np.random.Generator, drift: int, jump: int) -> np.ndarray:
    """Grey videos of four clips, brighter by `drift` from clip to clip, the last frame of each by `jump`."""
    level = rng.integers(20, 60, (16, 1)) + drift * (np.arange(16) // CLIP) + rng.integers(0, 4, (16, 16))
    level += jump * (np.arange(16) % CLIP == CLIP - 1)
    return np.broadcast_to(level[..., None, None, None], (16, 16, 2, 2, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    rng = np.random.default_rng(0)
    generated, real = make_videos(rng, 10, 40), make_videos(rng, 0, 0)
    mesh = sharding.make_mesh(MeshConfig())
    options = {"min_frames": 1, "min_side": 1}
    space = FeatureSpace({"network": "i3d"}, lambda _, x: x[..., 0, 0, 0].astype(np.float32), {}, mesh, **options)
    detector = FeatureSpace({"network": "mine"}, lambda _, x: x[..., 0, 0, 0] / np.float32(256), {}, mesh, **options)
    results = EvaluationResults(PROTOCOL, [space], tmp_path_factory.mktemp("cache"), 8)
    long = LongVideos(results, PROTOCOL, [space], detector=detector, clip_frames=CLIP, batch_size=8)
    assert long.frames == 16
    clips = {"i3d": make_videos(rng, 0, 0)[:, :CLIP, 0, 0, 0].astype(np.float32)}
    long.measure(Videos(generated, "generated"), Videos(real, "real"), clips)
    return results.card({}), generated[..., 0, 0, 0].astype(np.float64), real[..., 0, 0, 0].astype(np.float64), clips


def test_distances_of_clips_and_their_slope(card):
    card, generated, real, clips = card
    results = card["results"]
    for videos, prefix in ((generated, ""), (real, "real_")):
        expected = [frechet_distance(clips["i3d"], videos[:, (k - 1) * CLIP : k * CLIP]) for k in (1, 2, 4)]
        found = [results[f"{prefix}fvd_4_clip_{k}"]["value"] for k in (1, 2, 4)]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        slope = np.polyfit([1, 2, 4], expected, 1)[0]
        assert results[f"{prefix}fvd_4_slope"]["value"] == pytest.approx(slope, rel=1e-6)
    assert results["fvd_4_slope"]["low"] > max(0, results["real_fvd_4_slope"]["high"])
    assert results["fvd_4_clip_4"]["samples"] == [16, 16]


def test_windows_astride_the_border(card):
    card, generated, _, clips = card
    results = card["results"]
    astride = frechet_distance(clips["i3d"], generated[:, 2 * CLIP - 2 : 2 * CLIP + 2])
    assert results["fvd_4_astride"]["value"] == pytest.approx(astride, rel=1e-6)
    excess = astride - results["fvd_4_clip_2"]["value"]
    assert results["fvd_4_border_excess"]["value"] == pytest.approx(excess, rel=1e-6)


def test_cuts_at_borders_inside_and_in_real_videos(card):
    card, generated, real, _ = card
    results = card["results"]
    borders = np.maximum(generated[:, [3, 7, 11]], generated[:, [4, 8, 12]]).mean() / 256
    assert results["cut_border"]["value"] == pytest.approx(borders, rel=1e-6)
    assert results["cut_border"]["low"] > results["cut_inside"]["high"]
    inside = np.maximum(real[:, [1, 5, 9]], real[:, [2, 6, 10]]).mean() / 256
    assert results["real_cut_inside"]["value"] == pytest.approx(inside, rel=1e-6)
    assert card["networks"]["cuts"] == {"network": "mine"}
    assert card["real"]["long"] == {"videos": "real"} and card["generated"]["long"] == {"videos": "generated"}


def test_only_what_is_named_is_measured(tmp_path):
    protocol = dataclasses.replace(PROTOCOL, measures=("cuts",), long_clips=2)
    results = EvaluationResults(protocol, [], tmp_path, 8)
    long = LongVideos(results, protocol, [None], detector=None, clip_frames=CLIP, batch_size=8)
    long.measure(Videos(np.zeros((3, 8, 2, 2, 3), np.uint8), "generated"), None, {})
    assert results.card({})["results"] == {}


def test_a_second_set_of_real_clips_is_of_other_videos():
    options = {"videos": "first", "clips": "random", "seed": 0}
    first = choose_windows([20] * 8, 5, 4, **options)
    assert {i for i, _ in choose_windows([20] * 8, 5, 4, **options, avoid=first)} == {4, 5, 6, 7}
    # Where all videos are used already, other windows of them are taken.
    few = choose_windows([8] * 2, 5, 6, **options)
    others = choose_windows([8] * 2, 5, 6, **options, avoid=few)
    assert len(few) + len(others) == 8 and not set(few) & set(others)
