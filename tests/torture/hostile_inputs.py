"""Runs `pvdm` on hundreds of hostile inputs: weight files, media, JSON files and command lines.

    python tests/torture/hostile_inputs.py [--only weights media json commands] [--every N] [--folder DIR]
                                           [--jobs N] [--seconds 10] [--gigabytes 4]

Not a unit test: pytest doesn't collect it; the ordinary suite reads the same files within its own process. Every case
is a process of its own, in a folder of its own, forked from one that has imported the package already. A case fails if
the process prints a traceback, dies of a signal, computes for more than --seconds or holds more than --gigabytes, opens
an internet socket, or writes anything outside of its output. What it does else is up to it: refuse, or work. Prints a
table of what happened and every failure, and writes results.json into the folder; ends with 1 if there was a failure.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import ForkServerContext

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import forked_program  # noqa: E402
import hostile_json  # noqa: E402
import hostile_media  # noqa: E402
import hostile_weights  # noqa: E402
import tiny_program  # noqa: E402
from watched_process import watch  # noqa: E402

CODES = (0, 1, 2, 130, 141, 143)


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of `pvdm`, in a folder that `prepare` fills. Arguments name files relative to that folder."""

    group: str
    name: str
    argv: list[str]
    prepare: Callable[[pathlib.Path], None] = lambda folder: None
    shell: str = ""  # what follows the command in a shell, such as "| head -1"


