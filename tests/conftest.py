"""What every test starts from: JAX on the CPU with exact matrix products, and the stored reference numbers.

Settings go through the environment, so that programs started by a test have them too. Tests that need several devices
start their own program, because the number of devices is fixed once JAX has started.

Most of the suite's time goes into compiling programs that then run once. So XLA compiles without its expensive
optimizations, which halves that time, and without its newer generator of CPU code (`FAST_COMPILE`), which halves it
again. Neither changes an operation. Tests that compute with large arrays use the fixture `optimized`. Compiled programs
also take most of a worker's memory, about a megabyte each, however small. A worker whose memory has grown therefore
drops them.
"""

import ctypes
import gc
import importlib.util
import json
import os
import pathlib
from typing import NamedTuple

# launch/accelerator.sh runs some of the reference tests on an accelerator.
os.environ["JAX_PLATFORMS"] = os.environ.get("PVDM_TEST_PLATFORM", "cpu")
os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Fused operations go to LLVM directly, not through MLIR. XLA has this flag in jaxlib 0.10 to 0.12 at least; a version
# without it ends with an error that says so. The flag cannot be changed once JAX has started.
FAST_COMPILE = "--xla_cpu_use_fusion_emitters=false"
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1" and FAST_COMPILE not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILE}".strip()
# Compiled programs are kept from one run of the tests to the next.
_CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "pvdm_jax_tests"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# JAX reads its environment when it is imported.
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

REFERENCE = pathlib.Path(__file__).parent / "reference"

# Tracing makes many objects and hardly any cycles: with Python's default thresholds, it spends a quarter of its time on
# garbage collection.
gc.set_threshold(50_000, 20, 50)

# Grain reads absl's flags, which only absl programs parse.
flags.FLAGS.mark_as_parsed()


# A worker that holds more than this many bytes after a test drops what it has compiled.
MEMORY_LIMIT = 2**31


class Reference(NamedTuple):
    """Numbers of the official implementation: what was computed (`info`) and the results (`arrays`)."""

    info: dict
    arrays: dict[str, np.ndarray]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    return fail_if_skipped(item.fixturenames, report)


def fail_if_skipped(fixtures, report):
    """Fails a test that skips the comparison with official numbers: it may not be skipped or expected to fail."""
    if report.skipped and "reference" in fixtures:
        report.longrepr = f"this test compares with tests/reference and must not be skipped: {report.longrepr}"
        report.outcome = "failed"
    return report


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown():
    """Bounds a worker's memory: compiled programs are all that remains of a test."""
    if resident_bytes() > MEMORY_LIMIT:
        jax.clear_caches()
        gc.collect()
        # Returns free memory within the heap to the kernel, if the C library can.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda padding: 0)(0)


def resident_bytes():
    """The memory that this process holds; 0 where Linux doesn't tell."""
    statistics = pathlib.Path("/proc/self/statm")
    return int(statistics.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statistics.exists() else 0


@pytest.fixture
def optimized(monkeypatch):
    """Compiles with all optimizations, also in programs that the test starts. For tests that compute more than they
    compile, and for tests of compiled programs."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def reference():
    """reference(NAME) -> Reference of tests/reference/NAME.json and NAME.npz. A missing file fails the test."""

    def load(name: str) -> Reference:
        missing = [path.name for path in (REFERENCE / f"{name}.json", REFERENCE / f"{name}.npz") if not path.exists()]
        if missing:
            pytest.fail(f"{', '.join(missing)} missing in {REFERENCE}")
        with np.load(REFERENCE / f"{name}.npz") as arrays:
            return Reference(json.loads((REFERENCE / f"{name}.json").read_text()), dict(arrays))

    return load


@pytest.fixture(scope="session")
def recipe():
    """The module tests/reference/recipe.py: weights(spec, seed), noise(shape, seed, name), video(...)."""
    path = REFERENCE / "recipe.py"
    if not path.exists():
        pytest.fail(f"recipe.py missing in {REFERENCE}")
    spec = importlib.util.spec_from_file_location("recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def stage_one(tmp_path_factory):
    """The folder of a run of stage 1 with the tiny configuration. It is shared: copy it before you change anything."""
    from tiny_config import CONFIG

    from pvdm_jax.training import autoencoder

    workdir = tmp_path_factory.mktemp("stage_one")
    autoencoder.train(CONFIG, workdir)
    return workdir
