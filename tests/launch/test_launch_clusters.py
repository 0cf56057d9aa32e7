"""The launch scripts for clusters, against stand-ins of gcloud and srun that start real processes on this machine."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import tiny_program
import yaml

from pvdm_jax.cli.main import make_parser
from pvdm_jax.config.loading import load_settings

pytestmark = pytest.mark.skipif(not os.path.exists("/bin/bash"), reason="the launch scripts need bash")
LAUNCH = tiny_program.ROOT / "launch"
PVDM = f'#!/bin/bash\nexec {sys.executable} -m pvdm_jax.cli "$@"\n'
# Starts the tasks as Slurm does, with its environment. The highest code is its own.
SRUN = """#!/bin/bash
[ "$1 $2" = "--kill-on-bad-exit=0 --wait=300" ] && shift 2
for ((i = 0; i < SLURM_NTASKS; i++)); do
    SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_STEP_NUM_TASKS=$SLURM_NTASKS SLURM_STEP_NODELIST=127.0.0.1 \\
        "$@" >>"$STAND_IN/task$i" 2>&1 &
    pids[i]=$!
done
echo "${pids[@]}" >"$STAND_IN/pids"
worst=0
for pid in "${pids[@]}"; do
    wait "$pid"
    code=$?
    [ $code -gt $worst ] && worst=$code
done
exit $worst
"""
SCONTROL = '#!/bin/bash\necho "$@" >>"$STAND_IN/scontrol"\n'
# A slice of HOSTS hosts is a folder with a state and a home folder for each; ssh runs the command there.
GCLOUD = """#!/bin/bash
echo "$*" >>"$STAND_IN/gcloud"
[ "$1 $2 $3" = "compute tpus tpu-vm" ] || exit 9
action=$4 name=$5 slice=$STAND_IN/slices/$6 worker=all command=""
[ "$action" = scp ] && name=$6
slice=$STAND_IN/slices/${name%%:*}
for argument in "$@"; do
    case $argument in --worker=*) worker=${argument#*=} ;; --command=*) command=${argument#*=} ;; esac
done
[ "$action" = create ] || [ -d "$slice" ] || { echo "NOT_FOUND" >&2; exit 1; }
[ "$worker" = all ] && workers=$(seq 0 $((HOSTS - 1))) || workers=$worker
case $action in
create) mkdir -p "$STAND_IN/slices"; for ((i = 0; i < HOSTS; i++)); do mkdir -p "$slice/$i"; done
    echo $RANDOM >"$slice/port"; echo READY >"$slice/state" ;;
describe) cat "$slice/state" ;;
delete) rm -rf "$slice" ;;
scp) for i in $workers; do cp "$5" "$slice/$i/"; done ;;
ssh)
    [ "$(cat "$slice/state")" = READY ] || exit 255
    worst=0
    for i in $workers; do
        (cd "$slice/$i" && HOME=$PWD JAX_COORDINATOR_ADDRESS=127.0.0.1:$((20000 + $(cat "$slice/port") % 20000)) \\
            JAX_NUM_PROCESSES=$HOSTS JAX_PROCESS_ID=$i bash -c "$command") &
        pids[i]=$!
    done
    for i in $workers; do wait "${pids[i]}" || worst=$?; done
    exit $worst ;;
