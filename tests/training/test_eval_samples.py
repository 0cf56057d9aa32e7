"""The comparison of samples with held-out clips while stage 2 trains."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from pvdm_jax.config import (
    AutoencoderConfig,
    Config,
    ConfigError,
    DataConfig,
    DiffusionTrainingConfig,
    MeshConfig,
    SampleConfig,
    UNetConfig,
)
from pvdm_jax.data.latent_batch import LatentBatch
from pvdm_jax.data.sources import open_source
from pvdm_jax.evaluation.frechet import frechet_distance
from pvdm_jax.evaluation.scattering import video_features
from pvdm_jax.models.autoencoder import latent_spec
from pvdm_jax.runtime import sharding
from pvdm_jax.training import diffusion

SAMPLES = 5
CONFIG = Config(
    data=DataConfig(synthetic_videos=SAMPLES, synthetic_frames=12),
    autoencoder=AutoencoderConfig(
        **dict(frames=8, height=24, width=24, patch_size=4, channels=16, depth=1, num_heads=1, head_dim=16),
        **dict(plane_depth=1, plane_num_heads=1, plane_head_dim=16, plane_mlp_dim=16),
    ),
    denoiser=UNetConfig(
        model_channels=32, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(1,), num_heads=1
    ),
    train_diffusion=DiffusionTrainingConfig(batch_size=4, eval_samples=SAMPLES),
    sample=SampleConfig(steps=2, later_steps=2),
)


@pytest.fixture
def stage():
    """A stage whose samples are training clips, by their index, and whose losses are zero."""
    latents = np.zeros((2, *latent_spec(CONFIG.autoencoder).shape), np.float32)
    held_out = LatentBatch(clip=latents, previous=latents, has_previous=np.ones(2, bool), label=np.zeros(2, np.int32))
    mesh = sharding.make_mesh(MeshConfig())
    real = diffusion._held_out_videos(CONFIG)
    made = diffusion.DiffusionStage(CONFIG, mesh, held_out=held_out, real=real)
    source = open_source(CONFIG.data, CONFIG.autoencoder, "train", 0)
    clips = {}

    def sample(params, batch):
        for index in np.asarray(batch["index"]).tolist():
            clips.setdefault(index, source[len(clips) % SAMPLES].read(0, 8))
        return jnp.stack([clips[index] for index in np.asarray(batch["index"]).tolist()])

    made._sample = sample
    made.drawn = clips
    made.held_out_errors = lambda params, batch, constants: {"unconditional": jnp.zeros(len(batch))}
    return made


def test_samples_are_compared_with_held_out_clips(stage, tmp_path):
    state = SimpleNamespace(ema=None)
    distance = stage.evaluate(state, tmp_path)["frechet_scattering"]
    assert stage.real.shape == (SAMPLES, 8, 24, 24, 3) and len(stage.drawn) == SAMPLES
    sampled = np.stack(list(stage.drawn.values()))
    expected = frechet_distance(video_features(stage.real), video_features(sampled))
    assert distance == pytest.approx(expected, rel=1e-6) and distance > 0.1
    # The same noise at every evaluation: against its own samples, the distance is zero.
    stage.real = sampled
    assert stage.evaluate(state, tmp_path)["frechet_scattering"] < 1e-6
    assert len(stage.drawn) == SAMPLES
    stage.real = None
    assert "frechet_scattering" not in stage.evaluate(state, tmp_path)


def test_off_is_off():
    off = dataclasses.replace(CONFIG, train_diffusion=dataclasses.replace(CONFIG.train_diffusion, eval_samples=0))
    assert diffusion._held_out_videos(off) is None


def test_clips_that_are_too_small_are_refused():
    small = dataclasses.replace(CONFIG, autoencoder=dataclasses.replace(CONFIG.autoencoder, frames=4))
    with pytest.raises(ConfigError, match="eval_samples is 5; comparing samples takes clips of at least 7 frames"):
        diffusion._held_out_videos(small)
    with pytest.raises(ConfigError, match="eval_samples is 1; 0, or at least 2 clips"):
        DiffusionTrainingConfig(eval_samples=1)
