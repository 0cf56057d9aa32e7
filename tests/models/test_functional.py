"""Modules as trees of arrays: what building them starts from."""

import jax
import numpy as np
from flax import nnx

from pvdm_jax.models import functional


def test_random_keys_are_those_of_flax():
    for make in (lambda: 3, lambda: jax.random.key(7)):
        ours, theirs = functional.rngs(make()), nnx.Rngs(make())
        for _ in range(3):
            pair = (jax.random.key_data(each.params()) for each in (ours, theirs))
            np.testing.assert_array_equal(*pair)


def test_building_prints_no_program():
    """Flax asks traced arrays for their sharding, and JAX prints the program so far to say that they have none."""
    from jax._src.interpreters import partial_eval

    printed = []
    tracer, original = partial_eval.DynamicJaxprTracer, partial_eval.DynamicJaxprTracer._origin_msg
    tracer._origin_msg = lambda self: printed.append(self) or original(self)
    try:
        functional.abstract(lambda: nnx.Linear(3, 4, rngs=functional.rngs(0)))
    finally:
        tracer._origin_msg = original
    assert not printed
