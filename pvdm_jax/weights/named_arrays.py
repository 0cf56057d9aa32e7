"""The arrays in the result of a foreign pickle: a tree of dicts and modules becomes one dict of dotted names."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pvdm_jax.weights.pickle_reader import Unknown
from pvdm_jax.weights.size_limits import Budget

MAX_DEPTH = 64  # of nested dicts and modules
MAX_NODES = 100_000  # visits of dicts, modules and values; shared ones are visited more than once


def named_arrays(tree: Any, budget: Budget, read: Callable[[Any, Budget], np.ndarray | None]) -> dict[str, np.ndarray]:
    """All arrays of a tree by their dotted names; dicts that contain themselves are entered once.

    read: gives the array that a value stands for, None for other values. Raises ValueError for trees of too many
    values.
    """
    visits = 0

    def walk(node: Any, prefix: str, path: frozenset[int]) -> Iterator[tuple[str, np.ndarray]]:
        nonlocal visits
        visits += 1
        budget.take(len(prefix), "the names of its arrays")
        if visits > MAX_NODES:
            raise ValueError(f"its dicts have more than {MAX_NODES:,} values, counting shared ones again")
        array = read(node, budget)
        if array is not None:
            yield prefix.rstrip("."), array
            return
        children = node.state if isinstance(node, Unknown) else node
        if not isinstance(children, dict) or id(children) in path or len(path) >= MAX_DEPTH:
            return
        for name, child in children.items():
            if name in ("_parameters", "_buffers", "_modules"):  # of a pickled module
                yield from walk(child, prefix, path | {id(children)})
            elif isinstance(name, str):
                yield from walk(child, f"{prefix}{name}.", path | {id(children)})

    return dict(walk(tree, "", frozenset()))
