"""The allocator's settings, each in a process of its own: they hold for the whole process."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource, sys
from pvdm_jax.runtime.allocator import keep_memory

c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
kept = keep_memory() if sys.argv[1] == "keep" else None
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    block = c.malloc(int(sys.argv[2]))
    ctypes.memset(block, 1, 2**26)
    c.free(block)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")


def run(mode: str, size: int = 2**26, program: str = PROGRAM, **variables: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", program, mode, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment | variables, check=True)
    return done.stdout.split()


@glibc
@pytest.mark.parametrize("size", [2**26, 2**31 + 2**27])  # the second is larger than any threshold that mallopt takes
def test_memory_is_touched_once(size):
    usual, kept = run("leave", size), run("keep", size)
    assert kept[0] == "True"
    assert int(kept[1]) < int(usual[1]) / 5


@glibc
def test_the_users_own_settings_are_left_alone():
    assert run("keep", MALLOC_ARENA_MAX="4")[0] == "False"


@pytest.mark.parametrize("module", ["inference.pipeline", "training.loop", "performance.runner"])
def test_the_library_leaves_its_callers_heap_alone(module):
    """Only the command line rearranges memory; a program that imports the package keeps its own settings."""
    program = f"import sys, pvdm_jax.{module}; print('pvdm_jax.runtime.allocator' in sys.modules)"
    assert run("", program=program, JAX_PLATFORMS="cpu") == ["False"]
