"""Muon for the hidden matrices of a network, AdamW for the rest.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) replaces the momentum of a weight matrix by the
nearest orthogonal matrix. AdamW updates biases, norms and embeddings, and the layers that a model excludes: those that
read or write pixels or latents. A model's class names them in `NOT_MATRICES`, as paths from the model's top
("project_yx/out"), so that a new network has to say which of its layers are not hidden.
"""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

UPDATE_RMS = 0.2  # RMS of a matrix's update at learning rate 1, near AdamW's (Liu et al., 2025, arXiv 2502.16982)


def dimension_numbers(params: Any, not_matrices: Collection[str]) -> Any:
    """For every leaf the input and output axes of its matrix, or None where AdamW updates it.

    Kernels are (in, out), stacked (depth, in, out), or (rows, columns, in, out) for convolutions. not_matrices: paths
    of layers whose kernels AdamW updates. Raises ValueError if one of them is not a layer with a kernel.
    """
    layers = {_layer(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    unknown = [layer for layer in not_matrices if (layer, "kernel") not in layers]
    if unknown:
        raise ValueError(f"not_matrices names {', '.join(unknown)}; there is no such layer with a kernel")

    def numbers(path: Any, leaf: jax.Array) -> MuonDimensionNumbers | None:
        layer, name = _layer(path)
        if name != "kernel" or layer in not_matrices:
            return None
        inputs = tuple(range(leaf.ndim - 1)) if leaf.ndim == 4 else (leaf.ndim - 2,)
        return MuonDimensionNumbers(reduction_axis=inputs, output_axis=(leaf.ndim - 1,))

    return jax.tree_util.tree_map_with_path(numbers, params)


def _layer(path: Any) -> tuple[str, str]:
    """The path of a leaf's layer, and the leaf's own name."""
    *layer, name = (entry.key for entry in path)
    return "/".join(layer), name


class _Stacks:
    """Stacks the hidden kernels of equal shape, and unstacks them.

    A network has tens of kernels of one shape. Stacked, they take a few large products instead of hundreds of small
    ones, so the update compiles and runs faster.
    """

    def __init__(self, params: Any, not_matrices: Collection[str]):
        leaves, self.structure = jax.tree.flatten(params)
        numbers = self.structure.flatten_up_to(dimension_numbers(params, not_matrices))
        self.members: dict[str, list[int]] = {}  # the leaves of each stack
        self.numbers: dict[str, MuonDimensionNumbers | None] = {}
        for index, (leaf, axes) in enumerate(zip(leaves, numbers, strict=True)):
            name = f"leaf_{index}" if axes is None else "x".join(map(str, leaf.shape))
            self.members.setdefault(name, []).append(index)
            self.numbers[name] = axes and MuonDimensionNumbers(
                *(tuple(axis + 1 for axis in part) for part in (axes.reduction_axis, axes.output_axis))
            )

    def stack(self, tree: Any) -> dict[str, jax.Array]:
        leaves = jax.tree.leaves(tree)
        return {
            name: jnp.stack([leaves[i] for i in members]) if self.numbers[name] else leaves[members[0]]
            for name, members in self.members.items()
        }

    def unstack(self, stacks: dict[str, jax.Array]) -> Any:
        leaves = {}
        for name, members in self.members.items():
            leaves |= zip(members, stacks[name] if self.numbers[name] else [stacks[name]], strict=True)
        return jax.tree.unflatten(self.structure, [leaves[index] for index in range(len(leaves))])


def muon_with_adamw(
    muon_schedule: optax.Schedule,
    adam_schedule: optax.Schedule,
    not_matrices: Collection[str],
    b1: float,
    b2: float,
    weight_decay: float,
) -> optax.GradientTransformationExtraArgs:
    """Muon for the hidden matrices and AdamW for the rest.

    not_matrices: paths of layers with a kernel that AdamW updates. b1, b2 are AdamW's; Muon's momentum is 0.95. Both
    decay weights. `update` takes `finite`, a scalar: where it is false, the state is unchanged.
    """

    def optimizer(stacks: _Stacks) -> optax.GradientTransformation:
        return muon(
            muon_schedule,
            weight_decay=weight_decay,
            adam_b1=b1,
            adam_b2=b2,
            adam_weight_decay=weight_decay,
            adam_learning_rate=adam_schedule,
            consistent_rms=UPDATE_RMS,
            muon_weight_dimension_numbers=stacks.numbers,
        )

    def init(params: Any) -> optax.OptState:
        stacks = _Stacks(params, not_matrices)
        return optimizer(stacks).init(stacks.stack(params))

    def update(updates: Any, state: optax.OptState, params: Any, *, finite: jax.Array | bool = True, **_: Any):
        stacks = _Stacks(params, not_matrices)
        changed, new = optimizer(stacks).update(stacks.stack(updates), state, stacks.stack(params))
        return stacks.unstack(changed), jax.tree.map(lambda x, old: jnp.where(finite, x, old), new, state)

    return optax.GradientTransformationExtraArgs(init, update)
