"""The mesh and the rules of sharding; the toy stage on eight devices against one (in a program of its own)."""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from pvdm_jax.config import ConfigError, MeshConfig
from pvdm_jax.config.loading import load_settings
from pvdm_jax.runtime import sharding
from pvdm_jax.training.autoencoder import AutoencoderStage
from pvdm_jax.training.diffusion import DiffusionStage

SUPPORT = pathlib.Path(__file__).parents[1] / "support"


def printed(script, *arguments, timeout):
    """The last line, parsed as JSON, that a script with its own devices printed."""
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, SUPPORT / script, *arguments],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    return printed("toy_devices.py", tmp_path_factory.mktemp("devices"), timeout=300)


@pytest.mark.parametrize("mesh", ["8x1", "2x4", "1x8"])
def test_eight_devices_train_like_one(devices, mesh):
    assert devices[mesh]["difference"] < 1e-5


def test_fsdp_shares_out_the_state(devices):
    whole = devices["8x1"]["bytes"]
    for fsdp, mesh in ((4, "2x4"), (8, "1x8")):
        # Two kernels dominate; biases and scalars stay whole.
        assert whole / fsdp < devices[mesh]["bytes"] < 1.1 * whole / fsdp


def test_accumulation_moves_no_rows_between_devices(devices):
    assert devices["moves"] == [0, 0]


def test_run_goes_on_with_another_mesh(devices):
    assert devices["resumed"]["step"] == 9
    assert devices["resumed"]["difference"] < 1e-5


def test_largest_divisible_dimension_is_split():
    mesh = AbstractMesh((2, 4), ("data", "fsdp"))
    shapes = {"kernel": (3, 3, 64, 128), "odd": (130, 256, 131), "none": (129, 131), "bias": (4096,), "step": ()}
    abstract = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    found = {name: placed.spec for name, placed in sharding.parameter_shardings(mesh, abstract).items()}
    assert found == {
        "kernel": PartitionSpec(None, None, None, "fsdp"),
        "odd": PartitionSpec(None, "fsdp"),
        "none": PartitionSpec(),
        "bias": PartitionSpec(),
        "step": PartitionSpec(),
    }


def test_nothing_is_split_without_fsdp():
    mesh = AbstractMesh((8, 1), ("data", "fsdp"))
    placed = sharding.parameter_shardings(mesh, jax.ShapeDtypeStruct((1024, 1024), jnp.float32))
    assert placed.spec == PartitionSpec()


@pytest.mark.parametrize(
    "config, message",
    [
        (MeshConfig(data=-1, fsdp=3), r"mesh\.fsdp is 3; it must divide the number of devices \(8\)"),
        (MeshConfig(data=5, fsdp=-1), r"mesh\.data is 5; it must divide the number of devices \(8\)"),
        (MeshConfig(data=2, fsdp=2), r"mesh\.data is 2; .*number of devices \(8\); mesh\.fsdp is 2"),
    ],
)
def test_mesh_that_does_not_fit_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        sharding.make_mesh(config, devices=jax.devices() * 8)


@pytest.mark.parametrize(
    "batch_size, accumulate, message",
    [
        (20, 1, r"train\.batch_size is 20; .* multiple of 8 \(8 devices\): 16 or 24 would work"),
        (4, 1, r"8 or 16 would work"),
        (40, 2, r"multiple of 16 \(8 devices times 2 micro-batches\): 32 or 48 would work"),
    ],
)
def test_batch_that_does_not_split_is_refused(batch_size, accumulate, message):
    mesh = AbstractMesh((2, 4), ("data", "fsdp"))
    sharding.check_batch(mesh, 48, "train.batch_size", accumulate)
    with pytest.raises(ConfigError, match=message):
        sharding.check_batch(mesh, batch_size, "train.batch_size", accumulate)


