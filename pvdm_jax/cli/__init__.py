"""The `pvdm` command: parses, sets up devices, calls one function.

What a command needs is imported when it runs, so that `pvdm --help` and a refusal of wrong arguments come at once. Each
file of this folder has a few commands: functions that take the parsed arguments, and `add_commands` that declares them.
"""

from pvdm_jax.cli.main import main, make_parser

__all__ = ["main", "make_parser"]
