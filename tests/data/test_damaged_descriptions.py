"""JSON files describe a dataset beside its records; if damaged or edited, they are used or refused by name."""

import contextlib
import json

import numpy as np
import pytest
from hostile_json import refused_by_name

from pvdm_jax.commands.output_folder import make_or_resume_folder
from pvdm_jax.data.datasets import PreparedDataset
from pvdm_jax.data.prepare.folder import prepare
from pvdm_jax.data.prepare.options import PrepareOptions
from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.write import write_video


@pytest.fixture
def dataset(tmp_path):
    """A dataset of two videos of two classes, as `pvdm prepare` writes it."""
    folder = tmp_path / "described"
    for name in ("run", "walk"):
        write_video(folder / "in" / name / "a.gif", np.zeros((4, 8, 8, 3), np.uint8))
    prepare(folder / "in", folder / "out", PrepareOptions(min_frames=4), workers=1)
    return folder / "out"


@pytest.mark.parametrize("name", ["metadata.json", "dataset_info.json", "features.json"])
def test_prepared_datasets(dataset, name):
    def read():
        opened = PreparedDataset(str(dataset))
        for split, videos in opened.splits.items():
            for facts in videos:
                with contextlib.suppress(VideoError):  # names the video, which is then skipped
                    opened.load(split, facts, 0)

    assert refused_by_name(dataset / name, read) > 20


def test_requests(tmp_path):
    request = {"command": "sample", "seed": 0, "options": {"steps": 4}}
    make_or_resume_folder(tmp_path / "out", request)
    path = tmp_path / "out" / "request.json"

    def read():
        content = path.read_bytes()
        make_or_resume_folder(tmp_path / "out", request)
        assert json.loads(content) == request

    assert refused_by_name(path, read) > 20
