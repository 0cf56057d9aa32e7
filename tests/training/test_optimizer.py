"""Learning rates, EMA and gradient accumulation against explicit formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pvdm_jax.config import OptimizerConfig
from pvdm_jax.training.optimizer import (
    accumulate_gradients,
    init_state,
    learning_rate_schedule,
    make_optimizer,
    update,
)


def test_warmup_and_cosine():
    schedule = learning_rate_schedule(OptimizerConfig(learning_rate=2.0, warmup_steps=4, decay="cosine"), 16)
    expected = [2 * min(n / 4, 1) * (1 + math.cos(math.pi * n / 16)) / 2 for n in range(17)]
    np.testing.assert_allclose([float(schedule(n)) for n in range(17)], expected, atol=1e-6)


def test_constant_rate_without_warmup():
    schedule = learning_rate_schedule(OptimizerConfig(learning_rate=0.5), 10)
    assert [float(schedule(n)) for n in (0, 5, 100)] == [0.5] * 3


def test_adamw_against_its_formula():
    config = OptimizerConfig(learning_rate=0.1, b1=0.8, b2=0.9, weight_decay=0.2)
    optimizer = make_optimizer(config, 10)
    state = init_state({"w": jnp.array([1.0, -2.0])}, optimizer)
    w, m, v = np.array([1.0, -2.0]), 0.0, 0.0
    for n in range(1, 4):
        g = np.array([0.5, 3.0]) * n
        state = update(state, {"w": jnp.asarray(g, jnp.float32)}, optimizer, ema_decay=0.9)
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        w = w - 0.1 * (m / (1 - 0.8**n) / (np.sqrt(v / (1 - 0.9**n)) + 1e-8) + 0.2 * w)
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-5)
    assert int(state.step) == 3


def test_gradients_are_clipped_by_their_global_norm():
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}

    def moments(clip_norm, grads):
        optimizer = make_optimizer(OptimizerConfig(clip_norm=clip_norm, b1=0.0), 10)
        state = update(init_state(grads, optimizer), grads, optimizer, 0.9)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(optax.tree.get(state.opt_state, "mu"))]

    np.testing.assert_allclose(moments(1.0, grads), [[0.6], [0.8]], rtol=1e-6)
    np.testing.assert_allclose(moments(0.0, grads), [[3.0], [4.0]], rtol=1e-6)


@pytest.mark.parametrize("ema_decay, ema_every", [(0.9999, 1), (0.5, 1), (0.9999, 3)])
def test_ema_ramp(ema_decay, ema_every):
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1), 20)
    state = init_state({"w": jnp.array([1.0, 2.0])}, optimizer)
    expected, count = np.array([1.0, 2.0]), 0
    step = jax.jit(lambda state, grads: update(state, grads, optimizer, ema_decay, ema_every))
    for number in range(1, 21):
        state = step(state, {"w": jnp.array([1.0, -1.0])})
        if number % ema_every == 0:
            count += 1
            decay = min(ema_decay, (1 + count) / (10 + count))
            expected = decay * expected + (1 - decay) * np.asarray(state.params["w"], np.float64)
        np.testing.assert_allclose(state.ema["w"], expected, rtol=1e-5)


def quadratic(params, batch, key):
    del key
    loss = jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)
    return loss, {"loss": loss, "size": jnp.float32(batch["x"].shape[0])}


def test_accumulation_equals_the_whole_batch():
    rng = np.random.default_rng(0)
    batch = {"x": rng.standard_normal((24, 5), np.float32), "y": rng.standard_normal((24, 3), np.float32)}
    params, key = {"w": jnp.asarray(rng.standard_normal((5, 3), np.float32))}, jax.random.key(0)
    whole, whole_metrics = accumulate_gradients(quadratic, params, batch, key, 1)
    assert float(whole_metrics["size"]) == 24
    for parts in (2, 4, 6):
        grads, metrics = jax.jit(accumulate_gradients, static_argnums=(0, 4))(quadratic, params, batch, key, parts)
        np.testing.assert_allclose(grads["w"], whole["w"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(metrics["loss"], whole_metrics["loss"], rtol=1e-6)
        assert float(metrics["size"]) == 24 / parts


def test_micro_batches_have_keys_of_their_own():
    def noisy(params, batch, key):
        noise = jax.random.normal(key)
        return params["w"] * noise * jnp.mean(batch), {"noise": noise, "square": noise**2}

    _, metrics = accumulate_gradients(noisy, {"w": jnp.ones(())}, jnp.ones(4), jax.random.key(0), 4)
    assert float(metrics["square"] - metrics["noise"] ** 2) > 1e-3


def test_ema_of_a_new_state_has_its_own_buffers():
    optimizer = make_optimizer(OptimizerConfig(), 10)
    state = init_state({"w": jnp.ones(3)}, optimizer)
    step = jax.jit(lambda state: update(state, state.params, optimizer, 0.9), donate_argnums=0)
    np.testing.assert_allclose(step(state).ema["w"], 1.0, atol=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    """3e38 is finite, but its square isn't: it would set a second moment to infinity for good."""
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, clip_norm=1.0), 10)
    state = update(init_state({"w": jnp.ones(3)}, optimizer), {"w": jnp.ones(3)}, optimizer, 0.9)
    found = state
    for skipped in (1, 2):
        found = update(found, {"w": jnp.array([1.0, bad, 1.0])}, optimizer, 0.9)
        assert int(found.skipped) == skipped and int(found.step) == 1 + skipped
    for name in ("params", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(found, name), getattr(state, name))
    assert np.all(np.isfinite(found.ema["w"]))
    found = update(found, {"w": jnp.ones(3)}, optimizer, 0.9)
    assert int(found.skipped) == 0 and np.all(found.params["w"] < state.params["w"])
