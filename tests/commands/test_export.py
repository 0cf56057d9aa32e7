"""`pvdm export`: a run's sampler as a program that runs without this package, and what can't be exported."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from tiny_model import FRAMES, SIDE, tiny_model

from pvdm_jax.commands import export
from pvdm_jax.config import ConfigError
from pvdm_jax.inference import loading
from pvdm_jax.weights import model_folder

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "run_exported_sampler.py"
OPTIONS = {"steps": 2, "later_steps": 1, "sampler": "dpmpp", "grid": "logsnr"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A toy model's folder, exported with its sampler, and the model."""
    model, source = tiny_model(), tmp_path_factory.mktemp("model") / "toy"
    weights = {name: jax.tree.map(np.asarray, params) for name, params in model.weights.items()}
    model_folder.write_model(
        source, model.config, weights["autoencoder"], weights["denoiser"], {"notes": ["a toy"]}, model.class_names
    )
    output = source.with_name("exported")
    export.export(source, output, sampler=True, num_frames=FRAMES + 2, options=OPTIONS)
    return output


def test_the_exported_folder_is_a_model_folder_with_a_sampler(folder):
    assert {"sampler.jax", "sampler.json", "config.json", "denoiser.safetensors"} <= {p.name for p in folder.iterdir()}
    signature = json.loads((folder / "sampler.json").read_text())
    assert signature["gives"] == f"uint8 (b, {FRAMES + 2}, {SIDE}, {SIDE}, 3)"
    assert signature["platforms"] == ["cpu", "cuda", "tpu"]
    assert signature["sample"]["sampler"] == "dpmpp"
    assert signature["class_names"] == ["bounce", "orbit", "spin"]
    assert (folder / "sampler.jax").stat().st_size < 2_000_000  # the weights are beside it
    assert "a toy" in model_folder.read_model(folder, ()).card["notes"]


def test_it_runs_without_the_package_and_makes_the_same_videos(folder, tmp_path):
    """In a process that can't import pvdm_jax, with a batch size that was not known at export."""
    program = f"""
import json, sys
sys.modules["pvdm_jax"] = None
import jax, numpy as np
from safetensors.numpy import load_file
sampler = jax.export.deserialize(bytearray(open({str(folder / "sampler.jax")!r}, "rb").read()))
weights = {{name: load_file({str(folder)!r} + f"/{{name}}.safetensors") for name in ("autoencoder", "denoiser")}}
label = np.array([2, -1, 0], np.int32)
np.save({str(tmp_path / "videos.npy")!r}, sampler.call(weights, np.uint32(3), np.array([5, 0, 1], np.uint32), label))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "videos.npy")
    expected = loading.load(folder).sample(
        jax.random.key(3), 3, FRAMES + 2, labels=[2, -1, 0], indices=[5, 0, 1], **OPTIONS
    )
    assert found.dtype == np.uint8 and found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_the_example_runs_it(folder, tmp_path):
    source = EXAMPLE.read_text()
    assert "import pvdm_jax" not in source and "from pvdm_jax" not in source
    code = [line for line in source.partition('"""\n\n')[2].splitlines() if line.strip()]
    assert len(code) <= 20
    command = [sys.executable, str(EXAMPLE), str(folder), str(tmp_path / "samples.gif")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 videos of 6 frames" in done.stdout
    assert (tmp_path / "samples.gif").stat().st_size > 0


def test_weights_inside():
    model = tiny_model()
    data, signature = export.export_sampler(
        model, options={"steps": 1}, platforms=["cpu"], batch_size=2, weights_inside=True
    )
    sampler = jax.export.deserialize(bytearray(data))
    assert len(sampler.in_avals) == 3
    assert signature["takes"]["index"] == "uint32 (2,)"
    found = sampler.call({}, np.uint32(3), np.arange(2, dtype=np.uint32), np.full(2, -1, np.int32))
    assert np.abs(np.asarray(found).astype(int) - model.sample(jax.random.key(3), 2, steps=1)).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"platforms": ["metal"]}, "platforms is 'metal'; choose from cpu, cuda, rocm, tpu"),
        ({"options": {"steps": 0}}, "sample.steps is 0"),
        ({"weights_inside": True}, "leave them beside it"),
    ],
)
def test_what_cannot_be_exported_is_refused(monkeypatch, arguments, message):
    monkeypatch.setattr(export, "INSIDE_LIMIT", 1000)
    with pytest.raises(ConfigError, match=message):
        export.export_sampler(tiny_model(), **arguments)


def test_a_model_without_a_denoiser_has_no_sampler():
    model = tiny_model()
    model.weights = {"autoencoder": model.weights["autoencoder"]}
    with pytest.raises(ConfigError, match="stage 2 has not been trained"):
        export.export_sampler(model)


def test_long_videos_need_a_previous_clip():
    with pytest.raises(ConfigError, match="num_frames is 9"):
        export.export_sampler(tiny_model(previous_clip=False), 9)


def test_nothing_is_written_over(folder):
    with pytest.raises(FileExistsError):
        export.export(folder, folder)
