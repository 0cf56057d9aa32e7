"""The trained models that come with the package: model folders below `pvdm_jax/pretrained`, known by their names.

`--model=NAME` and `pvdm_jax.load("NAME")` find them here. A path that exists comes before a name.
"""

import dataclasses
import pathlib
from typing import Any

from pvdm_jax.storage import buckets
from pvdm_jax.storage.json_files import read_json
from pvdm_jax.weights.model_card import read_card
from pvdm_jax.weights.model_folder import CONFIG_FILE, is_model_folder

FOLDER = pathlib.Path(__file__).parents[1] / "pretrained"
# The settings of a model folder that the list shows.
_SHOWN = {
    "autoencoder": {"frames": int, "height": int, "width": int},
    "class_names": [str],
    "files": {str: {"bytes": int, "parameters": int}},
}


@dataclasses.dataclass(frozen=True)
class PackagedModel:
    """A packaged model, as `pvdm models` shows it."""

    name: str
    summary: str  # one line on what it makes
    frames: int  # of a clip
    height: int
    width: int
    class_names: tuple[str, ...]
    parameters: int
    bytes: int  # of the whole folder
    license: str  # of the weights and their training data; "": the card does not say


def packaged_names() -> list[str]:
    """The names of the packaged models, sorted."""
    if not FOLDER.is_dir():
        return []
    return sorted(path.name for path in FOLDER.iterdir() if path.is_dir() and is_model_folder(path))


def packaged_models() -> list[PackagedModel]:
    """The packaged models, sorted by name. Raises JsonError, with the file, if one of them is damaged."""
    return [_describe(FOLDER / name) for name in packaged_names()]


def find_model(model: str | pathlib.Path) -> pathlib.Path:
    """The folder of a model: `model` itself if it exists or lies in a bucket, or the packaged model of that name.

    Raises FileNotFoundError, with the names of the packaged models, if there is neither.
    """
    path = pathlib.Path(model)
    if buckets.in_bucket(buckets.url(model)) or path.exists():  # a folder in a bucket may have no local copy yet
        return path
    names = packaged_names()
    if str(model) in names:
        return FOLDER / str(model)
    known = f"packaged are {', '.join(names)}" if names else "no model is packaged"
    raise FileNotFoundError(f"{model} is not a run's folder, a model folder or the name of a packaged model; {known}")


def _describe(folder: pathlib.Path) -> PackagedModel:
    settings: dict[str, Any] = read_json(folder / CONFIG_FILE, _SHOWN)
    card = read_card(folder)
    clip = settings["autoencoder"]
    return PackagedModel(
        name=folder.name,
        summary=card.get("summary", ""),
        frames=clip["frames"],
        height=clip["height"],
        width=clip["width"],
        class_names=tuple(settings["class_names"]),
        parameters=sum(file["parameters"] for file in settings["files"].values()),
        bytes=sum(path.stat().st_size for path in folder.iterdir()),
        license=card.get("license", ""),
    )
