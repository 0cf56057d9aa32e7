"""The allocator's settings, each in a separate process, because they affect the whole process."""

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


HOLES = """
import ctypes, sys
from pvdm_jax.runtime.allocator import fill_holes, keep_memory

c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
if sys.argv[1] == "keep":
    keep_memory()
blocks = [c.malloc(size) for size in (*range(2000, 42000, 2), 2**25, 2000)]
for block in blocks[:-1:2]:
    c.free(block)
first = fill_holes()
taken = c.malloc(2**24)
print(first, fill_holes(), min(blocks) < taken <= max(blocks))
"""


@glibc
def test_small_free_blocks_are_taken_out_of_use_and_large_ones_are_not():
    first, again, reused = run("keep", program=HOLES)
    assert 9_900 < int(first) and int(again) < int(first) / 50
    assert reused == "True"
    assert run("leave", program=HOLES)[:2] == ["0", "0"]


AFTER_COMPILING = """
from pvdm_jax.runtime import allocator

filled = []
allocator.fill_holes = lambda: filled.append(1)
allocator.LONG = 0.0
allocator.fill_holes_after_compiling()
allocator.fill_holes_after_compiling()

import jax, numpy as np

program = jax.jit(lambda x: x + 1)
program(np.ones(3))
once = len(filled)
program(np.ones(3))
print(once, len(filled))
"""


def test_holes_are_filled_after_compiling():
    once, then = run("leave", program=AFTER_COMPILING, JAX_PLATFORMS="cpu")
    assert int(once) == int(then) == 1


@pytest.mark.parametrize("module", ["inference.pipeline", "training.loop", "performance.runner"])
def test_the_library_leaves_its_callers_heap_alone(module):
    """Only the command line rearranges memory; a program that imports the package keeps its own settings."""
    program = f"import sys, pvdm_jax.{module}; print('pvdm_jax.runtime.allocator' in sys.modules)"
    assert run("", program=program, JAX_PLATFORMS="cpu") == ["False"]
