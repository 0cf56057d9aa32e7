"""Moving shapes, drawn on the fly: a dataset without files, with known ground truth.

Each video shows two or three shapes of different saturated colours on a plain dark background, and its class is the
kind of motion:

- bounce: shapes move at constant velocity, turn slowly and are reflected at the walls;
- orbit: evenly spaced shapes circle the frame's centre at one constant angular speed;
- spin: squares and triangles turn quickly while they drift slowly.

A video depends only on (seed, index), and any of its frames can be drawn without the others. Lengths are fractions of
the frame's shorter side, so a video looks the same at every resolution. Positions are (row, column) in pixels, with
pixel centres at integers.
"""

import dataclasses

import numpy as np

from pvdm_jax.data.clips import Crop, check_frames

MOTIONS = ("bounce", "orbit", "spin")
PALETTE = np.array([(235, 55, 50), (60, 205, 75), (75, 95, 250)], np.float32)  # red, green, blue
BACKGROUNDS = np.array([(14, 16, 26), (28, 16, 30), (12, 28, 28)], np.float32)
# The farthest point of a shape from its centre, in units of its radius. No shape crosses a wall.
OUTER_RADIUS = {"circle": 1.0, "square": 1.2, "triangle": 1.3}


@dataclasses.dataclass(frozen=True)
class Shape:
    """One shape over `frames` frames, in pixels and radians."""

    kind: str  # circle, square or triangle
    colour: tuple[int, int, int]
    radius: float  # of the circle; squares and triangles reach OUTER_RADIUS times as far
    centre: np.ndarray  # (frames, 2): row, column
    angle: np.ndarray  # (frames,), growing clockwise on the screen, not wrapped


@dataclasses.dataclass(frozen=True)
class SyntheticVideo:
    """One video of `SyntheticVideos`."""

    name: str
    label: int
    frames: int
    height: int
    width: int
    seed: int
    index: int

    def shapes(self, times: np.ndarray) -> list[Shape]:
        """The shapes at the frame numbers `times`, in the order in which they are drawn."""
        rng = np.random.default_rng([self.seed, self.index])
        times = np.asarray(times, np.float64)
        side = min(self.height, self.width)
        count = int(rng.integers(2, 4))
        colours = rng.permutation(len(PALETTE))[:count]
        motion = MOTIONS[self.label]
        # A spinning circle looks still, so the class "spin" has none.
        kinds = rng.permutation(["square", "triangle"] * 2 if motion == "spin" else list(OUTER_RADIUS))[:count]
        radii = rng.uniform(0.14, 0.18, count)
        if motion == "orbit":
            centres, angles = _orbit(rng, times, count)
        else:
            speed, turn = ((0.01, 0.02), (0.02, 0.05)) if motion == "bounce" else ((0.002, 0.005), (0.15, 0.25))
            walls = 0.5 * np.array([self.height, self.width]) / side
            paths = [
                _bounce(rng, times, walls - r * OUTER_RADIUS[k], speed, turn) for k, r in zip(kinds, radii, strict=True)
            ]
            centres, angles = zip(*paths, strict=True)
        middle = (np.array([self.height, self.width]) - 1) / 2
        return [
            Shape(
                str(kind), tuple(int(c) for c in PALETTE[colour]), float(side * radius), middle + side * centre, angle
            )
            for kind, colour, radius, centre, angle in zip(kinds, colours, radii, centres, angles, strict=True)
        ]

    @property
    def background(self) -> np.ndarray:
        """The background colour, float32 (3,), from 0 to 255."""
        return BACKGROUNDS[np.random.default_rng([self.seed, self.index, 2]).integers(len(BACKGROUNDS))]

    def read(self, start: int, count: int, stride: int = 1, crop: Crop | None = None) -> np.ndarray:
        """Frames start, start + stride, ... as uint8 (count, height, width, 3). Raises ValueError beyond the end.

        With `crop`, the shapes are drawn larger and only that window of them is returned.
        """
        check_frames(self.name, self.frames, start, count, stride)
        if crop is not None:
            size = round(self.height / crop.scale), round(self.width / crop.scale)
            top, left = round(crop.row * (size[0] - self.height)), round(crop.column * (size[1] - self.width))
            larger = dataclasses.replace(self, height=size[0], width=size[1]).read(start, count, stride)
            return np.ascontiguousarray(larger[:, top : top + self.height, left : left + self.width])
        video = np.broadcast_to(self.background, (count, self.height, self.width, 3)).copy()
        for shape in self.shapes(start + stride * np.arange(count)):
            _draw(video, shape)
        return np.rint(video).astype(np.uint8)


