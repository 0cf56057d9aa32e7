"""The parts of the jobs `smoke`, `measure` and `train`."""

import dataclasses
import json
import pathlib
import sys
import time
from typing import Any

from parts import GRACE, Commands, Part

ROOT = pathlib.Path(__file__).resolve().parents[2]
REFERENCE_TESTS = pathlib.Path(__file__).with_name("reference_tests.txt")
COMPARE = ROOT / "examples" / "compare_official.py"
MINUTES = {"smoke": 4.0, "measure": 6.0, "train": 9.0}
SMOKE_STEPS, TINY_STEPS = 50, 10
DTYPES = ("float32", "bfloat16")
# On a CPU: the demo with small networks, which have one of each of its layers.
TINY = ("data.synthetic_videos=32", "autoencoder.channels=32", "autoencoder.depth=1", "denoiser.model_channels=32")
TINY += ("denoiser.channel_mult=1,", "denoiser.attention_resolutions=1,", "sample.steps=2", "sample.later_steps=2")
STAGES = ("autoencoder", "diffusion")
# The protocol for generated clips: few of them, since jobs last minutes.
FEW = ("samples=16", "real_samples=16", "reconstruction_samples=16", "seam_samples=4", "seam_clips=2")
FEW += ("continuations=8", "bootstrap=0")
SOME = ("samples=64", "real_samples=64", "reconstruction_samples=64", "seam_samples=8", "seam_clips=4")
SOME += ("continuations=32", "bootstrap=100")


@dataclasses.dataclass(frozen=True)
class Context:
    """What the parts depend on.

    platform: jax's name of it; on "cpu" everything is tiny. seconds: of the job. work: a temporary folder. out: the
    folder of results. data, config, overrides: what `train` trains on; the overrides are "--config.field=value".
    official: a copy of the official code, or None. began: when the short run of each stage began.
    """

    platform: str
    seconds: float
    work: pathlib.Path
    out: pathlib.Path
    data: pathlib.Path | None = None
    config: str = "demo"
    overrides: tuple[str, ...] = ()
    official: pathlib.Path | None = None
    began: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def tiny(self) -> bool:
        return self.platform == "cpu"

    @property
    def run(self) -> pathlib.Path:
        """The run that `train` makes."""
        return self.work / "run"


def make_parts(job: str, context: Context) -> list[Part]:
    """The parts of a job, whose shares of the time add up to that of the job."""
    parts = {"smoke": smoke, "measure": measure, "train": train}[job](context)
    factor = context.seconds / sum(part.seconds for part in parts)
    return [dataclasses.replace(part, seconds=factor * part.seconds) for part in parts]


def smoke(context: Context) -> list[Part]:
    """Both stages of the demo and the commands after them, in each dtype; then the reference tests."""
    parts = [
        Part(dtype, 75, commands=lambda _, dtype=dtype: smoke_commands(context, dtype)) for dtype in reversed(DTYPES)
    ]
    if not (ROOT / "tests").is_dir():
        parts.append(Part("reference tests", 0, skipped="this copy of the code has no folder tests"))
    else:
        tests = [line.split()[0] for line in REFERENCE_TESTS.read_text().splitlines() if line.startswith("tests/")]
        program = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", *tests]
        parts.append(Part("reference tests", 70, program=program, note=_last_line))
    return parts


def smoke_commands(context: Context, dtype: str) -> Commands:
    steps = TINY_STEPS if context.tiny else SMOKE_STEPS
    run = context.work / dtype
    settings = [*(TINY if context.tiny else ("data.synthetic_videos=256",))]
    settings += [f"autoencoder.dtype={dtype}", f"denoiser.dtype={dtype}"]
    for stage in STAGES:
        every = [f"{name}={steps}" for name in ("steps", "eval_every", "checkpoint_every")]
        settings += [f"train_{stage}.{setting}" for setting in (*every, "eval_clips=16", f"log_every={steps // 5}")]
    training = ["--config=demo", f"--workdir={run}", *(f"--config.{setting}" for setting in settings)]
    model = f"--model={run}"
    return {
        "train-autoencoder": ["train-autoencoder", *training],
        "encode": ["encode", *training],
        "train-diffusion": ["train-diffusion", *training],
        "sample": _sample(model, run / "samples", frames=32),
        "export": ["export", model, f"--output={run / 'exported'}", "--dtype=bfloat16"],
        "sample exported": _sample(f"--model={run / 'exported'}", run / "samples_exported", frames=16),
        "evaluate": _evaluate(context, run, "--protocol=shapes", few=FEW),
    }


def measure(context: Context) -> list[Part]:
    """The paper's models in bfloat16; on a CPU the demo's, and a small transformer's forward pass."""
    unet, dit = ("demo", "dit-s") if context.tiny else ("l", "dit-l")

    def benchmark(name: str, seconds: float, size: str, only: str, batch: int, *more: str) -> Part:
        options = [f"--size={size}", f"--only={only}", f"--batch-size={2 if context.tiny else batch}", *more]
        options += ["--dtype=bfloat16", "--repeats=5", "--limit=8"]
        output = f"--output={context.work / 'benchmark' / name.replace(' ', '_')}"
        return Part(name, seconds, commands=lambda _: {"benchmark": ["benchmark", *options, output]})

    parts = [
        benchmark("forward", 85, unet, "encode,decode,denoiser,sample", 8),
        benchmark("U-Net step", 60, unet, "denoiser_train", 16),
        benchmark("DiT", 60, dit, "denoiser" if context.tiny else "denoiser,denoiser_train", 16),
        benchmark("autoencoder step", 50, unet, "autoencoder_train", 8, "--remat=blocks"),
    ]
    if context.official is None:
        parts.append(Part("official code", 0, skipped="OFFICIAL names no copy of it"))
    else:
        parts += [
            Part(f"the same clips, {side}", seconds, program=compare_program(context, side))
            for side, seconds in (("ours", 40), ("official", 35), ("compiled", 70))
        ]
    return parts


