"""Models on a mesh: when their parameters are gathered, and which devices they are compiled for."""

import contextlib
import functools
from collections.abc import Collection, Iterator

import jax
from jax.sharding import Mesh

from pvdm_jax.models import functional
from pvdm_jax.runtime import sharding


@contextlib.contextmanager
def running_on(mesh: Mesh | None) -> Iterator[None]:
    """A context in which models, called inside jit, run on the mesh (None: without one).

    They may use kernels for its kind of device, and their rematerialised blocks gather their parameters one by one.
    """
    if mesh is None or jax.sharding.get_abstract_mesh().manual_axes:  # no mesh, or each device already runs by itself
        yield
        return
    prepare = functools.partial(sharding.gather, mesh)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), functional.preparing_blocks(prepare):
        yield


def gather(mesh: Mesh | None, params: functional.Params, model: type, remat: str) -> functional.Params:
    """A model's parameters, inside jit, as every device needs them when the model is called in `running_on`.

    All are gathered, except that with rematerialisation those of the model's `BLOCKS` stay split. Each block then
    gathers its own when it runs, and again for its gradient, so only one block's parameters are whole at a time.
    """
    if mesh is None:
        return params
    blocks: Collection[str] = getattr(model, "BLOCKS", ()) if remat != "none" else ()
    flat = functional.flatten(params)
    later = {path for path in flat if path.startswith(tuple(f"{name}/" for name in blocks))}
    whole = sharding.gather(mesh, {path: leaf for path, leaf in flat.items() if path not in later})
    return functional.unflatten({path: leaf if path in later else whole[path] for path, leaf in flat.items()})


def gather_once(mesh: Mesh, params: functional.Params, remat: str, micro_batches: int) -> functional.Params:
    """The parameters at the beginning of an update with several micro-batches. Without rematerialisation, which is for
    scarce memory, they are gathered once for all micro-batches."""
    return sharding.gather(mesh, params) if remat == "none" and micro_batches > 1 else params
