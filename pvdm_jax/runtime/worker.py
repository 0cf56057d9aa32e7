"""Processes that work for another one: they end with it, whatever ends it."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Ends this process as soon as the one that started it, with multiprocessing, has ended.

    Without it a worker whose parent was killed would go on for as long as its task takes.
    """

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
