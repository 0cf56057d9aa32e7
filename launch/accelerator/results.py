"""What a job leaves in its folder of results, and the tables of numbers that it prints last."""

import json
import pathlib
import shutil
import subprocess
import tarfile
from typing import Any

from jobs import STAGES, Context, compare_program, read_lines

LARGEST = 16 * 2**20  # bytes of a file of results that can be brought back from any machine


def numbers(job: str, context: Context, environment: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """What a job measured, as text for its end and as data. Parts that failed have no numbers."""
    return {"smoke": _smoke, "measure": _measure, "train": _train}[job](context, environment)


def collect(job: str, context: Context, log: pathlib.Path) -> list[str]:
    """Copies pictures and logs into the folder of results. Returns warnings about files that are too large."""
    if job == "smoke":
        for grid in sorted(context.work.glob("*/samples/grid.png")):
            shutil.copyfile(grid, context.out / f"smoke_{grid.parts[-3]}.png")
    if job == "measure":
        for picture in sorted(context.work.glob("benchmark/*/roofline_*.svg")):
            shutil.copyfile(picture, context.out / f"measure_{picture.parent.name}.svg")
    if job == "train":
        kept = [log, context.work / "samples" / "grid.png", *sorted(context.run.glob("card/*"))]
        for stage in STAGES:
            kept += [context.run / stage / name for name in ("config.json", "metrics.jsonl", "evaluation")]
        with tarfile.open(context.out / "train.tar.gz", "w:gz") as archive:
            for path in kept:
                if path.exists():
                    archive.add(path, path.relative_to(context.work) if context.work in path.parents else path.name)
        log.unlink(missing_ok=True)
    large = [path for path in sorted(context.out.rglob("*")) if path.is_file() and path.stat().st_size > LARGEST]
    return [f"{path.name} has {path.stat().st_size / 2**20:.0f} MiB" for path in large]


def _smoke(context: Context, environment: dict[str, str]) -> tuple[str, dict[str, Any]]:
    found: dict[str, Any] = {}
    for folder in sorted(context.work.glob("*/autoencoder")):
        run = folder.parent
        found[run.name] = {stage: _first_and_last(run / stage, "train/loss") for stage in STAGES}
    rows = [
        f"| {dtype} | {stage} | {losses[0]:.4g} | {losses[1]:.4g} |"
        for dtype, stages in found.items()
        for stage, losses in stages.items()
        if losses
    ]
    if not rows:
        return "", found
    return "\n".join(["| dtype | stage | first loss | last loss |", "|---|---|---|---|", *rows]), found


def _measure(context: Context, environment: dict[str, str]) -> tuple[str, dict[str, Any]]:
    found: dict[str, Any] = {}
    lines = []
    for path in sorted(context.work.glob("benchmark/*/benchmark.json"), key=lambda path: path.stat().st_mtime):
        found[path.parent.name] = json.loads(path.read_text())
        text = path.with_name("benchmark.txt").read_text().splitlines()
        # Of each table the rates and the rows, but its head only once.
        lines += [line for line in text if line and (line not in lines or not line.startswith("|"))]
    if any(context.work.glob("compared/*.json")):
        found["compared"] = {path.stem: json.loads(path.read_text()) for path in context.work.glob("compared/*.json")}
        program = compare_program(context, "table")
        done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60)
        lines += ["", "The same clips by this code and by the official code:", "", done.stdout + done.stderr]
    return "\n".join(lines), found


def _train(context: Context, environment: dict[str, str]) -> tuple[str, dict[str, Any]]:
    found: dict[str, Any] = {}
    rows = []
    for stage in STAGES:
        lines = read_lines(context.run / stage / "metrics.jsonl")
        last: dict[str, float] = {}
        for line in lines:
            last |= line
        if last:
            found[stage] = last
            shown = {name: value for name, value in last.items() if name.startswith(("train/loss", "time/", "eval/"))}
            rows += [
                f"| {stage} | {name} | {value:.4g} |" for name, value in {"updates": last["step"], **shown}.items()
            ]
    card = context.run / "card" / "card.json"
    if card.exists():
        found["card"] = json.loads(card.read_text())
    text = "\n".join(["| stage | number | value |", "|---|---|---|", *rows]) if rows else ""
    return text, found


def _first_and_last(stage: pathlib.Path, name: str) -> tuple[float, float] | None:
    values = [line[name] for line in read_lines(stage / "metrics.jsonl") if name in line]
    return (values[0], values[-1]) if values else None
