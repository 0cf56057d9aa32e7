"""Stage 1's losses and steps as pure functions, on tiny networks, against formulas and against plain gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tiny_adversarial import BATCH, MODEL, make_stage, state_of, tiny_config

from pvdm_jax.config import AdversarialConfig, AutoencoderConfig, ConfigError, OptimizerConfig
from pvdm_jax.losses.frames import pick_frames
from pvdm_jax.models import functional
from pvdm_jax.training.adversarial import make_discriminator_optimizer
from pvdm_jax.training.autoencoder import load_perceptual
from pvdm_jax.training.phases import BOTH, DISCRIMINATOR, GENERATOR, RECONSTRUCTION


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def assert_near(found, expected, rtol=1e-4):
    """To the largest number of the tree: a bias before batch norm has a gradient of rounding alone."""
    scale = max(np.max(np.abs(wanted)) for wanted in jax.tree.leaves(expected))
    for ours, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=rtol, atol=rtol * scale)


@pytest.fixture(scope="module")
def official():
    """A stage with the official weights, but without LPIPS, and a state of its adversarial phase after the warm-up."""
    stage = make_stage(weight=1.0, feature_weight=4.0, adaptive=False, warmup_steps=20, alternate=True)
    return stage, dataclasses.replace(state_of(stage), step=jnp.int32(30))


def run_step(stage, state, kind):
    return jax.jit(stage.steps[kind])(state, BATCH, jax.random.key(1), stage.constants)


@pytest.fixture(scope="module")
def update(official):
    """update(state) -> {kind: (state, metrics)}, by the steps of `official`: one program, since they share much."""
    stage, _ = official
    kinds = (RECONSTRUCTION, GENERATOR, DISCRIMINATOR, BOTH)
    compiled = jax.jit(lambda state, batch, key: {kind: stage.steps[kind](state, batch, key, {}) for kind in kinds})
    return lambda state: jax.device_get(compiled(state, BATCH, jax.random.key(1)))


@pytest.fixture(scope="module")
def steps(official, update):
    """Of each kind one update of `official`: (state, metrics)."""
    return update(official[1])


def float_batch():
    return {"video": BATCH["video"].astype(np.float32) / 127.5 - 1, "frame": BATCH["frame"]}


def outputs(stage, state):
    """The reconstruction, and of each discriminator logits and features of real and of reconstructed data, by the
    modules alone."""

    @jax.jit
    def compute(params, discriminators, video, frame):
        found = functional.merge(stage.losses.autoencoder, params)(video)
        networks, rows = functional.merge(stage.losses.discriminators, discriminators), jnp.arange(len(video))
        images = [networks.image(x[rows, frame]) for x in (video, found)]
        return found, [images, [networks.video(x) for x in (video, found)]]

    batch = float_batch()
    return jax.device_get(compute(state.params, state.discriminators.params, batch["video"], batch["frame"]))


def test_frames_are_picked():
    video = np.arange(2 * 3 * 2).reshape(2, 3, 2, 1, 1)
    np.testing.assert_array_equal(pick_frames(video, np.array([2, 0]))[..., 0, 0], [[4, 5], [6, 7]])


def test_generator_loss_is_the_official_sum(official, steps):
    """4 L1 - (mean 2D logits + mean 3D logits) + 4 feature matching, term by term."""
    found, networks = outputs(*official)
    expected = 4 * np.mean(np.abs(found - float_batch()["video"]))
    for (_, real), (logits, fake) in networks:
        matching = sum(np.mean(np.abs(a - b)) for a, b in zip(fake[:-1], real[:-1], strict=True))
        expected += 4 * matching - np.mean(logits)
    assert float(steps[GENERATOR][1]["loss"]) == pytest.approx(expected, rel=1e-5)


def test_discriminator_loss_is_the_hinge_of_both(official, steps):
    expected = 0.0
    for (real, _), (fake, _) in outputs(*official)[1]:
        expected += 0.5 * (np.mean(np.maximum(0, 1 - real)) + np.mean(np.maximum(0, 1 + fake)))
    assert float(steps[DISCRIMINATOR][1]["discriminator_loss"]) == pytest.approx(expected, rel=1e-5)


def test_each_step_trains_what_it_is_named_after(official, steps):
    _, state = official
    trained = {RECONSTRUCTION: "g", GENERATOR: "g", DISCRIMINATOR: "d", BOTH: "gd"}
    for kind, expected in trained.items():
        new, metrics = steps[kind]
        assert equal(new.params, state.params) == ("g" not in expected)
        assert equal(new.opt_state, state.opt_state) == ("g" not in expected)
        for part in ("params", "opt_state"):
            pair = (getattr(found.discriminators, part) for found in (new, state))
            assert equal(*pair) == ("d" not in expected)
        assert int(new.step) == int(state.step) + 1
        assert ("loss" in metrics, "discriminator_loss" in metrics) == ("g" in expected, "d" in expected)


def test_both_at_once_is_one_of_each_on_the_same_batch(steps):
    """Neither side sees the other's update of the same step."""
    for name, kind in (("network", GENERATOR), ("discriminators", DISCRIMINATOR)):
        found, expected = (getattr(steps[which][0], name).opt_state for which in (BOTH, kind))
        assert_near(found, expected)


