"""SIGTERM, which clusters send before they reclaim a machine: the run saves and ends with exit code 143."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

SIGTERM_EXIT = 128 + signal.SIGTERM  # 143: the run has saved and can be restarted


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[int], bool]]:
    """A context in which SIGTERM does not kill. It yields a function that says after each step whether to stop.

    Several processes must stop at the same step, whichever of them gets the signal; JAX makes them agree on one.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: received.set())
    try:
        yield lambda step: received.is_set()
    finally:
        signal.signal(signal.SIGTERM, previous)
