"""Videos rendered by ViZDoom: a game engine with free assets, headless and in software, deterministic by its seed.

Needs the extra `pvdm_jax[doom]`. A video shows a walk of `walker.Walker` through one of SCENARIOS. It is a function of
(scenario, split, seed, number) and of the engine's version alone: every video is an episode of its own.
"""

import contextlib
import functools
import hashlib
import os
import tempfile
import weakref
from typing import Any

import numpy as np

from pvdm_jax.config import ConfigError
from pvdm_jax.data.clips import center_crop_resize
from pvdm_jax.data.folders import DATASET_SPLITS
from pvdm_jax.data.prepare.options import GameOptions
from pvdm_jax.data.prepare.walker import ACTIONS, Walker
from pvdm_jax.video.errors import VideoError

# Scenarios of the package, which differ in walls, floors and light; the class of a video is its scenario.
SCENARIOS = (
    "deathmatch",
    "health_gathering",
    "health_gathering_supreme",
    "my_way_home",
    "rocket_basic",
    "take_cover",
)
TICS = 2  # engine tics per frame; the engine has 35 a second
FPS = 35.0 / TICS
RESOLUTIONS = ((120, 160), (240, 320), (480, 640), (600, 800), (960, 1280))  # of the engine: height and width
WARM_UP = (10, 50)  # frames before the first one kept: all episodes of some scenarios begin at the same place
ATTEMPTS = 8  # episodes that may end too early before the video is given up
SEED_BITS = 29  # bits of the engine's seed below the two that hold the split


def engine_version() -> str:
    """The version of ViZDoom. Raises ConfigError if it is not installed."""
    return _import_vizdoom().__version__


def engine_seed(split: str, scenario: str, seed: int, number: int, attempt: int = 0) -> int:
    """The engine's seed for an episode: below 2**31.

    Its two highest bits are the split, so no two splits share a seed, whatever `seed` and `number`.
    """
    text = f"{scenario} {seed} {number} {attempt}".encode()
    value = int.from_bytes(hashlib.sha256(text).digest()[:8], "little") % 2**SEED_BITS
    return (DATASET_SPLITS.index(split) << SEED_BITS) | value


def render(scenario: str, split: str, number: int, options: GameOptions) -> tuple[np.ndarray, np.ndarray]:
    """A video and its actions: uint8 (frames, height, width, 3) and float32 (frames, len(ACTIONS)).

    Row i of the actions is what the player did from frame i on until frame i + 1. Raises VideoError if the player does
    not live long enough in any of ATTEMPTS episodes, ConfigError if ViZDoom is not installed.
    """
    game = _game(scenario, _resolution(options.height, options.width), options.hud)
    for attempt in range(ATTEMPTS):
        found = _episode(game, engine_seed(split, scenario, options.seed, number, attempt), options)
        if found is not None:
            return found
    raise VideoError(f"the player lived for less than {options.frames} frames in each of {ATTEMPTS} episodes")


def _episode(game: Any, seed: int, options: GameOptions) -> tuple[np.ndarray, np.ndarray] | None:
    """The frames and actions of an episode; None if it ends too early."""
    rng = np.random.default_rng(seed)
    game.set_seed(seed)
    game.new_episode()
    walker = Walker(rng)
    # Turn to a random direction first: some scenarios always begin with the same one.
    game.make_action([float(rng.uniform(-180.0, 180.0)), 0.0], 1)
    warm_up = int(rng.integers(*WARM_UP))
    frames = []
    actions = []
    for _ in range(warm_up + options.frames):
        state = game.get_state()
        if state is None:  # the episode is over
            return None
        frames.append(np.array(state.screen_buffer))
        depth = np.asarray(state.depth_buffer, np.float32) / 255.0
        actions.append(walker.act(depth, (float(state.game_variables[0]), float(state.game_variables[1]))))
        game.make_action(list(actions[-1]), TICS)
    kept = np.stack(frames[warm_up:])
    return center_crop_resize(kept, options.height, options.width, "antialias"), np.array(actions[warm_up:], np.float32)


def _resolution(height: int, width: int) -> tuple[int, int]:
    """The smallest of RESOLUTIONS whose centred window of the shape is at least as large as the frames."""
    for rows, columns in RESOLUTIONS:
        if min(rows / height, columns / width) >= 1.0:
            return rows, columns
    return RESOLUTIONS[-1]


@functools.lru_cache(maxsize=1)  # a shard's videos are mostly of one scenario; a game dropped from the cache is closed
def _game(scenario: str, resolution: tuple[int, int], hud: bool) -> Any:
    return open_game(scenario, resolution, hud)


def open_game(scenario: str, resolution: tuple[int, int], hud: bool) -> Any:
    """A started game. Its buttons are ACTIONS, its variables the player's x and y."""
    vizdoom = _import_vizdoom()
    game = vizdoom.DoomGame()
    game.set_doom_game_path(os.path.join(os.path.dirname(vizdoom.__file__), "freedoom2.wad"))
    game.set_doom_scenario_path(os.path.join(vizdoom.scenarios_path, f"{scenario}.wad"))
    game.set_doom_map("map01")
    game.set_doom_config_path(os.devnull)  # so that it stores no settings
    game.set_screen_resolution(getattr(vizdoom.ScreenResolution, f"RES_{resolution[1]}X{resolution[0]}"))
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_depth_buffer_enabled(True)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_render_hud(hud)
    game.set_render_weapon(hud)
    for turn_off in ("crosshair", "decals", "particles", "messages", "screen_flashes"):
        getattr(game, f"set_render_{turn_off}")(False)
    buttons = vizdoom.Button
    game.set_available_buttons([buttons.TURN_LEFT_RIGHT_DELTA, buttons.MOVE_FORWARD_BACKWARD_DELTA])
    assert game.get_available_buttons_size() == len(ACTIONS)
    game.set_available_game_variables([vizdoom.GameVariable.POSITION_X, vizdoom.GameVariable.POSITION_Y])
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_episode_timeout(0)
    game.set_doom_skill(1)
    game.add_game_args("-nomonsters")
    # The engine keeps files in its current folder, for as long as it runs.
    folder = tempfile.TemporaryDirectory(prefix="pvdm_vizdoom_", ignore_cleanup_errors=True)
    with contextlib.chdir(folder.name):
        game.init()
    weakref.finalize(game, folder.cleanup)
    return game


def _import_vizdoom() -> Any:
    try:
        import vizdoom
    except ImportError as error:
        raise ConfigError("--source=vizdoom:... needs ViZDoom: pip install 'pvdm_jax[doom]'") from error
    return vizdoom
