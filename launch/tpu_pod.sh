#!/usr/bin/env bash
# A run on a Cloud TPU slice with one or more hosts, started from any machine with gcloud.
#   export TPU=pvdm ZONE=us-west4-a TYPE=v5litepod-16
#   bash launch/tpu_pod.sh run train-autoencoder --config=ucf101:l --workdir=gs://BUCKET/runs/ucf101 \
#       --config.data.path=gs://BUCKET/data/ucf101
#   bash launch/tpu_pod.sh logs [HOST]      the last lines of a host's output (default: host 0, which reports)
#   bash launch/tpu_pod.sh stop             sends SIGTERM on all hosts: the run saves and ends
#   bash launch/tpu_pod.sh delete           deletes the slice
#
# `run` creates the slice if there is none, installs this checkout's last commit on its hosts, starts the command on
# all of them and waits. If the slice is preempted or the command fails, it starts over, and training resumes from the
# newest checkpoint. It gives up after exit code 2 (something to correct). The hosts don't need this script: it can be
# stopped with Ctrl-C and started again. Checkpoints, metrics and pictures are in --workdir, which must be gs:// or a
# mounted file system that all hosts see: a host's own disk is deleted with the slice.
#
# Further settings: PROJECT; VERSION of the hosts' image; SPOT=1; POLL=30, seconds between polls; MAX_RESTARTS=100;
# SETUP, the shell command that installs .venv/bin/pvdm in the checkout's folder on a host.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    sed -n '2,17p' "$0" >&2
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

# The image for a type of TPU.
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
            : "${TYPE:?there is no slice $TPU; to create it, export TYPE=v5litepod-16}"
            tpus create "$TPU" --accelerator-type="$TYPE" --version="${VERSION:-$(image)}" ${SPOT:+--spot} && continue
            ;;
        esac
        sleep "$poll"
    done
}

# Copies the last commit to all hosts and installs it, unless it is already installed.
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

# Ends a host's current run, if there is one: SIGTERM, then time to save.
stop_there='cd pvdm_jax && if kill -TERM -- -$(cat run.pid 2>/dev/null) 2>/dev/null; then
for i in $(seq 300); do kill -0 -- -$(cat run.pid) 2>/dev/null || break; sleep 1; done; fi'

run() {
    local command code lines restarts=0
    command=$(printf ' %q' "$@")
    while :; do
        ensure_slice
        install || { echo "== installation failed; retrying in $poll s"; sleep "$poll"; continue; }
        echo "== $(date -u +%FT%TZ) start $((restarts + 1)): pvdm$command"
        # In a session of its own, so that it survives the end of the connection. The shell around it survives SIGTERM,
        # to write the exit code.
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
            echo "== started $restarts times; giving up" >&2
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