esac
"""


@pytest.fixture
def stand_in(tmp_path):
    """A folder of commands that go before the real ones, and the environment of a script that uses them."""
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("gcloud", GCLOUD), ("pvdm", PVDM)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    return tiny_program.environment(STAND_IN=str(tmp_path), PATH=f"{commands}:{os.environ['PATH']}", HOSTS="2")


def slurm(stand_in, *argv, restarts=0, **changes):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        # JAX takes the port of the coordinator from the job's number.
        job = free.getsockname()[1] % 4096
    variables = {"SLURM_JOB_ID": str(job), "SLURM_NTASKS": "2", "SLURM_SUBMIT_DIR": str(tiny_program.ROOT)}
    variables |= {"SLURM_RESTART_COUNT": str(restarts), "PVDM": f"{stand_in['STAND_IN']}/commands/pvdm"} | changes
    call = ["bash", str(LAUNCH / "slurm.sbatch"), *argv]
    return subprocess.Popen(call, env=stand_in | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, process, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.05)


def count_lines(path):
    return path.read_text().count("\n") if path.exists() else 0


def trained(workdir):
    lines = [json.loads(line) for line in (workdir / "autoencoder" / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "train/loss" in line]


@pytest.mark.parametrize("script", ["slurm.sbatch", "tpu_pod.sh"])
def test_scripts_are_sound_shell(script):
    subprocess.run(["bash", "-n", str(LAUNCH / script)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-x", str(LAUNCH / script)], check=True)


def test_slurm_refuses_what_cannot_start(stand_in):
    for argv, changes, message in (
        ([], {}, "usage: sbatch"),
        (["encode"], {"PVDM": "/nowhere/pvdm"}, "error: there is no /nowhere/pvdm"),
    ):
        process = slurm(stand_in, *argv, **changes)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 2 and message in output


@pytest.mark.parametrize(
    "code, restarts, again", [(0, 0, False), (2, 0, False), (143, 0, True), (1, 3, True), (1, 50, False)]
)
def test_slurm_queues_again_what_may_go_on(stand_in, tmp_path, code, restarts, again):
    (tmp_path / "commands" / "pvdm").write_text(f"#!/bin/bash\nexit {code}\n")
    process = slurm(stand_in, "encode", restarts=restarts)
    process.communicate(timeout=60)
    assert process.returncode == code and (tmp_path / "scontrol").exists() == again


@pytest.mark.long
def test_slurm_runs_saves_at_sigterm_and_goes_on(stand_in, tmp_path):
    workdir = tmp_path / "run"
    argv = tiny_program.arguments("train-autoencoder", workdir, "train_autoencoder.steps=400")
    process = slurm(stand_in, *argv)
    wait_for(lambda: count_lines(workdir / "autoencoder" / "metrics.jsonl") >= 3, process)
    for pid in (tmp_path / "pids").read_text().split():  # as Slurm does, to all tasks
        os.kill(int(pid), signal.SIGTERM)
    output, _ = process.communicate(timeout=600)
    log = (tmp_path / "task0").read_text()
    assert process.returncode == 143 and "ended with 143" in output, log
    assert re.fullmatch(r"requeue \d+\n", (tmp_path / "scontrol").read_text())
    step = int(re.search(r"SIGTERM; saved after step (\d+)", log).group(1))

    argv = tiny_program.arguments("train-autoencoder", workdir, f"train_autoencoder.steps={step + 2}")
    process = slurm(stand_in, *argv, restarts=1)
    output, _ = process.communicate(timeout=600)
    log = (tmp_path / "task0").read_text()
    assert process.returncode == 0 and f"resuming after step {step}" in log, log
    assert trained(workdir) == list(range(1, step + 3))


def pod(stand_in, *argv, **changes):
    variables = {"TPU": "pvdm", "ZONE": "here", "TYPE": "v5litepod-8", "POLL": "0.2"}
    # A host needs no installation here, but the command where it would be.
    variables["SETUP"] = "mkdir -p .venv/bin; cp $STAND_IN/commands/pvdm .venv/bin/; true"
    call = ["bash", str(LAUNCH / "tpu_pod.sh"), *argv]
    return subprocess.Popen(
        call, env=stand_in | variables | changes, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_tpu_pod_says_what_it_needs(stand_in):
    for argv, changes, message in (
        (["run"], {}, "launch/tpu_pod.sh run train-autoencoder"),
        (["walk"], {}, "launch/tpu_pod.sh run train-autoencoder"),
        (["run", "encode"], {"TYPE": ""}, "there is no slice pvdm"),
        (["logs"], {"TPU": ""}, "name the slice"),
    ):
        process = pod(stand_in, *argv, **changes)
        output, _ = process.communicate(timeout=60)
        assert process.returncode != 0 and message in output, output


def test_tpu_pod_passes_arguments_on_and_ends_with_settings_that_cannot_work(stand_in, tmp_path):
    (tmp_path / "commands" / "pvdm").write_text('#!/bin/bash\nprintf "%s|" "$@"\nexit 2\n')
    process = pod(stand_in, "run", "encode", "--workdir=with space", "--config.x='$HOME'")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    for host in "01":
        log = (tmp_path / "slices" / "pvdm" / host / "pvdm_jax" / "run.log").read_text()
        assert log == "encode|--workdir=with space|--config.x='$HOME'|"
    calls = (tmp_path / "gcloud").read_text()
    assert "tpu-vm create pvdm --accelerator-type=v5litepod-8 --version=v2-alpha-tpuv5-lite --zone=here" in calls
    pod(stand_in, "delete").communicate(timeout=60)
    assert not (tmp_path / "slices" / "pvdm").exists()


@pytest.mark.long
def test_tpu_pod_goes_on_after_a_preemption_and_stops(stand_in, tmp_path):
    """The slice is preempted in the middle: another is created, and the run resumes. Then it is stopped by hand."""
    workdir, metrics = tmp_path / "run", tmp_path / "run" / "autoencoder" / "metrics.jsonl"
    argv = tiny_program.arguments("train-autoencoder", workdir, "train_autoencoder.steps=100000")
    process = pod(stand_in, "run", *argv)
    wait_for(lambda: (workdir / "autoencoder" / "checkpoints" / "2").is_dir(), process)
    folder = tmp_path / "slices" / "pvdm"
    (folder / "state").write_text("PREEMPTED\n")
    for host in "01":
        os.killpg(int((folder / host / "pvdm_jax" / "run.pid").read_text()), signal.SIGKILL)
    before = count_lines(metrics)
    wait_for(lambda: count_lines(metrics) > before + 3, process)
    stopped = pod(stand_in, "stop")
    assert stopped.wait(timeout=600) == 0, stopped.communicate()[0]
    output, _ = process.communicate(timeout=600)
    log = (folder / "0" / "pvdm_jax" / "run.log").read_text()
    assert process.returncode == 143 and "SIGTERM; saved after step" in output, output + log
    assert "is PREEMPTED" in output and output.count("installing") == 2
    assert re.search(r"autoencoder: resuming after step \d+", log)
    steps = trained(workdir)
    assert steps == list(range(1, steps[-1] + 1))
    shown, _ = pod(stand_in, "logs").communicate(timeout=60)
    assert "SIGTERM; saved after step" in shown


def test_the_jobset_starts_a_run_that_could_work():
    """Its parts agree with each other, and its arguments are a command's."""
    jobset = yaml.safe_load((LAUNCH / "gke.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (workers,) = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    pod_spec = job["template"]["spec"]
    (container,) = pod_spec["containers"]
    topology = pod_spec["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    rows, columns = map(int, topology.split("x"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == rows * columns // chips
    assert job["completionMode"] == "Indexed"
    # A job fails with its first pod, and the JobSet restarts all pods, except after exit code 2.
    assert job["backoffLimit"] == 0 and pod_spec["restartPolicy"] == "Never"
    (rule,) = job["podFailurePolicy"]["rules"]
    exit_codes = {"containerName": container["name"], "operator": "In", "values": [2]}
    assert rule == {"action": "FailJob", "onExitCodes": exit_codes}
    (policy,) = jobset["spec"]["failurePolicy"]["rules"]
    assert policy["action"] == "FailJobSet" and policy["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    assert pod_spec["terminationGracePeriodSeconds"] >= 120

    written = [argument.replace("gs://BUCKET/", "gs://my-bucket/") for argument in container["args"]]  # by the user
    args, overrides = make_parser().parse_known_args(written)
    config = load_settings(args.config, overrides)
    assert str(args.workdir).startswith("gs:/") and config.data.path.startswith("gs://")
    assert config.train_diffusion.batch_size % (rows * columns) == 0
    assert rows * columns % config.mesh.fsdp == 0
    # The note on GPUs: the coordinator is the first pod, under the JobSet's name.
    text = (LAUNCH / "gke.yaml").read_text()
    name = jobset["metadata"]["name"]
    assert f'"{name}-{workers["name"]}-0-0.{name}:' in text
    assert f'JAX_NUM_PROCESSES, value: "{job["completions"]}"' in text


def test_the_image_has_what_the_package_is_made_of():
    text = (LAUNCH / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE)
    for name in " ".join(copied).split():
        assert (tiny_program.ROOT / name).exists(), name
    extras = re.search(r"ARG EXTRAS=(\S+)", text).group(1).split(",")
    assert all(f'"{extra}": [' in (tiny_program.ROOT / "setup.py").read_text() for extra in extras)
