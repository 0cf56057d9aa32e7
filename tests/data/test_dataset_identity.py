"""A dataset's identity, whatever its path: equal videos have equal fingerprints, other videos another."""

import json
import shutil

import numpy as np
import pytest

from pvdm_jax.config import ConfigError, DataConfig
from pvdm_jax.data import dataset_identity as identity
from pvdm_jax.data.dataset_identity import dataset_identity, find_dataset_identity
from pvdm_jax.data.prepare.folder import prepare
from pvdm_jax.storage.files import file_hash


def of(path):
    return dataset_identity(DataConfig(source="tfds", path=str(path)))


def prepared(root, name, values, class_name="a"):
    """A dataset of one array of frames for each of `values`: all of one size, so only their bytes differ."""
    for number, value in enumerate(values):
        path = root / f"{name}_videos" / class_name / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full((16, 8, 8, 3), value, np.uint8))
    prepare(root / f"{name}_videos", root / name)
    return root / name


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_content_decides(tmp_path, monkeypatch):
    first = prepared(tmp_path, "first", [5, 6])
    expected = of(first)
    assert len(expected) == 64
    assert of(prepared(tmp_path, "again", [5, 6])) == expected
    shutil.copytree(first, tmp_path / "deep" / "moved")
    monkeypatch.chdir(tmp_path / "deep")
    assert of("moved") == of(tmp_path / "deep" / "moved") == expected
    others = [
        prepared(tmp_path, "pixel", [5, 7]),
        prepared(tmp_path, "order", [6, 5]),
        prepared(tmp_path, "more", [5, 6, 6]),
        prepared(tmp_path, "class", [5, 6], "b"),
    ]
    assert len({expected, *map(of, others)}) == 5


def test_what_prepare_wrote_is_not_read_again(tmp_path, monkeypatch):
    path = prepared(tmp_path, "data", [1])
    monkeypatch.setattr(identity, "file_hash", lambda path: pytest.fail("its records were read"))
    of(path)


def test_files_are_read_once_where_no_hashes_are_stored(tmp_path, monkeypatch):
    """As in a dataset of an older version, or one that TFDS built."""
    path = prepared(tmp_path, "data", [1, 2])
    metadata = json.loads((path / "metadata.json").read_text())
    for facts in metadata["videos"]["train"]:
        del facts["sha256"]
    (path / "metadata.json").write_text(json.dumps(metadata))
    read = []
    monkeypatch.setattr(identity, "file_hash", lambda path: read.append(path) or file_hash(path))
    first = of(path)
    count = len(read)
    assert count == sum(file.is_file() for file in path.rglob("*")) and of(path) == first and len(read) == count
    shutil.copytree(path, tmp_path / "copy")
    assert of(tmp_path / "copy") == first
    shard = next(path.glob("*.array_record*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    assert of(path) != first


@pytest.mark.parametrize("content", ["", "[]", "null", '{"videos": 5}', '{"videos": {"train": [5]}}'])
def test_damaged_facts_are_not_trusted(tmp_path, content):
    path = prepared(tmp_path, "data", [1])
    first = of(path)
    (path / "metadata.json").write_text(content)
    assert of(path) != first
    next((tmp_path / "cache").rglob("identity_*.json")).write_text(content)
    assert of(path) != first


def test_synthetic_videos_and_none(tmp_path):
    assert dataset_identity(DataConfig()) == "synthetic"
    nowhere = DataConfig(source="tfds", path=str(tmp_path / "nowhere"))
    assert find_dataset_identity(nowhere) is None
    with pytest.raises(ConfigError, match="there is no prepared dataset; `pvdm prepare"):
        dataset_identity(nowhere)
