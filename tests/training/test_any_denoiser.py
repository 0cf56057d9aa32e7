"""Every denoiser goes through the same functions: a transformer, one of ten lines from outside of the package, and two
of these, one of which is the expert for the last time."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_config import CONFIG, changed

import pvdm_jax
from pvdm_jax.commands import export
from pvdm_jax.config import DenoiserConfig, DiTConfig, MeshConfig
from pvdm_jax.models.denoiser import DENOISERS
from pvdm_jax.performance.operations import Operations
from pvdm_jax.performance.planned_step import trace_step
from pvdm_jax.runtime.sharding import make_mesh
from pvdm_jax.training import diffusion
from pvdm_jax.training.encode import encode

FRAMES = CONFIG.autoencoder.frames


@dataclasses.dataclass(frozen=True)
class MixerConfig(DenoiserConfig):
    name: str = "mixer"


class Mixer(nnx.Module):
    """Every position sees itself, the previous clip there, the time, and the mean over all positions."""

    NOT_MATRICES = ("inner", "out")

    def __init__(self, config, spec, *, rngs):
        self.inner = nnx.Linear(2 * spec.channels + 1, 16, rngs=rngs)
        self.out = nnx.Linear(16, spec.channels, rngs=rngs)

    def __call__(self, x, time, condition):
        time = jnp.broadcast_to(time[:, None, None] / 1000, (*x.shape[:2], 1))
        hidden = jnp.tanh(self.inner(jnp.concatenate([x, condition.previous.visible(), time], axis=-1)))
        return self.out(hidden - hidden.mean(axis=1, keepdims=True))


@pytest.fixture(scope="module")
def encoded(stage_one, tmp_path_factory):
    """A run of stage 1 with its latents."""
    workdir = tmp_path_factory.mktemp("encoded") / "run"
    shutil.copytree(stage_one, workdir)
    encode(CONFIG, workdir)
    return workdir


@pytest.fixture(params=["dit", "mixer", "experts"])
def config(request, monkeypatch):
    monkeypatch.setitem(DENOISERS, "mixer", (MixerConfig, Mixer))
    dit = DiTConfig(width=32, depth=2, num_heads=2, num_classes=3)
    experts = MixerConfig(expert_from=CONFIG.process.num_steps - 1)
    denoiser = {"dit": dit, "mixer": MixerConfig(), "experts": experts}[request.param]
    optimizer = dataclasses.replace(CONFIG.train_diffusion.optimizer, muon_learning_rate=1e-2)
    return dataclasses.replace(changed(train_diffusion={"optimizer": optimizer}), denoiser=denoiser)


def test_it_trains_samples_and_exports(encoded, config, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(encoded, workdir)
    state = diffusion.train(config, workdir)
    assert int(state.step) == config.train_diffusion.steps and int(state.skipped) == 0
    model = pvdm_jax.load(workdir)
    assert model.config.denoiser == config.denoiser
    videos = model.sample(jax.random.key(0), 2, 2 * FRAMES)
    assert videos.shape == (2, 2 * FRAMES, *videos.shape[2:]) and videos.dtype == np.uint8
    # From the run's folder to a model folder and back.
    exported = pvdm_jax.load(export.export(workdir, tmp_path / "exported"))
    np.testing.assert_array_equal(exported.sample(jax.random.key(0), 2, 2 * FRAMES), videos)


def test_it_is_planned_and_timed(config):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    step = trace_step(config, 2, mesh)
    operations = Operations(config.autoencoder, config.denoiser, batch=1, mesh=mesh, steps=2)
    traced = {name: operations.make(name).trace() for name in ("denoiser", "denoiser_train", "sample")}
    assert step.jaxpr.eqns and all(trace.jaxpr.eqns for trace in traced.values())


def test_a_step_is_planned_with_every_part_of_a_batch():
    config = changed(denoiser={"next_clip": True}, encode={"unconditional_anywhere": True})
    assert trace_step(config, 2, make_mesh(MeshConfig(), jax.devices()[:1])).jaxpr.eqns
