"""Videos of a game, from a fake engine: what is stored, disjoint seeds, reproducible bytes."""

import json
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from pvdm_jax import cli
from pvdm_jax.config import AutoencoderConfig, ConfigError, DataConfig
from pvdm_jax.data.dataset_identity import dataset_identity
from pvdm_jax.data.prepare import vizdoom
from pvdm_jax.data.prepare.options import GameOptions
from pvdm_jax.data.prepare.walker import ACTIONS, Walker
from pvdm_jax.data.sources import open_source
from pvdm_jax.video.errors import VideoError

CLIP = AutoencoderConfig(frames=4, height=16, width=16, patch_size=4)


class State:
    def __init__(self, screen, depth, variables):
        self.screen_buffer, self.depth_buffer, self.game_variables = screen, depth, variables


class FakeGame:
    """A player in a square room of 400 units, who sees the distance to the wall ahead as grey and as depth."""

    SIDE = 400.0
    ends_after = 10**6  # tics

    def __init__(self, resolution=(120, 160)):
        self.resolution, self.seeds, self.tics = resolution, [], 0

    def set_seed(self, seed):
        assert 0 <= seed < 2**31
        self.seeds.append(seed)

    def new_episode(self):
        rng = np.random.default_rng(self.seeds[-1])
        self.position, self.angle = rng.uniform(100.0, 300.0, 2), rng.uniform(0, 360)
        self.speed, self.tics = 0.0, 0

    def make_action(self, action, tics):
        for _ in range(tics):
            self.angle += action[0]
            ahead = np.array([np.cos(np.radians(self.angle)), np.sin(np.radians(self.angle))])
            self.speed = 0.9 * self.speed + 0.05 * action[1]
            self.position = np.clip(self.position + self.speed * ahead, 16.0, self.SIDE - 16.0)
            self.tics += 1

    def get_state(self):
        if self.tics > self.ends_after:
            return None
        rows, columns = self.resolution
        angles = np.radians(self.angle + np.linspace(-45, 45, columns))
        with np.errstate(divide="ignore"):
            steps = [
                np.where(d > 0, (self.SIDE - p) / d, -p / d)
                for p, d in zip(self.position, (np.cos(angles), np.sin(angles)), strict=True)
            ]
        depth = np.broadcast_to(np.minimum(np.min(steps, axis=0) / 7.3, 255.0), (rows, columns)).astype(np.uint8)
        return State(np.repeat(depth[..., None], 3, axis=-1), depth, self.position)


@pytest.fixture
def games(monkeypatch):
    """The fake games that were opened, in place of ViZDoom."""
    opened = []

    def open_game(scenario, resolution, hud):
        opened.append(FakeGame(resolution))
        return opened[-1]

    monkeypatch.setattr(vizdoom, "open_game", open_game)
    monkeypatch.setattr(vizdoom, "engine_version", lambda: "fake")
    vizdoom._game.cache_clear()
    yield opened
    vizdoom._game.cache_clear()


def prepare(output, *more):
    argv = ["prepare", "--source=vizdoom:my_way_home,deathmatch", f"--output={output}", "--num-videos=5", "--workers=1"]
    return cli.main([*argv, "--frames=20", "--height=16", "--width=24", *more])


def test_a_dataset_with_classes_splits_and_actions(games, tmp_path, capsys):
    assert prepare(tmp_path / "a", "--held-out-videos=2") == 0
    out = capsys.readouterr().out
    assert "9 videos, 180 frames" in out and "splits: train (5), test (2), holdout (2)" in out
    data = DataConfig(source="tfds", path=str(tmp_path / "a"), eval_split="holdout")
    assert f"fingerprint {dataset_identity(data)}\n" in out
    source = open_source(data, CLIP, "train", 0)
    assert len(source) == 5 and source.class_names == ("deathmatch", "my_way_home")
    assert [source[i].label for i in range(5)] == [0, 0, 0, 1, 1]
    assert source[0].read(0, 4).shape == (4, 16, 16, 3)
    assert len(open_source(data, CLIP, "holdout", 0)) == 2

    records = tfds.builder_from_directory(tmp_path / "a").as_data_source("train")
    first, second = records[0], records[1]  # 16 frames and 4
    assert first["actions"].shape == (16, len(ACTIONS)) and second["actions"].shape == (4, len(ACTIONS))
    name = json.loads((tmp_path / "a" / "metadata.json").read_text())["videos"]["train"][0]["name"]
    assert name == "deathmatch/train_0_000000"
    _, actions = vizdoom.render("deathmatch", "train", 0, GameOptions(frames=20, height=16, width=24))
    assert np.array_equal(np.concatenate([first["actions"], second["actions"]]), actions)


