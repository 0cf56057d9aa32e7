"""A disk that takes no more, for tests of what happens then."""

import contextlib
import resource


@contextlib.contextmanager
def file_limit(size):
    """Within it no file of this process grows beyond `size` bytes: writing more raises OSError."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
