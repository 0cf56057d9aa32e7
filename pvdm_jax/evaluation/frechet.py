"""Frechet distance between two sets of feature vectors (Dowson and Landau 1982; FID, Heusel et al. 2017).

Each set is summarised by a normal distribution with its mean and covariance (divided by n - 1), and

    d(a, b) = |mean_a - mean_b|^2 + Tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)).

The last trace is usually taken from a matrix square root, which loses its footing when a covariance is singular, as
it always is with fewer samples than dimensions. With centred samples A and B scaled so that cov_a = A^T A and
cov_b = B^T B, it is the sum of the singular values of A B^T, which exists for any number of samples. A and B are
replaced by the triangular factors of their QR decompositions first: no matrix is then larger than the dimension.
"""

import numpy as np


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Frechet distance of features (n, d) and (m, d), computed in float64; 0 for equal moments.

    The distance of two finite samples of one distribution is positive, and the more so the fewer they are: compare
    only distances between sets of the same sizes. Raises ValueError unless both sets are finite, of the same
    dimension and of at least two samples each.
    """
    a, b = np.asarray(features_a, np.float64), np.asarray(features_b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features have shapes {a.shape} and {b.shape}; two sets (samples, d) of one d are needed")
    for name, features in (("features_a", a), ("features_b", b)):
        if len(features) < 2:
            raise ValueError(f"{name} has {len(features)} samples; a covariance needs at least 2")
        if not np.isfinite(features).all():
            raise ValueError(f"{name} has values that aren't finite")
    factor_a, factor_b = _covariance_factor(a), _covariance_factor(b)
    means = np.sum((a.mean(0) - b.mean(0)) ** 2)
    cross = np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum()
    return float(max(means + np.sum(factor_a**2) + np.sum(factor_b**2) - 2 * cross, 0.0))


def _covariance_factor(features: np.ndarray) -> np.ndarray:
    """R (at most d, d) with R^T R equal to the covariance of features (n, d)."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    return np.linalg.qr(centred, mode="r")
