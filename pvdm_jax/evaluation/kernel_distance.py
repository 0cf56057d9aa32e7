"""Kernel distance between two sets of features: the squared maximum mean discrepancy (Gretton et al. 2012).

The kernel is the polynomial k(x, y) = (x.y / d + 1)^3 of KID (Binkowski et al. 2018) and KVD (Unterthiner et al. 2018).
Unlike the Frechet distance, it assumes no normal distribution, and its estimate is unbiased for any number of samples:
for two sets of one distribution it is 0 on average, so it can be negative.
"""

import numpy as np

MIN_SAMPLES = 3  # in each set: the jackknife leaves out one sample
CHUNK = 1024  # rows of the kernel's matrix that are computed at once


def kernel_distance(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The unbiased estimate for features (n, d) and (m, d), and its standard error, in float64.

    All pairs are used. The error is that of the jackknife over the samples of both sets (Efron and Stein 1981),
    computed exactly from row sums of the kernel matrix. For sets of one distribution it is too large, never too small.
    Raises ValueError unless both sets are finite, of one dimension and of at least three samples each.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < MIN_SAMPLES:
        raise ValueError(
            f"features have shapes {a.shape} and {b.shape}; two sets (samples, d) of at least 3 are needed"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features have values that aren't finite")
    n, m = len(a), len(b)
    within_a, within_b = _sums_of_others(a), _sums_of_others(b)
    across_a, across_b = _sums(a, b)
    value = within_a.sum() / (n * (n - 1)) + within_b.sum() / (m * (m - 1)) - 2 * across_a.sum() / (n * m)
    # The distances without each sample of a, and without each of b.
    without_a = (within_a.sum() - 2 * within_a) / ((n - 1) * (n - 2)) + within_b.sum() / (m * (m - 1))
    without_a -= 2 * (across_a.sum() - across_a) / ((n - 1) * m)
    without_b = (within_b.sum() - 2 * within_b) / ((m - 1) * (m - 2)) + within_a.sum() / (n * (n - 1))
    without_b -= 2 * (across_b.sum() - across_b) / (n * (m - 1))
    variance = sum((len(x) - 1) * np.var(x) for x in (without_a, without_b))
    return float(value), float(np.sqrt(variance))


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _sums_of_others(a: np.ndarray) -> np.ndarray:
    """The sum of the kernel of each row of a with all other rows: (n,)."""
    own = (np.sum(a * a, axis=1) / a.shape[1] + 1) ** 3
    return _sums(a, a)[0] - own


def _sums(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sums of the kernel of each row of a with all rows of b, (n,), and of each row of b with all of a, (m,)."""
    rows, columns = [], np.zeros(len(b))
    for start in range(0, len(a), CHUNK):
        part = _kernel(a[start : start + CHUNK], b)
        rows.append(part.sum(axis=1))
        columns += part.sum(axis=0)
    return np.concatenate(rows), columns
