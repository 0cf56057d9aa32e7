"""The kernel distance against its definition, and whether it is unbiased."""

import numpy as np
import pytest

from pvdm_jax.evaluation import kernel_distance as module
from pvdm_jax.evaluation.kernel_distance import kernel_distance
from pvdm_jax.evaluation.statistics import kernel_estimate


def by_definition(a, b):
    """All pairs, one after the other."""

    def mean(x, y, same):
        values = [
            (x[i] @ y[j] / len(x[i]) + 1) ** 3 for i in range(len(x)) for j in range(len(y)) if not same or i != j
        ]
        return np.mean(values)

    return mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)


def test_agrees_with_the_definition(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 5)), rng.normal(0.5, 2, size=(9, 5))
    monkeypatch.setattr(module, "CHUNK", 4)
    value, error = kernel_distance(a, b)
    assert value == pytest.approx(by_definition(a, b), rel=1e-12)
    without_a = [by_definition(np.delete(a, i, 0), b) for i in range(7)]
    without_b = [by_definition(a, np.delete(b, i, 0)) for i in range(9)]
    assert error == pytest.approx(np.sqrt(6 * np.var(without_a) + 8 * np.var(without_b)), rel=1e-9)


def test_unbiased_and_as_certain_as_it_says():
    """Sets of one distribution are at 0 on average, and the interval holds 0 nearly always."""
    rng = np.random.default_rng(1)
    pairs = [(rng.normal(size=(20, 8)), rng.normal(size=(30, 8))) for _ in range(200)]
    values, errors = np.transpose([kernel_distance(a, b) for a, b in pairs])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(200) and values.min() < 0
    assert np.mean(np.abs(values) < 1.96 * errors) > 0.93
    # For different distributions, the error is that of repeated draws.
    moved = [kernel_distance(a, b + 0.7) for a, b in pairs]
    values, errors = np.transpose(moved)
    assert errors.mean() == pytest.approx(values.std(), rel=0.2)
    found = kernel_estimate(pairs[0][0], pairs[0][1] + 3)
    assert 0 < found.low < found.value < found.high


def test_refusals():
    with pytest.raises(ValueError, match="at least 3"):
        kernel_distance(np.zeros((2, 4)), np.zeros((5, 4)))
    with pytest.raises(ValueError, match="aren't finite"):
        kernel_distance(np.full((4, 4), np.nan), np.zeros((5, 4)))
