"""`pvdm benchmark`: how fast the models run on this device, beside what the device was measured to do in the same run.

Every operation is compiled anew (no cache), called once to warm up and then timed. It runs with nothing but jax, flax,
optax, orbax, einops and numpy; only `data`, the loading of batches, needs the data libraries.
"""

from pvdm_jax.performance.runner import Result, run

__all__ = ["Result", "run"]
