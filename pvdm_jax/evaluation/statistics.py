"""How certain a number is: confidence intervals and dependence on the number of samples; and the Inception score."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from pvdm_jax.evaluation.frechet import frechet_distance
from pvdm_jax.evaluation.kernel_distance import kernel_distance

LEVEL = 0.95  # of the confidence intervals
NORMAL = 1.959964  # standard deviations on either side of the mean that hold LEVEL of a normal distribution
FRACTIONS = (1 / 8, 1 / 4, 1 / 2, 1)  # of the samples, for the dependence on their number
DRAWS = 4  # random subsets for each fraction below 1


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number, and how certain it is."""

    value: float
    low: float | None = None  # the 95 % interval; None without bootstrap
    high: float | None = None
    by_count: tuple[tuple[int, float], ...] = ()  # (count, value) for fewer samples
    unlimited: float | None = None  # value at 1 / count = 0 of a line fitted to these points; None without a line


def frechet_estimate(real: np.ndarray, generated: np.ndarray, ddof: int, resamplings: int, seed: int) -> Estimate:
    """The Frechet distance of two sets of features (n, d) and (m, d), with everything that an `Estimate` has.

    The distance of resampled sets is biased upwards, because a sample drawn with replacement has fewer distinct points.
    The interval is therefore the spread of the bootstrap values around their mean, centred on the distance.
    The distance of finite samples is biased upwards as well, by about a constant over their number (Chong and Forsyth
    2020): `unlimited` is the value of the least-squares line at 1 / count = 0.
    """
    value = frechet_distance(real, generated, ddof)
    low, high = interval(lambda a, b: frechet_distance(a, b, ddof), (real, generated), value, resamplings, seed)
    if low is not None:
        low = max(low, 0.0)
    smaller, rng = min(len(real), len(generated)), np.random.default_rng([seed, 6])
    points = []
    for fraction in FRACTIONS:
        counts = [int(round(len(features) * fraction)) for features in (real, generated)]
        if min(counts) < 2:
            continue
        if fraction == 1:
            points.append((smaller, value))
            continue
        distances = []
        for _ in range(DRAWS):
            rows = [rng.choice(len(f), n, replace=False) for f, n in zip((real, generated), counts, strict=True)]
            distances.append(frechet_distance(real[rows[0]], generated[rows[1]], ddof))
        points.append((min(counts), float(np.mean(distances))))
    return Estimate(value, low, high, tuple(points), _at_infinity(points))


def kernel_estimate(real: np.ndarray, generated: np.ndarray) -> Estimate:
    """The kernel distance of two sets of features (n, d) and (m, d). It and its interval may be negative."""
    value, error = kernel_distance(real, generated)
    return Estimate(value, value - NORMAL * error, value + NORMAL * error)


def mean_estimate(values: np.ndarray, resamplings: int, seed: int) -> Estimate:
    """The mean of a number (n,) over clips."""
    values = np.asarray(values, np.float64)
    value = float(values.mean())
    return Estimate(value, *interval(lambda x: float(np.mean(x)), (values,), value, resamplings, seed))


def inception_estimate(probabilities: np.ndarray, splits: int, resamplings: int, seed: int) -> Estimate:
    """The Inception score of class probabilities (n, classes), with its dependence on n."""
    value = inception_score(probabilities, splits)
    rng = np.random.default_rng([seed, 7])
    low, high = interval(lambda p: inception_score(p, splits), (probabilities,), value, resamplings, seed)
    points = []
    for fraction in FRACTIONS:
        count = int(round(len(probabilities) * fraction))
        if count >= splits:
            draws = 1 if fraction == 1 else DRAWS
            rows = [rng.permutation(len(probabilities))[:count] if draws > 1 else slice(None) for _ in range(draws)]
            points.append((count, float(np.mean([inception_score(probabilities[r], splits) for r in rows]))))
    return Estimate(value, low, high, tuple(points))


def inception_score(probabilities: np.ndarray, splits: int = 10) -> float:
    """exp of the mean KL divergence from the mean of the class probabilities (n, classes), averaged over `splits`
    parts of the samples in their order (Salimans et al. 2016). At least 1, at most the number of classes."""
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or len(p) < splits:
        raise ValueError(f"probabilities have shape {p.shape}; (samples, classes), of at least {splits} samples")
    scores = []
    for part in np.array_split(p, splits):
        part = part + 1e-20
        divergence = np.sum(part * (np.log(part) - np.log(part.mean(0, keepdims=True))), axis=1)
        scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores))


def interval(
    statistic: Callable[..., float], sets: Sequence[np.ndarray], value: float, resamplings: int, seed: int
) -> tuple[float | None, float | None]:
    """The 95 % bootstrap interval of a statistic of sets, each resampled with replacement.

    It is the spread of the resampled statistic around its own mean, centred on `value`. (None, None) if `resamplings`
    is 0.
    """
    (only,) = intervals(lambda *drawn: [statistic(*drawn)], sets, [value], resamplings, seed)
    return only


def intervals(
    statistics: Callable[..., Sequence[float]],
    sets: Sequence[np.ndarray],
    values: Sequence[float],
    resamplings: int,
    seed: int,
) -> list[tuple[float | None, float | None]]:
    """The `interval` of each of several statistics, all from the same resampled sets."""
    if resamplings == 0:
        return [(None, None)] * len(values)
    rng = np.random.default_rng([seed, 5])
    drawn = np.array([statistics(*(s[rng.integers(len(s), size=len(s))] for s in sets)) for _ in range(resamplings)])
    low, high = np.quantile(drawn - drawn.mean(0), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [(float(v + a), float(v + b)) for v, a, b in zip(values, low, high, strict=True)]


def _at_infinity(points: Sequence[tuple[int, float]]) -> float | None:
    """The least-squares line of the values over 1 / count, extrapolated to infinitely many samples."""
    if len(points) < 3:
        return None
    counts, values = np.array(points, np.float64).T
    design = np.stack([np.ones_like(counts), 1 / counts], axis=1)
    return float(max(np.linalg.lstsq(design, values, rcond=None)[0][0], 0.0))
