"""What a compiled program costs, read from its text (XLA's HLO): bytes between devices, and bytes of device memory.

XLA's own `cost_analysis` counts the body of a loop once, and nothing of what the network moves. Here every
instruction counts as often as its loop runs. The two numbers are estimates: what XLA keeps in a chip's own memory is
left out as far as the text says so, and caches are unknown.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
# Instructions that move nothing by themselves.
FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"),
    *("opt-barrier", "partition-id", "replica-id", "iota", "domain", "add-dependency"),
)
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\((.*)$")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `name = shape opcode(operands), attributes`. `size`: bytes of the result in device memory."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def size(self) -> float:
        return 0.0 if self.shape.startswith("((") else array_bytes(self.shape)

    def refers_to(self, attribute: str) -> str | None:
        """The computation that an attribute names, as body=%name."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found and found.group(1)


def array_bytes(shape: str, everywhere: bool = False) -> float:
    """Bytes of the arrays in a shape's text, those of device memory (memory space 0) or `everywhere`."""
    total = 0.0
    for kind, sizes, layout in _ARRAY.findall(shape):
        bits = BITS.get(kind) or int("".join(re.findall(r"\d+", kind.partition("e")[0])) or 0)
        if everywhere or not re.search(r"S\([1-9]", layout):
            total += bits / 8 * math.prod(int(size) for size in sizes.split(",") if size)
    return total


@dataclasses.dataclass(frozen=True)
class Collective:
    """A transfer between devices: of how many, how often in a run, and bytes each device sends or receives."""

    kind: str
    devices: int
    runs: int
    bytes: float


class Program:
    """The text of a compiled program (`compiled.as_text()`), as computations of instructions."""

    def __init__(self, text: str):
        self.devices = int((re.search(r"num_partitions=(\d+)", text) or [0, 1])[1])
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry, current = "", None
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = self.computations.setdefault(header.group(2), {})
                if header.group(1):
                    self.entry = header.group(2)
            elif current is not None and (found := _INSTRUCTION.match(line)):
                root, name, rest = found.groups()
                if rest.startswith("("):
                    shape, rest = _until_closed(rest[1:])
                    shape = f"({shape})"
                else:
                    shape, _, rest = rest.partition(" ")
                called = _OPCODE.match(rest)
                if not called:
                    continue
                opcode, rest = called.groups()
                inside, attributes = _until_closed(rest)
                operands = tuple(_NAME.findall(inside))
                if opcode in ("constant", "parameter"):
                    attributes = f"{inside}{attributes}"
                current[name] = Instruction(name, shape, opcode, operands, attributes, bool(root))

    def runs(self) -> dict[str, int]:
        """How often each computation runs of its own: the entry, bodies of loops, branches and calls."""
        counts: dict[str, int] = {}

        def visit(name: str, times: int) -> None:
            counts[name] = counts.get(name, 0) + times
            for instruction in self.computations.get(name, {}).values():
                if instruction.opcode == "while":
                    visit(instruction.refers_to("body"), times * self.trip_count(instruction))
                elif instruction.opcode == "call":
                    visit(instruction.refers_to("to_apply"), times)
                elif instruction.opcode == "conditional":
                    branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
                    names = _NAME.findall(branches.group(1)) if branches else []
                    names += [n for n in map(instruction.refers_to, ("true_computation", "false_computation")) if n]
                    for branch in names[:1]:  # one of them runs
                        visit(branch, times)

        visit(self.entry, 1)
        return counts

    def trip_count(self, loop: Instruction) -> int:
        """How often a loop runs: as XLA noted, or the constant that its condition compares with; else 1."""
        if noted := re.search(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)', loop.attributes):
            return int(noted.group(1))
        condition = self.computations.get(loop.refers_to("condition") or "", {})
        constants = [
            int(number.group(1))
            for instruction in condition.values()
            if instruction.opcode == "constant" and instruction.shape.startswith(("s32[]", "s64[]"))
            if (number := re.match(r"(\d+)", instruction.attributes))
        ]
        return constants[0] if len(constants) == 1 else 1

    def _inner(self, name: str) -> Iterator[tuple[str, Instruction]]:
        """The instructions of a computation and of what it calls for fusions and asynchronous parts, each with the name
        of the one it is in."""
        for instruction in self.computations.get(name, {}).values():
            yield name, instruction
            called = instruction.refers_to("calls")
            if called:
                yield from self._inner(called)

    def collectives(self) -> list[Collective]:
        """Every transfer between devices. One that XLA split into parts with the same channel counts once."""
        found = []
        for computation, runs in self.runs().items():
            channels = set()
            for place, instruction in self._inner(computation):
                kind = instruction.opcode.removesuffix("-start")
                if kind not in COLLECTIVES:
                    continue
                channel = re.search(r"channel_id=(\d+)", instruction.attributes)
                key = (kind, channel.group(1)) if channel else (kind, instruction.name)
                devices = self._group_size(instruction)
                if key in channels or devices == 1:
                    continue
                channels.add(key)
                size = array_bytes(instruction.shape, everywhere=True)
                if instruction.opcode.endswith("-start") and instruction.shape.startswith("("):
                    # The operand and the result, side by side.
                    sizes = [array_bytes(f"{a}[{b}]", True) for a, b, _ in _ARRAY.findall(instruction.shape)]
                    size = max(sizes)
                if kind == "all-reduce" and "all-reduce-scatter" in place:
                    kind, size = "reduce-scatter", size / devices  # how TPUs write it
                found.append(Collective(kind, devices, runs, _moved(kind, size, devices)))
        return found

    def _group_size(self, instruction: Instruction) -> int:
        text = instruction.attributes
        if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
            return listed.group(1).count(",") + 1
        if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", text):
            return int(iota.group(1))
        if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", text):
            sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh.group(1)))
            return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", mesh.group(2)))
        return 2 if instruction.opcode.startswith("collective-permute") else self.devices

    def memory_bytes(self) -> float:
        """Bytes that instructions read from and write to device memory, each as often as it runs."""
        total = 0.0
        for computation, runs in self.runs().items():
            here = self.computations.get(computation, {})
            total += runs * sum(self._traffic(instruction, here) for instruction in here.values())
        return total

    def _traffic(self, instruction: Instruction, here: dict[str, Instruction]) -> float:
        opcode = instruction.opcode
        if opcode in FREE or opcode.endswith(("-done", "-update")):
            return 0.0
        if opcode == "dynamic-slice":
            return 2 * instruction.size
        operands = [here[name] for name in instruction.operands if name in here]
        sizes = [0.0 if operand.shape.startswith("(") else operand.size for operand in operands]
        if opcode == "dynamic-update-slice":
            return 2 * sizes[1] if len(sizes) > 1 else 0.0
        written = instruction.size
        called = instruction.refers_to("calls")
        if opcode == "fusion" and called in self.computations:
            sizes, written = self._fused(self.computations[called], operands, sizes, written)
        return written + sum(sizes)

    @staticmethod
    def _fused(inner: dict[str, Instruction], operands, sizes, written):
        """What a fusion reads of each operand, and what it writes: slices count by their own size."""
        sizes = list(sizes)
        parameters = {
            int(number.group(1)): instruction.name
            for instruction in inner.values()
            if instruction.opcode == "parameter" and (number := re.match(r"(\d+)", instruction.attributes))
        }
        for index in range(len(sizes)):
            name = parameters.get(index)
            users = [instruction for instruction in inner.values() if name in instruction.operands]
            if users and all(user.opcode == "dynamic-slice" and user.operands[0] == name for user in users):
                sizes[index] = min(sizes[index], sum(user.size for user in users))
            elif users and all(user.opcode == "dynamic-update-slice" and user.operands[0] == name for user in users):
                # Updated in place: only the new part is written, nothing else of the array is touched.
                update = sum(inner[user.operands[1]].size for user in users if user.operands[1] in inner)
                written += update - min(written, sizes[index])
                sizes[index] = 0.0
        return sizes, max(0.0, written)