def compare_program(context: Context, side: str) -> list[str]:
    """One side of the comparison with the official code; "table" prints what all sides found."""
    only = ["denoiser"] if context.tiny else ["encode", "decode", "denoiser", "denoiser_train", "autoencoder_train"]
    options = [f"--official={context.official}", f"--results={context.work / 'compared'}", f"--side={side}"]
    options += ["--dtype=bfloat16", "--compile", f"--repeats={1 if context.tiny else 10}"]
    options += [f"--batch-size={1 if context.tiny else 4}", "--only", *only]
    return [sys.executable, "-u", str(COMPARE), *options]


def train(context: Context) -> list[Part]:
    """Both stages for as many updates as fit. A few updates beforehand tell how long one takes."""
    protocol = ("--protocol=shapes",) if context.data is None else ("--protocol=quick", "--features=scattering")
    exported = context.out / "model"
    return [
        Part("pace of stage 1", 50, commands=lambda _: _pace_commands(context, "autoencoder")),
        Part("stage 1", 165, commands=lambda left: _training_commands(context, "autoencoder", left)),
        Part("latents", 30, commands=lambda _: {"encode": ["encode", *_settings(context, context.run)]}),
        Part("pace of stage 2", 50, commands=lambda _: _pace_commands(context, "diffusion")),
        Part("stage 2", 165, commands=lambda left: _training_commands(context, "diffusion", left)),
        Part(
            "results",
            60,
            commands=lambda _: {
                "export": ["export", f"--model={context.run}", f"--output={exported}", "--dtype=bfloat16"],
                "sample": _sample(f"--model={context.run}", context.work / "samples", frames=64),
                "evaluate": _evaluate(context, context.run, *protocol, few=FEW if context.tiny else SOME),
            },
        ),
    ]


def steps_that_fit(seconds: float, overhead: float, step_seconds: float) -> int:
    """How many updates fit into `seconds` if a run needs `overhead` for everything else; a multiple of 20.

    A tenth of the time is reserved, and so is the time that saving takes if the run is late.
    """
    steps = int(0.9 * (seconds - GRACE - 1.2 * overhead) / step_seconds)
    return max(20, steps - steps % 20)


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a stage's metrics.jsonl; none if it has not begun."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _settings(context: Context, workdir: pathlib.Path) -> list[str]:
    """What the commands that train share."""
    given = list(context.overrides)
    if context.data is not None:
        given = ["--config.data.source=tfds", f"--config.data.path={context.data}", *given]
    if context.tiny and context.config == "demo":
        given = [*(f"--config.{setting}" for setting in TINY), *given]
    return [f"--config={context.config}", f"--workdir={workdir}", *given]


def _stage_settings(stage: str, steps: int, evaluations: int) -> list[str]:
    every = max(1, steps // evaluations)
    values = {"steps": steps, "eval_every": every, "checkpoint_every": every, "log_every": max(1, every // 5)}
    return [f"--config.train_{stage}.{name}={value}" for name, value in values.items()]


def _pace_commands(context: Context, stage: str) -> Commands:
    """A short run in a folder of its own. That of stage 2 has the latents of the real one."""
    context.began[stage] = time.monotonic()
    folder = _pace_folder(context, stage)
    folder.mkdir()
    if stage == "diffusion":
        for name in ("autoencoder", "latents"):
            (folder / name).symlink_to(context.run / name, target_is_directory=True)
    steps = TINY_STEPS if context.tiny else SMOKE_STEPS
    return {"train": [f"train-{stage}", *_settings(context, folder), *_stage_settings(stage, steps, 1)]}


def _training_commands(context: Context, stage: str, left: float) -> Commands:
    """The actual run, for as many updates as fit at the pace of the short run, which has just ended."""
    command = [f"train-{stage}", *_settings(context, context.run)]
    lines = [line for line in read_lines(_pace_folder(context, stage) / stage / "metrics.jsonl") if "time/step" in line]
    if lines:  # otherwise the configured number of updates, which the time limit may cut short
        step, seconds = lines[-1]["step"], lines[-1]["time/step"]
        overhead = max(0.0, time.monotonic() - context.began[stage] - step * seconds)
        command += _stage_settings(stage, steps_that_fit(left, overhead, seconds), 4)
    return {"train": command}


def _pace_folder(context: Context, stage: str) -> pathlib.Path:
    return context.work / f"pace_{stage}"


def _sample(model: str, output: pathlib.Path, frames: int) -> list[str]:
    # npz needs no video library.
    return ["sample", model, f"--output={output}", "--num-videos=4", f"--num-frames={frames}", "--formats", "npz"]


def _evaluate(context: Context, run: pathlib.Path, *protocol: str, few: tuple[str, ...]) -> list[str]:
    cache = f"--cache={context.work / 'features'}"
    return ["evaluate", f"--model={run}", *protocol, cache, f"--output={run / 'card'}", "--set", *few]


def _last_line(output: str) -> str:
    return output.rstrip().splitlines()[-1] if output.strip() else ""
