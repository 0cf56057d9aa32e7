"""`pvdm` as a process that is forked from one in which the package is already imported, so that it starts at once.

JAX has started no threads in the process that is forked: importing it starts no device.
"""

import multiprocessing
import os
import pathlib
import sys
from multiprocessing.context import ForkServerContext, ForkServerProcess

from pvdm_jax.cli.main import JAX_SETTINGS

ROOT = pathlib.Path(__file__).parents[2]
LIBRARIES = ("av", "safetensors.numpy", "tensorboardX")  # that commands import when they need them


def server(environment: dict[str, str]) -> ForkServerContext:
    """What `start` needs: the standard library's forkserver, which starts with the first process.

    environment: of every process, as `pvdm` finds it. It becomes this process's own as well.
    """
    os.environ.update(environment | JAX_SETTINGS)  # JAX reads its settings when it is imported
    files = sorted((ROOT / "pvdm_jax").rglob("*.py"))
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*(name.removesuffix(".__init__") for name in modules), *LIBRARIES])
    return context


def start(context: ForkServerContext, argv: list[str], folder: pathlib.Path, output: pathlib.Path) -> ForkServerProcess:
    """Starts `pvdm` within `folder`, in a session of its own; what it prints goes into the file `output`."""
    process = context.Process(target=_run, args=(argv, folder, output))
    process.start()
    return process


def _run(argv: list[str], folder: pathlib.Path, output: pathlib.Path) -> None:
    os.setsid()
    os.chdir(folder)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)
    from pvdm_jax.cli import main

    sys.exit(main(argv))
