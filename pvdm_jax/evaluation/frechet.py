"""Frechet distance between two sets of feature vectors (Dowson and Landau 1982; FID, Heusel et al. 2017).

Each set is summarised by a normal distribution with its mean and covariance, and

    d(a, b) = |mean_a - mean_b|^2 + Tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)).

The last trace is usually computed from a matrix square root, which is numerically unstable when a covariance is
singular, as it always is with fewer samples than dimensions. With centred samples A and B scaled so that
cov_a = A^T A and cov_b = B^T B, it is the sum of the singular values of A B^T, which exists for any number of samples.
A and B are first replaced by the triangular factors of their QR decompositions, so that no matrix is larger than the
dimension.

The factors also make moments that can be merged without loss: stack the two factors and one more row for the distance
between the means, and take the triangular factor of the result (Chan, Golub and LeVeque 1983).
"""

import dataclasses
from collections.abc import Iterable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Moments:
    """Count, mean (d,) and factor (at most d rows, d) of a set of features. factor^T factor is the scatter matrix, the
    sum of the outer products of the deviations from the mean. All are float64."""

    count: int
    mean: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """The moments of features (n, d), n at least 1. Raises ValueError for other shapes or non-finite values."""
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or len(features) == 0:
            raise ValueError(f"features have shape {features.shape}; (samples, d) is needed, of at least one sample")
        if not np.isfinite(features).all():
            raise ValueError("features have values that aren't finite")
        mean = features.mean(0)
        return cls(len(features), mean, np.linalg.qr(features - mean, mode="r"))

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets together."""
        if len(self.mean) != len(other.mean):
            raise ValueError(f"moments are of {len(self.mean)} and {len(other.mean)} dimensions; they must be equal")
        count = self.count + other.count
        step = other.mean - self.mean
        between = np.sqrt(self.count * other.count / count) * step
        factor = np.linalg.qr(np.concatenate([self.factor, other.factor, between[None]]), mode="r")
        return Moments(count, self.mean + step * (other.count / count), factor)

    @classmethod
    def stream(cls, batches: Iterable[np.ndarray]) -> "Moments":
        """The moments of batches of features, read one at a time; equal to those of all features up to rounding."""
        total = None
        for batch in batches:
            if len(batch):
                total = cls.of(batch) if total is None else total.merge(cls.of(batch))
        if total is None:
            raise ValueError("there are no features")
        return total

    def covariance(self, ddof: int = 1) -> np.ndarray:
        """The covariance matrix (d, d): the scatter matrix divided by count - ddof."""
        return self.factor.T @ self.factor / (self.count - ddof)


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray, ddof: int = 1) -> float:
    """Frechet distance of features (n, d) and (m, d), computed in float64; 0 for equal moments.

    ddof: covariances are divided by n - ddof; PVDM's code has 1, StyleGAN-V's 0. The distance between two finite
    samples of one distribution is positive, and larger for smaller samples: compare only distances between sets of the
    same sizes. Raises ValueError unless both sets are finite, of the same dimension and of at least two samples each.
    """
    a, b = np.asarray(features_a), np.asarray(features_b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features have shapes {a.shape} and {b.shape}; two sets (samples, d) of one d are needed")
    for name, features in (("features_a", a), ("features_b", b)):
        if len(features) < 2:
            raise ValueError(f"{name} has {len(features)} samples; a covariance needs at least 2")
        if not np.isfinite(features).all():
            raise ValueError(f"{name} has values that aren't finite")
    return moments_distance(Moments.of(a), Moments.of(b), ddof)


def moments_distance(a: Moments, b: Moments, ddof: int = 1) -> float:
    """The Frechet distance of two sets from their moments."""
    factor_a, factor_b = (m.factor / np.sqrt(m.count - ddof) for m in (a, b))
    means = np.sum((a.mean - b.mean) ** 2)
    cross = np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum()
    return float(max(means + np.sum(factor_a**2) + np.sum(factor_b**2) - 2 * cross, 0.0))
