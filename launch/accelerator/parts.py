"""Runs the parts of a job one after the other, each in its own process and within its time.

If a part fails or takes too long, its trace is shown and the next part runs. Each part has a share of the job's time;
what it leaves over is added to the next part's.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence

OK, FAILED, LIMIT, NOT_RUN, SKIPPED = "ok", "failed", "time limit", "not run", "skipped"
GRACE = 10.0  # seconds between asking a process to end, so that training can save, and killing it
SHORTEST = 1.0  # seconds that must be left to start something
TERMINATED = 143  # the exit code of a command of `pvdm` that SIGTERM ended
TRACE_LINES = 40  # lines of a failure on the terminal; the log has all
RUN_COMMANDS = pathlib.Path(__file__).with_name("run_commands.py")

Commands = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Part:
    """Something to run: a program, or commands of `pvdm` in one process, which saves starting JAX for each.

    name: the name in the table, where commands are called "NAME: COMMAND".
    seconds: its share of the job's time.
    program: the arguments of a process. commands: a function from the seconds until the part's limit to the arguments
    of `pvdm` for each command, by its name. skipped: why there is nothing to run. A part has one of these three.
    note: makes a remark for the table from the output of a successful program.
    """

    name: str
    seconds: float
    program: Sequence[str] = ()
    commands: Callable[[float], Commands] | None = None
    skipped: str = ""
    note: Callable[[str], str] = lambda output: ""


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of a part or of one of its commands."""

    name: str
    outcome: str  # OK, FAILED, LIMIT, NOT_RUN or SKIPPED
    seconds: float = 0.0
    note: str = ""


def table(rows: Iterable[Row]) -> str:
    """The rows as a table in Markdown, whose columns are aligned."""
    cells = [("part", "outcome", "seconds", "")]
    cells += [(row.name, row.outcome, f"{row.seconds:.0f}", row.note.replace("|", "/")) for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(3)]
    lines = [
        " | ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[3]]) for line in cells
    ]
    rule = "|".join("-" * (width + 2) for width in widths) + "|---|"
    return "\n".join([f"| {lines[0]} |", f"|{rule}", *(f"| {line} |" for line in lines[1:])])


def trace(output: str) -> str:
    """The last traceback in a program's output or, without one, its last lines; at most TRACE_LINES of them."""
    lines = [line for line in output.rstrip().splitlines() if not line.startswith("== ")]
    starts = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    shown = lines[starts[-1] :] if starts else lines[-15:]
    left_out = len(shown) - TRACE_LINES
    if left_out > 0:
        shown = [*shown[:5], f"... {left_out} lines are in the log ...", *shown[5 + left_out :]]
    return "\n".join(shown)


