"""Runs commands of `pvdm` one after the other in this process, and records how each ended.

    python run_commands.py RESULTS '[["encode", ["encode", "--config=demo", "--workdir=runs/demo"]], ...]'

RESULTS gets a line of JSON for each: name, exit code, seconds. After a command that fails, the next one still runs;
after SIGTERM it does not.
"""

import gc
import json
import pathlib
import sys
import time
import traceback

TERMINATED = 143


def main() -> int:
    results, commands = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
    from pvdm_jax.cli import main as pvdm

    for name, argv in commands:
        print(f"== {name}: pvdm {' '.join(argv)}", flush=True)
        began = time.monotonic()
        try:
            code = pvdm(argv)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except Exception:
            traceback.print_exc()
            code = 1
        with results.open("a") as file:
            file.write(json.dumps({"name": name, "code": code, "seconds": time.monotonic() - began}) + "\n")
        if code == TERMINATED:
            return code
        sys.modules["jax"].clear_caches()  # the next one's device memory
        gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
