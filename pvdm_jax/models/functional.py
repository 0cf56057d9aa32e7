"""NNX modules as a graph definition and a plain tree of arrays, the form in which everything outside a model uses them.

A parameter tree is nested dicts with string keys (entries of an `nnx.List` are "0", "1", ...): what jit donates,
optax updates, Orbax saves and a mesh shards. `merge` inside a jitted function gives the module back.
"""

import contextlib
import contextvars
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx, traverse_util

Params = dict[str, Any]

_prepare: contextvars.ContextVar[Callable[[Params], Params]] = contextvars.ContextVar("prepare", default=lambda x: x)


def split(module: nnx.Module) -> tuple[nnx.GraphDef, Params]:
    """The module's graph definition and its parameters as nested dicts with string keys."""
    graphdef, state = nnx.split(module)
    return graphdef, _with_keys(nnx.to_pure_dict(state), str)


def merge(graphdef: nnx.GraphDef, params: Params) -> Any:
    """The module of `graphdef` with `params`, the inverse of `split`; usable under jit, grad and scan."""
    return nnx.merge(graphdef, _with_keys(params, lambda key: int(key) if key.isdigit() else key))


class _Stream(nnx.RngStream):
    """Counts without comparing shardings: while JAX traces, each comparison prints the program so far for an error
    message that Flax (0.12) discards, and building a large model takes ten times as long."""

    def __call__(self) -> jax.Array:
        key = jax.random.fold_in(self.key[...], self.count[...])
        self.count.set_value(self.count[...] + 1)
        return key


def rngs(key: jax.Array | int) -> nnx.Rngs:
    """`nnx.Rngs(key)` with the same random keys, but models are built faster."""
    streams = nnx.Rngs(key)
    streams.default = _Stream(key, tag="default")
    return streams


def abstract(make: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, Params]:
    """`split(make())` without computing or allocating anything: the leaves are jax.ShapeDtypeStruct."""
    return split(nnx.eval_shape(make))


@contextlib.contextmanager
def preparing_blocks(prepare: Callable[[Params], Params]) -> Iterator[None]:
    """A context in which the parameters of each rematerialised block go through `prepare` before use.

    If parameters are split over devices, this gathers a block's parameters when it runs, and again for its gradient, so
    only one block's are whole at a time.
    """
    token = _prepare.set(prepare)
    try:
        yield
    finally:
        _prepare.reset(token)


def prepared_block(params: Params) -> Params:
    """A block's parameters as `preparing_blocks` prepares them; called in the body that is rematerialised."""
    return _prepare.get()(params)


def count(params: Params) -> int:
    """Number of parameters of a tree of arrays or ShapeDtypeStructs."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def flatten(params: Params) -> dict[str, Any]:
    """{"encoder/mlp/down/kernel": leaf}, in the tree's order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {"/".join(entry.key for entry in path): leaf for path, leaf in leaves}


def unflatten(leaves: dict[str, Any]) -> Params:
    """The inverse of `flatten`."""
    return traverse_util.unflatten_dict(leaves, sep="/")


def fingerprint(params: Params) -> str:
    """A hash of all weights (nested dicts of arrays), with their names."""
    digest = hashlib.sha256()
    for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(params), key=lambda item: str(item[0])):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf, np.float32).tobytes())
    return digest.hexdigest()


def _with_keys(tree: Any, convert: Callable[[Any], Any]) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {convert(key): _with_keys(value, convert) for key, value in tree.items()}
