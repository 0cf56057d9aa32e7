"""glibc's malloc, set up for training on a CPU. Only the `pvdm` command does this.

XLA on the CPU allocates its buffers in every step. By default glibc requests large ones from the kernel and returns
them at once, so that every step touches new pages: page faults then cost a third of a training step. With these
settings freed memory stays in the process.

These are settings of the whole process, which never returns memory afterwards. A library must not change them for its
caller, so neither `pvdm_jax.load` nor the training loop does. There is no library that does it instead: another
allocator, jemalloc or mimalloc, must be loaded before the process starts (LD_PRELOAD). If one is, nothing is done here.
"""

import ctypes
import os
import sys

# Parameters of mallopt(3) with their values.
OPTIONS = {
    -8: 1,  # M_ARENA_MAX: one heap, because the heaps of further threads return their memory
    -4: 0,  # M_MMAP_MAX: no buffers straight from the kernel
    -1: -1,  # M_TRIM_THRESHOLD: never return the free memory at the end of the heap
    -2: 2**26,  # M_TOP_PAD: grow the heap by 64 MiB at a time
}


def keep_memory() -> bool:
    """Makes glibc keep freed memory in this process for reuse. Call it before threads start.

    Returns whether it did: not without glibc, nor if the user has set malloc's variables or preloaded a library.
    """
    chosen = any(name.startswith("MALLOC_") or name == "LD_PRELOAD" for name in os.environ)
    if not sys.platform.startswith("linux") or chosen:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(option, value) for option, value in OPTIONS.items()])
