"""The command line: which function each command calls with what, and how refusals end."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

import pvdm_jax
from pvdm_jax import cli
from pvdm_jax.config import ConfigError
from pvdm_jax.config.loading import load_settings
from pvdm_jax.data.prepare.options import PrepareOptions
from pvdm_jax.video.errors import VideoError


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Restores, after the test, the environment that `main` changes."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")


@pytest.fixture
def replace(monkeypatch):
    """Replaces a function by a stand-in that checks its arguments against the real one's signature."""

    def replace_function(module, name):
        real = getattr(importlib.import_module(module), name)
        stand_in = mock.create_autospec(real)
        monkeypatch.setattr(f"{module}.{name}", stand_in)
        return stand_in

    return replace_function


@pytest.fixture
def model(monkeypatch):
    """The model that `pvdm_jax.load` gives."""
    loaded = SimpleNamespace()
    monkeypatch.setattr(pvdm_jax, "load", lambda directory: loaded if directory == Path("run") else None)
    return loaded


def refusal(capsys, *argv) -> str:
    """What a command that ends with exit code 2 says on stderr."""
    try:
        code = cli.main(argv)
    except SystemExit as exit:  # argparse's own refusals
        code = exit.code
    assert code == 2
    return capsys.readouterr().err


def test_demo_needs_no_argument(replace):
    run = replace("pvdm_jax.commands.demo", "run")
    assert cli.main(["demo"]) == 0
    run.assert_called_once_with(load_settings("demo"), Path("runs/demo"))


@pytest.mark.parametrize(
    ("command", "module", "function"),
    [
        ("demo", "pvdm_jax.commands.demo", "run"),
        ("train-autoencoder", "pvdm_jax.training.autoencoder", "train"),
        ("encode", "pvdm_jax.training.encode", "encode"),
        ("train-diffusion", "pvdm_jax.training.diffusion", "train"),
    ],
)
def test_commands_with_a_configuration(replace, command, module, function):
    called = replace(module, function)
    start = replace("pvdm_jax.runtime.distributed", "start_distributed")
    arguments = ["--config=video_folder", "--config.data.path=some/folder", "--workdir=run", "--config.seed=3"]
    assert cli.main([command, *arguments]) == 0
    expected = load_settings("video_folder", ["--config.data.path=some/folder", "--config.seed=3"])
    takes_over = command in ("encode", "train-diffusion")
    called.assert_called_once_with(expected, Path("run"), *((None,) if takes_over else ()))
    assert start.called == (command != "demo")
    if takes_over:
        assert cli.main([command, *arguments, "--autoencoder=other"]) == 0
        called.assert_called_with(expected, Path("run"), Path("other"))


def test_prepare_prints_the_summary(replace, capsys):
    prepare = replace("pvdm_jax.data.prepare.folder", "prepare")
    prepare.return_value = "3 videos"
    assert cli.main(["prepare", "--source=in", "--output=out", "--min-frames=8"]) == 0
    given, keywords = prepare.call_args
    assert given == (Path("in"), Path("out"), PrepareOptions(min_frames=8))
    assert (keywords["layout"], keywords["split"], keywords["list_number"]) == ("auto", "all", 1)
    assert "3 videos" in capsys.readouterr().out


def test_sample(replace, model):
    sample = replace("pvdm_jax.commands.generate", "sample")
    arguments = ["--num-videos=3", "--num-frames=32", "--seed=5", "--steps=7", "--eta=0", "--classes", "spin", "orbit"]
    assert cli.main(["sample", "--model=run", "--output=out", "--formats", "gif", *arguments]) == 0
    given, options = sample.call_args
    assert given == (model, Path("out"))
    assert options["options"] == {"steps": 7, "eta": 0.0}
    assert (options["num_videos"], options["num_frames"], options["seed"]) == (3, 32, 5)
    assert (options["classes"], options["formats"], options["fps"]) == (["spin", "orbit"], ["gif"], 8.0)


