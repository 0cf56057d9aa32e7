"""The shipped configs against the plans in docs/notes (they fit the devices that their headers name), and against the
benchmark's sizes, which are copies of them.

A plan takes minutes, so the compiler's results are stored. A config that no row covers any more must be planned again.
"""

import dataclasses
import json
import pathlib

import pytest
from jax.sharding import AbstractMesh

from pvdm_jax.config.loading import load_settings
from pvdm_jax.performance.choices import SIZES
from pvdm_jax.performance.planned_step import STAGES
from pvdm_jax.runtime.sharding import AXES, check_batch

PLANS = json.loads((pathlib.Path(__file__).parents[2] / "docs/notes/plans_2026-11.json").read_text())["rows"]
DEVICES = {"gpu": (1, 2, 4, 8), "tpu": (16,)}
LIMITS = {"gpu": 40e9, "tpu": 16e9}
# Of the headers.
OVERRIDES = {
    "gpu": [],
    "tpu": ["train_autoencoder.batch_size=32", "train_autoencoder.accumulate=2", "train_diffusion.accumulate=1"],
}


def covers(row, config, stage, devices):
    """Whether a row's plan is that of this configuration, or of more clips at a time."""
    model = config.autoencoder if stage == 1 else config.denoiser
    section = getattr(config, STAGES[stage])
    each = section.batch_size // (section.accumulate * devices)
    same = row["stage"] == stage and (row["dtype"], row["remat"]) == (model.dtype, model.remat)
    denoiser = load_settings(row["config"]).denoiser
    return same and each <= row["per_device"] and (stage == 1 or denoiser == config.denoiser)


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("spec", ["ucf101:l", "ucf101:dit-l", "sky_timelapse:l", "sky_timelapse:dit-l"])
def test_a_config_fits_what_its_header_names(spec, stage, kind):
    config = load_settings(spec, [f"--config.{setting}" for setting in OVERRIDES[kind]])
    section = getattr(config, STAGES[stage])
    rows = [row for row in PLANS if row["topology"].startswith("v" if kind == "tpu" else "h100")]
    for devices in DEVICES[kind]:
        mesh = AbstractMesh((1, devices), AXES)
        check_batch(mesh, section.batch_size, "batch_size", section.accumulate)
        found = [row for row in rows if covers(row, config, stage, devices)]
        assert found, f"stage {stage} of {spec} on {devices} devices has no plan in docs/notes/plans_2026-11.json"
        assert min(row["memory"] for row in found) <= LIMITS[kind]


@pytest.mark.parametrize("size, spec", [("demo", "demo"), ("s", "ucf101:s-official"), ("l", "ucf101:l-official")])
def test_the_benchmark_s_sizes_are_those_of_the_configs(size, spec):
    """Except for rematerialisation, which the benchmark sets itself."""
    config = load_settings(spec)
    found = [dataclasses.replace(model, remat="none") for model in (config.autoencoder, config.denoiser)]
    assert SIZES[size] == tuple(found)
