"""Kills a demo run over and over, and compares what it ends with to a run that nobody disturbed.

    python tests/torture/kill_runs.py [--kills 20] [--in-saves 6] [--seed 0] [--folder DIR] [--config.some.field=value]

Not a unit test: it takes from ten minutes to an hour on two cores, and pytest doesn't collect it. Both stages and the
encoding between them run as the commands that a user types, each killed by SIGKILL at random moments and started again
until it has finished. At least `--in-saves` of the kills fall into a save: the log tells of each what was being
written. At the end the final weights, optimizers and counts of both stages and all latents must be those of the
undisturbed run, bit for bit, and metrics.jsonl must have the same lines but for times.

Writes killed/ and undisturbed/, their output, and torture.json into the folder. Ends with 0 where all is equal and
enough kills fell into saves, else with 1.
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
COMMANDS = ("train-autoencoder", "encode", "train-diffusion")
SHARE = {"train-autoencoder": 0.45, "encode": 0.1, "train-diffusion": 0.45}  # of the kills
STEPS = 240  # of each stage
# The demo, but with smaller networks, shorter, and with more saves.
SETTINGS = (
    *("autoencoder.channels=32", "autoencoder.depth=1", "denoiser.model_channels=32", "denoiser.channel_mult=1,"),
    *("denoiser.attention_resolutions=1,", "data.synthetic_videos=96", "encode.windows=12", "encode.batch_size=8"),
    *(f"train_autoencoder.steps={STEPS}", "train_autoencoder.log_every=10", "train_autoencoder.checkpoint_every=10"),
    *("train_autoencoder.eval_every=80", "train_autoencoder.eval_clips=8", f"train_diffusion.steps={STEPS}"),
    *("train_diffusion.log_every=10", "train_diffusion.checkpoint_every=10", "train_diffusion.eval_every=80"),
    *("train_diffusion.eval_clips=8", "train_diffusion.batch_size=4", "sample.steps=4", "sample.later_steps=4"),
)
# Prints a hash over every bit of the newest checkpoint's state.
DIGEST = """
import hashlib, sys, numpy as np, orbax.checkpoint as ocp, jax
with ocp.CheckpointManager(sys.argv[1]) as manager:
    step = manager.latest_step()
    state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]
digest = hashlib.sha256()
for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(state), key=lambda item: jax.tree_util.keystr(item[0])):
    digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
print(step, len(jax.tree.leaves(state)), digest.hexdigest())
"""


def start(command, workdir, settings, log):
    arguments = [f"--config.{setting}" for setting in settings]
    call = [sys.executable, "-m", "pvdm_jax.cli", command, "--config=demo", f"--workdir={workdir}", *arguments]
    return subprocess.Popen(call, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)


def saving(workdir):
    """What is being written at this moment: unfinished checkpoints, and unfinished shards of latents."""
    found = [path.name for path in workdir.glob("*/checkpoints/*.orbax-checkpoint-tmp*")]
    return found + [path.name for path in workdir.glob("latents/*.unfinished")]


def progress(workdir, command):
    """The last step that the run has logged."""
    path = workdir / {"train-autoencoder": "autoencoder", "train-diffusion": "diffusion"}[command] / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def wait_until(process, condition, seconds=600.0):
    """Waits while the process runs and the condition doesn't hold; whether it does."""
    began = time.perf_counter()
    while process.poll() is None and time.perf_counter() - began < seconds:
        if condition():
            return True
        time.sleep(0.0005)
    return False


def run_to_the_end(command, workdir, settings, log):
    began = time.perf_counter()
    process = start(command, workdir, settings, log)
    if process.wait() != 0:
        raise SystemExit(f"pvdm {command} ended with {process.returncode}; see {log.name}")
    return time.perf_counter() - began


