"""How a command ends when it can't continue: one line on stderr, and an exit code.

    0    success
    1    a full disk, too little memory, a device or a network that fails: the same command may succeed later
    2    something to correct: a setting, an argument, a file that is missing or unusable
    130  Ctrl-C
    141  nobody reads the output any more, as in `pvdm ... | head`
    143  SIGTERM

Errors of any other kind are bugs in this program and keep their traceback.
"""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from pvdm_jax.config import ConfigError
from pvdm_jax.config.checks import one_line
from pvdm_jax.storage.files import NotRegularFileError
from pvdm_jax.video.errors import VideoError

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
BROKEN_PIPE = 128 + signal.SIGPIPE
# Errors that the user must correct. FloatingPointError: training has diverged; running it again would change nothing.
# The scripts in launch/ don't restart a run that ends with one of these, but do after every other OSError.
TO_CORRECT = (
    ConfigError,
    VideoError,
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    NotRegularFileError,
    PermissionError,
    FloatingPointError,
)
WRONG_PATHS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EROFS)
AGAIN_AFTER = 0.05  # seconds after which a lost signal is sent again
MAX_LINE = 2000  # characters shown of another library's error


def run_to_end(command: Callable[[], None]) -> int:
    """Runs a command and returns its exit code. SIGTERM raises SystemExit(143), so that nothing half-written stays."""
    if sys.stdout is None:  # it was closed by whoever started this process
        sys.stdout = open(os.devnull, "w")
    with _signals() as interrupted:
        try:
            try:
                command()
            finally:
                sys.stdout.flush()  # a full disk or a closed pipe shows here at the latest
        except KeyboardInterrupt:
            return _end("interrupted", INTERRUPTED)
        except BrokenPipeError:
            _discard_output()
            return BROKEN_PIPE
        except TO_CORRECT as error:
            return _end(f"error: {describe(error)}", 2)
        except (OSError, MemoryError) as error:
            return _end(f"error: {describe(error)}", 2 if getattr(error, "errno", None) in WRONG_PATHS else 1)
        except Exception as error:
            if interrupted.is_set():  # a library turned the interrupt into an error of its own
                return _end("interrupted", INTERRUPTED)
            if _is_out_of_memory(error):
                return _end(f"error: {describe(MemoryError(str(error)))}", 1)
            raise
    return 0


def describe(error: BaseException) -> str:
    """What went wrong, in one line unless a file's name has a line break."""
    if isinstance(error, MemoryError):
        text = " ".join(str(error).split())[:MAX_LINE]
        return f"there is not enough memory{f' ({text})' if text else ''}; use smaller batches or smaller videos"
    if isinstance(error, OSError) and error.strerror:
        places = " -> ".join(os.fsdecode(name) for name in (error.filename, error.filename2) if _is_path(name))
        return f"{places}: {error.strerror}" if places else error.strerror
    return str(error) or type(error).__name__


def _is_path(name: object) -> bool:
    return isinstance(name, str | bytes | os.PathLike)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether XLA ran out of memory; its errors are recognised by name, so that jax need not be imported."""
    return type(error).__name__ in ("XlaRuntimeError", "JaxRuntimeError") and "RESOURCE_EXHAUSTED" in str(error)


def _end(text: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(f"pvdm: {one_line(text)}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        return code
    _discard_output()
    return code


def _discard_output() -> None:
    """Discards what is left of stdout: the interpreter would otherwise fail on it again at exit."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """A context in which SIGTERM raises SystemExit, and neither SIGTERM nor Ctrl-C gets lost.

    Yields an event that is set once Ctrl-C was pressed. Python swallows an exception that a signal handler raises
    within a destructor or a callback of the garbage collector, such as JAX's. The signal is then sent again.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def interrupt(*_):
        interrupted.set()
        raise KeyboardInterrupt

    def terminate(*_):
        raise SystemExit(TERMINATED)

    def unraisable(lost):
        lost_signals = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}
        number = lost_signals.get(lost.exc_type)
        if number is None:
            report(lost)
            return
        # A real signal, which also ends waiting.
        timer = threading.Timer(AGAIN_AFTER, signal.pthread_kill, (threading.main_thread().ident, number))
        timer.daemon = True
        timer.start()

    report, sys.unraisablehook = sys.unraisablehook, unraisable
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # A signal that the caller ignores, as nohup and shells do, stays ignored.
        if previous[signal.SIGINT] is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, interrupt)
        if previous[signal.SIGTERM] is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, terminate)
        yield interrupted
    finally:
        sys.unraisablehook = report
        for number, handler in previous.items():
            signal.signal(number, handler)
