"""Prints as JSON the devices and versions that a job's numbers depend on, after a product on the device."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform

# Modules that commands import, by what installs them.
MODELS = {"flax": "flax", "optax": "optax", "einops": "einops", "orbax-checkpoint": "orbax", "numpy": "numpy"}
DATA = {"absl-py": "absl", "array-record": "array_record", "clu": "clu", "grain": "grain", "pillow": "PIL"}
DATA |= {"ml-collections": "ml_collections", "safetensors": "safetensors", "scipy": "scipy", "tqdm": "tqdm"}
DATA |= {"tensorboardX": "tensorboardX", "tensorflow-datasets": "tensorflow_datasets"}
OPTIONAL = {"av": "av", "flatbuffers": "flatbuffers", "pytest": "pytest", "torch": "torch"}


def main() -> None:
    import jax
    import jax.numpy as jnp

    device = jax.local_devices()[0]
    x = jnp.full((256, 256), 0.5, jnp.bfloat16)
    product = float((x @ x)[0, 0])
    if product != 64.0:
        raise SystemExit(f"a product of matrices of 256 halves has {product} in it, not 64")
    missing = [name for name, module in OPTIONAL.items() if importlib.util.find_spec(module) is None]
    for name, module in (MODELS | DATA).items():
        try:
            with contextlib.redirect_stdout(None):
                importlib.import_module(module)
        except ImportError as error:
            # A package may be installed without one that it requires.
            absent = getattr(error, "name", None)
            missing.append(name if absent == module else f"{name} ({error})")

    stats = device.memory_stats() or {}
    found = {
        "platform": device.platform,
        "device": device.device_kind,
        "count": jax.local_device_count(),
        "memory": stats.get("bytes_limit", 0),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "missing": missing,
    }
    for name in ("jax", "jaxlib", "flax", "torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
