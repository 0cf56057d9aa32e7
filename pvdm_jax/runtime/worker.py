"""Worker processes end when the process that they work for ends, for whatever reason."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Ends this process as soon as the one that started it, with multiprocessing, has ended.

    Without this, a worker whose parent was killed would run until its task is done.
    """

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
