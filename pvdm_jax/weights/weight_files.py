"""The weight files of model folders: safetensors with one network's parameters, checked when written and when read."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from pvdm_jax.config import ConfigError
from pvdm_jax.config.checks import listed
from pvdm_jax.models import functional
from pvdm_jax.storage.files import file_hash

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # of the files, with safetensors' names


def write_weights(path: pathlib.Path, params: functional.Params, dtype: str) -> dict[str, Any]:
    """Writes one network's weights. Returns what config.json says about the file.

    Raises ConfigError if a weight is not finite in `dtype`, OSError if the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    with np.errstate(over="ignore"):  # weights that overflow are refused below
        arrays = {
            name: np.ascontiguousarray(np.asarray(array).astype(jnp.dtype(dtype), copy=False))
            for name, array in functional.flatten(params).items()
        }
    for name, array in arrays.items():
        require_finite(array, f"{path.stem} {name}", f"as {dtype}, ")
    path.touch()
    mode = path.stat().st_mode  # as the umask has it; safetensors makes files that only their owner can read
    try:
        save_file(arrays, path, {"format": "pvdm_jax"})
    except SafetensorError as error:
        raise OSError(f"{path} can't be written: {error}") from error
    path.chmod(mode)
    count = sum(array.size for array in arrays.values())
    return {"sha256": file_hash(path), "parameters": count, "dtype": dtype, "bytes": path.stat().st_size}


def read_weights(path: pathlib.Path, expected: functional.Params) -> functional.Params:
    """Reads one network's weights as float32.

    Raises ConfigError if names, shapes or dtypes are not the expected ones, or if a weight is not finite.
    """
    from safetensors import SafetensorError, safe_open

    shapes = {name: leaf.shape for name, leaf in functional.flatten(expected).items()}
    try:
        with safe_open(path, framework="numpy") as file:
            _check_fit(file, shapes, path)
            arrays = {name: file.get_tensor(name).astype(np.float32, copy=False) for name in sorted(shapes)}
    except SafetensorError as error:
        raise ConfigError(f"{path} can't be read: {error}") from error
    for name, array in arrays.items():
        require_finite(array, f"{path}: {name}")
    return functional.unflatten(arrays)


def _check_fit(file: Any, shapes: Mapping[str, tuple[int, ...]], path: pathlib.Path) -> None:
    """Raises ConfigError unless an open safetensors file has the weights of these shapes, before any is read."""
    names = set(file.keys())
    problems = [f"{name} is missing, shape {shapes[name]}" for name in sorted(shapes.keys() - names)]
    problems += [f"{name} is not a weight of this model" for name in sorted(names - shapes.keys())]
    for name in sorted(names & shapes.keys()):
        weight = file.get_slice(name)
        shape, dtype = tuple(weight.get_shape()), weight.get_dtype()
        if shape != shapes[name]:
            problems.append(f"{name} has shape {shape}; {shapes[name]} is needed")
        if dtype not in DTYPES.values():
            problems.append(f"{name} has the dtype {dtype}; {', '.join(DTYPES.values())} are allowed")
    if problems:
        raise ConfigError(f"{path} doesn't fit {path.parent / 'config.json'}: {listed(problems)}")


def require_finite(array: np.ndarray, name: str, form: str = "") -> None:
    """Raises ConfigError if a weight is NaN or infinite. form: how the message describes the weights' form."""
    count = array.size - int(np.count_nonzero(np.isfinite(array)))
    if count:
        raise ConfigError(f"{name}: {form}{count} of {array.size} numbers are NaN or infinite")
