"""How the C library hands out memory.

XLA on the CPU allocates a step's buffers anew in every step. By default glibc takes large ones straight from the kernel
and gives them back at once, so that each step touches the same memory for the first time again: page faults cost a
third of a training step. Kept in the process's own heap, the memory is touched once.
"""

import ctypes
import os
import sys

# Parameters of mallopt(3) with their values.
OPTIONS = {
    -8: 1,  # M_ARENA_MAX: one heap, since those of further threads are small and fall back to mmap
    -4: 0,  # M_MMAP_MAX: nothing straight from the kernel
    -1: -1,  # M_TRIM_THRESHOLD: what is free at the heap's end stays, however much it is
    -2: 2**26,  # M_TOP_PAD: grow by 64 MiB at a time
}


def keep_memory() -> bool:
    """Keeps freed memory in this process for reuse. Call it before threads start.

    Does nothing, and returns False, where there is no glibc or the user has set the allocator's own variables.
    """
    chosen = [name for name in os.environ if name.startswith("MALLOC_") or name == "LD_PRELOAD"]
    if not sys.platform.startswith("linux") or chosen:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(option, value) for option, value in OPTIONS.items()])
