#!/usr/bin/env bash
# The whole pipeline: installs into .venv, trains both stages on synthetic videos, generates videos, writes a report.
#   bash launch/demo.sh                                      about a quarter of an hour on 2 free CPU cores
#   bash launch/demo.sh --config.train_diffusion.steps=200   arguments are passed to `pvdm demo`
#   PYTHON=/path/to/python3 bash launch/demo.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/python.sh

make_environment .venv .

echo "== Running the demo: train, generate, report"
exec .venv/bin/pvdm demo --workdir=runs/demo "$@"
