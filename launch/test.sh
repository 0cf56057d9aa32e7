#!/usr/bin/env bash
# Checks the project: lint, format, tests on the CPU, in an environment of its own (.venv-test).
#   bash launch/test.sh                      everything
#   bash launch/test.sh tests/test_cli.py    arguments go to pytest
#   PYTHON=/path/to/python3 bash launch/test.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/python.sh

make_environment .venv-test ".[test]"
bin=.venv-test/bin

echo "== Lint and format"
$bin/ruff check --extend-exclude .venv-test .
$bin/ruff format --check --extend-exclude .venv-test .

echo "== Tests"
export JAX_PLATFORMS=cpu
# The workers, and the next run, share what has been compiled.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.venv-test/jax-cache}"
exec $bin/python -m pytest -n 2 "$@"
