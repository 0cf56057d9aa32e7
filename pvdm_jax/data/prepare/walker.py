"""A scripted agent that walks through a game's world: it wanders smoothly and turns away from walls.

It sees only the depth of the picture's middle rows, and its random numbers come from one seed, so a walk is a function
of the seed and of the world.
"""

import numpy as np

ACTIONS = ("turn", "forward")  # degrees to the right for each tic, and the forward thrust (50 is running)
FULL_SPEED = (14.0, 26.0)  # thrust; each walk has its own, uniform in this range
MAX_TURN = 3.0  # degrees per tic while wandering
AVOIDING_TURN = 3.5  # degrees per tic in front of a wall
WANDER_FRAMES = 12.0  # over which a wandering turn persists
# The engine's depth grows by 1 / 255 for each 7.3 map units; the player is 32 units wide.
NEAR = 4 / 255  # depth at which the agent stands still
FREE = 22 / 255  # depth beyond which nothing is in the way
# The fraction of the way to the wanted value that each frame covers, which makes walks smooth.
TURN_GAIN = 0.3
SPEED_GAIN = 0.25
# After STUCK_FRAMES in which it wanted to walk and moved less than STUCK_DISTANCE map units, the agent turns for
# ESCAPE_FRAMES, whatever it sees.
STUCK_FRAMES = 4
STUCK_DISTANCE = 0.5
ESCAPE_FRAMES = 10


class Walker:
    """One walk. `act` is called once for each frame."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self._full_speed = rng.uniform(*FULL_SPEED)
        self._wander = rng.normal()
        self._turn = 0.0
        self._speed = 0.5 * self._full_speed
        self._side = 0.0  # to which it turns away from a wall: -1, 1, or 0 for no wall
        self._position: tuple[float, float] | None = None
        self._still = 0
        self._escape = 0

    def act(self, depth: np.ndarray, position: tuple[float, float]) -> tuple[float, float]:
        """The action (turn, forward) for the next frame.

        depth: (height, width) in [0, 1], 1 being the farthest. position: of the agent, in map units.
        """
        left, middle, right = _free_space(depth)
        self._still = self._still + 1 if self._is_stuck(position) else 0
        self._position = position
        if self._still >= STUCK_FRAMES:
            self._still = 0
            self._escape = ESCAPE_FRAMES

        keep = np.exp(-1.0 / WANDER_FRAMES)
        self._wander = keep * self._wander + np.sqrt(1.0 - keep**2) * self._rng.normal()
        turn = 0.6 * MAX_TURN * float(np.clip(self._wander, -2.0, 2.0))
        blocked = float(np.clip((FREE - middle) / (FREE - NEAR), 0.0, 1.0))
        if self._escape:
            self._escape -= 1
            blocked = 1.0
        if blocked > 0.0:
            # The side is chosen once for each wall; otherwise the agent would jitter in a corner.
            self._side = self._side or (1.0 if right >= left else -1.0)
            turn = (1.0 - blocked) * turn + blocked * self._side * AVOIDING_TURN
        else:
            self._side = 0.0
            turn += MAX_TURN * float(np.clip((right - left) / FREE, -0.5, 0.5))  # towards the open side
        speed = self._full_speed * (1.0 - blocked)
        self._turn += TURN_GAIN * (turn - self._turn)
        self._speed += SPEED_GAIN * (speed - self._speed)
        return round(self._turn, 3), round(self._speed, 3)

    def _is_stuck(self, position: tuple[float, float]) -> bool:
        if self._position is None or self._speed < 0.25 * self._full_speed:
            return False
        return abs(position[0] - self._position[0]) + abs(position[1] - self._position[1]) < STUCK_DISTANCE


def _free_space(depth: np.ndarray) -> tuple[float, float, float]:
    """How far the left, middle and right parts of the view are free: the depth that most of each part exceeds."""
    height, width = depth.shape
    band = depth[int(0.45 * height) : int(0.6 * height)].min(axis=0)
    parts = band[: width * 3 // 8], band[width * 3 // 8 : width * 5 // 8], band[width * 5 // 8 :]
    return tuple(float(np.percentile(part, 15)) for part in parts)
