"""Hostile weight files: each is refused in one line that names it, within seconds, and nothing in it is run."""

import os
import time

import hostile_weights
import pytest

from pvdm_jax import cli
from pvdm_jax.weights import size_limits
from pvdm_jax.weights.foreign_files import WeightFileError, read_weights

SECONDS = 10


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_hostile_files(here, monkeypatch):
    """Nothing larger than what the limits allow is taken: the largest of these files has a few megabytes."""
    taken = []
    take = size_limits.Budget.take
    monkeypatch.setattr(size_limits.Budget, "take", lambda self, n, what: (take(self, n, what), taken.append(n)))
    read = set()
    for name, data in hostile_weights.files():
        path = here / name
        path.write_bytes(data)
        began = time.process_time()
        try:
            assert read_weights(path).weights
            read.add(name)
        except WeightFileError as error:
            assert str(error).startswith(f"{path} can't be read as weights: ")
            assert "\n" not in str(error) and len(str(error)) < 600
        assert time.process_time() - began < SECONDS, name
        path.unlink()
    assert max(taken) <= 2**28 + 16 * 2**23
    changed = {name for name in read if name.startswith("flipped")}
    assert read - changed == set(hostile_weights.GOOD)
    assert not (here / "PWNED").exists()


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to itself", "missing"])
def test_what_is_no_regular_file_is_refused_at_once(here, capsys, kind):
    path = here / "x.pth"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to itself":
        path.symlink_to(path)
    with pytest.raises(OSError):
        read_weights(path)
    assert cli.main(["convert", f"--autoencoder={path}", f"--output={here / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert "x.pth" in error and error.count("\n") == 1
    assert not (here / "out").exists()
