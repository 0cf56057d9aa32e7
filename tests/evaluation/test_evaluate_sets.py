"""Two sets of videos from start to card, and which cards can be compared."""

import copy
import dataclasses
import json

import jax
import numpy as np
import pytest
from read_frames import read_video
from tiny_protocol import TINY

from pvdm_jax.config import ConfigError
from pvdm_jax.evaluation.card import compare, differences, read_card, to_markdown, write_card
from pvdm_jax.evaluation.evaluate_sets import evaluate_sets
from pvdm_jax.evaluation.feature_spaces import EvaluationPaths
from pvdm_jax.evaluation.frechet import frechet_distance
from pvdm_jax.evaluation.scattering import video_features
from pvdm_jax.video.write import write_video


@pytest.fixture(scope="module")
def folders(real_clips, soften, tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for i, clip in enumerate(real_clips(12, 32)):
        write_video(root / "real" / f"{i:02d}.mp4", clip)
    for i, clip in enumerate(soften(real_clips(12, 32, "holdout"), noise=20)):
        write_video(root / "fake" / f"{i:02d}.mp4", clip)
    return root


@pytest.fixture(scope="module")
def card(folders, tmp_path_factory):
    return evaluate_sets(folders / "real", folders / "fake", TINY, EvaluationPaths(tmp_path_factory.mktemp("cache")), 5)


def test_two_folders(folders, card):
    sets = [np.stack([read_video(path) for path in sorted((folders / name).iterdir())]) for name in ("real", "fake")]
    for frames in (8, 16):
        found = card["results"][f"frechet_scattering_{frames}"]
        if frames == 16:  # of shorter clips, the real windows are random
            expected = frechet_distance(*(video_features(videos) for videos in sets))
            assert found["value"] == pytest.approx(expected, rel=1e-3)
        assert found["low"] <= found["value"] <= found["high"] and found["samples"] == [12, 12]
        assert [count for count, _ in found["by_count"]] == [2, 3, 6, 12][-len(found["by_count"]) :]
    assert card["not_measured"].keys() == {"reconstruction", "seams"}
    protocol = card["protocol"]
    assert (protocol["height"], protocol["width"], protocol["split"], protocol["steps"]) == (32, 32, "all", -1)
    assert card["networks"]["frechet_scattering"]["network"] == "scattering"
    assert card["passes"]["real 16, scattering"]["clips"] == 12 and card["software"]["jax"] == jax.__version__
    assert card["generated"]["frames_16"]["clips"] == 12


def test_every_distance_stands_beside_that_of_other_real_clips(folders, tmp_path):
    """The distances of two sets of real clips, and of long videos clip by clip, in a folder of 12 videos."""
    measures = ("fvd", "kernel", "drift", "borders")
    protocol = dataclasses.replace(TINY, measures=measures, samples=6, real_samples=6, long_samples=4, frames=(8,))
    protocol = dataclasses.replace(protocol, long_clips=2, clip_frames=8)
    paths = EvaluationPaths(tmp_path)
    card = evaluate_sets(folders / "real", folders / "fake", protocol, paths)
    results = card["results"]
    for name in ("frechet_scattering_8", "kernel_scattering_8"):
        assert results[name]["low"] > results[f"real_{name}"]["high"], name  # the noise is seen
    assert card["real"]["others_8"]["windows_of_shared_videos"] == 0
    expected = {f"frechet_scattering_8_{name}" for name in ("clip_1", "clip_2", "slope", "astride", "border_excess")}
    assert expected | {f"real_{name}" for name in expected} <= results.keys()
    page = to_markdown(card)
    assert "kernel distance in scattering features, 8 frames | " in page
    assert "Frechet distance in scattering features, 8 frames (not FVD), change per clip of long videos | " in page
    unknown = dataclasses.replace(protocol, clip_frames=0)
    reason = evaluate_sets(folders / "real", folders / "fake", unknown, paths)["not_measured"]["drift"]
    assert "--set clip_frames=16" in reason


def test_order_and_batches_change_nothing(folders, card, tmp_path):
    for i, path in enumerate(sorted((folders / "fake").iterdir(), reverse=True)):
        (tmp_path / "renamed").mkdir(exist_ok=True)
        (tmp_path / "renamed" / f"{i}.mp4").write_bytes(path.read_bytes())
    again = evaluate_sets(folders / "real", tmp_path / "renamed", TINY, EvaluationPaths(tmp_path / "cache"), 7)
    for name, entry in card["results"].items():
        assert again["results"][name]["value"] == pytest.approx(entry["value"], rel=1e-4)
    assert differences(card, again) == []


def test_cards_are_written_and_read(card, tmp_path):
    write_card(tmp_path, card)
    assert read_card(tmp_path) == read_card(tmp_path / "card.json") == json.loads(json.dumps(card))
    page = (tmp_path / "card.md").read_text()
    assert page == to_markdown(card)
    for text in ("not FVD", "| protocol.samples | 12 |", "networks.frechet_scattering.network", "it needs a model"):
        assert text in page
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ConfigError, match="other.json is not a card"):
        read_card(tmp_path / "other.json")
    with pytest.raises(FileNotFoundError):
        read_card(tmp_path / "missing.json")


def test_cards_with_other_protocols_are_refused(card):
    other = copy.deepcopy(card)
    other["protocol"]["steps"] = 50
    other["networks"]["frechet_scattering"]["sha256"] = "f" * 64
    other["real"]["frames_16"]["windows"] = "0" * 64
    other["generated"]["frames_16"]["clips"] = 11
    # What may differ: which videos were judged, and names.
    other["generated"]["frames_16"]["sha256"] = "1" * 64
    other["protocol"]["name"], other["of"]["generated"] = "mine", "others"
    with pytest.raises(ConfigError) as refusal:
        compare(card, other)
    start, differences = str(refusal.value).split(" differ in ")
    assert start == "these cards can't be compared; they"
    found = differences.split("; ")
    assert len(found) == 4 and "protocol.steps: -1 and 50" in found
    assert "networks.frechet_scattering.sha256: absent and ffffffffffff..." in found
    assert any(item.startswith("real.frames_16.windows: ") for item in found)
    assert "generated.frames_16.clips: 12 and 11" in found


def test_comparable_cards(card):
    better = copy.deepcopy(card)
    entry = better["results"]["frechet_scattering_16"]
    entry.update(value=entry["value"] / 100, low=entry["low"] / 1000 - 1, high=entry["low"] / 100)
    table = compare(card, better, ("one.json", "two.json"))
    (line,) = (line for line in table.splitlines() if "16 frames" in line)
    assert line.endswith("two.json is better")
    assert "the intervals overlap" in compare(card, card)
