"""Network and memory traffic of a compiled program, read from its text (XLA's HLO).

XLA's own `cost_analysis` counts the body of a loop once and does not count network traffic. Here every instruction
counts as often as its loop runs. Both numbers are estimates: arrays that the text places in on-chip memory are not
counted, and caches are ignored.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
# Instructions that cause no memory traffic by themselves.
NO_TRAFFIC = (
    "add-dependency",
    "after-all",
    "bitcast",
    "call",
    "conditional",
    "constant",
    "domain",
    "get-tuple-element",
    "iota",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
    "while",
)
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\((.*)$")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of the text: `name = shape opcode(operands), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    @property
    def size(self) -> float:
        """Bytes of the result in device memory."""
        return 0.0 if self.shape.startswith("((") else array_bytes(self.shape)

    def refers_to(self, attribute: str) -> str | None:
        """The computation that an attribute names, such as `body=%name`; None without that attribute."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found and found.group(1)


def array_bytes(shape: str, all_memories: bool = False) -> float:
    """Bytes of the arrays in a shape's text: those in device memory (memory space 0), or in all memories."""
    total = 0.0
    for kind, sizes, layout in _ARRAY.findall(shape):
        bits = BITS.get(kind) or int("".join(re.findall(r"\d+", kind.partition("e")[0])) or 0)
        if all_memories or not re.search(r"S\([1-9]", layout):
            total += bits / 8 * math.prod(int(size) for size in sizes.split(",") if size)
    return total


@dataclasses.dataclass(frozen=True)
class Collective:
    """A transfer between devices."""

    kind: str  # of COLLECTIVES
    devices: int  # that take part
    runs: int  # in one call of the program
    bytes: float  # that each device sends or receives in one run


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
                name, rest = found.groups()
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
                current[name] = Instruction(name, shape, opcode, operands, attributes)

    def runs(self) -> dict[str, int]:
        """How often each computation runs: the entry, loop bodies, branches and calls, but not fusions."""
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
                    for branch in names[:1]:  # only one of them runs
                        visit(branch, times)

        visit(self.entry, 1)
        return counts

    def trip_count(self, loop: Instruction) -> int:
        """How often a loop runs: XLA's own annotation, or the constant in the loop's condition, or else 1."""
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
        """Pairs (computation, instruction) of a computation and of the fusions and asynchronous parts that it calls."""
        for instruction in self.computations.get(name, {}).values():
            yield name, instruction
            called = instruction.refers_to("calls")
            if called:
                yield from self._inner(called)

    def collectives(self) -> list[Collective]:
        """Every transfer between devices. The parts of one transfer (on the same channel) count once."""
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
                begun = instruction.opcode.endswith("-start") and kind != "all-reduce"
                shape = _result_of_start(instruction.shape) if begun else instruction.shape
                size = array_bytes(shape, all_memories=True)
                if kind == "all-reduce" and "all-reduce-scatter" in place:
                    kind, size = "reduce-scatter", size / devices  # the form that TPUs use
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
        """Bytes that the program reads from and writes to device memory in one call."""
        total = 0.0
        for computation, runs in self.runs().items():
            here = self.computations.get(computation, {})
            total += runs * sum(self._traffic(instruction, here) for instruction in here.values())
        return total

    def _traffic(self, instruction: Instruction, here: dict[str, Instruction]) -> float:
        """Bytes that one run of an instruction reads and writes; `here` is the computation around it."""
        opcode = instruction.opcode
        if opcode in NO_TRAFFIC or opcode.endswith(("-done", "-update")):
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
        """Bytes that a fusion reads from each operand and writes. Only the slices of a sliced array count."""
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
                # Updated in place: only the new part is written, and the rest of the array is not read.
                update = sum(inner[user.operands[1]].size for user in users if user.operands[1] in inner)
                written += update - min(written, sizes[index])
                sizes[index] = 0.0
        return sizes, max(0.0, written)


def _until_closed(rest: str) -> tuple[str, str]:
    """Splits at the closing bracket: "a, b), c" into "a, b" and ", c"."""
    depth = 1
    for index, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return rest[:index], rest[index + 1 :]
    return rest, ""


def _result_of_start(shape: str) -> str:
    """The result's shape in the shape of a transfer's start, (operand, result, ...), where each may be a tuple."""
    if not shape.startswith("("):
        return shape
    if shape.startswith("(("):
        rest = _until_closed(shape[2:])[1].lstrip(", ")
        return _until_closed(rest[1:])[0] if rest.startswith("(") else rest
    return [found.group() for found in _ARRAY.finditer(shape)][1]


def _moved(kind: str, size: float, devices: int) -> float:
    """Bytes that each device sends and receives in a ring algorithm, for a result of `size` bytes."""
    share = (devices - 1) / devices
    if kind == "all-reduce":
        return 2 * share * size
    if kind == "reduce-scatter":
        return (devices - 1) * size
    return size if kind == "collective-permute" else share * size