class Runner:
    """Runs parts within `seconds` from now on, and keeps their rows.

    folder: a temporary one. log: the file that gets the output of all parts. say: prints a text.
    """

    def __init__(
        self,
        seconds: float,
        *,
        folder: pathlib.Path,
        log: pathlib.Path,
        environment: Mapping[str, str],
        say: Callable[[str], None] = print,
    ):
        self.rows: list[Row] = []
        self._due = time.monotonic()
        self._end = self._due + seconds
        self.environment = dict(environment)
        self._folder, self._log, self._say = folder, log, say

    def left(self) -> float:
        """Seconds of the job's time that are not yet in the share of a part."""
        return self._end - self._due

    def run(self, parts: Iterable[Part]) -> None:
        """Runs all parts. After SIGTERM or Ctrl-C, the rest are not run, and the signal's exception is raised."""
        parts = list(parts)
        for number, part in enumerate(parts):
            self._due = min(self._due + part.seconds, self._end)
            self._say(f"== {part.name}")
            try:
                self._run_part(part)
            except (KeyboardInterrupt, SystemExit):
                self.rows += [Row(left.name, NOT_RUN, note="interrupted") for left in parts[number:]]
                raise
            except Exception as error:
                self._say(traceback.format_exc())
                self._end_row(Row(part.name, FAILED, note=_short(f"{type(error).__name__}: {error}")))

    def _run_part(self, part: Part) -> None:
        if part.skipped:
            self._end_row(Row(part.name, SKIPPED, note=part.skipped))
        elif self._until_due() < SHORTEST:
            self._end_row(Row(part.name, NOT_RUN, note="no time is left"))
        elif part.commands is None:
            began = time.monotonic()
            code, late, output = self.run_program(part.name, part.program, self._until_due())
            seconds = time.monotonic() - began
            note = part.note(output) if code == 0 and not late else ""
            self._judge(part.name, code, late=late, seconds=seconds, output=output, note=note)
        else:
            self._run_commands(part, dict(part.commands(self._until_due())))

    def _run_commands(self, part: Part, left: dict[str, Sequence[str]]) -> None:
        """Runs commands in one process. Where one ends the process, another process runs the next ones."""
        results = self._folder / "commands.jsonl"
        while left:
            if self._until_due() < SHORTEST:
                self.rows += [Row(f"{part.name}: {name}", NOT_RUN, note="no time is left") for name in left]
                return
            results.unlink(missing_ok=True)
            began = time.monotonic()
            program = [sys.executable, "-u", str(RUN_COMMANDS), str(results), json.dumps(list(left.items()))]
            code, late, output = self.run_program(part.name, program, self._until_due())
            used = time.monotonic() - began
            outputs = _by_command(output)
            for line in results.read_text().splitlines() if results.exists() else ():
                ended = json.loads(line)
                del left[ended["name"]]
                used -= ended["seconds"]
                self._judge(
                    f"{part.name}: {ended['name']}",
                    ended["code"],
                    late=late and ended["code"] == TERMINATED,
                    seconds=ended["seconds"],
                    output=outputs.get(ended["name"], ""),
                )
            if left and (code != 0 or late):
                # The command that was running took its process with it, or was ended.
                name = next(iter(left))
                died = outputs.get(name, output)
                if name in outputs or not outputs:
                    del left[name]
                    self._judge(f"{part.name}: {name}", code, late=late, seconds=used, output=died)
            elif left:
                raise RuntimeError(f"the commands {', '.join(left)} left no result")

    def run_program(self, name: str, program: Sequence[str], seconds: float) -> tuple[int, bool, str]:
        """Runs a process for at most `seconds`. Returns its exit code, whether it was ended, and its output.

        It gets SIGTERM before its limit, with GRACE or a fifth of its time left to end. Processes that it started end
        with it.
        """
        path = self._folder / "output"
        grace = min(GRACE, seconds / 5)
        with path.open("wb") as output:
            process = subprocess.Popen(
                program, stdout=output, stderr=subprocess.STDOUT, env=self.environment, start_new_session=True
            )
            late = False
            try:
                try:
                    process.wait(seconds - grace)
                except subprocess.TimeoutExpired:
                    late = True
                    os.killpg(process.pid, signal.SIGTERM)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(grace)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        text = path.read_text(errors="replace")
        with self._log.open("a") as log:
            log.write(f"\n==== {name}: {' '.join(program)}\n{text}\n==== ended with {process.returncode}\n")
        return process.returncode, late, text

    def _judge(self, name: str, code: int, *, late: bool, seconds: float, output: str, note: str = "") -> None:
        if code == 0 and not late:
            self._end_row(Row(name, OK, seconds, note))
            return
        self._say(trace(output))
        last = (output.rstrip().splitlines() or ["no output"])[-1]
        outcome, why = (LIMIT, "") if late else (FAILED, f"exit code {code}: ")
        self._end_row(Row(name, outcome, seconds, _short(why + last)))

    def _end_row(self, row: Row) -> None:
        self.rows.append(row)
        self._say(f"   {row.name}: {row.outcome}, {row.seconds:.0f} s{row.note and f' ({row.note})'}")

    def _until_due(self) -> float:
        return self._due - time.monotonic()


def _by_command(output: str) -> dict[str, str]:
    """The output of each command that run_commands.py began."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in output.splitlines():
        if line.startswith("== "):
            lines = found.setdefault(line[3:].partition(": pvdm ")[0], [])
        lines.append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."