def wait_for_the_moment(process, workdir, command, aim, left, seconds, stale, rng):
    """Returns when the process is to be killed; `left` kills are to come, this one too.

    aim: during a save. seconds: that the undisturbed command took.
    """
    if command == "encode":
        wait_until(process, lambda: False, rng.uniform(0.1, 0.6) * seconds)
        return
    if not aim and rng.random() < 0.2:  # before it has come to its first step, or soon after
        wait_until(process, lambda: False, rng.uniform(0, 30))
        return
    begun = progress(workdir, command)
    # So many steps that the others have as many on average, and the last kill still finds the run going.
    target = begun + rng.randint(1, max(1, 2 * (STEPS - 30 - begun) // (left + 1)))
    wait_until(process, lambda: progress(workdir, command) >= target)
    if aim:
        wait_until(process, lambda: any(name not in stale for name in saving(workdir)))
        time.sleep(rng.uniform(0, 0.03))
    else:
        time.sleep(rng.uniform(0, 2))


def kill_until_done(command, workdir, settings, log, kills, in_saves, seconds, rng):
    """Runs a command, killing it `kills` times, `in_saves` of them during a save. Returns what each kill met."""
    events = []
    while len(events) < kills:
        left = kills - len(events)
        aim = in_saves - sum(event["during_save"] for event in events) >= rng.randint(1, left)
        stale, process = saving(workdir), start(command, workdir, settings, log)
        wait_for_the_moment(process, workdir, command, aim, left, seconds, stale, rng)
        if process.poll() is not None:
            if process.returncode != 0:
                raise SystemExit(f"pvdm {command} ended with {process.returncode}; see {log.name}")
            break  # finished before it could be killed
        process.kill()
        process.wait()
        unfinished = [name for name in saving(workdir) if name not in stale]
        after = 0 if command == "encode" else progress(workdir, command)
        during = command != "encode" and bool(unfinished)
        events.append({"command": command, "after": after, "unfinished": unfinished, "during_save": during})
        what = f"kill {len(events)} of {command}: after step {after}, unfinished: {', '.join(unfinished) or 'nothing'}"
        print(what, flush=True)
    run_to_the_end(command, workdir, settings, log)
    return events


def results(workdir):
    """A hash of everything that the run ends with, by name."""
    found = {}
    for stage in ("autoencoder", "diffusion"):
        call = [sys.executable, "-c", DIGEST, str((workdir / stage / "checkpoints").absolute())]
        found[stage] = subprocess.run(call, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
        lines = [json.loads(line) for line in (workdir / stage / "metrics.jsonl").read_text().splitlines()]
        untimed = [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines]
        found[f"{stage} metrics"] = hashlib.sha256(json.dumps(untimed).encode()).hexdigest()
    for path in sorted((workdir / "latents").iterdir()):
        found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--in-saves", type=int, default=6, help="kills that must fall into a save")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "runs" / "torture")
    args, overrides = parser.parse_known_args()
    settings = (*SETTINGS, *(text.removeprefix("--config.") for text in overrides))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    args.folder.mkdir(parents=True)  # must be new
    rng, events, seconds = random.Random(args.seed), [], {}

    began = time.perf_counter()
    with (args.folder / "undisturbed.log").open("w") as log:
        for command in COMMANDS:
            seconds[command] = run_to_the_end(command, args.folder / "undisturbed", settings, log)
            print(f"undisturbed {command}: {seconds[command]:.0f} s", flush=True)
    with (args.folder / "killed.log").open("w") as log:
        for command in COMMANDS:
            # The last command gets those that the others were too quick for.
            kills = round(args.kills * SHARE[command]) if command != COMMANDS[-1] else args.kills - len(events)
            in_saves = 0 if command == "encode" else -(-args.in_saves // 2)
            events += kill_until_done(
                command, args.folder / "killed", settings, log, kills, in_saves, seconds[command], rng
            )
    expected, found = (results(args.folder / name) for name in ("undisturbed", "killed"))
    differing = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    in_saves = sum(event["during_save"] for event in events)
    outcome = {
        "kills": len(events),
        "in_saves": in_saves,
        "differing": differing,
        "seconds": time.perf_counter() - began,
    }
    content = outcome | {"events": events, "undisturbed": expected, "killed": found, "settings": settings}
    (args.folder / "torture.json").write_text(json.dumps(content, indent=2) + "\n")
    for name in expected:
        print(f"{'DIFFERS' if name in differing else 'equal  '}  {name}: {found.get(name)}")
    print(f"{len(events)} kills, {in_saves} of them while a checkpoint was being written, {outcome['seconds']:.0f} s")
    enough = len(events) >= args.kills and in_saves >= args.in_saves
    return 0 if enough and not differing else 1


if __name__ == "__main__":
    sys.exit(main())
