"""Checks of settings. Each raises a ConfigError that names the field, its value and what is allowed."""

import dataclasses
import numbers
import unicodedata
from collections.abc import Sequence
from typing import Any

MAX_SEED = 2**32 - 1
LARGEST = 2**31 - 1  # of any number of steps, clips, pixels, ...: arrays are indexed with 32 bits

SMALLEST = 1e-30  # of any number but 0: 32 bits hold smaller ones badly, or as 0
HIGHEST_DECAY = 0.999999  # of averages: 32 bits hardly tell larger ones from 1, and 1 - 1 is divided by
MAX_SHOWN = 300  # characters of a value in a message
MAX_LISTED = 5  # problems in a message


class ConfigError(ValueError):
    """An invalid setting: the message names the field, its value and what is allowed."""


def one_line(text: str) -> str:
    """Text as a terminal or a log shows it on one line: line breaks and whatever else isn't printable become escapes.

    Every refusal goes through it once, in `cli.endings`: names of files may hold any characters.
    """
    return text if text.isprintable() else "".join(c if _is_visible(c) else repr(c)[1:-1] for c in text)


def listed(problems: Sequence[str]) -> str:
    """The first MAX_LISTED of several problems, and how many more there are, for a message of one line."""
    more = len(problems) - MAX_LISTED
    return "; ".join(problems[:MAX_LISTED]) + (f"; and {more:,} more" if more > 0 else "")


def require(condition: bool, field: str, value: Any, allowed: str) -> None:
    """Raises ConfigError(`field is value; allowed`) unless `condition` holds."""
    if not condition:
        text = repr(value)
        shown = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text):,} characters)"
        raise ConfigError(f"{field} is {shown}; {allowed}")


def check_seed(field: str, value: Any) -> None:
    """Raises ConfigError unless `value` can seed a key: beyond 32 bits, several seeds would give the same numbers."""
    allowed = f"an integer from 0 to 2^32 - 1 ({MAX_SEED}) is needed"
    require(_is_integer(value) and 0 <= value <= MAX_SEED, field, value, allowed)


def check_number(field: str, value: float) -> None:
    """Raises ConfigError unless 32 bits hold `value`, and what is made of it by a few products, as a finite number."""
    allowed = f"a finite number is needed here: 0, or of a size from {SMALLEST:g} to {LARGEST}"
    require(value == 0 or SMALLEST <= abs(value) <= LARGEST, field, value, allowed)


def check_numbers(section: str, config: Any) -> None:
    """Checks every field of a dataclass that is a float, or a tuple of them, by `check_number`."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.type in (float, tuple[float, ...]):
            for number in value if isinstance(value, tuple) else (value,):
                check_number(f"{section}.{field.name}", number)


def positive(section: str, config: Any, *names: str) -> None:
    """Requires that the named fields of `config` are positive and at most LARGEST.

    section: what their names begin with in the message.
    """
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{section}.{name}", value, "it must be positive")
    at_most(section, config, LARGEST, *names)


def at_least_zero(section: str, config: Any, *names: str) -> None:
    """Requires that the named fields are not negative, and at most LARGEST."""
    for name in names:
        value = getattr(config, name)
        require(value >= 0, f"{section}.{name}", value, "it can't be negative")
    at_most(section, config, LARGEST, *names)


def within(section: str, config: Any, lowest: float, highest: float, *names: str) -> None:
    """Requires that the named fields lie between two numbers."""
    for name in names:
        value = getattr(config, name)
        require(lowest <= value <= highest, f"{section}.{name}", value, f"it lies between {lowest} and {highest}")


def decay(section: str, config: Any, *names: str) -> None:
    """Requires that the named fields, decays of moving averages, lie between 0 and HIGHEST_DECAY."""
    within(section, config, 0, HIGHEST_DECAY, *names)


def at_most(section: str, config: Any, limit: int, *names: str) -> None:
    """Requires that the named fields are at most `limit`: more would only exhaust the memory."""
    for name in names:
        value = getattr(config, name)
        require(value <= limit, f"{section}.{name}", value, f"it can't be larger than {limit}")


def probability(section: str, config: Any, *names: str) -> None:
    """Requires that the named fields lie between 0 and 1."""
    for name in names:
        value = getattr(config, name)
        require(0 <= value <= 1, f"{section}.{name}", value, "a probability lies between 0 and 1")


def one_of(section: str, config: Any, name: str, allowed: tuple[str, ...]) -> None:
    """Requires that the field is one of the allowed values."""
    value = getattr(config, name)
    require(value in allowed, f"{section}.{name}", value, f"choose one of {', '.join(allowed)}")


def _is_visible(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
