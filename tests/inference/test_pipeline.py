"""Sampling with a loaded model: what a video depends on, what is compiled, guidance, long videos, plane order."""

import dataclasses
import io
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import FRAMES, SIDE, FormulaPVDM, formula_model, model_config, tiny_model

from pvdm_jax.config import ConfigError, LatentsConfig, SampleConfig
from pvdm_jax.inference.latent_model import LatentModel
from pvdm_jax.inference.sampler import SamplingProgram, settings_of, split_settings
from pvdm_jax.models.triplane import PlaneShape, unpack

KEY = jax.random.key(3)
LONG = 2 * FRAMES + 2  # frames of a video of three clips


@pytest.fixture(scope="module")
def model():
    return formula_model()


def close(found, expected):
    """Equal up to the rounding of differently sized programs."""
    difference = np.abs(found.astype(int) - expected)
    return difference.max() <= 1 and (difference > 0).mean() < 0.01


def compilations(run) -> int:
    """How many programs JAX compiles, or takes from its cache, while `run` runs."""
    count = 0

    def listen(name, *_, **__):
        nonlocal count
        count += name == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        run()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return count


@pytest.fixture(scope="module")
def videos(model):
    """Four videos of three clips."""
    return model.sample(KEY, 4, num_frames=LONG)


def test_shape_and_variety(videos):
    assert (videos.shape, videos.dtype) == ((4, LONG, SIDE, SIDE, 3), np.uint8)
    assert len({video.tobytes() for video in videos}) == 4


def test_streaming_gives_the_same_videos_clip_by_clip(model, videos):
    clips = list(model.stream(KEY, 4, num_frames=LONG))
    assert [clip.shape[1] for clip in clips] == [FRAMES, FRAMES, 2]
    assert close(np.concatenate(clips, axis=1), videos)


def test_a_video_can_be_made_again_alone(model, videos):
    same_size = np.concatenate(list(model.stream(KEY, 4, LONG, indices=[3, 0, 0, 2])), axis=1)
    streamed = np.concatenate(list(model.stream(KEY, 4, LONG)), axis=1)
    np.testing.assert_array_equal(same_size, streamed[[3, 0, 0, 2]])  # in batches of one size, bit for bit
    assert close(model.sample(KEY, 1, LONG, indices=[3]), videos[3:])


def test_the_number_of_devices_does_not_change_a_video():
    """1 device and 3, which 4 videos do not divide evenly."""
    found = []
    for devices in (1, 3):
        program = [sys.executable, str(pathlib.Path(__file__).parents[1] / "support" / "tiny_model.py"), str(devices)]
        done = subprocess.run(program, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        found.append(np.load(io.BytesIO(done.stdout)))
    assert found[0].shape == (4, 6, SIDE, SIDE, 3)
    assert close(*found)


def test_a_second_call_compiles_nothing(model):
    """Other seeds, labels, lengths of a stream, strengths of guidance and noise, and other weights."""

    def run(seed, label, frames, guidance, class_guidance, eta, until):
        options = dict(guidance=guidance, class_guidance=class_guidance, eta=eta, guidance_to=until)
        for _ in model.stream(jax.random.key(seed), 2, frames, labels=[label, 0], indices=[seed, 7], **options):
            pass

    run(0, 1, 2 * FRAMES, 1.0, 2.0, 0.5, 0.9)
    assert compilations(lambda: run(1, 2, 5 * FRAMES + 1, 3.0, 0.5, 0.1, 0.4)) == 0
    weights = model.weights
    model.weights = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf) * 2, leaf.sharding), weights)
    try:
        assert compilations(lambda: run(1, 2, FRAMES, 3.0, 0.5, 0.1, 0.4)) == 0
    finally:
        model.weights = weights
    # The counter does count.
    assert compilations(lambda: jax.jit(lambda x: jnp.cos(x) + 0.12345)(np.float32(1))) == 1


