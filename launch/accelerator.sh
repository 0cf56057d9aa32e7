#!/usr/bin/env bash
# Measures how this code runs on this machine's GPU or TPU. It needs no network and installs nothing.
#   bash launch/accelerator.sh smoke      4 minutes: does everything run, in float32 and in bfloat16
#   bash launch/accelerator.sh measure    6 minutes: times, memory and compile times of the paper's models
#   bash launch/accelerator.sh train      9 minutes: as many updates of both stages as fit, and the results
# Every part has a time limit. A part that fails is shown with its trace, and the next one runs. A table comes last.
# On a machine with only a CPU everything is tiny, and the table says so. Variables:
#   OUT=FOLDER       for the results: JOB.txt, JOB.json, JOB.log and a few more (default: runs/accelerator)
#   MINUTES=N        time of the whole job
#   PYTHON=PATH      a Python with jax (default: .venv/bin/python if there is one, else python3)
#   WHEELS=FOLDER    wheels; those of missing packages are unpacked to a temporary folder and used
#   DATA=FOLDER      train: a dataset of `pvdm prepare` (default: the synthetic videos)
#   CONFIG=NAME      train: the configuration (default: demo, or with DATA video_folder)
#   OFFICIAL=FOLDER  measure: a copy of the official PyTorch code, to be timed as well
# Further arguments, --config.some.field=value, are passed to the commands that train.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
[ -n "${PYTHON:-}" ] || [ ! -x .venv/bin/python ] || python=.venv/bin/python
exec "$python" -u launch/accelerator "$@"
