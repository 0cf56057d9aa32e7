"""Networks of evaluations: on TPUs their products have full precision, whatever JAX's default is."""

import re

import jax
import jax.numpy as jnp
import pytest

from pvdm_jax.evaluation import c3d, i3d, scattering
from pvdm_jax.losses.lpips import LPIPS
from pvdm_jax.models import functional


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def applied(network):
    """The network as a function of its weights and inputs, and the weights' shapes."""
    graphdef, params = functional.abstract(lambda: network(rngs=functional.rngs(0)))
    return lambda params, *inputs: functional.merge(graphdef, params)(*inputs), params


@pytest.mark.parametrize("name", ["i3d", "c3d", "lpips", "scattering"])
def test_products_have_the_highest_precision(name):
    inputs = {
        "i3d": [floats(1, 16, 224, 224, 3)],
        "c3d": [floats(1, 16, 112, 112, 3)],
        "lpips": [floats(1, 64, 64, 3)] * 2,
        "scattering": [jax.ShapeDtypeStruct((1, 8, 24, 24, 3), jnp.uint8)],
    }
    if name == "scattering":
        function, params = (lambda _, video: scattering.scattering(video)), {}
    else:
        function, params = applied({"i3d": i3d.I3D, "c3d": c3d.C3D, "lpips": LPIPS}[name])
    with jax.default_matmul_precision("default"):
        program = jax.jit(function).trace(params, *inputs[name]).lower(lowering_platforms=("tpu",)).as_text()
    products = [line for line in program.splitlines() if re.search(r"stablehlo\.(convolution|dot_general)", line)]
    assert products and all("HIGHEST" in line for line in products)