LATER = {"later_steps", "later_sampler", "later_grid", "guidance", "reencode"}  # options that a first clip ignores


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 2},
        {"later_steps": 1},
        {"eta": 0.0},
        {"guidance": 2.0},
        {"sampler": "heun", "grid": "quadratic"},
        {"later_sampler": "heun", "later_grid": "quadratic"},
        {"reencode": True},
        {"labels": [1]},
        {"labels": [1], "class_guidance": 4.0},
    ],
)
def test_options_matter(model, videos, options):
    found = model.sample(KEY, 1, num_frames=2 * FRAMES, **options)
    # The first clip has no clip before it.
    assert close(found[:, :FRAMES], videos[:1, :FRAMES]) == (set(options) <= LATER)
    assert not close(found[:, FRAMES:], videos[:1, FRAMES : 2 * FRAMES])


def test_labels_are_each_video_s_own(model):
    found = model.sample(KEY, 2, labels=[1, -1], indices=[5, 5])
    np.testing.assert_array_equal(found[1], model.sample(KEY, 2, labels=[-1, 2], indices=[5, 5])[0])
    assert not np.array_equal(found[0], found[1])


def test_samples_depend_on_their_key(model, videos):
    np.testing.assert_array_equal(videos, model.sample(KEY, 4, num_frames=LONG))
    assert not np.array_equal(videos, model.sample(jax.random.key(4), 4, num_frames=LONG))


def test_extending_depends_on_the_last_clip_alone(model):
    video = np.random.default_rng(0).integers(0, 256, (2, FRAMES + 2, SIDE, SIDE, 3), np.uint8)
    found = model.extend(video, 5, KEY)
    assert found.shape == (2, 5, SIDE, SIDE, 3)
    other = video.copy()
    other[:, :2] = 0  # before the last clip
    np.testing.assert_array_equal(found, model.extend(other, 5, KEY))
    other[:, 2:] = 0
    assert not close(found, model.extend(other, 5, KEY))
    with pytest.raises(ValueError, match="video has 3 frames; it needs at least those of one clip, 4"):
        model.extend(video[:, :3], 5, KEY)


def test_reconstruction_goes_clip_by_clip(model):
    video = np.random.default_rng(0).integers(0, 256, (1, 2 * FRAMES, SIDE, SIDE, 3), np.uint8)
    found = model.reconstruct(video)
    np.testing.assert_array_equal(found[:, FRAMES:], model.decode(model.encode(video[:, FRAMES:])))
    with pytest.raises(ValueError, match="multiple of a clip's 4"):
        model.reconstruct(video[:, : FRAMES + 2])
    with pytest.raises(ValueError, match=r"video has shape \(1, 8, 8, 16, 3\)"):
        model.reconstruct(video[:, :, :8])


def test_reencoding_goes_on_from_the_clip_as_it_is_seen(model):
    whole = np.concatenate(list(model.stream(KEY, 2, 2 * FRAMES, reencode=True)), axis=1)
    previous = model._previous(whole[:, :FRAMES])
    request = model._request(KEY, previous, count=2, num_frames=FRAMES, labels=None, indices=None, options={})
    second, _ = model._call(request, request.batch, number=1, clips=1, given=True)
    assert close(np.asarray(second), whole[:, FRAMES:])


def test_calls_of_the_denoiser(model):
    assert model.calls() == 3
    assert model.calls(LONG) == 3 + 2 + 2
    assert model.calls(LONG, given=True) == 2 + 2 + 2
    assert model.calls(LONG, sampler="heun", steps=10, later_steps=4) == 19 + 7 + 7
    assert model.calls(LONG, sampler="heun", later_sampler="ddim", steps=10, later_steps=4) == 19 + 4 + 4
    assert model.calls(sampler="ddpm") == 1000