class SyntheticVideos:
    """`num_videos` videos of moving shapes, from number `first_index` on in the endless sequence of `seed`.

    Each has `frames` frames of (height, width) and a label, an index into `class_names`. Labels are balanced: every
    three videos show each motion once, in random order.
    """

    class_names = MOTIONS

    def __init__(self, num_videos: int, frames: int, height: int, width: int, seed: int, first_index: int = 0):
        self.num_videos = num_videos
        self.frames = frames
        self.height = height
        self.width = width
        self.seed = seed
        self.first_index = first_index

    def __len__(self) -> int:
        return self.num_videos

    def __getitem__(self, i: int) -> SyntheticVideo:
        if not 0 <= i < self.num_videos:
            raise IndexError(f"there is no video {i}; the source has {self.num_videos}")
        index = self.first_index + i
        group, member = divmod(index, len(MOTIONS))
        label = int(np.random.default_rng([self.seed, group, 1]).permutation(len(MOTIONS))[member])
        name = f"{MOTIONS[label]}_{index:06d}"
        return SyntheticVideo(name, label, self.frames, self.height, self.width, self.seed, index)

    def truth(self, i: int) -> list[Shape]:
        """The two or three shapes of video `i` in all of its frames, in the order in which they are drawn."""
        video = self[i]
        return video.shapes(np.arange(video.frames))


def _orbit(rng: np.random.Generator, times: np.ndarray, count: int) -> tuple[list, list]:
    """Centres and angles of evenly spaced shapes that circle the centre, each with the same side towards it."""
    distance = rng.uniform(0.24, 0.27)
    speed = rng.choice([-1, 1]) * rng.uniform(0.05, 0.09)
    first = rng.uniform(0, 2 * np.pi)
    angles = [first + 2 * np.pi * k / count + speed * times for k in range(count)]
    return [distance * np.stack([np.sin(angle), np.cos(angle)], axis=-1) for angle in angles], angles


def _bounce(rng: np.random.Generator, times: np.ndarray, room: np.ndarray, speed: tuple, turn: tuple) -> tuple:
    """Centre and angle of a shape that moves at constant speed within -room..room and is reflected at the ends."""
    heading = rng.uniform(0, 2 * np.pi)
    velocity = rng.uniform(*speed) * np.array([np.sin(heading), np.cos(heading)])
    straight = rng.uniform(-room, room) + velocity * times[:, None]
    centre = room - np.abs((straight + room) % (4 * room) - 2 * room)
    angle = rng.uniform(0, 2 * np.pi) + rng.choice([-1, 1]) * rng.uniform(*turn) * times
    return centre, angle


def _draw(video: np.ndarray, shape: Shape) -> None:
    """Draws a shape in place over float32 `video` (frames, height, width, 3), with edges that are one pixel soft."""
    reach = int(np.ceil(shape.radius * OUTER_RADIUS[shape.kind])) + 1
    rows, columns = video.shape[1:3]
    for frame, (row, column), angle in zip(video, shape.centre, shape.angle, strict=True):
        # Only the square around the shape is drawn: this is three times as fast as whole frames.
        top, left = max(0, int(row) - reach), max(0, int(column) - reach)
        bottom, right = min(rows, int(row) + reach + 2), min(columns, int(column) + reach + 2)
        y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(row)
        x = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(column)
        cover = np.clip(np.float32(0.5) - signed_distance(shape.kind, shape.radius, y, x, angle), 0, 1)[..., None]
        patch = frame[top:bottom, left:right]
        patch += cover * (np.array(shape.colour, np.float32) - patch)


def signed_distance(kind: str, radius: float, y: np.ndarray, x: np.ndarray, angle: float) -> np.ndarray:
    """Distance in pixels to the shape's edge, negative inside; for polygons, to the line through the nearest side."""
    if kind == "circle":
        return np.sqrt(y * y + x * x) - np.float32(radius)
    sides = 4 if kind == "square" else 3
    inner = radius * OUTER_RADIUS[kind] * np.cos(np.pi / sides)
    normals = angle + 2 * np.pi * (np.arange(sides, dtype=np.float64) + 0.5) / sides
    lines = [np.float32(np.sin(n)) * y + np.float32(np.cos(n)) * x for n in normals]
    return np.maximum.reduce(lines) - np.float32(inner)
