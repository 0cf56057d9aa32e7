"""A process and all that it starts, watched from outside: its time, its memory and its internet sockets."""

import os
import pathlib
import time
from collections.abc import Callable

EVERY = 0.05  # seconds between two looks at a process
WALL = 12  # times the seconds allowed: the machine may be busy
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


def watch(leader: int, runs: Callable[[], bool], seconds: float, memory: float) -> tuple[list[str], float, int]:
    """Waits for a process and all that it starts; ends them beyond the limits, or with an internet socket.

    leader: the process's number, which is also its session's. runs: whether it has not ended yet. Returns what was
    wrong, the seconds that they computed and the most bytes that they held.
    """
    began, computed, most, problems = time.monotonic(), 0.0, 0, set()
    while runs() and not problems:
        time.sleep(EVERY)
        members = session(leader)
        computed = max(computed, sum(member[0] for member in members.values()))
        most = max(most, sum(member[1] for member in members.values()))
        if any(internet_sockets(number) for number in members):
            problems.add("it opened a socket")
        if computed > seconds:
            problems.add(f"it computed for more than {seconds:g} s")
        elif time.monotonic() - began > WALL * seconds:
            problems.add("it hangs")
        if most > memory:
            problems.add(f"it holds {most / 2**30:.1f} GB")
    if runs():
        for number in session(leader):
            try:
                os.kill(number, 9)
            except ProcessLookupError:
                pass
    return sorted(problems), computed, most


def session(leader: int) -> dict[int, tuple[float, int]]:
    """The processes of a session: for each the seconds that it has computed and the bytes that it holds."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                ticks = sum(map(int, fields[11:15]))  # with its children that have ended
                found[int(path.name)] = (ticks / TICKS, int(fields[21]) * PAGE)
        except (OSError, ValueError, IndexError):
            continue
    return found


def internet_sockets(number: int) -> list[str]:
    """The open IPv4 and IPv6 sockets of a process."""
    inodes = set()
    for kind in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        try:
            lines = pathlib.Path(f"/proc/{number}/net/{kind}").read_text().splitlines()[1:]
        except OSError:
            continue
        inodes |= {line.split()[9] for line in lines}
    found = []
    for path in pathlib.Path(f"/proc/{number}/fd").glob("*"):
        try:
            target = os.readlink(path)
        except OSError:
            continue
        if target.startswith("socket:[") and target[8:-1] in inodes:
            found.append(target)
    return found
