"""How commands end: one line and an exit code for what a user can fix, for signals and for closed pipes."""

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pvdm_jax import cli
from pvdm_jax.cli import endings
from pvdm_jax.config import ConfigError
from pvdm_jax.config.checks import LARGEST
from pvdm_jax.config.loading import load_settings
from pvdm_jax.storage.files import CheckpointError, NotRegularFileError
from pvdm_jax.video.errors import VideoError


class XlaRuntimeError(RuntimeError):
    """Has the name of XLA's own error."""


@pytest.fixture(autouse=True)
def ctrl_c_is_not_ignored():
    """As in a terminal; a job that a script starts in the background would inherit that Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.mp4"), 1, "error: a.mp4: No space left on device"),
        (PermissionError(errno.EROFS, "Read-only file system", b"a\xff"), 2, "Read-only file system"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a", None, "b"), 2, "error: a -> b: No such file"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "error: No space left on device"),
        (MemoryError(), 1, "error: there is not enough memory; use smaller batches"),
        (XlaRuntimeError("RESOURCE_EXHAUSTED: Out of\nmemory"), 1, "(RESOURCE_EXHAUSTED: Out of memory)"),
        (CheckpointError("full"), 1, "error: full"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a"), 2, "error: a: File name too long"),
        (NotRegularFileError("a is not a regular file"), 2, "error: a is not a regular file"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset"), 1, "error: Connection reset"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a\nb"), 2, "error: a\\nb: No such file"),
        (VideoError("a\x1b[31m\u2028b.mp4\r: it is empty"), 2, r"error: a\x1b[31m\u2028b.mp4\r: it is empty"),
        (VideoError("Ein schöner Film \udcff.mp4"), 2, r"error: Ein schöner Film \udcff.mp4"),
        (KeyboardInterrupt(), 130, "pvdm: interrupted"),
        (ConfigError("seed is -1"), 2, "error: seed is -1"),
    ],
)
def test_lines_and_codes(capsys, error, code, line):
    def command():
        raise error

    assert endings.run_to_end(command) == code
    text = capsys.readouterr().err
    assert line in text and text.count("\n") == 1 and "Traceback" not in text


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["sample", "--model=a\nb", "--output=out"], r"a\nb"),
        (["prepare", "--source=a\nb", "--output=out"], r"a\nb: there is no such folder of videos"),
        (["train-autoencoder", "--config=a\nb.py", "--workdir=out"], r"a\nb.py"),
        (["demo", "--wrokdir=a\nb"], r"unrecognized arguments: --wrokdir=a\nb"),
        (["demo", "--config.data.se\nd=1"], r"data.se\nd is '1'; there is no such field"),
    ],
)
def test_a_line_break_in_an_argument_does_not_break_the_line(tmp_path, monkeypatch, capsys, argv, line):
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(argv)
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    assert line in capsys.readouterr().err.splitlines()[-1]


def test_defects_keep_their_traceback():
    with pytest.raises(XlaRuntimeError):
        endings.run_to_end(lambda: (_ for _ in ()).throw(XlaRuntimeError("INTERNAL")))


def test_an_interrupt_that_becomes_another_error(capsys):
    def command():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise XlaRuntimeError("INTERNAL: CpuCallback error") from error

    assert endings.run_to_end(command) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, SystemExit)])
def test_a_signal_within_the_garbage_collector_is_not_lost(number, expected):
    """Python swallows what is raised in a callback of the garbage collector, such as JAX's."""

    def command():
        def callback(phase, info):
            gc.callbacks.remove(callback)
            signal.raise_signal(number)
            time.sleep(0)

        gc.callbacks.append(callback)
        gc.collect()
        threading.Event().wait(20)
        raise AssertionError("the signal was lost")

    if expected is SystemExit:
        with pytest.raises(SystemExit) as exit:
            endings.run_to_end(command)
        assert exit.value.code == 143
    else:
        assert endings.run_to_end(command) == expected