def test_a_sampler_that_is_chosen_alone_is_that_of_all_clips(model):
    settings = SampleConfig(sampler="heun", grid="quadratic", later_sampler="ddim", later_grid="trailing", steps=9)
    config = dataclasses.replace(model.config, sample=settings)
    assert settings_of(config, {}).solver(later=True)[::2] == ("ddim", "trailing")
    assert settings_of(config, {"sampler": "dpmpp"}).solver(later=True)[::2] == ("dpmpp", "trailing")
    assert settings_of(config, {"grid": "logsnr"}).solver(later=True)[::2] == ("ddim", "logsnr")
    chosen = {"grid": "logsnr", "later_grid": "uniform"}
    assert settings_of(config, chosen).solver(later=True)[::2] == ("ddim", "uniform")


def test_preview_ends_with_the_sample(model):
    previews, steps = model.preview(KEY, 2, every=2, steps=6)
    assert previews.shape == (3, 2, FRAMES, SIDE, SIDE, 3)
    assert np.all(np.diff(steps) < 0)
    assert close(previews[-1], model.sample(KEY, 2, steps=6))
    assert not close(previews[0], previews[-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_videos": 2, "labels": [1]}, r"labels are \[1\]; 2 numbers from -1 to 2"),
        ({"labels": [3]}, "labels are"),
        ({"indices": [-1]}, "indices are"),
        ({"num_frames": 0}, "must be positive"),
        ({"steps": 5000}, "sample.steps is 5000"),
        ({"sampler": "plms"}, "sample.sampler is 'plms'; choose one of ddim, ddpm, dpmpp"),
    ],
)
def test_impossible_requests_are_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.sample(KEY, **{"num_videos": 1} | arguments)


class KnownOrder(LatentModel):
    """An autoencoder whose clips are the latents themselves, and that only knows planes tx >= 0 >= ty."""

    def decode(self, params, latents):
        return latents

    def encode(self, params, video):
        planes = unpack(video, PlaneShape.of(self.spec))
        lower, upper = jnp.minimum(planes.ty, 0), jnp.maximum(planes.tx, 0)
        return type(planes)(planes.yx, upper, lower).pack()


def test_the_autoencoder_confirms_the_order_of_the_motion_planes(model):
    config = model.config
    program = SamplingProgram(config, KnownOrder(config.autoencoder, config.denoiser))
    latents = jax.random.uniform(jax.random.key(0), (5, *model.latent_spec.shape))
    planes = unpack(latents, PlaneShape.of(model.latent_spec))
    right = type(planes)(planes.yx, planes.tx, -planes.ty).pack()
    wrong = type(planes)(planes.yx, -planes.ty, planes.tx).pack()
    mixed = jnp.concatenate([right[:2], wrong[2:]])
    found, video, exchanged = program.confirm({"autoencoder": {}}, mixed)
    np.testing.assert_array_equal(found, right)
    np.testing.assert_array_equal(video, right)
    assert exchanged.tolist() == [False, False, True, True, True]


def test_confirming_is_for_models_that_need_it():
    def confirms(order, **unet):
        config = model_config(**unet)
        model = LatentModel(config.autoencoder, config.denoiser)
        return split_settings(model, SampleConfig(plane_order=order), LatentsConfig())[0].plane_order == "confirm"

    assert confirms("auto", position_embedding=False)
    assert not confirms("auto", position_embedding=True)
    assert confirms("confirm", position_embedding=True)
    assert not confirms("keep", position_embedding=False)


def test_a_confirmed_sample_has_the_confirmed_order(model):
    request = model._request(KEY, {}, count=2, num_frames=None, labels=None, indices=None, options={})
    latents, _, _ = model._preview(model.weights, KEY, request.batch, request.numbers, settings=request.settings)
    confirmed, _, exchanged = model._confirm(model.weights, latents)
    assert exchanged.shape == (2,)
    assert close(model.decode(confirmed), model.sample(KEY, 2, plane_order="confirm"))


def test_interpolation_needs_a_model_trained_for_it(model):
    clips = np.zeros((1, FRAMES, SIDE, SIDE, 3), np.uint8)
    with pytest.raises(ValueError, match="next_clip=True"):
        model.interpolate(clips, clips, KEY)
    with pytest.raises(ConfigError, match="denoiser.next_clip is True; it needs denoiser.previous_clip"):
        formula_model(previous_clip=False, next_clip=True)


