"""What tests of the training loop do to a run of the toy stage, and read from its folder."""

import json


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def saved_steps(directory):
    return sorted(int(path.name) for path in (directory / "checkpoints").iterdir() if path.name.isdigit())


def at(step, action):
    """A `before` for the toy batches that runs `action` when the batch of `step` is requested."""
    return lambda number: action() if number == step else None


class Crash(Exception):
    """Stands for a program that dies in the middle."""


def crash():
    raise Crash
