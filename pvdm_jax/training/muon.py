"""Muon for the hidden matrices of a network, AdamW for the rest.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) replaces the momentum of a weight matrix by the
nearest orthogonal matrix. The layers that touch pixels or latents, biases, norms and embeddings stay with AdamW.
"""

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

# Layers at a network's ends, by their names at its top.
ENDS = ("from_pixels", "to_pixels", "lift_yx", "lift_tx", "lift_ty", "conv_in", "conv_out")
UPDATE_RMS = 0.2  # of a matrix's update at learning rate 1, near AdamW's (Liu et al., 2025, arXiv 2502.16982)


def dimension_numbers(params: Any) -> Any:
    """For every leaf which axes go into and out of its matrix, or None where AdamW holds.

    Kernels are (in, out), stacked (depth, in, out), or of convolutions (rows, columns, in, out).
    """

    def numbers(path: Any, leaf: jax.Array) -> MuonDimensionNumbers | None:
        top, name = path[0].key, path[-1].key
        if name != "kernel" or top in ENDS:
            return None
        inputs = tuple(range(leaf.ndim - 1)) if leaf.ndim == 4 else (leaf.ndim - 2,)
        return MuonDimensionNumbers(reduction_axis=inputs, output_axis=(leaf.ndim - 1,))

    return jax.tree_util.tree_map_with_path(numbers, params)


def muon_with_adamw(
    muon_schedule: optax.Schedule, adam_schedule: optax.Schedule, b1: float, b2: float, weight_decay: float
) -> optax.GradientTransformation:
    """The two together. b1, b2 are AdamW's; Muon's momentum is 0.95; both decay weights."""
    return muon(
        muon_schedule,
        weight_decay=weight_decay,
        adam_b1=b1,
        adam_b2=b2,
        adam_weight_decay=weight_decay,
        adam_learning_rate=adam_schedule,
        consistent_rms=UPDATE_RMS,
        muon_weight_dimension_numbers=dimension_numbers,
    )
