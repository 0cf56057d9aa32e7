"""Planes: their packed order, and the grid that they expand to, against loops over positions."""

import jax.numpy as jnp
import numpy as np
import pytest

from pvdm_jax.models.triplane import PlaneShape, unpack

SHAPE = PlaneShape(frames=2, height=3, width=4)


def packed():
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, SHAPE.positions, 5)), jnp.float32)


def test_positions_of_the_paper():
    assert PlaneShape(16, 32, 32).positions == 2048


def test_order_of_the_packed_axis():
    """Position by position: (row, column), then (frame, column), then (frame, row)."""
    x = packed()
    planes = unpack(x, SHAPE)
    order = [planes.yx[:, i, j] for i in range(3) for j in range(4)]
    order += [planes.tx[:, i, j] for i in range(2) for j in range(4)]
    order += [planes.ty[:, i, j] for i in range(2) for j in range(3)]
    np.testing.assert_array_equal(np.stack(order, axis=1), x)


def test_pack_is_the_inverse():
    planes = unpack(packed(), SHAPE)
    assert planes.shape == SHAPE
    np.testing.assert_array_equal(planes.pack(), packed())


def test_expand_sums_the_three_planes():
    planes = unpack(packed(), SHAPE)
    grid = planes.expand()
    assert grid.shape == (2, 2, 3, 4, 5)
    for t, h, w in np.ndindex(2, 3, 4):
        expected = planes.yx[:, h, w] + planes.tx[:, t, w] + planes.ty[:, t, h]
        np.testing.assert_allclose(grid[:, t, h, w], expected, rtol=1e-6)


def test_wrong_number_of_positions_is_refused():
    with pytest.raises(ValueError, match="packed planes have 25 positions; .* has 26"):
        unpack(jnp.zeros((1, 25, 4)), SHAPE)