def test_a_step_is_adamw_on_the_gradient_of_the_loss(official):
    """The generator's official step, against optax on the loss written out; its micro-batches are averaged."""
    _, state = official
    stage = make_stage(weight=1.0, feature_weight=4.0, adaptive=False, warmup_steps=0, accumulate=2)

    @jax.grad
    def gradient(params, batch):
        reconstruction = stage.losses.reconstruct(params, batch["video"])
        return stage.losses.generator(reconstruction, state.discriminators.params, batch, {})[0]

    @jax.jit
    def written_out(params, micro_batches):
        mean = jax.tree.map(lambda x: x.mean(0), jax.lax.map(lambda batch: gradient(params, batch), micro_batches))
        optimizer = optax.adamw(1e-3, b1=0.5, b2=0.9, weight_decay=0.01)
        return mean, *optimizer.update(mean, optimizer.init(params), params)

    # Batch norm sees micro-batches: rows 0 and 2, then 1 and 3.
    micro_batches = {name: value[np.array([[0, 2], [1, 3]])] for name, value in float_batch().items()}
    mean, updates, moments = jax.device_get(written_out(state.params, micro_batches))
    found, _ = run_step(stage, state, GENERATOR)
    assert_near(optax.tree.get(found.opt_state, "mu"), optax.tree.get(moments, "mu"), rtol=1e-3)
    changes = jax.tree.map(lambda new, old: np.asarray(new) - np.asarray(old), found.params, state.params)
    # Where a gradient is rounding noise, the sign of Adam's first step means nothing.
    clear = jax.tree.map(lambda g: np.abs(g) > 1e-5, mean)
    for change, wanted, mask in zip(*(jax.tree.leaves(t) for t in (changes, updates, clear)), strict=True):
        np.testing.assert_allclose(change[mask], wanted[mask], rtol=2e-2, atol=1e-6)


@pytest.mark.slow
def test_adaptive_weights_balance_the_gradients_in_the_pixels(official):
    """Those of both adversarial terms have `weight` and `feature_weight` times the norm of the reconstruction's."""
    _, state = official
    batch, (found, _) = float_batch(), outputs(*official)

    def gradient(weight, feature_weight, adaptive):
        stage = make_stage(weight=weight, feature_weight=feature_weight, adaptive=adaptive, warmup_steps=0)
        loss = lambda x: stage.losses.generator(x, state.discriminators.params, batch, {})  # noqa: E731
        return jax.jit(jax.grad(loss, has_aux=True))(found)

    def norm(x):
        return np.linalg.norm(np.ravel(x))

    plain, _ = gradient(0.0, 1e-30, False)
    towards_real = gradient(1.0, 0.0, False)[0] - plain
    towards_features = gradient(0.0, 1.0, False)[0] - plain
    weight, feature_weight = 0.3 * norm(plain) / norm(towards_real), 0.7 * norm(plain) / norm(towards_features)
    balanced, metrics = gradient(0.3, 0.7, True)
    assert_near(balanced, plain + weight * towards_real + feature_weight * towards_features, rtol=1e-3)
    assert float(metrics["adversarial_weight"]) == pytest.approx(weight, rel=1e-3)
    assert float(metrics["feature_weight"]) == pytest.approx(feature_weight, rel=1e-3)


