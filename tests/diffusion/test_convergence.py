"""The order of every sampler: how its error shrinks with its steps, on targets whose exact samples are formulas."""

import importlib.util
import pathlib

import pytest

PATH = pathlib.Path(__file__).parents[2] / "examples" / "sampler_convergence.py"


@pytest.fixture(scope="module")
def experiment():
    spec = importlib.util.spec_from_file_location("sampler_convergence", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def processes(experiment):
    return {prediction: experiment.process_of(experiment.FINE, prediction) for prediction in ("eps", "flow")}


@pytest.mark.parametrize(
    ("prediction", "sampler", "grid", "steps", "expected"),
    [
        ("eps", "euler", "logsnr", (32, 128), 1),
        ("eps", "ddim", "quadratic", (32, 128), 1),
        ("eps", "heun", "quadratic", (16, 64), 2),
        ("eps", "heun", "logsnr", (32, 128), 2),
        ("eps", "dpmpp", "logsnr", (32, 128), 2),
        ("flow", "euler", "uniform", (32, 128), 1),
        ("flow", "heun", "uniform", (16, 64), 2),
    ],
)
def test_order_on_the_probability_flow(experiment, processes, prediction, sampler, grid, steps, expected):
    """Distances from the exact ends of the paths of a two-component mixture."""
    errors = {n: experiment.path_error(processes[prediction], sampler, grid, n) for n in steps}
    assert errors[steps[0]] < 0.1
    assert experiment.order(errors) == pytest.approx(expected, abs=0.15)


def test_a_long_last_step_costs_the_second_order(experiment, processes):
    """The official grid jumps to the data from step num_steps / steps."""
    errors = {n: experiment.path_error(processes["eps"], "heun", "uniform", n) for n in (32, 128)}
    assert experiment.order(errors) < 1
    assert errors[128] > 20 * experiment.path_error(processes["eps"], "heun", "quadratic", 64)


@pytest.mark.parametrize(
    ("sampler", "grid", "eta", "steps", "expected"),
    [
        ("ddim", "quadratic", 1.0, (256, 1024), 1),
        ("ddim", "logsnr", 0.5, (128, 512), 1),
        ("dpmpp_sde", "logsnr", 1.0, (64, 256), 2),
    ],
)
def test_order_of_samplers_with_noise(experiment, processes, sampler, grid, eta, steps, expected):
    """Errors of the variance on normal data."""
    errors = {n: experiment.variance_error(processes["eps"], sampler, grid, n, eta) for n in steps}
    assert experiment.order(errors) == pytest.approx(expected, abs=0.15)


def test_order_of_the_ancestral_sampler(experiment):
    """It takes all T steps of its process, of equal length. The last steps are as long as the remaining noise is large,
    so its error is of the order log(T) / T."""
    steps = (32_000, 128_000)
    errors = {n: experiment.variance_error(experiment.process_of(n), "ddpm", "uniform", n, 1.0) for n in steps}
    assert 0.8 < experiment.order(errors) < 1
    assert errors[128_000] < 1e-3
