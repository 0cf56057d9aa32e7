"""Which times training draws."""

import jax
import jax.numpy as jnp
import numpy as np

from pvdm_jax.diffusion.times import logit_normal_times, uniform_times

COUNT = 20_000


def test_logit_normal_times_have_the_quantiles_of_a_shifted_logistic_normal():
    """A quantile q of the normal distribution lies at sigmoid(shift + spread * q)."""
    for shift, spread in ((0.0, 1.0), (1.0, 0.5)):
        times = logit_normal_times(jax.random.key(0), COUNT, 1000, shift=shift, spread=spread)
        assert times.dtype == jnp.int32
        for probability, deviation in ((0.1587, -1), (0.5, 0), (0.8413, 1)):
            expected = 1000 / (1 + np.exp(-(shift + spread * deviation)))
            assert abs(np.quantile(times, probability) - expected) < 10


def test_each_sample_may_have_its_own_shift():
    noisy = jnp.arange(COUNT) % 2 == 1
    times = np.asarray(logit_normal_times(jax.random.key(0), COUNT, 1000, shift=jnp.where(noisy, 2.0, 0.0), spread=1.0))
    assert np.median(times[1::2]) > 850 and 470 < np.median(times[0::2]) < 530


def test_times_stay_in_the_process():
    times = logit_normal_times(jax.random.key(0), COUNT, 10, shift=0.0, spread=20.0)
    assert set(np.unique(times)) == set(range(10))
    assert set(np.unique(uniform_times(jax.random.key(0), COUNT, 10))) == set(range(10))