def test_warm_up_raises_the_weights(official, update):
    """The phase began after 10 updates: the next is 1/20 into a warm-up of 20."""
    _, state = official

    def at(number, scale=1.0):
        now = dataclasses.replace(state, step=jnp.int32(number), scale=jnp.float32(scale))
        return update(now)[GENERATOR]

    for number, expected in ((10, 1 / 20), (19, 0.5), (29, 1.0), (500, 1.0)):
        assert float(at(number)[1]["adversarial_weight"]) == pytest.approx(expected)
    # The guard's factor lowers the weights, and the learning rate: that is the length of Adam's first step.
    new, metrics = at(500, scale=0.25)
    assert float(metrics["adversarial_weight"]) == pytest.approx(0.25)
    change = jax.tree.map(lambda a, b: np.max(np.abs(a - np.asarray(b))), new.params, state.params)
    assert max(jax.tree.leaves(change)) == pytest.approx(0.25e-3, rel=0.05)


def test_decay_lowers_the_weights_to_nothing_at_the_end_of_the_phase(official):
    """The phase began after 10 updates, and ends after 40 more, or with the run's last.

    That the weights have this factor is what the test of the warm-up shows.
    """
    for steps, last in ((40, 50), (0, 110)):
        options = {"weight": 1.0, "adaptive": False, "warmup_steps": 0, "decay": "cosine", "steps": steps}
        stage = make_stage({"steps": last}, **options)
        for number, expected in ((10, 1.0), (10 + (last - 10) // 2, 0.5), (last, 0.0)):
            now = dataclasses.replace(official[1], step=jnp.int32(number))
            assert float(stage._strength(now)) == pytest.approx(expected, abs=1e-6)


def test_each_discriminator_is_clipped_by_itself():
    config = OptimizerConfig(learning_rate=1.0, b1=0.0, b2=0.9, clip_norm=1.0)
    optimizer = make_discriminator_optimizer(config, 10)
    params = {"image": {"w": jnp.zeros(2)}, "video": {"w": jnp.zeros(2)}}
    grads = {"image": {"w": jnp.array([30.0, 40.0])}, "video": {"w": jnp.array([0.3, 0.4])}}
    _, state = optimizer.update(grads, optimizer.init(params), params)
    mu = optax.tree.get(state, "mu")
    np.testing.assert_allclose(mu["image"]["w"], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(mu["video"]["w"], [0.3, 0.4], rtol=1e-6)


def test_a_gradient_that_is_not_finite_changes_neither_side(official, update):
    _, state = official
    spoilt = jax.tree.map(lambda x: x, state.discriminators)
    spoilt.params["image"]["layers"]["0"]["conv"]["kernel"] *= jnp.inf
    state = dataclasses.replace(state, discriminators=spoilt)
    new, _ = update(state)[BOTH]
    assert int(new.skipped) == 1 and equal(new.params, state.params) and equal(new.opt_state, state.opt_state)
    assert equal(new.discriminators.opt_state, state.discriminators.opt_state)


@pytest.mark.slow
def test_lpips_compares_the_frame_drawn(monkeypatch):
    from pvdm_jax.losses import lpips

    monkeypatch.setattr(lpips, "STAGES", ((2, 2), (2, 2), (2, 2, 2), (4, 4, 4), (4, 4, 4)))
    distance = lpips.LPIPS(rngs=nnx.Rngs(0))
    stage = make_stage(training={"perceptual_weight": 4.0}, lpips=distance)
    state, batch = state_of(stage), float_batch()
    step = jax.jit(stage.steps[RECONSTRUCTION])
    drawn = [step(state, {"video": BATCH["video"]}, jax.random.key(k), stage.constants) for k in (0, 1, 0)]
    # Without a given frame one is drawn by the key.
    values = [float(metrics["random_vgg"]) for _, metrics in drawn]
    assert values[0] == values[2] != values[1]
    _, metrics = run_step(stage, state, RECONSTRUCTION)
    rows = np.arange(len(BATCH["video"]))
    found = np.asarray(jax.jit(stage.losses.reconstruct)(state.params, batch["video"]))
    images = (x[rows, batch["frame"]] for x in (batch["video"], found))
    expected = float(np.mean(jax.jit(lambda a, b: distance(a, b))(*images)))
    assert expected > 1e-3
    assert float(metrics["random_vgg"]) == pytest.approx(expected, rel=1e-4)  # the stand-in's name, not "lpips"
    assert float(metrics["loss"]) == pytest.approx(4 * float(metrics["l1"]) + 4 * expected, rel=1e-4)


@pytest.mark.slow
def test_without_the_networks_a_step_costs_what_its_pixel_loss_costs():
    """A stage with L2 alone compiles to as many operations as the same update written out."""
    stage = make_stage(enabled=False, training={"l1_weight": 0.0, "l2_weight": 1.0})
    state = stage.init(jax.random.key(0))
    assert not hasattr(state, "discriminators") and stage.constants == {}
    optimizer = optax.adamw(1e-3, b1=0.5, b2=0.9, weight_decay=0.01)

    def plain(params, ema, moments, video):
        def loss(params):
            error = functional.merge(stage.losses.autoencoder, params)(video) - video
            return jnp.mean(jnp.square(error))

        updates, moments = optimizer.update(jax.grad(loss)(params), moments, params)
        params = optax.apply_updates(params, updates)
        return params, optax.incremental_update(params, ema, 0.1), moments

    def operations(function, *arguments):
        compiled = jax.jit(function).lower(*arguments).compile()
        return compiled.cost_analysis()["flops"]

    video = float_batch()["video"]
    key = jax.random.key(0)
    found = operations(
        lambda s, b, k: stage.steps[RECONSTRUCTION](s, b, k, {})[0], state, {"video": BATCH["video"]}, key
    )
    expected = operations(plain, state.params, state.ema, optimizer.init(state.params), video)
    count = functional.count(state.params)
    # Beside it: the gradient's norm, the choice whether to keep the update, two means. No convolution, no frame.
    assert found < expected + 12 * count + 20 * BATCH["video"].size


def test_lpips_is_refused_for_tiny_frames_and_for_other_files(tmp_path):
    config = tiny_config(training={"perceptual_weight": 1.0})
    small = AutoencoderConfig(frames=4, height=8, width=24, patch_size=4)
    with pytest.raises(ConfigError, match="perceptual_weight is 1.0; LPIPS needs frames of 16 pixels or more"):
        load_perceptual(small, config)
    np.savez(tmp_path / "w.npz", other=np.zeros(3))
    other = dataclasses.replace(config, perceptual_weights=str(tmp_path / "w.npz"))
    with pytest.raises(ConfigError, match="train_autoencoder.perceptual_weights is"):
        load_perceptual(MODEL, other)
    assert load_perceptual(MODEL, tiny_config()) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": -1.0}, r"train_autoencoder\.adversarial\.weight is -1\.0; it can't be negative"),
        ({"plateau": 3}, r"plateau is 3; it needs start_step"),
        ({"plateau_gain": 1.0}, "plateau_gain is 1.0; at least 0 and below 1"),
        ({"guard_factor": 0.0}, "guard_factor is 0.0; above 0"),
        ({"guard_collapse": 7.0}, "guard_explosion is 6.0; it must exceed guard_collapse"),
        ({"start_step": 5, "weight": 0.0, "feature_weight": 0.0}, "one of weight and feature_weight must be positive"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(ConfigError, match=message):
        AdversarialConfig(**changes)