def test_handlers_are_restored():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], sys.unraisablehook
    assert endings.run_to_end(lambda: None) == 0
    assert before == ([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], sys.unraisablehook)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_nobody_takes():
    program = [sys.executable, "-m", "pvdm_jax.cli", "--help"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "pvdm: error: No space left on device\n")
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m pvdm_jax.cli --help >&-"], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(program, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


SAMPLE = ["sample", "--model=m", "--output=o"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([*SAMPLE, "--seed=4294967296"], "--seed: '4294967296' is not an integer from 0 to 4294967295"),
        ([*SAMPLE, "--seed=-4294967296"], "--seed: '-4294967296' is not an integer"),
        ([*SAMPLE, f"--seed={2**63}"], "--seed"),
        ([*SAMPLE, "--seed=" + "9" * 5000], "--seed: '99999"),
        ([*SAMPLE, "--first-video=4294967296"], "--first-video"),
        ([*SAMPLE, f"--num-frames={LARGEST + 1}"], "--num-frames"),
        ([*SAMPLE, "--num-videos=0"], "--num-videos: 0 is not positive"),
        ([*SAMPLE, "--videos=3,3"], "--videos: video 3 is named twice"),
        ([*SAMPLE, "--videos=1-3,2"], "video 2 is named twice"),
        ([*SAMPLE, "--videos=0-4000000000"], "more than 1,000,000"),
        ([*SAMPLE, "--videos=5-3"], "--videos: '5-3' names no video"),
        ([*SAMPLE, "--videos=a"], "--videos: 'a' is not an integer"),
        ([*SAMPLE, "--videos="], "--videos: '' is not an integer"),
        ([*SAMPLE, "--fps=inf"], "--fps: 'inf' is not a finite number"),
        ([*SAMPLE, "--fps=nan"], "--fps"),
        ([*SAMPLE, "--fps=2000"], "--fps: 2000 is not between 0.01 and 1000"),
        ([*SAMPLE, "--fps=1e-9"], "--fps: 1e-9 is not between 0.01 and 1000"),
        ([*SAMPLE, "--guidance=inf"], "--guidance: 'inf' is not a finite number"),
        ([*SAMPLE, "--eta=x"], "--eta: 'x' is not a finite number"),
        ([*SAMPLE, "--formats", "npz", "npz"], "--formats: npz is named twice"),
        ([*SAMPLE, "--formats", "avi"], "--formats: 'avi' is not one of mp4, gif, png, npz"),
        ([*SAMPLE, "--steps=4/"], "--steps"),
        (["sample", "--model=m", "--output=gs://bucket/y"], "--output is 'gs://bucket/y'"),
        (["demo", "--config.seed=-1"], "seed is -1"),
        (["demo", f"--config.seed={2**32}"], "seed is 4294967296"),
        (["demo", "--config.autoencoder.channels=1000000000"], "autoencoder.channels is 1000000000"),
        (["demo", "--config.autoencoder.depth=1000000"], "autoencoder.depth"),
        (["demo", "--config.train_autoencoder.batch_size=1000000000"], "train_autoencoder.batch_size"),
        (["demo", "--config.data.workers=1000000"], "data.workers"),
        (["demo", "--config.sample.guidance=inf"], "sample.guidance"),
        (["demo", "--config.autoencoder.frames=100000", "--config.autoencoder.height=4096"], "autoencoder.frames"),
        (["prepare", "--source=.", "--output=o", "--fps=inf"], "--fps"),
        (["evaluate", "--model=m"], "--output is not given"),
    ],
)
def test_arguments_are_refused_before_anything_is_loaded(capsys, argv, message):
    try:
        code = cli.main(argv)
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    return None\n", "it returns a NoneType"),
        ("def get_config(variant):\n    return None\n", "mine.py needs a variant"),
        ("def get_config():\n    return {}\n", "it returns a dict"),
        ("from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()\n", "it lacks seed, data"),
        ("def get_config(:\n", "it is not Python"),
        ("\0", "it is not Python"),
    ],
)
def test_configuration_files_that_give_no_configuration(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_settings(str(path))
