"""glibc's malloc, set up for training on a CPU. Only the `pvdm` command does this.

XLA on the CPU allocates its buffers in every step. By default glibc requests large ones from the kernel and returns
them at once, so every step touches new pages, and page faults take a third of a training step. With these settings
freed memory stays in the process.

The compiler uses the same heap, and the blocks that it frees lie between blocks that it keeps: 66,000 of them once the
demo's first training step is compiled. Every allocation in a step then searches them, one thread at a time, which makes
the step half as long again. So they are taken out of use after compiling.

A library must not change its caller's heap, so neither `pvdm_jax.load` nor the training loop does this. The
alternatives jemalloc and mimalloc must be loaded before the process starts (LD_PRELOAD). If one is, nothing is done
here.
"""

import ctypes
import functools
import os
import sys

# Parameters of mallopt(3) with their values.
OPTIONS = {
    -8: 1,  # M_ARENA_MAX: one heap, since the heaps of other threads are small and fall back to mmap
    -4: 0,  # M_MMAP_MAX: no allocation directly from the kernel
    -1: -1,  # M_TRIM_THRESHOLD: never return free memory at the heap's end
    -2: 2**26,  # M_TOP_PAD: grow by 64 MiB at a time
}
# Sizes of the free blocks that are taken out of use: glibc finds smaller ones at once, and there are few larger ones.
HOLES = 2**10, 2**20
LARGEST = 2**30

# An event of jax.monitoring, and the least seconds that it must take: faster compilations leave few free blocks.
COMPILED, LONG = "/jax/core/compile/backend_compile_duration", 0.5

_kept = False


def keep_memory() -> bool:
    """Keeps freed memory in this process for reuse. Call it before threads start.

    Does nothing and returns False without glibc, or if the user has set malloc's variables or preloaded a library.
    """
    global _kept
    chosen = [name for name in os.environ if name.startswith("MALLOC_") or name == "LD_PRELOAD"]
    if not sys.platform.startswith("linux") or chosen:
        return False
    mallopt = getattr(_library(), "mallopt", None)
    _kept = mallopt is not None and all([mallopt(option, value) for option, value in OPTIONS.items()])
    return _kept


def fill_holes() -> int:
    """Takes the heap's many small free blocks out of use, for good, and returns how many.

    Their pages go back to the kernel first. Does nothing unless `keep_memory` took effect.
    """
    if not _kept:
        return 0
    library = _library()
    library.malloc_trim(0)
    end, size = library.sbrk(0), LARGEST
    large, filled = [], 0
    while size >= HOLES[0]:
        block = library.malloc(size)
        if block is None or block >= end:  # no free block is large enough: this is new memory
            library.free(block)
            size = int(size / 1.02)
        elif size > HOLES[1]:
            large.append(block)
        else:
            filled += 1
    for block in large:
        library.free(block)
    return filled


@functools.cache
def fill_holes_after_compiling() -> None:
    """From now on, runs `fill_holes` after each long compilation, before the program first runs."""
    from jax import monitoring

    def ended(event: str, seconds: float, **_) -> None:
        if event == COMPILED and seconds > LONG:
            fill_holes()

    monitoring.register_event_duration_secs_listener(ended)


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    for name, result, arguments in (
        ("malloc", ctypes.c_void_p, [ctypes.c_size_t]),
        ("free", None, [ctypes.c_void_p]),
        ("sbrk", ctypes.c_void_p, [ctypes.c_ssize_t]),
    ):
        function = getattr(library, name, None)
        if function is not None:
            function.restype, function.argtypes = result, arguments
    return library