def test_interpolation_depends_on_both_sides():
    model = formula_model(next_clip=True)
    rng = np.random.default_rng(0)
    first, second, other = rng.integers(0, 256, (3, 1, FRAMES + 1, SIDE, SIDE, 3), np.uint8)
    found = model.interpolate(first, second, KEY)
    assert found.shape == (1, FRAMES, SIDE, SIDE, 3)
    assert not close(found, model.interpolate(other, second, KEY))
    assert not close(found, model.interpolate(first, other, KEY))
    assert not close(found, model.interpolate(second, first, KEY))
    # What lies beyond the neighbouring clips doesn't matter.
    far = first.copy()
    far[:, 0] = 0
    np.testing.assert_array_equal(found, model.interpolate(far, second, KEY))
    with pytest.raises(ValueError, match="first has 3 frames"):
        model.interpolate(first[:, :3], second, KEY)
    # It samples and extends like any other.
    assert model.sample(KEY, 1, num_frames=LONG).shape == (1, LONG, SIDE, SIDE, 3)


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int8", "bool"])
def test_pixels_are_uint8_and_nothing_else(model, dtype):
    """Floats could be in [0, 1], [-1, 1] or [0, 255]."""
    clip = model.config.autoencoder
    pixels = np.zeros((1, clip.frames, clip.height, clip.width, 3), dtype)
    calls = [model.encode, model.reconstruct, lambda video: model.extend(video, 4, jax.random.key(0))]
    for call in calls:
        with pytest.raises(TypeError, match=f"video is {dtype}; pixels are needed as uint8, from 0 to 255"):
            call(pixels)
    with pytest.raises(TypeError, match="latents are int64"):
        model.decode(np.zeros((1, *model.latent_spec.shape), np.int64))


def test_prior_guidance_of_first_clips_and_of_continuations(model):
    spec = model.latent_spec
    shape = (len(spec.segments), spec.shape[1])
    statistics = LatentsConfig(normalize=True, mean=tuple(np.zeros(shape).ravel()), std=tuple(np.ones(shape).ravel()))
    config = dataclasses.replace(model.config, latents=statistics)
    model = FormulaPVDM(config, model.weights["autoencoder"], model.weights["denoiser"], None, None)

    def sample(**options):
        return model.sample(KEY, 1, 2 * FRAMES, **options)

    off, first, later = sample(), sample(prior_guidance=1.0, later_prior_guidance=0.0), sample(later_prior_guidance=1.0)
    assert not close(first[:, :FRAMES], off[:, :FRAMES])
    assert close(later[:, :FRAMES], off[:, :FRAMES]) and not close(later[:, FRAMES:], off[:, FRAMES:])
    both = sample(prior_guidance=1.0)
    assert close(both[:, :FRAMES], first[:, :FRAMES]) and not close(both[:, FRAMES:], first[:, FRAMES:])
    assert close(both, sample(prior_guidance=1.0, later_prior_guidance=1.0))
    assert not close(both, sample(prior_guidance=1.0, guidance_to=0.5))
    assert compilations(lambda: sample(prior_guidance=0.3)) == 0


def test_the_networks_themselves():
    """Repeats, with real networks, the assertions above that may depend on them."""
    model = tiny_model()
    options = dict(guidance=1.0, class_guidance=2.0)

    def stream(label, **strengths):
        return np.concatenate(list(model.stream(KEY, 2, LONG, labels=[label, -1], **options | strengths)), axis=1)

    found = stream(1)
    assert close(found, model.sample(KEY, 2, LONG, labels=[1, -1], **options))
    assert compilations(lambda: stream(2, eta=0.3, guidance=0.5)) == 0
    assert not close(found[:1], stream(2)[:1])
    assert close(found[1:], stream(2)[1:])
    confirmed = model.sample(KEY, 2, plane_order="confirm")
    assert confirmed.shape == (2, FRAMES, SIDE, SIDE, 3)
