#!/usr/bin/env bash
# A run on a Cloud TPU slice, of one host or many, from any machine with gcloud.
#   export TPU=pvdm ZONE=us-west4-a TYPE=v5litepod-16
#   bash launch/tpu_pod.sh run train-autoencoder --config=ucf101:l --workdir=gs://BUCKET/runs/ucf101 \
#       --config.data.path=gs://BUCKET/data/ucf101
#   bash launch/tpu_pod.sh logs [HOST]      the newest lines of a host's output (default: 0, the one that reports)
#   bash launch/tpu_pod.sh stop             SIGTERM on all hosts: the run saves and ends
#   bash launch/tpu_pod.sh delete           gives the slice back
#
# `run` makes the slice where there is none, installs this checkout's last commit on its hosts, starts the command on all
# of them and waits. When the slice is preempted or the command fails, it makes or starts it again, and the run goes on
# from its newest checkpoint; exit code 2, settings that can't work, ends it. It can be stopped (Ctrl-C) and started
# again: the hosts don't need it. Checkpoints, metrics and pictures are in --workdir, which must be gs:// or a mounted
# file system that all hosts see: a host's own disk goes with the slice.
#
# Further settings: PROJECT; VERSION of the hosts' image; SPOT=1; POLL=30, seconds between two looks; MAX_RESTARTS=100;
# SETUP, the shell command that installs .venv/bin/pvdm in the checkout's folder on a host.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    sed -n '2,16p' "$0" >&2
    exit 2
}

: "${TPU:?name the slice: export TPU=pvdm}" "${ZONE:?export ZONE=us-west4-a}"
poll="${POLL:-30}"
setup="${SETUP:-python3 -m pip install --user -q uv && uv=\$HOME/.local/bin/uv && \$uv venv -q --clear --python 3.12 .venv && \
\$uv pip install -q --python .venv -e '.[tpu,gcs]'}"
place=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})

tpus() { gcloud compute tpus tpu-vm "$@" "${place[@]}" --quiet; }
state() { tpus describe "$TPU" --format='value(state)' 2>/dev/null || echo MISSING; }
on() { tpus ssh "$TPU" --worker="$1" --command="$2"; }

# The image that goes with a kind of TPU.
image() {
    case "$TYPE" in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
    esac
}

# Returns once the slice is ready.
ensure_slice() {
    local now
    while now=$(state) && [ "$now" != READY ]; do
        echo "== $(date -u +%FT%TZ) slice $TPU is $now"
        case $now in
        PREEMPTED | TERMINATED | STOPPED | FAILED) tpus delete "$TPU" || true ;;
        MISSING)
            : "${TYPE:?there is no slice $TPU; to make it, export TYPE=v5litepod-16}"
            tpus create "$TPU" --accelerator-type="$TYPE" --version="${VERSION:-$(image)}" ${SPOT:+--spot} && continue
            ;;
        esac
        sleep "$poll"
    done
}

# Puts the last commit on all hosts and installs it, unless it is there.
install() {
    local commit archive
    commit=$(git rev-parse HEAD)
    if on all "test \"\$(cat pvdm_jax/installed 2>/dev/null)\" = $commit" 2>/dev/null; then return 0; fi
    echo "== $(date -u +%FT%TZ) installing $commit"
    archive=$(mktemp -d)
    git archive --prefix=pvdm_jax/ --output="$archive/pvdm_jax.tar" HEAD
    tpus scp "$archive/pvdm_jax.tar" "$TPU:" --worker=all
    rm -r "$archive"
    on all "tar xf pvdm_jax.tar && cd pvdm_jax && { $setup; } && echo $commit >installed"
}

# What a host does to end a run that is there: SIGTERM, and time to save.
stop_there='cd pvdm_jax && if kill -TERM -- -$(cat run.pid 2>/dev/null) 2>/dev/null; then
for i in $(seq 300); do kill -0 -- -$(cat run.pid) 2>/dev/null || break; sleep 1; done; fi'

run() {
    local command code lines restarts=0
    command=$(printf ' %q' "$@")
    while :; do
        ensure_slice
        install || { echo "== can't install; once more in $poll s"; sleep "$poll"; continue; }
        echo "== $(date -u +%FT%TZ) start $((restarts + 1)): pvdm$command"
        # In a session of its own, so that it outlives the connection. The shell around it survives the SIGTERM to tell
        # the exit code.
        on all "$stop_there; rm -f run.exit run.stop; setsid nohup bash -c 'trap : TERM; .venv/bin/pvdm \"\$@\" >>run.log 2>&1
            echo \$? >run.exit' pvdm$command </dev/null >/dev/null 2>&1 & echo \$! >run.pid" || true
        code=""
        while [ -z "$code" ] && [ "$(state)" = READY ]; do
            sleep "$poll"
            code=$(on 0 "cd pvdm_jax; if [ -e run.exit ]; then [ -e run.stop ] && echo stopped || cat run.exit; fi" \
                2>/dev/null) || code=""
        done
        echo "== $(date -u +%FT%TZ) ended with ${code:-the slice, which is $(state)}"
        on 0 "tail -n 5 pvdm_jax/run.log" 2>/dev/null || true
        case $code in
        0 | 2) return "$code" ;;
        stopped) return 143 ;;
        esac
        restarts=$((restarts + 1))
        if [ "$restarts" -gt "${MAX_RESTARTS:-100}" ]; then
            echo "== started $restarts times; not again" >&2
            return 1
        fi
    done
}

action="${1:-}"
shift || true
case $action in
run)
    [ $# -gt 0 ] || usage
    run "$@"
    ;;
logs) on "${1:-0}" "tail -n 200 pvdm_jax/run.log" ;;
stop) on all "touch pvdm_jax/run.stop; $stop_there" ;;
delete) tpus delete "$TPU" ;;
*) usage ;;
esac
