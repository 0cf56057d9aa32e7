"""Floating point operations of a traced program; a multiplication and its addition count as 2.

Only matrix products and convolutions count. XLA's own `cost_analysis` counts the body of a loop once.
"""

import math
from typing import Any


def traced_flops(jaxpr: Any) -> float:
    """FLOPs of a traced program, `jax.jit(f).trace(...).jaxpr`, over all devices.

    Loops count as often as they run, a conditional as its most expensive branch, and what rematerialisation computes
    twice counts twice.
    """
    total = 0.0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, values = equation.primitive.name, equation.params
        shapes = [variable.aval.shape for variable in equation.invars if hasattr(variable.aval, "shape")]
        result = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if name == "dot_general":
            contracted = values["dimension_numbers"][0][0]
            total += 2 * result * math.prod(shapes[0][axis] for axis in contracted)
        elif name == "conv_general_dilated":
            features = values["dimension_numbers"].rhs_spec[0]
            total += 2 * result * math.prod(shapes[1]) / shapes[1][features]
        elif name == "cond":
            total += max(traced_flops(branch) for branch in values["branches"])
        else:
            times = values["length"] if name == "scan" else 1
            inner = (leaf for value in values.values() for leaf in (value if isinstance(value, tuple) else (value,)))
            total += times * sum(traced_flops(leaf) for leaf in inner if hasattr(getattr(leaf, "jaxpr", leaf), "eqns"))
    return total
