"""What `pvdm prepare` stores of each video."""

import dataclasses

from pvdm_jax.config import require
from pvdm_jax.data.clips import METHODS

STORAGES = ("video", "jpeg", "frames")
MAX_SIDE = 2**14  # pixels; the largest that video decoders support


@dataclasses.dataclass(frozen=True)
class GameOptions:
    """What videos of a game look like, see `vizdoom.render`."""

    frames: int = 128  # of each video
    height: int = 64
    width: int = 64
    seed: int = 0
    hud: bool = False  # show the status bar and the weapon

    def __post_init__(self):
        _check_sides(self)


def _check_sides(options: "GameOptions | PrepareOptions") -> None:
    for name in ("height", "width"):
        require(getattr(options, name) <= MAX_SIDE, name, getattr(options, name), f"it can't be larger than {MAX_SIDE}")


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
    """Everything that decides the contents of a dataset, apart from its videos."""

    min_frames: int = 16  # shorter videos are skipped
    storage: str = "video"  # video: unchanged; jpeg: as pictures; frames: as plain uint8 frames
    height: int = 0  # of the frames that jpeg and frames store; 0: the video's own size
    width: int = 0
    resize: str = "antialias"  # a method of `clips.resize`
    quality: int = 95  # of jpeg
    fps: float = 0.0  # the frame rate of folders of frames and of arrays, which don't state it; 0: not known
    game: GameOptions | None = None  # for videos that a game engine renders

    def __post_init__(self):
        require(self.storage in STORAGES, "storage", self.storage, f"choose one of {', '.join(STORAGES)}")
        for name in ("height", "width", "fps"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "it can't be negative")
        _check_sides(self)
        require((self.height > 0) == (self.width > 0), "height", self.height, "give both height and width, or none")
        allowed = "storage=video keeps videos as they are; with jpeg and frames they can be resized"
        require(self.storage != "video" or not self.height, "height", self.height, allowed)
        require(1 <= self.quality <= 100, "quality", self.quality, "choose from 1 to 100")
        require(self.resize in METHODS, "resize", self.resize, f"choose one of {', '.join(METHODS)}")
