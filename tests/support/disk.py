"""A stand-in for a full disk."""

import contextlib
import resource


@contextlib.contextmanager
def file_limit(size):
    """A context in which no file of this process can grow beyond `size` bytes: writing more raises OSError."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
