"""Scaled dot-product attention, and the rule that chooses how a call computes it.

The weights of n queries for m keys are n x m numbers per head. Kept for the gradient, they would take most of a
training step's memory, and moving them most of its time. So they are kept only where they are few.
"""

import functools
from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from pvdm_jax.models.ops import fused_attention
from pvdm_jax.models.ops.weighted_attention import heads_first, kept, recomputed

# Most weights per head that are kept for the gradient on devices other than CPUs: as many as 64 queries of 64 features.
KEPT_WEIGHTS = 2**12

IMPLEMENTATIONS = {
    "heads": heads_first,
    "cudnn": fused_attention.cudnn,
    "splash": fused_attention.splash,
    "kept": kept,
    "recomputed": recomputed,
}


def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """softmax(query key^T / sqrt(d)) value, for each head.

    query (b, n, heads, d), key and value (b, m, heads, d) give (b, n, heads, d). The softmax is computed in float32;
    the result has the query's dtype. `implementation` chooses among equal ways to compute it.

    Fused kernels are used only under a mesh (`jax.set_mesh`, or `jax.sharding.use_abstract_mesh` within jit), which
    names the devices that the program is for; each of them computes its own part of the batch. Without a mesh, the
    program may be compiled for several platforms, or exported.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        here = functools.partial(implementation, dtype=query.dtype, shape=query.shape, keys=key.shape[1])
        ways = {"cpu": IMPLEMENTATIONS[here("cpu")], "default": IMPLEMENTATIONS[here("")]}
        return jax.lax.platform_dependent(query, key, value, **ways)
    platform = mesh.abstract_device.platform if mesh.abstract_device else ""
    name = implementation(platform, query.dtype, query.shape, key.shape[1])
    compute = IMPLEMENTATIONS[name]
    whole = name == "kept" or mesh.size == 1 or mesh.manual_axes or query.shape[0] % mesh.size
    return compute(query, key, value) if whole else _on_each_device(compute, mesh)(query, key, value)


def implementation(platform: str, dtype: jax.typing.DTypeLike, shape: tuple[int, ...], keys: int) -> str:
    """How a call is computed, a name in IMPLEMENTATIONS. The choice is the same with and without a gradient.

    platform: the devices' platform, "cpu", "cuda" or "tpu"; "" if not known. shape: the query's, (b, n, heads, d).

    | platform | dtype and lengths | |
    |---|---|---|
    | CPU | any | heads: some heads at a time, whose weights stay in the caches |
    | any other | at most KEPT_WEIGHTS weights of a head | kept: the weights are kept for the gradient |
    | CUDA | bfloat16 or float16, heads of at most 128 | cudnn: the fused kernel of cuDNN; odd lengths are padded |
    | TPU | lengths that are multiples of 128 | splash: the fused kernel of Pallas |
    | any other | any | recomputed: some queries at a time, whose weights are recomputed for the gradient |

    Few weights are kept even where a kernel could spare them: on an H100 the plan of the autoencoder's projections (17
    positions, bfloat16) moves 44 GB with weights kept, 41 GB with cuDNN on padded positions, and 73 GB with XLA's own
    attention; a kernel would compute tiles of 64 positions or more.
    """
    if platform == "cpu":
        return "heads"
    if shape[1] * keys <= KEPT_WEIGHTS:
        return "kept"
    if platform in ("cuda", "gpu") and fused_attention.cudnn_takes(dtype, shape, keys):
        return "cudnn"
    if platform == "tpu" and fused_attention.splash_takes(dtype, shape, keys):
        return "splash"
    return "recomputed"


def _on_each_device(compute: Callable[..., jax.Array], mesh: jax.sharding.AbstractMesh) -> Callable[..., jax.Array]:
    """`compute`, run by each device on its own part of the batch: compilers can't split loops and kernels."""
    rows = PartitionSpec(mesh.axis_names)
    return jax.shard_map(compute, in_specs=(rows, rows, rows), out_specs=rows, check_vma=False)