def test_extend(replace, model):
    extend = replace("pvdm_jax.commands.generate", "extend")
    later = ["--later-steps=2", "--later-sampler=ddim", "--later-grid=trailing"]
    assert cli.main(["extend", "--model=run", "--source", "a.mp4", "more", "--output=out", *later]) == 0
    given, options = extend.call_args
    assert given == (model, [Path("a.mp4"), Path("more")], Path("out"))
    assert options["options"] == {"later_steps": 2, "later_sampler": "ddim", "later_grid": "trailing"}
    assert options["fps"] is None


def test_reconstruct(replace, model):
    reconstruct = replace("pvdm_jax.commands.reconstruct", "reconstruct")
    assert cli.main(["reconstruct", "--model=run", "--source=a.mp4", "--output=out", "--max-frames=16"]) == 0
    given, options = reconstruct.call_args
    assert given == (model, [Path("a.mp4")], Path("out"))
    assert options["max_frames"] == 16


@pytest.mark.parametrize(
    "error",
    [ConfigError("seed is -1; it can't be negative"), VideoError("a.mp4: it is empty"), FileExistsError("out is full")],
)
def test_expected_errors_are_one_line(replace, capsys, error):
    replace("pvdm_jax.commands.demo", "run").side_effect = error
    assert refusal(capsys, "demo") == f"pvdm: error: {error}\n"


def test_unexpected_errors_keep_their_trace(replace):
    replace("pvdm_jax.commands.demo", "run").side_effect = ValueError("a defect")
    with pytest.raises(ValueError, match="a defect"):
        cli.main(["demo"])


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["demo", "--config.seed=x"], ["seed is 'x'", "integer"]),
        (["demo", "--config=nowhere.py"], ["nowhere.py", "there is no file"]),
        (["demo", "--config.seed", "3"], ["unrecognized", "--config.some.field=value"]),
        (["demo", "--workdir="], ["--workdir", "the name is empty"]),
        (["demo", "--wrokdir=x"], ["unrecognized", "--wrokdir=x"]),
        (["demo", "--work=x"], ["unrecognized", "--work=x"]),
        (["sample", "--model=run", "--output=out", "--config.seed=3"], ["unrecognized", "--config.seed=3"]),
        (["sample", "--model=run", "--output=out", "--num-videos=0"], ["--num-videos", "positive"]),
        (["extend", "--model=run", "--source=a", "--output=out", "--fps=0"], ["--fps", "positive"]),
        (["train-diffusion", "--workdir=run"], ["--config"]),
        (["trian"], ["trian", "train-autoencoder"]),
        ([], ["COMMAND"]),
    ],
)
def test_wrong_arguments(capsys, argv, parts):
    message = refusal(capsys, *argv)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    "command",
    [
        *("demo", "prepare", "train-autoencoder", "encode", "train-diffusion"),
        *("sample", "extend", "reconstruct", "evaluate"),
    ],
)
def test_help_has_an_example(capsys, command):
    with pytest.raises(SystemExit) as exit:
        cli.main([command, "--help"])
    assert exit.value.code == 0
    assert f"\n  pvdm {command} --" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out == f"pvdm_jax {pvdm_jax.__version__}\n"


def test_compiled_programs_are_kept_unless_the_user_says_where(replace, monkeypatch):
    replace("pvdm_jax.commands.demo", "run")
    monkeypatch.setenv("XDG_CACHE_HOME", "some-cache")
    cli.main(["demo"])
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == ""  # set by the user, here by the fixture
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    cli.main(["demo"])
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == os.path.join("some-cache", "pvdm_jax", "compiled")


def test_the_environment_does_not_change_numbers():
    """In a separate process, because JAX reads its variables when it is first imported."""
    program = (
        "from pvdm_jax.cli import main; main(['models']); import jax; c = jax.config; "
        "print(c.jax_enable_x64, c.jax_threefry_partitionable, c.jax_numpy_dtype_promotion, c.jax_numpy_rank_promotion)"
    )
    changed = {"JAX_ENABLE_X64": "1", "JAX_THREEFRY_PARTITIONABLE": "0"}
    changed |= {"JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_NUMPY_RANK_PROMOTION": "raise"}
    run = [sys.executable, "-c", program]
    output = subprocess.run(run, env=os.environ | changed, capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "False True standard allow"
