"""Stage 2's recipes: which clips are shown their neighbours, what is learnt, and the constants of the official run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import model_config

from pvdm_jax.config import Config, ConfigError, DiffusionTrainingConfig, MeshConfig
from pvdm_jax.config.loading import load_settings
from pvdm_jax.data.latent_batch import LatentBatch
from pvdm_jax.diffusion.predictions import NoisyBatch
from pvdm_jax.inference.latent_model import LatentModel
from pvdm_jax.models.condition import Condition, Neighbour
from pvdm_jax.runtime import sharding
from pvdm_jax.training import diffusion_losses
from pvdm_jax.training.diffusion import DiffusionStage
from pvdm_jax.training.optimizer import init_state, make_optimizer, update

COUNT = 4000


def stage(recipe="default", context_prob=0.3, **unet):
    config = model_config(**unet)
    training = DiffusionTrainingConfig(recipe=recipe, context_prob=context_prob)
    config = dataclasses.replace(config, train_diffusion=training)
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    return DiffusionStage(config, mesh)


def windows(missing=0.25, count=COUNT, with_next=True, **extra):
    """A batch whose latents say which clip of their window they are: -1, 0 and 1."""
    shape, rng = (count, 1, 1), np.random.default_rng(0)
    batch = {"previous": np.full(shape, -1.0), "clip": np.zeros(shape), "label": np.zeros(count, np.int32), **extra}
    batch["has_previous"] = rng.random(count) >= missing
    if with_next:
        batch |= {"next": np.full(shape, 1.0), "has_next": rng.random(count) >= missing}
    return LatentBatch(**{name: jnp.asarray(value) for name, value in batch.items()})


def shown(present, *names):
    """A condition whose neighbours are present where it says so."""
    return Condition(**{name: Neighbour(jnp.zeros((COUNT, 1, 1)), present) for name in names or ("previous",)})


def test_default_drops_the_previous_clip_of_each_clip():
    batch = windows()
    given = stage().losses.shown_neighbours(batch, jax.random.key(0))["previous"]
    assert not np.any(given & ~batch.has_previous)  # a missing one is never shown
    assert abs(float(given[batch.has_previous].mean()) - 0.3) < 0.03
    assert set(stage(context_prob=0.0).losses.shown_neighbours(batch, jax.random.key(0))) == {"previous"}


def test_official_flips_one_coin_for_a_batch(monkeypatch):
    """The step hands the same coin to every clip of every micro-batch; over many steps it shows as often as asked."""
    from pvdm_jax.training import diffusion

    seen = []
    monkeypatch.setattr(diffusion, "accumulate_gradients", lambda loss, *_: (seen.append(loss), {}))
    monkeypatch.setattr(diffusion, "update", lambda *_: None)
    official = stage("official")
    state = type("State", (), {"params": None})()
    for step in range(300):
        official.step(state, windows(count=5), jax.random.key(step), official.constants)
    coins = np.stack([loss.keywords["coin"] for loss in seen])
    assert coins.shape == (300,)  # the loss of every micro-batch gets it
    assert abs(coins.mean() - 0.3) < 0.08
    for coin in (True, False):
        batch = windows()
        given = official.losses.shown_neighbours(batch, jax.random.key(0), jnp.asarray(coin))["previous"]
        np.testing.assert_array_equal(given, batch.has_previous & coin)


def test_the_default_recipe_knows_no_common_coin(monkeypatch):
    from pvdm_jax.training import diffusion

    seen = []
    monkeypatch.setattr(diffusion, "accumulate_gradients", lambda loss, *_: (seen.append(loss), {}))
    monkeypatch.setattr(diffusion, "update", lambda *_: None)
    model = stage()
    model.step(type("State", (), {"params": None})(), windows(count=5), jax.random.key(0), model.constants)
    assert [loss.keywords["coin"] for loss in seen] == [None]


def test_both_neighbours():
    """Of the clips that are shown any: half both, a quarter each only one of them."""
    batch = windows(missing=0.0)
    given = stage(context_prob=0.8, next_clip=True).losses.shown_neighbours(batch, jax.random.key(0))
    both = np.asarray(given["previous"] & given["next"])
    assert abs(both.mean() - 0.4) < 0.03
    assert abs(float((given["previous"] & ~given["next"]).mean()) - 0.2) < 0.03
    assert abs(float((given["next"] & ~given["previous"]).mean()) - 0.2) < 0.03


def test_alone_any_clip_of_the_window_is_learnt():
    model, pairs = stage(), windows(missing=0.5, with_next=False)
    alone = jnp.arange(COUNT) % 2 == 0
    clip = np.asarray(model.losses.unconditional_clip(pairs, shown(~alone), jax.random.key(0)))[:, 0, 0]
    assert np.all(clip[1::2] == 0)  # what is given a neighbour is the clip beside it
    known = np.asarray(pairs.has_previous)
    assert np.all(clip[~known] == 0)
    assert abs((clip[0::2][known[0::2]] == -1).mean() - 0.5) < 0.05
    everywhere = jnp.ones(COUNT, bool)
    nothing = shown(~everywhere, "previous", "next")
    thirds = np.asarray(stage(next_clip=True).losses.unconditional_clip(windows(0.0), nothing, jax.random.key(0)))
    for value in (-1, 0, 1):
        assert abs((thirds == value).mean() - 1 / 3) < 0.03


def test_alone_the_clip_at_a_random_place_is_learnt():
    """Where the data have one; what is given a neighbour is the clip beside it."""
    batch = windows(unconditional=np.full((COUNT, 1, 1), 0.5))
    alone = jnp.arange(COUNT) % 2 == 0
    clip = np.asarray(stage().losses.unconditional_clip(batch, shown(~alone), jax.random.key(0)))[:, 0, 0]
    assert np.all(clip[0::2] == 0.5) and np.all(clip[1::2] == 0)


@pytest.mark.parametrize("next_clip", [False, True])
def test_the_network_sees_what_is_given_and_zeros_for_the_rest(monkeypatch, next_clip):
    model, seen = stage(context_prob=0.5, next_clip=next_clip), {}

    def make_noisy(process, clip, key, times):
        seen.update(clip=np.asarray(clip)[:, 0, 0])
        return NoisyBatch(x=clip, time=jnp.zeros(len(clip), jnp.int32), target=clip, weight=jnp.full(len(clip), 2.0))

    def errors(params, drawn):
        neighbours = [drawn.condition.previous, drawn.condition.next] if next_clip else [drawn.condition.previous]
        seen.update(context=np.stack([neighbour.visible()[:, 0, 0] for neighbour in neighbours], axis=1))
        return jnp.ones(len(drawn.counted))

    monkeypatch.setattr(diffusion_losses, "draw_noisy_batch", make_noisy)
    monkeypatch.setattr(model.losses, "errors", errors)
    batch = windows(with_next=next_clip)
    loss, _ = model.losses.loss({}, batch, jax.random.key(0))
    assert float(loss) == 2.0  # errors times the weights of their steps
    given = np.any(seen["context"] != 0, axis=1)
    assert np.all(seen["clip"][given] == 0)
    assert set(np.unique(seen["context"][:, 0])) == {-1.0, 0.0}
    if next_clip:
        assert set(np.unique(seen["context"][:, 1])) == {0.0, 1.0}


def test_a_network_without_neighbours_is_shown_none():
    given = stage(previous_clip=False).losses.shown_neighbours(windows(), jax.random.key(0))
    assert not np.any(given["previous"])


def test_the_next_clip_is_further_channels_of_the_input():
    """Everything else of the network is laid out as the official one is."""

    def shapes(**unet):
        config = model_config(**unet)
        return LatentModel(config.autoencoder, config.denoiser).denoiser_shapes

    plain, extended = shapes(), shapes(next_clip=True)
    assert jax.tree.structure(plain) == jax.tree.structure(extended)
    leaves = zip(jax.tree_util.tree_leaves_with_path(plain), jax.tree.leaves(extended), strict=True)
    different = {jax.tree_util.keystr(path): (a.shape, b.shape) for (path, a), b in leaves if a.shape != b.shape}
    assert different == {"['conv_in']['kernel']": ((3, 3, 8, 32), (3, 3, 12, 32))}


def test_the_ema_follows_the_official_ramp():
    """Updated every 25 steps; the n-th update keeps min(0.9999, (1 + n) / (10 + n)) of it."""
    config = load_settings("ucf101:l-official").train_diffusion
    optimizer = make_optimizer(dataclasses.replace(config.optimizer, learning_rate=0.5), 100)
    state, expected = init_state({"w": jnp.zeros(1)}, optimizer), 0.0
    for step in range(1, 76):
        state = update(state, {"w": jnp.ones(1)}, optimizer, config.ema_decay, config.ema_every)
        if step % 25 == 0:
            keep = (1 + step // 25) / (10 + step // 25)
            expected = keep * expected + (1 - keep) * float(state.params["w"][0])
        assert float(state.ema["w"][0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("name", "context_prob"), [("ucf101", 0.3), ("sky_timelapse", 0.2)])
@pytest.mark.parametrize("size", ["l", "s"])
def test_constants_of_the_official_runs(name, context_prob, size):
    config = load_settings(f"{name}:{size}-official")
    training, process = config.train_diffusion, config.process
    assert (training.recipe, training.context_prob, training.batch_size) == ("official", context_prob, 64)
    assert (training.ema_decay, training.ema_every) == (0.9999, 25)
    rates = training.optimizer
    assert (rates.learning_rate, rates.b1, rates.b2, rates.weight_decay) == (1e-4, 0.9, 0.999, 0.01)
    assert (rates.warmup_steps, rates.decay, rates.clip_norm) == (0, "constant", 0.0)
    assert training.steps == (850_000 if size == "l" else 400_000)
    assert (process.num_steps, process.beta_start, process.beta_end) == (1000, 0.0015, 0.0195)
    assert (process.prediction, process.loss_weight) == ("eps", "uniform")
    assert not config.denoiser.position_embedding


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="train_diffusion.recipe is 'ours'; choose one of default, official"):
        Config(train_diffusion=DiffusionTrainingConfig(recipe="ours"))
