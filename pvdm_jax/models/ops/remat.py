"""Rematerialisation: what a block's forward pass keeps for its gradient, and what is recomputed.

    none    everything is kept: fastest, if it fits into memory
    dots    products with weights (linear layers, convolutions) are kept; norms, activations, attention are recomputed
    blocks  only the inputs of blocks are kept; a step costs about a third more, and memory hardly grows with depth

All give equal results up to rounding. The settings are `autoencoder.remat` and `denoiser.remat`.
"""

from collections.abc import Callable

import jax


def _products(primitive, *_, **params) -> bool:
    dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return primitive.name == "conv_general_dilated" or dots(primitive, *_, **params)


POLICIES = {"dots": _products, "blocks": jax.checkpoint_policies.nothing_saveable}


def remat(function: Callable, policy: str, scanned: bool = False) -> Callable:
    """`function`, differentiated under `policy`. scanned: whether it is the body of a `jax.lax.scan`."""
    if policy == "none":
        return function
    return jax.checkpoint(function, policy=POLICIES[policy], prevent_cse=not scanned)
