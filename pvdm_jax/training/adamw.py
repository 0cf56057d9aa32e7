"""AdamW that keeps its state where a gradient is not finite, in two passes over the parameters.

`optax.adamw` gives the same numbers. But on a CPU, XLA compiles one loop for each array that an update writes, and the
loop of the parameters recomputes the new moments from the old ones. These must then be copied first, because the new
moments overwrite them. Here the loop of the parameters reads the new moments.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

EPSILON = 1e-8


def adamw(schedule: optax.Schedule, b1: float, b2: float, weight_decay: float) -> optax.GradientTransformationExtraArgs:
    """AdamW (Loshchilov and Hutter, 2019). `update` takes `finite`, a scalar: if false, the state is unchanged."""

    def init(params: Any) -> optax.ScaleByAdamState:
        mu, nu = jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=mu, nu=nu)

    def update(grads: Any, state: optax.ScaleByAdamState, params: Any, *, finite: jax.Array | bool = True, **_: Any):
        def moment(old, values, decay):
            return jax.tree.map(lambda m, x: jnp.where(finite, (1 - decay) * x + decay * m, m), old, values)

        mu = moment(state.mu, grads, b1)
        nu = moment(state.nu, jax.tree.map(jnp.square, grads), b2)
        mu, nu = _written_out((mu, nu))
        number, rate = (state.count + 1).astype(jnp.float32), schedule(state.count)
        unbiased = 1 - b1**number, 1 - b2**number

        def change(p, m, v):
            return -rate * ((m / unbiased[0]) / (jnp.sqrt(v / unbiased[1]) + EPSILON) + weight_decay * p)

        count = jnp.where(finite, state.count + 1, state.count)
        return jax.tree.map(change, params, mu, nu), optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformationExtraArgs(init, update)


def _written_out(tree: Any) -> Any:
    """The same arrays; on a CPU, later operations must read them instead of recomputing them. Other devices write
    several arrays in one loop."""
    return jax.lax.platform_dependent(tree, cpu=jax.lax.optimization_barrier, default=lambda x: x)
