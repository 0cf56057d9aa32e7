"""Convolutions as patches times a matrix, against XLA's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvdm_jax.models.ops import convolution
from pvdm_jax.models.ops.convolution import convolve


def case(sizes, taps, features_in=3, features=5, batch=2):
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (batch, *sizes, features_in))
    return x, jax.random.normal(keys[1], (*taps, features_in, features))


def numbers(x):
    return ("NDHWC", "DHWIO", "NDHWC") if x.ndim == 5 else ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize(
    ("sizes", "taps", "strides", "padding"),
    [
        ((5, 4), (3, 3), (1, 1), ((1, 1), (1, 1))),
        ((6, 8), (3, 3), (2, 2), ((1, 1), (1, 1))),
        ((7, 6), (4, 2), (2, 3), ((2, 2), (0, 1))),
        ((4, 6, 5), (4, 4, 4), (2, 2, 1), ((2, 2), (2, 2), (2, 2))),
        ((3, 3), (1, 1), (1, 1), ((0, 0), (0, 0))),
    ],
)
@pytest.mark.parametrize("few", [128, 0])
def test_values_and_gradients_are_those_of_xla(monkeypatch, sizes, taps, strides, padding, few):
    """few: positions up to which the forward pass takes patches too."""
    monkeypatch.setattr(convolution, "FEW_POSITIONS", few)
    x, kernel = case(sizes, taps)
    theirs = functools.partial(
        jax.lax.conv_general_dilated, window_strides=strides, padding=padding, dimension_numbers=numbers(x)
    )
    ours = functools.partial(convolve, strides=strides, padding=padding, dimension_numbers=numbers(x))
    assert ("stablehlo.convolution" in jax.jit(ours).lower(x, kernel).as_text()) == (few == 0)
    expected, pull = jax.vjp(theirs, x, kernel)
    found, our_pull = jax.vjp(jax.jit(ours), x, kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    gradient = jax.random.normal(jax.random.key(2), expected.shape)
    for ours, theirs in zip(our_pull(gradient), pull(gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-5)


def program(x, kernel, **options):
    def call(x, kernel):
        return convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=numbers(x), **options)

    return jax.jit(call).trace(x, kernel)


def test_large_images_and_other_devices_keep_xlas_convolution(monkeypatch):
    x, kernel = case((8, 8), (3, 3))
    assert "stablehlo.convolution" not in program(x, kernel).lower(lowering_platforms=("cpu",)).as_text()
    for platform in ("cuda", "tpu"):
        assert "stablehlo.convolution" in program(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    monkeypatch.setattr(convolution, "MOST_PATCHES", 8 * 8 * 9 * 3 - 1)
    assert "stablehlo.convolution" in program(x, kernel).lower(lowering_platforms=("cpu",)).as_text()


def test_what_patches_cannot_do_goes_to_xla():
    x, kernel = case((8, 8), (3, 3), features_in=4, features=6)
    grouped = jnp.asarray(kernel[:, :, :2])
    text = program(x, grouped, feature_group_count=2).lower().as_text()
    assert "stablehlo.convolution" in text
    assert "stablehlo.convolution" in program(x, kernel, rhs_dilation=(2, 2)).lower().as_text()


@pytest.mark.parametrize("few", [20, 128])
def test_images_together_are_the_same_as_one_by_one(monkeypatch, few):
    """Batches of 2, 4 and 2 images of three sizes; with few = 20 positions the largest goes its own way."""
    monkeypatch.setattr(convolution, "FEW_POSITIONS", few)
    keys = jax.random.split(jax.random.key(0), 3)
    sizes = (2, 6, 4), (4, 3, 4), (2, 2, 2)
    images = tuple(jax.random.normal(key, (*size, 3)) for key, size in zip(keys, sizes, strict=True))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 5))
    options = {"strides": (1, 1), "padding": ((1, 1), (1, 1))}
    layout = {"dimension_numbers": numbers(images[0])}

    def theirs(images, kernel):
        return [jax.lax.conv_general_dilated(x, kernel, *options.values(), **layout) for x in images]

    def ours(images, kernel):
        return list(convolution.convolve_each(images, kernel, **options, **layout))

    text = jax.jit(ours).lower(images, kernel).as_text()
    assert text.count("dot_general") == 1 and ("stablehlo.convolution" in text) == (few == 20)
    expected, pull = jax.vjp(theirs, images, kernel)
    found, our_pull = jax.vjp(ours, images, kernel)
    gradients = [jnp.sin(x) for x in expected]
    pairs = (found, expected), (our_pull(gradients), pull(gradients))
    for a, b in pairs:
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=2e-5), a, b)
