"""What commands leave behind when they are killed, when the disk is full, and under long names."""

import os
import stat
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from support.disk import file_limit
from test_generate import Model
from tiny_model import NAMES, tiny_model

from pvdm_jax.cli import endings
from pvdm_jax.commands import generate, request_cost
from pvdm_jax.commands.output_folder import make_new_folder
from pvdm_jax.config import ConfigError
from pvdm_jax.models import functional
from pvdm_jax.storage import files
from pvdm_jax.storage.files import remove_leftovers, temporary_path, write_bytes
from pvdm_jax.video import encoders
from pvdm_jax.video.write import VideoWriter
from pvdm_jax.weights import model_folder, weight_files

DEAD = subprocess.Popen([sys.executable, "-c", ""])  # a process that has ended
DEAD.wait()


def leftover(folder, name, monkeypatch, process=DEAD.pid):
    """An unfinished file of another process of this machine."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: process)
        path = temporary_path(folder / name)
    folder.mkdir(exist_ok=True)
    path.write_bytes(b"half a video")
    return path


def test_leftovers_of_killed_processes_are_removed(tmp_path, monkeypatch):
    dead = leftover(tmp_path, "video_00000.mp4", monkeypatch)
    running = leftover(tmp_path, "video_00001.mp4", monkeypatch, process=os.getppid())
    own = temporary_path(tmp_path / "video_00002.mp4")
    own.mkdir()
    (own / "frame_00000.png").touch()
    other = tmp_path / ".notes.1234"
    other.touch()
    monkeypatch.setattr(files.socket, "gethostname", lambda: "elsewhere")
    elsewhere = leftover(tmp_path, "video_00003.mp4", monkeypatch)
    monkeypatch.undo()
    remove_leftovers(tmp_path)
    assert [path.exists() for path in (dead, running, own, other, elsewhere)] == [False, True, True, True, True]
    for path in (own, elsewhere):
        os.utime(path, (1, 1))  # long ago: an earlier process of this number, and one that is given up
    remove_leftovers(tmp_path)
    assert [path.exists() for path in (dead, running, own, other, elsewhere)] == [False, True, False, True, False]
    remove_leftovers(tmp_path / "absent")


def test_the_next_run_removes_them(tmp_path, monkeypatch):
    leftover(tmp_path / "out", "video_00000.mp4", monkeypatch)
    generate.sample(Model(), tmp_path / "out", num_videos=1, formats=["gif"])
    leftover(tmp_path / "out", "video_00000.gif", monkeypatch)
    generate.sample(Model(), tmp_path / "out", num_videos=1, formats=["gif"])
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []
    leftover(tmp_path / "other", "a.mp4", monkeypatch)
    make_new_folder(tmp_path / "other")
    assert not any((tmp_path / "other").iterdir())


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), SystemExit(143), KeyboardInterrupt()])
def test_failures_leave_nothing_half_written(tmp_path, monkeypatch, stop):
    def fail(*_):
        raise stop

    for encoder in encoders.ENCODERS.values():
        monkeypatch.setattr(encoder, "write", fail)
    with pytest.raises(type(stop)):
        generate.sample(Model(), tmp_path / "out", num_videos=1, formats=["mp4", "gif", "png", "npz"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["request.json"]


@pytest.fixture(scope="module")
def parts():
    model = tiny_model()
    weights = {name: jax.tree.map(np.asarray, params) for name, params in model.weights.items()}
    return model.config, weights["autoencoder"], weights["denoiser"]


def test_a_failed_export_leaves_nothing(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "file_hash", lambda path: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        model_folder.write_model(tmp_path / "m", *parts, {}, NAMES)
    assert not any(tmp_path.iterdir())


def test_a_full_disk_is_named(parts, tmp_path):
    """The library for weights has an error of its own; Python's error has no name."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    with file_limit(3000):
        with pytest.raises(OSError, match="autoencoder.safetensors can't be written: .*File too large"):
            model_folder.write_model(tmp_path / "m", *parts, {}, NAMES)
        for name in ("mp4", "gif", "npz", "png"):
            with pytest.raises(OSError) as raised:
                with VideoWriter(tmp_path / f"a.{name}", name, frames=8, height=64, width=64, fps=8) as writer:
                    writer.write(noise)
            assert f"a.{name}" in endings.describe(raised.value)
    assert not any(tmp_path.iterdir())


