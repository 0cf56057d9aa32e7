"""Process and samplers against outputs of the official implementation, with its random denoiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conditions import condition

from pvdm_jax.config import ProcessConfig
from pvdm_jax.diffusion.grids import time_grid
from pvdm_jax.diffusion.guidance import guide
from pvdm_jax.diffusion.predictions import estimate, squared_error
from pvdm_jax.diffusion.process import Process
from pvdm_jax.diffusion.samplers import SAMPLERS
from pvdm_jax.models import functional
from pvdm_jax.weights import official

SHAPE = (2, 4, 2048)


def relative_error(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def channels_second(array):
    """(b, positions, c) to (b, c, positions), or back."""
    return jnp.swapaxes(jnp.asarray(array), 1, 2)


@pytest.fixture(scope="module")
def case(reference, recipe):
    """The reference's numbers, its inputs by name, and its denoiser on packed latents."""
    info, expected = reference("diffusion_tiny")
    seed = info["seed"]
    model = official.unet_from_torch(recipe.weights(info["weights"], seed))
    graphdef, params = functional.split(model)

    @jax.jit
    def denoiser(x, time, previous):
        return functional.merge(graphdef, params)(x, time, condition(model, len(x), previous=previous))

    def noise(name):
        return channels_second(recipe.noise(SHAPE, seed, name))

    inputs = {"x0": jnp.tanh(noise("x0")), "cond": jnp.tanh(noise("cond")), "noise": noise("noise")}
    inputs["nothing"] = jnp.zeros_like(inputs["cond"])
    return expected, inputs, denoiser, noise


@pytest.fixture(scope="module")
def process():
    return Process(ProcessConfig())


def step(process, sampler, x, predicted, t, s, noise, eta=0.0):
    """One step of a sampler from t to s."""
    method = SAMPLERS[sampler]
    row = {name: values[0] for name, values in method.plan(process, np.array([t, s])).items()}
    found = estimate(process, x, jnp.full(len(x), t), predicted)
    return method.step(method.start(x), found, row, noise, eta)["x"]


def test_schedule(case, process):
    expected, steps = case[0], np.arange(1000)
    cumulative = process.alpha(steps) ** 2
    mean_x0, mean_xt, variance = process.posterior(steps)
    for name, ours in (
        ("betas", 1 - cumulative / process.alpha(steps - 1) ** 2),
        ("alphas_cumprod", cumulative),
        ("posterior_variance", variance),
        ("posterior_log_variance_clipped", np.log(np.maximum(variance, 1e-20))),
        ("posterior_mean_coef1", mean_x0),
        ("posterior_mean_coef2", mean_xt),
    ):
        assert relative_error(ours, expected[name]) < 1e-6, name
    np.testing.assert_array_equal(process.signal, process.alpha(steps).astype(np.float32))
    np.testing.assert_array_equal(process.noise, process.sigma(steps).astype(np.float32))


def test_forward_process_and_loss(case, process):
    expected, inputs, denoiser, _ = case
    steps = jnp.array([13, 742])
    x = process.diffuse(inputs["x0"], steps, inputs["noise"])
    assert relative_error(channels_second(x), expected["q_sample"]) < 1e-5
    for context, name in (("cond", "loss_cond"), ("nothing", "loss_uncond")):
        loss = jnp.mean(squared_error(denoiser(x, steps, inputs[context]), inputs["noise"]))
        assert relative_error(loss, expected[name]) < 1e-5


@pytest.mark.parametrize("t", [999, 500, 1, 0])
def test_ancestral_step(case, process, t):
    expected, inputs, denoiser, noise = case
    predicted = denoiser(inputs["noise"], jnp.full(2, t), inputs["cond"])
    found = step(process, "ddpm", inputs["noise"], predicted, t, t - 1, noise(f"p_sample{t}_0"))
    assert relative_error(channels_second(found), expected[f"p_sample_{t}"]) < 1e-5


@pytest.mark.parametrize("t, s", [(999, 899), (599, 499), (299, 199), (99, -1)])
@pytest.mark.parametrize("guided", [False, True])
def test_ddim_step(case, process, t, s, guided):
    expected, inputs, denoiser, noise = case
    away = [(0.5, inputs["nothing"])] if guided else []
    predict = guide(denoiser, inputs["cond" if guided else "nothing"], away)
    x = noise(f"ddim_step_{t}")
    found = step(process, "ddim", x, predict(x, t), t, s, jnp.zeros_like(x))
    name = f"ddim_step_{t}_" + ("cond_w0.5" if guided else "uncond")
    assert relative_error(channels_second(found), expected[name]) < 1e-5


@pytest.mark.parametrize("name, context", [("ddim_eta1_uncond", "nothing"), ("ddim_eta1_cond", "cond")])
def test_ddim_run(case, process, name, context):
    expected, inputs, denoiser, noise = case
    times, x = time_grid(process, 10), noise(f"{name}_0")
    for k, (t, s) in enumerate(zip(times[:-1], times[1:], strict=True), start=1):
        fresh = noise(f"{name}_{k}") if s >= 0 else jnp.zeros_like(x)
        x = step(process, "ddim", x, denoiser(x, jnp.full(2, t), inputs[context]), t, s, fresh, 1.0)
    assert relative_error(channels_second(x), expected[name]) < 1e-4
