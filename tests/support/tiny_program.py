"""`pvdm` as a process, with settings of both stages that train within seconds.

usage: python tiny_program.py WRITTEN COMMAND ...
Runs `pvdm COMMAND ...` and lists in the file WRITTEN the paths that it opened for writing, as Python reports them.
"""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
STAGE = {"batch_size": 8, "log_every": 1, "eval_every": 4, "eval_clips": 4, "checkpoint_every": 2, "ema_decay": 0.9}
SETTINGS = (
    *("data.synthetic_videos=8", "data.synthetic_frames=8", "autoencoder.frames=4", "autoencoder.height=16"),
    *("autoencoder.width=16", "autoencoder.channels=128", "autoencoder.depth=1", "encode.batch_size=4"),
    *(
        "denoiser.model_channels=32",
        "denoiser.channel_mult=1,",
        "denoiser.attention_resolutions=1,",
        "encode.windows=1",
    ),
    *("sample.steps=2", "sample.later_steps=2"),
    *(f"train_{stage}.{name}={value}" for stage in ("autoencoder", "diffusion") for name, value in STAGE.items()),
)
NO_CLUSTER = {
    name: None
    for name in os.environ
    if name.startswith(("SLURM_", "OMPI_", "JAX_COORDINATOR", "JAX_NUM_PROC", "JAX_PROCESS_ID", "TPU_", "MEGASCALE_"))
}


def arguments(command, workdir, *settings):
    """What `pvdm` takes; `settings` like "mesh.fsdp=2" come after the tiny ones."""
    overrides = [f"--config.{setting}" for setting in (*SETTINGS, *settings)]
    return [command, "--config=demo", f"--workdir={workdir}", *overrides]


def environment(**changes):
    """That of a program; None takes a variable away."""
    changed = os.environ | {"PYTHONPATH": str(ROOT)} | NO_CLUSTER | changes
    return {name: value for name, value in changed.items() if value is not None}


def start(command, workdir, *settings, written=None, **changes):
    """Starts `pvdm` as a process whose output can be read, noting in the file `written` what it writes."""
    call = [sys.executable, __file__, str(written or os.devnull), *arguments(command, workdir, *settings)]
    return subprocess.Popen(
        call, env=environment(**changes), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def main():
    written, argv = sys.argv[1], sys.argv[2:]
    notes = open(written, "a", buffering=1)

    def note(event, args):
        if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
            notes.write(f"{args[0]}\n")

    sys.addaudithook(note)
    from pvdm_jax.cli import main as pvdm

    return pvdm(argv)


if __name__ == "__main__":
    sys.exit(main())
