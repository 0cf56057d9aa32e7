import jax
import jax.numpy as jnp
import numpy as np
import optax

from pvdm_jax.training.adamw import adamw
from pvdm_jax.training.optimizer import global_norm


def params():
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 3, 8, 16), "bias": (16,), "large": (160, 128)}
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def gradients(step):
    key = jax.random.fold_in(jax.random.key(1), step)
    return jax.tree.map(lambda x: jax.random.normal(jax.random.fold_in(key, x.size), x.shape), params())


def test_it_is_the_adamw_of_optax():
    schedule = optax.linear_schedule(1e-2, 0.0, 20)
    ours, theirs = adamw(schedule, 0.9, 0.99, 0.1), optax.adamw(schedule, b1=0.9, b2=0.99, weight_decay=0.1)

    def run(optimizer):
        values = params()
        state = optimizer.init(values)
        for step in range(10):
            updates, state = jax.jit(optimizer.update)(gradients(step), state, values)
            values = optax.apply_updates(values, updates)
        return values

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-7), run(ours), run(theirs))


def test_an_update_that_is_not_finite_changes_no_moment():
    optimizer = adamw(optax.constant_schedule(1e-2), 0.9, 0.99, 0.0)
    state = optimizer.init(params())
    _, state = optimizer.update(gradients(0), state, params(), finite=jnp.asarray(True))
    spoilt = gradients(1) | {"bias": jnp.full(16, jnp.nan)}
    _, after = jax.jit(optimizer.update)(spoilt, state, params(), finite=jnp.asarray(False))
    jax.tree.map(np.testing.assert_array_equal, after, state)
    assert int(after.count) == 1


def test_the_norm_is_that_of_all_arrays_small_and_large():
    tree = params()
    expected = np.sqrt(sum(np.sum(np.square(np.asarray(x, np.float64))) for x in tree.values()))
    np.testing.assert_allclose(global_norm(tree), expected, rtol=1e-6)
    np.testing.assert_allclose(global_norm({"large": tree["large"]}), np.linalg.norm(tree["large"]), rtol=1e-6)
    assert not np.isfinite(global_norm(tree | {"bias": jnp.full(16, 1e30)}))