def test_the_same_seed_gives_the_same_bytes(games, tmp_path):
    def identity(name, *more):
        assert prepare(tmp_path / name, "--held-out-videos=2", *more) == 0
        return dataset_identity(DataConfig(source="tfds", path=str(tmp_path / name)))

    first = identity("a")
    vizdoom._game.cache_clear()
    assert identity("b", "--seed=0") == first
    assert identity("c", "--seed=1") != first


def test_no_seed_of_one_split_is_one_of_another(games):
    found = {
        split: {vizdoom.engine_seed(split, "deathmatch", seed, i) for seed in range(3) for i in range(2000)}
        for split in ("train", "test", "holdout")
    }
    ranges = {split: {value >> vizdoom.SEED_BITS for value in values} for split, values in found.items()}
    assert ranges == {"train": {0}, "test": {1}, "holdout": {2}}
    assert all(len(seeds) > 5990 for seeds in found.values())


def test_an_episode_that_ends_early_is_replaced(games, monkeypatch):
    options = GameOptions(frames=8, height=16, width=16)
    start = FakeGame.new_episode
    lives = [30, 10**6]  # tics

    def new_episode(self):
        start(self)
        self.ends_after = lives.pop(0) if lives else 3

    monkeypatch.setattr(FakeGame, "new_episode", new_episode)
    frames, _ = vizdoom.render("deathmatch", "train", 0, options)
    assert frames.shape == (8, 16, 16, 3) and len(games[0].seeds) == 2
    with pytest.raises(VideoError, match="lived for less than 8 frames in each of 8 episodes"):
        vizdoom.render("deathmatch", "train", 1, options)


def test_the_walker_is_smooth_and_does_not_stay_at_walls():
    game_, walks = FakeGame((40, 64)), []
    for seed in range(4):
        game_.set_seed(seed)
        game_.new_episode()
        walker, path, actions = Walker(np.random.default_rng(seed)), [], []
        for _ in range(200):
            state = game_.get_state()
            path.append(np.array(state.game_variables))
            actions.append(walker.act(state.depth_buffer / 255.0, tuple(path[-1])))
            game_.make_action(actions[-1], 2)
        walks.append((np.array(path), np.array(actions)))
    for path, actions in walks:
        moved = np.abs(np.diff(path, axis=0)).sum(1)
        assert (moved > 1.0).mean() > 0.5  # it walks most of the time,
        assert path.std(0).min() > 20.0  # to everywhere,
        assert np.abs(np.diff(actions[:, 0])).max() < 2.5  # without jerks
        assert np.abs(np.diff(actions[:, 1])).max() < 10.0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--source=vizdoom:doom"], "--source is 'vizdoom:doom'; choose from deathmatch, "),
        (["--source=vizdoom:all", "--storage=video"], "--storage is 'video'"),
        (["--source=vizdoom:all", "--fps=5"], "--fps is 5.0; a game has its own frame rate"),
        (["--source=videos", "--num-videos=5"], "--num-videos is 5; it needs --source=vizdoom:SCENARIO"),
    ],
)
def test_wrong_uses(games, capsys, tmp_path, argv, message):
    assert cli.main(["prepare", f"--output={tmp_path / 'out'}", *argv]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_engine_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(ConfigError, match=r"pip install 'pvdm_jax\[doom\]'"):
        vizdoom.engine_version()


def test_the_real_engine():
    """A video is the same whether or not the engine has rendered others before."""
    pytest.importorskip("vizdoom", reason="ViZDoom is not installed (pvdm_jax[doom])")
    options = GameOptions(frames=6, height=32, width=32)
    vizdoom._game.cache_clear()
    frames, actions = vizdoom.render("health_gathering", "test", 7, options)
    assert frames.shape == (6, 32, 32, 3) and actions.shape == (6, 2)
    assert np.abs(np.diff(frames.astype(float), axis=0)).mean() > 0.5  # something moves
    vizdoom.render("health_gathering", "test", 8, options)
    again, _ = vizdoom.render("health_gathering", "test", 7, options)
    assert np.array_equal(again, frames)
    vizdoom._game.cache_clear()