def traced_flops(jaxpr: Any) -> float:
    """Operations (2 for a multiplication and its addition) of the matrix products and convolutions of a traced
    program, `jax.jit(f).trace(...).jaxpr`, over all devices. Loops count as often as they run; of branches the
    costliest."""
    total = 0.0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, values = equation.primitive.name, equation.params
        shapes = [variable.aval.shape for variable in equation.invars if hasattr(variable.aval, "shape")]
        result = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if name == "dot_general":
            contracted = values["dimension_numbers"][0][0]
            total += 2 * result * math.prod(shapes[0][axis] for axis in contracted)
        elif name == "conv_general_dilated":
            features = values["dimension_numbers"].rhs_spec[0]
            total += 2 * result * math.prod(shapes[1]) / shapes[1][features]
        elif name == "cond":
            total += max(traced_flops(branch) for branch in values["branches"])
        else:
            times = values["length"] if name == "scan" else 1
            inner = (leaf for value in values.values() for leaf in (value if isinstance(value, tuple) else (value,)))
            total += times * sum(traced_flops(leaf) for leaf in inner if hasattr(getattr(leaf, "jaxpr", leaf), "eqns"))
    return total


def _until_closed(rest: str) -> tuple[str, str]:
    """ "a, b), c" to "a, b" and ", c"."""
    depth = 1
    for index, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return rest[:index], rest[index + 1 :]
    return rest, ""


def _moved(kind: str, size: float, devices: int) -> float:
    """Bytes that each device sends (and receives) in a ring, for a result of `size` bytes."""
    share = (devices - 1) / devices
    if kind == "all-reduce":
        return 2 * share * size
    if kind == "reduce-scatter":
        return (devices - 1) * size
    return size if kind == "collective-permute" else share * size
