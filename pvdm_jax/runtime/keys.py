"""Random keys: all of them are made here, by one generator, whatever the environment says.

Video i of a seed must not depend on the batch that it is generated in. Threefry has this property under `jax.vmap`;
the other generators that JAX_DEFAULT_PRNG_IMPL can name do not.
"""

import jax
import jax.numpy as jnp

from pvdm_jax.config import check_seed

GENERATOR = "threefry2x32"


def make_key(seed: int | jax.Array) -> jax.Array:
    """The key of a seed. Raises ConfigError outside 0 to 2^32 - 1, where several seeds would give the same key."""
    if not isinstance(seed, jax.Array):
        check_seed("seed", seed)
    return jax.random.key(seed, impl=GENERATOR)


def as_threefry(key: jax.Array) -> jax.Array:
    """A caller's key of any generator, as a key of `GENERATOR`; a key of that generator is returned unchanged.

    Raises ValueError for anything but a single key.
    """
    if not isinstance(key, jax.Array):
        raise ValueError(f"key is a {type(key).__name__}; make it with jax.random.key(seed)")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.dtype != jnp.uint32 or key.ndim != 1:
            raise ValueError(f"key is {key.dtype} {key.shape}; make it with jax.random.key(seed)")
        key = jax.random.wrap_key_data(key, impl=GENERATOR if key.shape == (2,) else None)
    if key.ndim:
        raise ValueError(f"key has shape {key.shape}; one key is needed")
    if jax.random.key_impl(key) == GENERATOR:
        return key
    return jax.random.wrap_key_data(jax.random.bits(key, (2,), jnp.uint32), impl=GENERATOR)
