"""The real stages on 1, 2, 4 and 8 devices (in a program of its own): numbers and bytes. See tiny_devices.py."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long
SCRIPT = pathlib.Path(__file__).parents[1] / "support" / "tiny_devices.py"


@pytest.fixture(scope="module")
def found():
    root = pathlib.Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["reconstruction", "adversarial", "denoiser"])
def test_every_split_trains_like_one_device(found, kind):
    meshes = {name.split()[1]: values for name, values in found.items() if name.startswith(kind)}
    assert set(meshes) == {"1x1", "2x1", "1x2", "2x2", "1x4", "8x1", "4x2", "2x4", "1x8"}
    for mesh, values in meshes.items():
        assert values["step"] == (1 if kind == "adversarial" else 3), mesh
        for part in ("metrics", "params", "moments"):
            assert values[part] < 2e-6, (mesh, part, values[part])


@pytest.mark.parametrize("kind", ["reconstruction", "adversarial", "denoiser"])
def test_what_a_device_holds_falls_with_fsdp_alone(found, kind):
    held = {name.split()[1]: values["bytes"] for name, values in found.items() if name.startswith(kind)}
    assert held["1x1"] == held["2x1"] == held["8x1"]
    assert held["1x2"] == held["2x2"] == held["4x2"] and held["1x4"] == held["2x4"]
    # All that is large enough to be split falls exactly so; the rest is a fifth to a third of these tiny networks.
    split = 2 * (held["1x1"] - held["1x2"])
    assert split > 0.6 * held["1x1"]
    for mesh, parts in (("1x4", 4), ("1x8", 8)):
        assert held[mesh] == held["1x1"] - split + split // parts