@dataclasses.dataclass
class Result:
    """What became of a case."""

    code: int | None
    text: str  # the end of its output
    seconds: float  # of computing
    memory: int  # bytes, at most
    problems: list[str]

    @property
    def kind(self) -> str:
        return "FAILED" if self.problems else {0: "done", 1: "refused", 2: "refused"}.get(self.code, "ended")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=tuple(GROUPS), default=tuple(GROUPS))
    parser.add_argument("--every", type=int, default=1, help="run every N-th case only")
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--gigabytes", type=float, default=4)
    args = parser.parse_args()
    folder = (args.folder or pathlib.Path(tempfile.mkdtemp(prefix="hostile_"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    make_models(folder)
    cases = [case for group in args.only for case in list(GROUPS[group](folder))[:: args.every]]
    print(f"{len(cases)} cases in {folder}", flush=True)
    server = forked_program.server(environment_of(folder))
    with ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(lambda case: run(case, folder, server, args.seconds, args.gigabytes * 2**30), cases))
    pairs = list(zip(cases, results, strict=True))
    records = [dataclasses.asdict(result) | {"group": case.group, "name": case.name} for case, result in pairs]
    (folder / "results.json").write_text(json.dumps(records, indent=1))
    return report(pairs)


def report(pairs: list[tuple[Case, Result]]) -> int:
    """Prints the table and the failures."""
    kinds = ("done", "refused", "ended", "FAILED")
    print(f"{'group':10}" + "".join(f"{kind:>9}" for kind in kinds) + "  longest, s  most memory, GB")
    for group in dict.fromkeys(case.group for case, _ in pairs):
        found = [result for case, result in pairs if case.group == group]
        counts = collections.Counter(result.kind for result in found)
        line = f"{group:10}" + "".join(f"{counts[kind]:9}" for kind in kinds)
        print(line + f"{max(r.seconds for r in found):12.1f}{max(r.memory for r in found) / 2**30:17.2f}")
    failures = [(case, result) for case, result in pairs if result.problems]
    for case, result in failures:
        last = result.text.strip().splitlines()[-1:] or [""]
        print(f"FAILED {case.group} {case.name}: {'; '.join(result.problems)}\n    {last[0][:200]}")
    return 1 if failures else 0


def make_models(folder: pathlib.Path) -> None:
    """A model folder, and a run of both stages."""
    if (folder / "run").exists():
        return
    environment = environment_of(folder)
    pvdm = [sys.executable, "-m", "pvdm_jax.cli"]
    unfinished = folder / "run_unfinished"
    short = ("train_autoencoder.steps=4", "train_diffusion.steps=4")
    for command in ("train-autoencoder", "encode", "train-diffusion"):
        subprocess.run([*pvdm, *tiny_program.arguments(command, unfinished, *short)], env=environment, check=True)
    subprocess.run(
        [*pvdm, "export", f"--model={unfinished}", f"--output={folder / 'model'}"], env=environment, check=True
    )
    unfinished.rename(folder / "run")


def environment_of(folder: pathlib.Path) -> dict[str, str]:
    """Programs compile fast, and keep what they compile within the folder."""
    changes = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    return tiny_program.environment(**changes, JAX_COMPILATION_CACHE_DIR=str(folder / "cache" / "compiled"))


def run(case: Case, folder: pathlib.Path, server: ForkServerContext, seconds: float, memory: float) -> Result:
    """Runs one case and watches it."""
    name = re.sub(r"[^A-Za-z0-9_.]", "_", f"{case.group}_{case.name}")[:100]
    place = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}_", dir=folder))
    case.prepare(place)
    before = listing(place)
    start = in_shell if case.shell else forked
    code, problems, computed, most = start(case, place, server, seconds, memory)
    text = (place / ".output").read_text(errors="replace")
    if "Traceback (most recent call last)" in text or "Fatal Python error" in text:
        problems.append("a traceback")
    if code not in CODES and not problems:
        problems.append(f"exit code {code}")
    written = [path for path in listing(place) - before if not path.startswith(("out", ".out", "run"))]
    if written:
        problems.append(f"it wrote {', '.join(sorted(written)[:3])}")
    shutil.rmtree(place, ignore_errors=True)
    return Result(code, text[-2000:], computed, most, problems)


def forked(
    case: Case, place: pathlib.Path, server: ForkServerContext, seconds: float, memory: float
) -> tuple[int | None, list[str], float, int]:
    """Runs a case as a fork of the server. Returns its exit code, what was wrong, its seconds and its bytes."""
    process = forked_program.start(server, case.argv, place, place / ".output")
    seen = watch(process.pid, process.is_alive, seconds, memory)
    process.join()
    return process.exitcode, *seen


def in_shell(
    case: Case, place: pathlib.Path, server: ForkServerContext, seconds: float, memory: float
) -> tuple[int | None, list[str], float, int]:
    """The same of a case that is a line of a shell, which starts the program itself."""
    argv = [sys.executable, "-m", "pvdm_jax.cli", *case.argv]
    with (place / ".output").open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", f'"$@" {case.shell}; exit ${{PIPESTATUS[0]}}', "bash", *argv],
            cwd=place,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        seen = watch(process.pid, lambda: process.poll() is None, seconds, memory)
    return process.wait(), *seen


def listing(place: pathlib.Path) -> set[str]:
    """Names of all files below a folder; links are not followed."""
    return {
        os.path.relpath(os.path.join(root, name), place)
        for root, folders, names in os.walk(place)
        for name in (*folders, *names)
    }


def weight_cases(folder: pathlib.Path) -> Iterator[Case]:
    """`pvdm convert` of each weight file, and of what is not a regular file."""
    specials = {
        "pipe": os.mkfifo,
        "zeros": lambda path: os.symlink("/dev/zero", path),
        "itself": lambda path: os.symlink(path, path),
        "folder": os.mkdir,
        "sparse_100GB": lambda path: (path.touch(), os.truncate(path, 100 * 10**9)),
    }
    for name, data in hostile_weights.files():
        argv = ["convert", f"--autoencoder={name}", "--output=out"]
        yield Case("weights", name, argv, lambda place, name=name, data=data: (place / name).write_bytes(data) and None)
    for name, make in specials.items():
        argv = ["convert", "--denoiser=x.pth", "--output=out"]
        yield Case("weights", name, argv, lambda place, make=make: make(place / "x.pth"))


def media_cases(folder: pathlib.Path) -> Iterator[Case]:
    """`prepare` and `reconstruct` of each folder of media."""
    media = folder / "media"
    if not media.exists():
        hostile_media.make(media)
    for source in sorted(media.iterdir()):
        given = f"--source={source}"
        yield Case(
            "media", f"prepare {source.name}", ["prepare", given, "--min-frames=4", "--output=out", "--workers=1"]
        )
        model = f"--model={folder / 'model'}"
        yield Case("media", f"reconstruct {source.name}", ["reconstruct", model, given, "--output=out"])
    argv = ["prepare", "--source=.", "--min-frames=4", "--output=out", "--workers=1"]
    yield Case("media", "prepare here", argv, lambda place: shutil.copytree(media / "names", place / "names"))


def json_cases(folder: pathlib.Path) -> Iterator[Case]:
    """A command that reads each JSON file back, with damage in it."""
    one = ["--num-videos=1", "--steps=1", "--formats", "gif", "--output=out"]
    train = ("train_autoencoder.steps=4", "train_diffusion.steps=4")
    readers = {
        "model/config.json": ["sample", "--model=model", *one],
        "model/card.json": ["export", "--model=model", "--output=out"],
        "run/autoencoder/config.json": ["reconstruct", "--model=run", "--source=x.mp4", "--output=out"],
        "run/diffusion/config.json": ["sample", "--model=run", *one],
        "run/diffusion/best.json": ["sample", "--model=run", *one],
        "run/latents/index.json": tiny_program.arguments("encode", "run", *train),
        "run/latents/train-00000-of-00001.json": tiny_program.arguments("encode", "run", *train),
        "run/autoencoder/best.json": tiny_program.arguments("train-autoencoder", "run", *train),
        "run/autoencoder/metrics.jsonl": tiny_program.arguments("train-autoencoder", "run", *train),
        "card.json": ["evaluate", "--compare", "card.json", "card.json"],
        "mine.json": ["evaluate", "--real=a", "--fake=b", "--protocol=mine.json", "--output=out"],
        "out/request.json": ["sample", "--model=model", *one],
    }
    for file, argv in readers.items():
        for what, content in hostile_json.CONTENTS.items():

            def prepare(place: pathlib.Path, file=file, content=content) -> None:
                top = file.split("/")[0]
                if "model" in (top, *argv_folders(readers[file])):
                    shutil.copytree(folder / "model", place / "model")
                if top == "run":
                    shutil.copytree(folder / "run", place / "run")
                (place / file).parent.mkdir(parents=True, exist_ok=True)
                (place / file).write_bytes(content)

            yield Case("json", f"{file} {what}", argv, prepare)


def argv_folders(argv: list[str]) -> list[str]:
    return [text.partition("=")[2] for text in argv if text.startswith("--model=")]


def command_cases(folder: pathlib.Path) -> Iterator[Case]:
    """Command lines that must be refused, and outputs that fail."""
    model = f"--model={folder / 'model'}"
    sample = ["sample", model, "--output=out", "--steps=1", "--num-videos=1"]
    given = {
        "seed": ["-1", 2**32, 2**63, "9" * 5000, "x", "1.5", "", "\udcff"],
        "first-video": ["-1", 2**32, 2**63],
        "videos": ["3,3", "1-3,2", "5-3", "0-4000000000", ",", "-", "1-", "a", ""],
        "num-videos": [0, -1, 2**40, "100000000"],
        "num-frames": [0, 2**31, 2**31 - 1, "1e3"],
        "batch-size": [0, 10**9, 2**40],
        "fps": ["inf", "nan", "0", "-1", "2000", "1e-9", "1e400", "x"],
        "classes": [",", "", " ", "99", "\udcff"],
        "guidance": ["inf", "nan", "-1", "1e39", "x"],
        "eta": ["2", "nan"],
        "steps": ["0", "5000", "4/", "/", "x", "9" * 50],
        "formats": ["avi", "", "png/../x"],
        "sampler": ["plms"],
    }
    for name, values in given.items():
        for value in values:
            yield Case("commands", f"--{name}={str(value)[:20]!a}", [*sample, f"--{name}={value}"])
    yield Case("commands", "formats twice", [*sample, "--formats", "npz", "npz"])
    yield Case("commands", "huge", [*sample[:3], "--num-videos=100000", "--num-frames=1000000"])
    for length in (250, 255, 256, 5000):
        yield Case("commands", f"output of {length}", ["export", model, f"--output=out/{'a' * length}"])
        yield Case("commands", f"sample of {length}", [*sample[:2], f"--output=out/{'a' * length}", "--num-videos=0"])
    for output in ("/dev/null", "/dev/full/x", "/proc/x", "gs://a/b"):
        yield Case("commands", f"output {output}", [*sample[:2], f"--output={output}", "--num-videos=100000000"])
    settings = {
        "seed": [-1, 2**32, "x"],
        "autoencoder.channels": [10**9, 0, -1, 2**63, "x"],
        "autoencoder.depth": [10**9],
        "autoencoder.frames": [10**9],
        "denoiser.model_channels": [10**9, 33],
        "denoiser.channel_mult": ["1," * 100, "x"],
        "train_autoencoder.batch_size": [10**9, 0],
        "train_autoencoder.steps": [2**40],
        "data.workers": [10**6],
        "data.fps": ["inf"],
        "process.num_steps": [10**9],
        "sample.guidance": ["inf"],
        "mesh.data": [10**9],
        "nothing": [1],
    }
    for name, values in settings.items():
        for value in values:
            argv = ["train-autoencoder", "--config=demo", "--workdir=out", f"--config.{name}={value}"]
            yield Case("commands", f"config.{name}={str(value)[:20]}", argv)
    files = {
        "none": "def get_config():\n    return None\n",
        "variant": "def get_config(variant):\n    return None\n",
        "dict": "def get_config():\n    return {}\n",
        "syntax": "def get_config(:\n",
        "bytes": "\0\0",
        "nothing": "",
    }
    for name, text in files.items():
        argv = ["demo", "--config=mine.py", "--workdir=out"]
        yield Case("commands", f"config file {name}", argv, lambda place, text=text: write(place / "mine.py", text))
    for name, shell in {"full": "> /dev/full", "head": "| head -1", "closed": ">&-"}.items():
        yield Case("commands", f"help {name}", ["sample", "--help"], shell=shell)
        yield Case("commands", f"evaluate {name}", ["evaluate", "--compare", "a.json", "b.json"], shell=shell)


def write(path: pathlib.Path, text: str) -> None:
    path.write_text(text)


GROUPS: dict[str, Callable[[pathlib.Path], Iterator[Case]]] = {
    "weights": weight_cases,
    "media": media_cases,
    "json": json_cases,
    "commands": command_cases,
}


if __name__ == "__main__":
    sys.exit(main())
