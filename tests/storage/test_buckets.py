"""Runs in a bucket: a stand-in serves Cloud Storage's API, the clients (TensorStore, gcsfs) are the real ones."""

import json
import pathlib
import subprocess
import sys

import fake_bucket
import pytest
import tiny_program

import pvdm_jax
from pvdm_jax.cli import main
from pvdm_jax.config import ConfigError
from pvdm_jax.storage import buckets


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("PVDM_BUCKETS", str(tmp_path / "here"))
    return tmp_path / "here"


def test_a_folder_in_a_bucket_has_a_local_counterpart(here):
    assert buckets.local("gs://bucket/runs/a/") == here / "bucket" / "runs" / "a"
    # argparse has made a Path of it.
    assert buckets.local(pathlib.Path("gs://bucket/runs/a")) == here / "bucket" / "runs" / "a"
    assert buckets.url(here / "bucket" / "runs" / "a" / "diffusion") == "gs://bucket/runs/a/diffusion"
    assert buckets.local("runs/a") == pathlib.Path("runs/a") and buckets.url("/runs/a") == "/runs/a"
    for wrong in ("gs://", "gs://bucket", "gs://bucket/", "gs://bucket/../other"):
        with pytest.raises(ConfigError, match="names no folder in a bucket"):
            buckets.local(wrong)


@pytest.mark.parametrize("wrong", ["gs:/bucket/run", "gs:bucket/run", "GS://bucket/run", "gs://x/y", "s3://bucket/run"])
def test_what_only_looks_like_an_address_is_refused_at_once(here, capsys, monkeypatch, wrong):
    monkeypatch.setattr(buckets, "file_system", lambda: pytest.fail("the network was asked"))
    with pytest.raises(SystemExit) as exit:
        main(["sample", f"--model={wrong}", "--output=out"])
    assert exit.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"--model: '{wrong}' is neither a path on this machine nor of the form gs://BUCKET/FOLDER" in line
    if wrong.startswith("gs:/"):
        with pytest.raises(ConfigError, match="of the form gs://BUCKET/FOLDER"):
            pvdm_jax.load(wrong)


@pytest.mark.parametrize("name", ["12:30/a.mp4", "concat:a.mp4", "gs:notes", "http:/a/b", "a/gs://b"])
def test_names_with_colons_are_paths(name):
    buckets.check_spelling(name)


def test_a_bucket_that_is_not_reached_is_named(here, capsys):
    with pytest.raises(ConnectionError, match="^gs://bucket/a can't be reached: no route$"):
        with buckets.reaching("gs://bucket/a"):
            raise ConnectionRefusedError("no route")
    with pytest.raises(FileNotFoundError, match="^x$"), buckets.reaching("gs://bucket/a"):
        raise FileNotFoundError("x")


def test_what_cannot_be_in_a_bucket_is_refused(here, capsys):
    for argv in (
        ["prepare", "--source=videos", "--output=gs://bucket/data"],
        ["sample", "--model=runs/a", "--output=gs://bucket/samples"],
        ["reconstruct", "--model=runs/a", "--output=out", "--source", "gs://bucket/a.mp4"],
    ):
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert "'gs://bucket" in error and "--workdir, --model and --config.data.path can be in a bucket" in error


def test_gcsfs_is_asked_for(here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert main(tiny_program.arguments("train-autoencoder", "gs://bucket/run")) == 2
    assert 'needs gcsfs: pip install "pvdm_jax[gcs]"' in capsys.readouterr().err


PROGRAM = """
import json, os, pathlib, sys
import tiny_program
from pvdm_jax.cli import main

here, there = (str(pathlib.Path(sys.argv[1]) / name) for name in ("here", "there"))
STEPS = ("train_autoencoder.steps=4", "train_diffusion.steps=4")

def run(command, *settings, machine=here):
    os.environ["PVDM_BUCKETS"] = machine
    assert main(tiny_program.arguments(command, "gs://bucket/runs/a", *settings)) == 0

run("train-autoencoder", "train_autoencoder.steps=2")
run("train-autoencoder", *STEPS, machine=there)  # another machine goes on from step 2
run("encode", *STEPS, machine=there)
run("train-diffusion", *STEPS)  # this one gets the latents
output = [f"--output={sys.argv[1]}/out", "--num-videos=2", "--formats=npz"]
assert main(["sample", "--model=gs://bucket/runs/a", *output]) == 0
"""


@pytest.mark.long
def test_a_run_in_a_bucket_goes_from_machine_to_machine(tmp_path):
    with fake_bucket.serve() as bucket:
        root = tiny_program.ROOT
        environment = tiny_program.environment(**bucket.environment, PYTHONPATH=f"{root}:{root}/tests/support")
        call = [sys.executable, "-c", PROGRAM, str(tmp_path)]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=3000)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "autoencoder: resuming after step 2" in done.stdout
    names = {name.removeprefix("bucket/runs/a/") for name in bucket.objects}
    for step in (2, 4):
        assert f"diffusion/checkpoints/{step}/commit_success.txt" in names
    assert {"autoencoder/config.json", "latents/index.json", "autoencoder/best.json"} <= names
    assert any(name.startswith("autoencoder/tensorboard/") for name in names)
    assert "diffusion/evaluation/step_0000004/samples.gif" in names
    lines = bucket.objects["bucket/runs/a/autoencoder/metrics.jsonl"].decode().splitlines()
    assert [json.loads(line)["step"] for line in lines if "train/loss" in line] == [1, 2, 3, 4]
    assert not list(tmp_path.glob("*/bucket/**/checkpoints/*"))
    assert len(list((tmp_path / "out").rglob("*.npz"))) == 2