def test_the_umask_decides_who_can_read_weights(parts, tmp_path):
    before = os.umask(0o027)
    try:
        folder = model_folder.write_model(tmp_path / "m", *parts, {}, NAMES)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o640}


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_weights_that_are_not_finite_are_not_written(parts, tmp_path, value):
    config, autoencoder, denoiser = parts
    spoilt = jax.tree.map(np.array, denoiser)
    jax.tree.leaves(spoilt)[3].flat[0] = value
    with pytest.raises(ConfigError, match="denoiser .*as float16, 1 of .* numbers are NaN or infinite"):
        model_folder.write_model(tmp_path / "m", config, autoencoder, spoilt, {}, NAMES, dtype="float16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: np.where(x == x.max(), np.nan, x), "NaN or infinite"),
        (lambda x: np.where(x == x.max(), np.inf, x), "NaN or infinite"),
        (lambda x: x.astype(np.int8), "has the dtype I8; F32, BF16, F16 are allowed"),
        (lambda x: x.astype(np.complex64), "has the dtype C64"),
        (lambda x: x[:1], r"has shape \(1,.*is needed"),
    ],
)
def test_weights_that_no_model_has_are_refused(parts, tmp_path, change, message):
    arrays = functional.flatten(parts[2])
    assert weight_files.write_weights(tmp_path / "good.safetensors", parts[2], "float32")["dtype"] == "float32"
    assert weight_files.read_weights(tmp_path / "good.safetensors", parts[2]).keys() == parts[2].keys()
    save_file({name: change(array) for name, array in arrays.items()}, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match=f"x.safetensors(.|\n)*{message}"):
        weight_files.read_weights(tmp_path / "x.safetensors", parts[2])


def test_names_of_255_bytes(parts, tmp_path):
    name = "ä" * 127 + "a"
    write_bytes(tmp_path / name, b"x")
    assert (tmp_path / name).read_bytes() == b"x" and len(list(tmp_path.iterdir())) == 1
    model_folder.write_model(tmp_path / "folder" / name, *parts, {}, NAMES)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == [name]


def test_a_request_that_the_disk_can_not_hold(tmp_path, capsys):
    model = Model()
    with pytest.raises(ConfigError, match="100,000 videos of 1,000,000 frames in mp4, gif take about .* has .* left"):
        generate.sample(model, tmp_path / "out", num_videos=100_000, num_frames=1_000_000)
    with pytest.raises(ConfigError, match="frames in npz take about"):
        generate.sample(model, tmp_path / "out", num_videos=1, num_frames=2**31 - 1, formats=["npz"])
    assert model.calls == [] and not (tmp_path / "out").exists()


def test_long_requests_say_how_long_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(request_cost, "MANY_CALLS", 4)
    monkeypatch.setattr(request_cost, "WORTH_SAYING", 10)
    generate.sample(Model(), tmp_path / "out", num_videos=5, num_frames=6, batch_size=2, formats=["gif"])
    said = capsys.readouterr().out
    assert "5 videos of 6 frames in gif take about 2.3 kB" in said
    assert "sampling 5 videos of 6 frames will take about 0 seconds on this machine" in said


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2**32},
        {"seed": -1},
        {"first_video": 2**32 - 1, "num_videos": 2},
        {"videos": [3, 3]},
        {"videos": []},
        {"num_videos": 10**7},
        {"formats": ["npz", "npz"]},
        {"formats": []},
        {"fps": 2000},
        {"fps": float("inf")},
        {"fps": 0.0},
        {"batch_size": 0},
        {"batch_size": 10**9},
        {"classes": []},
        {"options": {"guidance": float("inf")}},
    ],
)
def test_arguments_are_refused_before_the_work(tmp_path, change):
    model = Model(num_classes=3)
    with pytest.raises(ConfigError):
        generate.sample(model, tmp_path / "out", **{"num_videos": 1} | change)
    assert model.calls == [] and not (tmp_path / "out").exists()
