#!/usr/bin/env bash
# Checks the project: lint, format and tests on the CPU, in its own virtual environment (.venv-test).
#   bash launch/test.sh                        all tests but those marked slow or long
#   bash launch/test.sh -m "not long"          the slow ones as well, as .ci/run does
#   bash launch/test.sh -m long                the tests marked long
#   bash launch/test.sh tests/cli/test_cli.py  arguments are passed to pytest
#   PYTHON=/path/to/python3 bash launch/test.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/python.sh

make_environment .venv-test ".[test]"
bin=.venv-test/bin

# libtpu compiles for TPUs that are not attached. Without it, the tests that need it are skipped with a reason.
if [ ! -e $bin/../libtpu ]; then
    echo "== Installing libtpu, if there is one for this machine"
    $bin/python -m pip install -qq --disable-pip-version-check -e ".[test,tpu]" 2>/dev/null || echo "== There is none: planning for TPUs is not tested"
    touch $bin/../libtpu
fi

echo "== Lint and format"
$bin/ruff check --extend-exclude .venv-test .
$bin/ruff format --check --extend-exclude .venv-test .

echo "== Tests"
export JAX_PLATFORMS=cpu
# Freed large buffers go back to the kernel, so that a worker stays small. (`pvdm` does the opposite, unless the user
# has set the allocator: pvdm_jax/runtime/allocator.py.)
export MALLOC_ARENA_MAX=2 MALLOC_MMAP_THRESHOLD_=1048576
# The workers share compiled programs with each other and with the next run.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.venv-test/jax-cache}"
# Each worker takes half of the modules, so that their fixtures are made once. The first to finish takes some of the
# other's modules.
exec $bin/python -m pytest -n 2 --dist worksteal -m "not long and not slow" "$@"