@pytest.mark.parametrize("stage", ["autoencoder", "denoiser"])
def test_bytes_per_device_fall_with_the_number_of_devices(stage):
    """Parameters, EMA and optimizer at the paper's sizes, by the rule alone: nothing is computed.

    What is too small to be split (norms, biases) stays whole: 3 MB of the autoencoder with its discriminators, 6 MB of
    PVDM-L.
    """
    config, one = load_settings("ucf101:l-official"), sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    if stage == "autoencoder":
        settings = dataclasses.replace(config.train_autoencoder, perceptual_weight=0.0)
        made = AutoencoderStage(config.autoencoder, settings, {"video": np.zeros((0, 16, 256, 256, 3))}, one)
    else:
        made = DiffusionStage(config, one)
    abstract = jax.eval_shape(made.init, jax.random.key(0))
    held = {}
    for devices in (1, 2, 4, 8, 16, 64, 128):
        shardings = sharding.parameter_shardings(AbstractMesh((4, devices), ("data", "fsdp")), abstract)
        pairs = zip(jax.tree.leaves(abstract), jax.tree.leaves(shardings), strict=True)
        held[devices] = sum(math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize for x, s in pairs)
    whole = 3.3e6 if stage == "autoencoder" else 6e6
    for devices, found in held.items():
        assert held[1] / devices <= found < held[1] / devices + whole
    assert held[1] > 1e9


def test_no_array_travels_between_processes(monkeypatch):
    """jax.device_put sends arrays to other processes to compare them; shardings of several processes do without."""
    mesh = sharding.make_mesh(MeshConfig(), devices=jax.devices()[:1])
    monkeypatch.setattr(jax.sharding.NamedSharding, "is_fully_addressable", property(lambda self: False))
    monkeypatch.setattr(jax, "device_put", lambda *_: pytest.fail("an array was sent"))
    weights = {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3), "bias": jnp.ones(2)}
    placed = sharding.place(mesh, weights)
    jax.tree.map(np.testing.assert_array_equal, placed, weights)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(placed))
    items = np.arange(10, dtype=np.float32).reshape(5, 2)
    found = sharding.map_batches(mesh, lambda x: {"twice": x * 2}, items, 2)
    np.testing.assert_array_equal(found["twice"], items * 2)


@pytest.mark.parametrize("count, expected", [(1, 8), (8, 8), (9, 16)])
def test_batches_are_rounded_up_to_the_mesh(count, expected):
    assert sharding.round_up(AbstractMesh((4, 2), sharding.AXES), count) == expected


@pytest.fixture(scope="module")
def fsdp():
    return printed("fsdp_program.py", timeout=600)


@pytest.mark.slow
def test_blocks_gather_their_parameters_one_by_one(fsdp):
    whole, by_blocks = fsdp["split"], fsdp["split by blocks"]
    params = whole["parameters"]
    assert whole["temporaries"] > params  # all parameters are whole at once
    assert by_blocks["temporaries"] < 0.6 * params
    # Gathered for the forward pass, and once more for the gradient.
    assert by_blocks["moved"]["all-gather"] == pytest.approx(2 * whole["moved"]["all-gather"], rel=0.05)
    assert set(by_blocks["moved"]) <= {"all-gather", "all-reduce", "reduce-scatter"}  # no activation moves


@pytest.mark.slow
def test_micro_batches_share_one_gathering(fsdp):
    assert fsdp["micro-batches"]["moved"]["all-gather"] == fsdp["split"]["moved"]["all-gather"]


def test_gradients_are_split_as_parameters_are():
    """The program requests it; XLA for GPUs and TPUs turns it into a reduce-scatter."""
    mesh = AbstractMesh((1, 4), ("data", "fsdp"))
    weight = jax.ShapeDtypeStruct((64, 512), jnp.float32)
    traced = jax.make_jaxpr(jax.grad(lambda w: jnp.sum(jnp.square(sharding.gather(mesh, w)))))(weight)
    asked = [equation.params["sharding"].spec for equation in traced.eqns if "sharding" in equation.params]
    assert asked[-1] == PartitionSpec(None, "fsdp")


@pytest.mark.slow
def test_every_device_encodes_its_own_clips_a_few_at_a_time(fsdp):
    found = fsdp["encoding"]
    assert found["apart"] < 1e-5 and found["split"]
    assert found["transfers"] == ["all-gather"]  # of parameters
