"""What the U-Net is shown of the frames where a neighbouring clip meets this one."""

import jax.numpy as jnp
import numpy as np
import pytest

from pvdm_jax.models import unet
from pvdm_jax.models.triplane import PlaneShape, unpack

SHAPE = PlaneShape(4, 2, 3)


@pytest.mark.parametrize("from_end", [True, False])
def test_edges_touch_this_clip(from_end):
    """The previous clip touches this one with its last frame, the next clip with its first one."""
    planes = unpack(jnp.asarray(np.random.default_rng(0).standard_normal((2, SHAPE.positions, 1))), SHAPE)
    edge = unet._edge(planes, from_end)
    assert edge.yx.shape == (2, 2, 3, unet.EDGE_PARTS) and not np.any(edge.yx)
    for plane, found in ((planes.tx, edge.tx), (planes.ty, edge.ty)):
        plane, found = np.asarray(plane)[..., 0], np.asarray(found)
        touching, inside = (plane[:, -1], plane[:, -3]) if from_end else (plane[:, 0], plane[:, 2])
        for frame in range(4):
            np.testing.assert_allclose(found[:, frame, :, 0], touching)
            np.testing.assert_allclose(found[:, frame, :, 1], touching - inside, atol=1e-6)
            np.testing.assert_allclose(found[:, frame, :, 2], plane[:, 3 - frame] if from_end else plane[:, frame])
