"""The `pvdm` command: parses arguments, sets up devices, calls one function.

A command imports its libraries when it runs, so that `pvdm --help` and errors in arguments are immediate. Each file has
a few related commands: functions that take the parsed arguments, and `add_commands`, which declares them.
"""

from pvdm_jax.cli.main import main, make_parser

__all__ = ["main", "make_parser"]
