"""Where the time of a compiled program goes: by pass (forward, backward, update) and kind of operation.

JAX's profiler times every instruction that runs; the program's text (its metadata) says which line of the traced
program an instruction comes from. A fusion counts as its matrix product or convolution, or as the last operation in
it. On a CPU an instruction's time is that of the thread that waits for it; instructions that run side by side both
count, so shares are of the sum.
"""

import collections
import dataclasses
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from pvdm_jax.performance.hlo import Instruction, Program

HEAVY = PRODUCTS, CONVOLUTIONS = "matrix products", "convolutions"  # what a fusion counts as that holds one
# The last word of an instruction's op_name, as "jit(step)/transpose(jvp(UNet))/dot_general", to what the table says.
KINDS = {
    "dot_general": PRODUCTS,
    "conv_general_dilated": CONVOLUTIONS,
    **dict.fromkeys(("transpose", "reshape", "broadcast_in_dim", "concatenate", "pad", "slice", "copy"), "moving data"),
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_mean"), "sums"),
}
ELSE = "elementwise"
HOLDERS = ("while", "call", "conditional")  # what they hold is timed by itself


@dataclasses.dataclass(frozen=True)
class Share:
    """What instructions of one kind took in one call."""

    part: str  # of the step: forward, backward or update
    kind: str
    seconds: float
    count: int


def profile(call: Callable[[], Any], program: Program) -> tuple[Share, ...]:
    """Runs `call`, which runs the program, once under the profiler; the costliest kinds of its instructions first.

    Empty where the profiler saw none of it.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            jax.block_until_ready(call())
        files = sorted(pathlib.Path(folder).rglob("*.xplane.pb"))
        return shares(_events(files[-1]), program) if files else ()


def shares(events: Iterable[tuple[str, float]], program: Program) -> tuple[Share, ...]:
    """Times of instructions (name, seconds) added up by what the program says of them."""
    origins = _origins(program)
    seconds: dict[tuple[str, str], float] = collections.defaultdict(float)
    counts: dict[tuple[str, str], int] = collections.Counter()
    for name, duration in events:
        if name in origins:
            seconds[origins[name]] += duration
            counts[origins[name]] += 1
    found = [Share(*origin, seconds[origin], counts[origin]) for origin in seconds]
    return tuple(sorted(found, key=lambda share: -share.seconds))


def profile_table(found: Sequence[Share], at_least: float = 0.01) -> str:
    """Lines of a Markdown table, of what takes at least that share of the time; the rest in one line."""
    total = sum(share.seconds for share in found) or 1.0
    lines = ["| pass | | instructions | seconds | share |", "|---|---|---|---|---|"]
    shown = [share for share in found if share.seconds >= at_least * total]
    for share in shown:
        lines.append(
            f"| {share.part} | {share.kind} | {share.count} | {share.seconds:.3g} | {share.seconds / total:.0%} |"
        )
    rest = [share for share in found if share not in shown]
    if rest:
        seconds = sum(share.seconds for share in rest)
        lines.append(f"| | the rest | {sum(share.count for share in rest)} | {seconds:.3g} | {seconds / total:.0%} |")
    return "\n".join(lines)


def _events(path: pathlib.Path) -> Iterable[tuple[str, float]]:
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                name = next((value for key, value in event.stats if key == "hlo_op"), None)
                if name is not None:
                    yield str(name), event.duration_ns / 1e9


def _origins(program: Program) -> dict[str, tuple[str, str]]:
    """For each instruction its pass and kind, but for those that only hold others."""
    found = {}
    for instructions in program.computations.values():
        for name, instruction in instructions.items():
            if instruction.opcode in HOLDERS:
                continue
            inner = program.computations.get(instruction.refers_to("calls") or "", {})
            kinds = [_kind(each) for each in (instruction, *inner.values())]
            kind = next((kind for kind in kinds if kind in HEAVY), kinds[0])
            path = _path(instruction)
            found[name] = "backward" if "transpose(" in path else "forward" if "jvp(" in path else "update", kind
    return found


def _kind(instruction: Instruction) -> str:
    named = KINDS.get(_path(instruction).rpartition("/")[2], ELSE)
    return {"dot": PRODUCTS, "convolution": CONVOLUTIONS}.get(instruction.opcode, named)


def _path(instruction: Instruction) -> str:
    """Where an instruction comes from, as jit(step)/transpose(jvp(UNet))/dot_general; else what it is."""
    source = re.search(r'op_name="([^"]*)"', instruction.attributes)
    return source.group(1) if source else instruction.opcode
