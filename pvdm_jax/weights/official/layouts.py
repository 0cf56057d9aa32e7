"""One official array in its official layout and in ours, and whole models built from tables of such pairs."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from pvdm_jax.config.checks import listed
from pvdm_jax.models import functional

PREFIXES = ("module.", "diffusion_model.", "_orig_mod.", "state_dict.")
BUFFERS = ("coords", "zeros", "inv_freqs", "scales", "num_batches_tracked")  # hold no learned weight


@dataclasses.dataclass(frozen=True)
class Weight:
    """One official array and the leaves of our tree that it becomes: `split` makes them, `join` is its inverse."""

    name: str
    paths: tuple[str, ...]  # "encoder/mlp/down/kernel"
    split: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    join: Callable[..., np.ndarray]
    layer: int | None = None  # index on the leading axis of stacked leaves


def clean(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The learned weights as float32 arrays under their official names, without wrappers' prefixes and without buffers.

    Arrays may be NumPy's, JAX's or PyTorch tensors (on any device, requiring gradients, of any float type). Raises
    ValueError for anything else, such as a whole checkpoint around the state dict, and for a name that occurs twice.
    """
    weights: dict[str, np.ndarray] = {}
    for full_name, value in state_dict.items():
        name = without_prefixes(full_name)
        if name.rsplit(".", 1)[-1] in BUFFERS:
            continue
        if name in weights:
            raise ValueError(f"the weights don't fit: {name} occurs twice, once as {full_name}")
        weights[name] = to_array(value, full_name).astype(np.float32, copy=False)
    return weights


def without_prefixes(name: str) -> str:
    """The name without the prefixes of DistributedDataParallel, the official wrapper, torch.compile and checkpoints."""
    while name.startswith(PREFIXES):
        name = name.partition(".")[2]
    return name


def to_array(value: Any, name: str) -> np.ndarray:
    """The NumPy array of a NumPy or JAX array, a number or a PyTorch tensor: floats as float32, integers as they are.

    PyTorch isn't imported for it. Raises ValueError for anything else.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # NumPy has no bfloat16 of its own.
        value = value.float() if value.is_floating_point() else value
    array = np.asarray(value)
    if array.dtype.kind in "biu":
        return array
    # Kind V: the bfloat16 of ml_dtypes.
    if array.dtype.kind not in "fV":
        kind = type(value).__name__
        raise ValueError(
            f"{name} is a {kind}, not an array of numbers; a state dict maps names to arrays (a whole checkpoint?)"
        )
    return array.astype(np.float32, copy=False)


def build(
    make: Callable[[nnx.Rngs], Any], rules: Callable[[Any], Iterator[Weight]], weights: dict[str, np.ndarray]
) -> Any:
    """The module that `make` defines, with `weights` in place of its initial ones.

    rules: a function from the module to its `Weight`s. Raises ValueError naming the first missing, misshapen or
    surplus weights.
    """
    model = nnx.eval_shape(lambda: make(functional.rngs(0)))
    graphdef, expected = functional.split(model)
    expected = functional.flatten(expected)
    leaves: dict[str, np.ndarray] = {}
    problems, used = [], set()
    for weight in rules(model):
        used.add(weight.name)
        shapes = [expected[path].shape[weight.layer is not None :] for path in weight.paths]
        shape = weight.join(*(np.broadcast_to(False, shape) for shape in shapes)).shape
        if weight.name not in weights:
            problems.append(f"{weight.name} is missing, shape {shape}")
        elif weights[weight.name].shape != shape:
            problems.append(f"{weight.name} has shape {weights[weight.name].shape}; {shape} is needed")
        else:
            for path, part in zip(weight.paths, weight.split(weights[weight.name]), strict=True):
                if weight.layer is None:
                    leaves[path] = part
                else:
                    leaves.setdefault(path, np.empty(expected[path].shape, np.float32))[weight.layer] = part
    problems += [f"{name} is not a weight of this model" for name in sorted(weights.keys() - used)]
    if problems:
        raise ValueError(f"the weights don't fit: {listed(problems)}")
    params = functional.unflatten({path: jnp.asarray(array, jnp.float32) for path, array in leaves.items()})
    return functional.merge(graphdef, params)


def official_weights(rules: Iterator[Weight], model: nnx.Module) -> dict[str, np.ndarray]:
    """The model's weights under the official names and layouts that `rules` give."""
    leaves = functional.flatten(functional.split(model)[1])
    official = {}
    for weight in rules:
        arrays = [leaves[path] if weight.layer is None else leaves[path][weight.layer] for path in weight.paths]
        official[weight.name] = np.ascontiguousarray(weight.join(*(np.asarray(array) for array in arrays)))
    return official


def names(overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides with the name of `dtype`, which may be given as a type."""
    return {key: jnp.dtype(value).name if key == "dtype" else value for key, value in overrides.items()}


def shapes(weights: Mapping[str, Any], prefix: str = "") -> Callable[[str], tuple[int, ...]]:
    """A function from a weight's name to its shape. `prefix` is added to the names in its errors."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in weights:
            raise ValueError(f"the weights don't fit: {prefix}{name} is missing, from which sizes are inferred")
        return tuple(weights[name].shape)

    return shape


def count(weights: dict[str, np.ndarray], prefix: str) -> int:
    """The number of numbered entries after `prefix`."""
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})


def vector(name: str, path: str, ones: int = 0, layer: int | None = None) -> Weight:
    """An array that is the same in both codes, except for `ones` leading axes of length 1 in the official one."""

    def split(x):
        return (x.reshape(x.shape[ones:]),)

    return Weight(name, (path,), split, lambda x: x.reshape((1,) * ones + x.shape), layer)


def linear(name: str, path: str, ones: int = 0, layer: int | None = None) -> list[Weight]:
    """A linear layer, or a 1 x 1 convolution whose kernel has `ones` trailing axes of length 1, with its bias."""

    def split(x):
        return (x.reshape(x.shape[:2]).T,)

    def join(x):
        return x.T.reshape(x.shape[::-1] + (1,) * ones)

    kernel = Weight(f"{name}.weight", (f"{path}/kernel",), split, join, layer)
    return [kernel, vector(f"{name}.bias", f"{path}/bias", layer=layer)]


def norm(name: str, path: str, layer: int | None = None) -> list[Weight]:
    """A normalisation layer with scale and bias."""
    return [
        vector(f"{name}.weight", f"{path}/scale", layer=layer),
        vector(f"{name}.bias", f"{path}/bias", layer=layer),
    ]


def convolution(name: str, path: str) -> list[Weight]:
    """A convolution over any number of axes, with its bias: officially (out, in, *kernel), here (*kernel, in, out)."""
    kernel = Weight(
        f"{name}.weight",
        (f"{path}/kernel",),
        lambda x: (x.transpose(*range(2, x.ndim), 1, 0),),
        lambda x: x.transpose(x.ndim - 1, x.ndim - 2, *range(x.ndim - 2)),
    )
    return [kernel, vector(f"{name}.bias", f"{path}/bias")]