LOST = """
import json, os, pathlib, sys, urllib.request
import numpy as np, jax
from pvdm_jax.storage.checkpoint import Checkpoints
from pvdm_jax.storage import buckets
from pvdm_jax.storage.files import CheckpointError

folder = buckets.local("gs://bucket/run")
state, info = {"a": {"b": jax.numpy.arange(30000.0)}}, {"settings": {}}
placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
with Checkpoints(folder, keep=2) as checkpoints:
    for step in (1, 2):
        checkpoints.save(step, jax.tree.map(lambda x: x * step, state), info)
urllib.request.urlopen(os.environ["STORAGE_EMULATOR_HOST"] + "/refuse", data=b"", timeout=20)
try:
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(3, state, info)
        checkpoints.wait()
except CheckpointError as error:
    print(error)
urllib.request.urlopen(os.environ["STORAGE_EMULATOR_HOST"] + "/allow", data=b"", timeout=20)
with Checkpoints(folder, keep=2) as checkpoints:
    found, step, _ = checkpoints.restore(placed)
assert step == 2 and np.array_equal(found["a"]["b"], 2 * np.arange(30000.0))

# A damaged one is set aside, and the previous one is used.
urllib.request.urlopen(os.environ["STORAGE_EMULATOR_HOST"] + "/lose/bucket/run/checkpoints/2/state/", data=b"")
with Checkpoints(folder, keep=2) as checkpoints:
    found, step, _ = checkpoints.restore(placed)
    assert step == 1 and np.array_equal(found["a"]["b"], np.arange(30000.0))
    checkpoints.save(2, state, info)
"""


def test_a_lost_bucket_leaves_the_last_checkpoint_intact(tmp_path):
    with fake_bucket.serve() as bucket:
        environment = tiny_program.environment(**bucket.environment, PVDM_BUCKETS=str(tmp_path))
        call = [sys.executable, "-c", LOST]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "a checkpoint can't be written to gs://bucket/run/checkpoints" in done.stdout
    assert "the newest complete one is of step 2" in done.stdout
    names = [name.removeprefix("bucket/run/checkpoints/") for name in bucket.objects]
    assert {"1/commit_success.txt", "2/commit_success.txt"} <= set(names)
    assert any(name.startswith("unreadable_2_") for name in names)


IMPORTED = """
import os, pathlib, sys
import jax
from flax import nnx
from pvdm_jax.storage import buckets
from pvdm_jax.weights import model_folder
from pvdm_jax.config import AutoencoderConfig, Config, ConfigError, UNetConfig
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder
from pvdm_jax.weights import run_autoencoder

model = AutoencoderConfig(frames=4, height=16, width=16, patch_size=4, channels=16, depth=1, plane_depth=1)
config = Config(autoencoder=model, denoiser=UNetConfig(channel_mult=(1,)))
here, there = (str(pathlib.Path(sys.argv[1]) / name) for name in ("here", "there"))
params = [functional.split(Autoencoder(model, rngs=nnx.Rngs(seed)))[1] for seed in (0, 1)]
one, other = (model_folder.write_model(f"{sys.argv[1]}/{i}", config, params[i], None, {}) for i in (0, 1))

os.environ["PVDM_BUCKETS"] = here
run_autoencoder.import_autoencoder(one, config, buckets.local("gs://bucket/run"))
os.environ["PVDM_BUCKETS"] = there  # a machine that has seen nothing of it
workdir = buckets.local("gs://bucket/run")
found = run_autoencoder.load_autoencoder(model, workdir)
assert functional.fingerprint(found) == functional.fingerprint(params[0])
os.environ["PVDM_BUCKETS"] = f"{there}2"
import_other = lambda path: run_autoencoder.import_autoencoder(other, config, path)
for attempt in (import_other, run_autoencoder.check_not_imported):
    try:
        attempt(buckets.local("gs://bucket/run"))
    except ConfigError as error:
        print(error)
    else:
        raise AssertionError("it was not refused")
"""


def test_an_imported_autoencoder_is_known_on_every_machine(tmp_path):
    with fake_bucket.serve() as bucket:
        call = [sys.executable, "-c", IMPORTED, str(tmp_path)]
        environment = tiny_program.environment(**bucket.environment)
        done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "has another autoencoder already" in done.stdout and "train stage 1 in another --workdir" in done.stdout
    assert "bucket/run/autoencoder/autoencoder.safetensors" in bucket.objects
