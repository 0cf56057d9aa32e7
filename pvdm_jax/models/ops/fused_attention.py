"""Attention by fused kernels of libraries, which never write attention weights to memory: cuDNN's on NVIDIA GPUs,
Pallas's on TPUs.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp

HALVES = ("bfloat16", "float16")
CUDNN_HEAD = 128  # the largest head size on GPUs from Ampere on
CUDNN_BATCH = 2**16  # a CUDA kernel's grid must be smaller than this in the batch dimension
AMPERE = 8.0  # the first compute capability with cuDNN's flash attention
LANES = 128  # numbers in a row of a TPU's registers; blocks of positions are multiples of it
BLOCK = 512  # positions of queries and keys that a TPU holds on the chip at once


def cudnn_takes(dtype: jax.typing.DTypeLike, shape: tuple[int, ...], keys: int) -> bool:
    """Whether cuDNN's kernel computes attention of queries of `shape` (b, n, heads, d) to `keys` keys.

    Batches of symbolic size, as in exported programs, can't use kernels.
    """
    batch, head = shape[0], shape[-1]
    sized = all(isinstance(size, int) for size in (*shape, keys)) and batch < CUDNN_BATCH
    return sized and jnp.dtype(dtype).name in HALVES and head % 8 == 0 and head <= CUDNN_HEAD and _has_cudnn()


def cudnn(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Attention by cuDNN. It takes only even lengths, so odd ones get one more position, to which nothing attends."""
    queries, keys = query.shape[1], key.shape[1]
    lengths = {}
    if queries % 2 or keys % 2:
        query, key, value = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value))
        names = {"query_seq_lengths": queries, "key_value_seq_lengths": keys}
        lengths = {name: jnp.full(query.shape[0], length, jnp.int32) for name, length in names.items()}
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn", **lengths)[:, :queries]


@functools.cache
def _has_cudnn() -> bool:
    """Whether JAX finds a cuDNN to compile with, and the attached GPU, if there is one, can run its attention."""
    if jax.default_backend() == "gpu":
        capability = str(getattr(jax.local_devices()[0], "compute_capability", ""))
        version = re.fullmatch(r"\d+\.\d+", capability)  # AMD's GPUs have names instead
        if version is None or float(version[0]) < AMPERE:
            return False
    x = jax.ShapeDtypeStruct((1, 8, 1, 8), jnp.bfloat16)
    attend = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    try:
        jax.eval_shape(attend, x, x, x)
    except RuntimeError:  # NotImplementedError is one
        return False
    return True


def splash_takes(dtype: jax.typing.DTypeLike, shape: tuple[int, ...], keys: int) -> bool:
    """Whether Pallas's kernel computes attention of queries of `shape` (b, n, heads, d) to `keys` keys."""
    queries = shape[1]
    sized = all(isinstance(size, int) for size in (*shape, keys))
    return sized and jnp.dtype(dtype).name in ("bfloat16", "float32") and queries % LANES == 0 == keys % LANES


def splash(query: jax.Array, key: jax.Array, value: jax.Array, interpret: bool = False) -> jax.Array:
    """Attention by JAX's splash attention for TPUs. interpret: use Pallas's interpreter, for tests without a TPU."""
    kernel = _splash_kernel(query.shape[2], query.shape[1], key.shape[1], interpret)
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query * query.shape[-1] ** -0.5, key, value))
    return jnp.swapaxes(jax.vmap(kernel)(query, key, value), 1, 2)


def _splash_kernel(heads: int, queries: int, keys: int, interpret: bool):
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    rows, columns = (math.gcd(BLOCK, length) for length in (queries, keys))
    blocks = library.BlockSizes(
        block_q=rows,
        block_kv=columns,
        block_kv_compute=columns,
        block_q_dkv=rows,
        block_kv_dkv=columns,
        block_kv_dkv_compute=columns,
        block_q_dq=rows,
        block_kv_dq=columns,
    )
    everything = library.MultiHeadMask([library.FullMask((queries, keys))] * heads)
    with jax.ensure_compile_time_eval():
        return library.make_splash_mha(
            everything, block_sizes=blocks, head_shards=1, q_seq_shards=1, interpret=interpret
        )
