"""Gradients of the denoiser's training loss against those of the official implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conditions import condition

from pvdm_jax.config import ProcessConfig
from pvdm_jax.diffusion.process import Process
from pvdm_jax.models import functional
from pvdm_jax.weights import official


@pytest.mark.parametrize("name", ["cond", pytest.param("uncond", marks=pytest.mark.slow)])
def test_denoiser(reference, recipe, name):
    """The loss, and the norm of its gradient by every weight under its official name, and by all of them."""
    info, _ = reference("gradients")
    seed = info["seed"]
    model = official.unet_from_torch(recipe.weights(info["weights"], seed))
    graphdef, params = functional.split(model)
    process = Process(ProcessConfig())

    def tokens(array):
        return jnp.asarray(array.swapaxes(1, 2))

    x0, cond = (tokens(np.tanh(recipe.noise((2, 4, 2048), seed, key))) for key in ("x0", "cond"))
    noise, t = tokens(recipe.noise((2, 4, 2048), seed, "noise")), jnp.asarray(info["t"])
    given = condition(model, 2, previous=cond if name == "cond" else None)

    @jax.jit
    def loss_and_gradient(params, given):
        def loss(params):
            predicted = functional.merge(graphdef, params)(process.diffuse(x0, t, noise), t, given)
            return jnp.mean(jnp.square(predicted - noise))

        return jax.value_and_grad(loss)(params)

    loss, gradient = loss_and_gradient(params, given)
    assert float(loss) == pytest.approx(info[name]["loss"], rel=1e-5)
    # The layouts differ by permutations and reshapes alone, so a gradient converts as the weights do.
    written = official.to_torch(functional.merge(graphdef, gradient))
    expected = dict(info[name]["gradient"])
    total = expected.pop("total")
    found = {key: np.linalg.norm(written[key].astype(np.float64)) for key in expected}
    assert np.sqrt(sum(value**2 for value in found.values())) == pytest.approx(total, rel=1e-5)
    for key, value in expected.items():
        # Biases of keys have no effect: they cancel in the softmax.
        assert found[key] == pytest.approx(value, rel=1e-4, abs=1e-6 * total), key
