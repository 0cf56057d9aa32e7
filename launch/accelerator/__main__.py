"""`bash launch/accelerator.sh JOB`: reads the settings, runs the job's parts, and writes the results.

The exit code is 0 if every part succeeded, 1 if one failed, 2 if a setting must be corrected.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from typing import NoReturn

import jobs
import results
import wheels
from parts import OK, SKIPPED, Part, Runner, table

DEVICE_SECONDS = 60.0  # for the libraries to start, or a tenth of a long job's time, at most a quarter of a short one's
END_SECONDS = 10.0  # for the tables and the archive, likewise a twentieth
DESCRIBE = pathlib.Path(__file__).with_name("describe_device.py")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the user asks for; the folders exist. The head of launch/accelerator.sh describes the variables."""

    job: str
    overrides: tuple[str, ...]
    out: pathlib.Path
    seconds: float
    wheels: pathlib.Path | None
    data: pathlib.Path | None
    official: pathlib.Path | None
    config: str


def main() -> int:
    settings = read_settings(sys.argv[1:], os.environ)
    settings.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="pvdm_accelerator_") as folder:
        return Job(settings, pathlib.Path(folder).resolve()).run()


def read_settings(argv: list[str], environment: Mapping[str, str]) -> Settings:
    """Reads arguments and variables. Ends the program with exit code 2 if something cannot be used."""
    parser = argparse.ArgumentParser(
        prog="bash launch/accelerator.sh",
        description="Measures how this code runs on this machine's GPU or TPU.",
        epilog="The head of launch/accelerator.sh lists the variables that change what a job does.",
        allow_abbrev=False,
    )
    parser.add_argument("job", choices=tuple(jobs.MINUTES))
    args, overrides = parser.parse_known_args(argv)
    wrong = [text for text in overrides if args.job != "train" or not text.startswith("--config.")]
    if wrong:
        parser.error(f"{wrong[0]} is not known; train takes --config.some.field=value")

    minutes = environment.get("MINUTES") or jobs.MINUTES[args.job]
    try:
        seconds = 60 * float(minutes)
    except ValueError:
        refuse(f"MINUTES is {minutes!r}; it must be a number")
    if not 6 <= seconds <= 6e5:
        refuse(f"MINUTES is {minutes}; it must be between 0.1 and 10,000")

    def folder(name: str) -> pathlib.Path | None:
        path = pathlib.Path(environment[name]).absolute() if environment.get(name) else None
        if path is not None and not path.is_dir():
            refuse(f"{name} is {path}, which is not a folder")
        return path

    data = folder("DATA")
    out = pathlib.Path(environment.get("OUT") or "runs/accelerator").absolute()
    if args.job == "train" and (out / "model").exists():
        refuse(f"OUT has a model of an earlier job, {out / 'model'}; remove it, or name another folder")
    return Settings(
        job=args.job,
        overrides=tuple(overrides),
        out=out,
        seconds=seconds,
        wheels=folder("WHEELS"),
        data=data,
        official=folder("OFFICIAL"),
        config=environment.get("CONFIG") or ("video_folder" if data else "demo"),
    )


def refuse(problem: str) -> NoReturn:
    print(f"error: {problem}", file=sys.stderr)
    sys.exit(2)


class Job:
    """One job: its parts are run within its time, then the results are written. work: a temporary folder."""

    def __init__(self, settings: Settings, work: pathlib.Path):
        self._settings, self._work = settings, work
        self._lines: list[str] = []
        self._began = time.monotonic()
        self._log = settings.out / f"{settings.job}.log"
        self._log.write_text("")
        self._environment = process_environment(work)
        self._runner = Runner(
            settings.seconds - min(END_SECONDS, settings.seconds / 20),
            folder=work,
            log=self._log,
            environment=self._environment,
            say=self._say,
        )

    def run(self) -> int:
        """Runs the job and returns the exit code. After SIGTERM or Ctrl-C, the results so far are still written."""
        if self._settings.wheels is not None:
            used, refused = wheels.unpack_missing(self._settings.wheels, self._work / "packages")
            self._say(f"wheels in use: {', '.join(used) or 'none'}")
            self._say("".join(f"not used: {reason}\n" for reason in refused))
        device, context = {}, None
        try:
            device = self._describe()
            if device:
                context = self._context(device)
                self._runner.run(jobs.make_parts(self._settings.job, context))
        finally:
            self._finish(device, context)
        return 0 if all(row.outcome in (OK, SKIPPED) for row in self._runner.rows) else 1

    def _describe(self) -> dict:
        """Runs the first part, which finds the device. Returns nothing if there is no JAX that works."""
        outputs = []

        def note(output: str) -> str:
            outputs.append(output.rstrip().splitlines()[-1])
            device = json.loads(outputs[0])
            return ", ".join(f"{name} {device[name]}" for name in ("count", "device", "jax") if name in device)

        share = min(max(DEVICE_SECONDS, self._settings.seconds / 10), self._settings.seconds / 4)
        self._runner.run([Part("device", share, program=[sys.executable, str(DESCRIBE)], note=note)])
        if not outputs:
            return {}
        device = json.loads(outputs[0])
        self._say(json.dumps(device))
        if device["missing"]:
            self._say(f"not installed: {', '.join(device['missing'])} (pip install -e . or WHEELS=FOLDER)")
        if device["platform"] == "cpu":
            self._say("There is only a CPU: sizes are tiny, and the numbers say nothing about accelerators.")
            if self._settings.job == "smoke":  # it compiles more than it computes
                self._runner.environment.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        else:
            # The reference tests then run on this device, as JAX chooses it, and the programs are those of real runs.
            self._runner.environment |= {"PVDM_TEST_PLATFORM": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
        return device

    def _context(self, device: dict) -> jobs.Context:
        settings = self._settings
        return jobs.Context(
            platform=device["platform"],
            seconds=self._runner.left(),
            work=self._work,
            out=settings.out,
            data=settings.data,
            config=settings.config,
            overrides=settings.overrides,
            official=settings.official,
        )

    def _finish(self, device: dict, context: jobs.Context | None) -> None:
        """Prints the tables, and writes JOB.txt and JOB.json next to the other results."""
        settings, found = self._settings, {}
        if context is not None:
            try:
                text, found = results.numbers(settings.job, context, self._environment)
                self._say(f"\n{text}")
                for warning in results.collect(settings.job, context, self._log):
                    self._say(f"too large for some machines to send back: {warning}")
            except Exception:
                self._say(traceback.format_exc())
        self._say(f"\n{settings.job}: {time.monotonic() - self._began:.0f} s, results in {settings.out}")
        self._say(table(self._runner.rows))
        values = {"job": settings.job, "date": time.strftime("%Y-%m-%d"), "device": device, "numbers": found}
        values["parts"] = [dataclasses.asdict(row) for row in self._runner.rows]
        (settings.out / f"{settings.job}.json").write_text(json.dumps(values, indent=1))
        (settings.out / f"{settings.job}.txt").write_text("\n".join(self._lines) + "\n")

    def _say(self, text: str) -> None:
        if text:
            self._lines.append(text)
            print(text, flush=True)


def process_environment(work: pathlib.Path) -> dict[str, str]:
    """The parts' environment: they can import this code and the unpacked wheels, and allocate memory on demand."""
    paths = [str(jobs.ROOT), str(work / "packages"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return environment


if __name__ == "__main__":
    sys.exit(main())
