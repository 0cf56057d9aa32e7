"""One writer for a run's folder: a second one is refused, and the lock of a dead one does not stop the next."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import fake_bucket
import pytest
import tiny_program

from pvdm_jax.cli import main
from pvdm_jax.commands import demo
from pvdm_jax.config import Config, ConfigError
from pvdm_jax.storage import run_lock
from pvdm_jax.storage.run_lock import check_still_writer, single_writer
from pvdm_jax.training import autoencoder, diffusion
from pvdm_jax.training.encode import encode

HOLD = """
import sys, time
from pvdm_jax.storage.run_lock import run_lock
with run_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock of the folder `run`."""
    call = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(call, env=tiny_program.environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def fast(monkeypatch):
    """Shortens the lock's times from minutes to tenths of seconds."""
    for name, value in {"HEARTBEAT": 0.1, "STALE": 0.8, "POLL": 0.05}.items():
        monkeypatch.setattr(run_lock, name, value)


def lock_of(workdir, **facts):
    """Writes the lock of a process on another host that renewed it just now."""
    workdir.mkdir(exist_ok=True)
    content = {"host": "elsewhere", "process": 5, "started": "then", "id": "other", "renewed": time.time()} | facts
    (workdir / "run.lock").write_text(json.dumps(content))


def held(workdir):
    with run_lock.run_lock(workdir):
        return json.loads((workdir / "run.lock").read_text())["process"] == os.getpid()


def test_the_second_writer_is_refused_until_the_first_is_gone(other, tmp_path, capsys):
    workdir = tmp_path / "run"
    assert main(tiny_program.arguments("train-autoencoder", workdir)) == 2
    error = capsys.readouterr().err
    assert f"{workdir} is being written to by process {other.pid} on " in error and error.count("\n") == 1
    for write in (autoencoder.train, encode, diffusion.train, demo.run):
        with pytest.raises(ConfigError, match=f"is being written to by process {other.pid}"):
            write(Config(), workdir)
    assert sorted(path.name for path in workdir.iterdir()) == ["run.lock"]
    other.send_signal(signal.SIGKILL)
    while (fields := pathlib.Path(f"/proc/{other.pid}/stat").read_text().split())[2] != "Z":
        time.sleep(0.01)
    assert fields  # the killed process was not even collected by its parent
    assert held(workdir) and not (workdir / "run.lock").exists()


def test_a_process_may_nest_its_own_but_its_threads_may_not(tmp_path):
    @single_writer
    def write(config, workdir):
        refused = []

        def second():
            try:
                write(None, workdir)
            except ConfigError as error:
                refused.append(str(error))

        if config == "outer":
            write("inner", workdir)
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()
        assert (workdir / "run.lock").exists()
        return refused

    assert f"process {os.getpid()}" in write("outer", tmp_path)[0]
    with pytest.raises(ZeroDivisionError), run_lock.run_lock(tmp_path):
        raise ZeroDivisionError
    assert not (tmp_path / "run.lock").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"host": 5}', "\0" * 9, "[" * 9999])
def test_a_lock_that_says_nothing_is_taken_over(tmp_path, content):
    (tmp_path / "run.lock").write_text(content)
    assert held(tmp_path)


def test_another_process_of_the_same_number_is_not_the_writer(tmp_path):
    facts = run_lock._this_process()
    lock_of(tmp_path, **facts)
    with pytest.raises(ConfigError, match="is being written to"):
        held(tmp_path)
    lock_of(tmp_path, **facts | {"process_start": "1"})
    assert held(tmp_path)


@pytest.mark.parametrize("clock", [0, 7200])  # seconds by which that host's clock is late: another time zone
def test_a_writer_on_another_host_that_still_renews_is_respected(tmp_path, fast, capsys, monkeypatch, clock):
    monkeypatch.setattr(run_lock, "HEARTBEAT", 1.0)  # which leaves the beat time on a busy machine
    monkeypatch.setattr(run_lock, "STALE", 4.0)
    lock_of(tmp_path, renewed=time.time() - clock)
    beat = threading.Timer(0.2, lambda: lock_of(tmp_path, renewed=time.time() - clock))
    beat.start()
    with pytest.raises(ConfigError, match="is being written to by process 5 on elsewhere, started then"):
        held(tmp_path)
    assert "waiting: " in capsys.readouterr().out
    beat.join()


@pytest.mark.parametrize("ago, least, most", [(0, 0.7, 3), (5, 0.2, 0.8), (259_200, 0, 0.5), (-7200, 0.8, 3)])
def test_a_writer_on_another_host_that_is_gone_is_not_waited_for_long(tmp_path, fast, ago, least, most):
    """Whatever that host's clock says, its lock is watched before it is taken."""
    lock_of(tmp_path, renewed=time.time() - ago)
    began = time.monotonic()
    assert held(tmp_path)
    assert least <= time.monotonic() - began < most + 0.5


def test_it_is_renewed_and_its_loss_is_noticed(tmp_path, fast):
    with run_lock.run_lock(tmp_path):
        first = json.loads((tmp_path / "run.lock").read_text())["renewed"]
        while json.loads((tmp_path / "run.lock").read_text())["renewed"] == first:
            time.sleep(0.02)
        check_still_writer(tmp_path / "autoencoder")
        lock_of(tmp_path)
        with pytest.raises(ConfigError, match="was taken over by process 5 on elsewhere"):
            check_still_writer(tmp_path / "autoencoder")
        check_still_writer(tmp_path.parent / "another")
    assert json.loads((tmp_path / "run.lock").read_text())["host"] == "elsewhere"


@pytest.mark.parametrize("name", ["run [a]", "a\\b"])
def test_folders_that_orbax_cannot_read_are_refused_at_the_start(tmp_path, capsys, name):
    assert main(tiny_program.arguments("train-autoencoder", tmp_path / name)) == 2
    error = capsys.readouterr().err
    assert "--workdir is" in error and "Orbax can't keep checkpoints" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


BUCKET = """
import os, time
from pvdm_jax.config import ConfigError
from pvdm_jax.storage import buckets, run_lock

run_lock.HEARTBEAT, run_lock.STALE, run_lock.POLL = 0.1, 0.8, 0.05
workdir = buckets.local("gs://bucket/run")
read = run_lock._Place("gs://bucket/run").read
with run_lock.run_lock(workdir):
    first = read()
    assert first["process"] == os.getpid()
    while read() == first:
        time.sleep(0.05)
    assert not run_lock._Place("gs://bucket/run").create({})
assert read() is None
run_lock._Place("gs://bucket/run").create(first | {"host": "elsewhere"})
with run_lock.run_lock(workdir):
    assert read()["host"] == first["host"]
"""


def test_a_run_in_a_bucket_has_its_lock_there(tmp_path):
    with fake_bucket.serve() as bucket:
        environment = tiny_program.environment(**bucket.environment, PVDM_BUCKETS=str(tmp_path))
        done = subprocess.run(
            [sys.executable, "-c", BUCKET], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert not bucket.objects and not list(tmp_path.rglob("run.lock"))
