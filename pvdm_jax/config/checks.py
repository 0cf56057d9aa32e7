"""Checks of settings. Each raises a ConfigError that names the field, its value and what is allowed."""

import dataclasses
import numbers
import unicodedata
from collections.abc import Sequence
from typing import Any

MAX_SEED = 2**32 - 1
LARGEST = 2**31 - 1  # the largest number of steps, clips, pixels, ...: arrays are indexed with 32 bits

SMALLEST = 1e-30  # the smallest magnitude except 0: float32 holds smaller ones inexactly, or as 0
HIGHEST_DECAY = 0.999999  # of averages: float32 hardly tells larger ones from 1, and 1 - decay is a divisor
MAX_SHOWN = 300  # characters of a value in a message
MAX_LISTED = 5  # problems in a message


class ConfigError(ValueError):
    """An invalid setting: the message names the field, its value and what is allowed."""


def one_line(text: str) -> str:
    """The text with line breaks and everything else that isn't printable as escapes, for one line of a log.

    Every refusal goes through this once, in `cli.endings`: file names may hold any characters.
    """
    return text if text.isprintable() else "".join(c if _is_visible(c) else repr(c)[1:-1] for c in text)


def listed(problems: Sequence[str]) -> str:
    """The first MAX_LISTED problems, and how many more there are, for a message of one line."""
    more = len(problems) - MAX_LISTED
    return "; ".join(problems[:MAX_LISTED]) + (f"; and {more:,} more" if more > 0 else "")


def require(condition: bool, field: str, value: Any, allowed: str) -> None:
    """Raises ConfigError(`field is value; allowed`) unless `condition` holds."""
    if not condition:
        text = repr(value)
        shown = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text):,} characters)"
        raise ConfigError(f"{field} is {shown}; {allowed}")


def check_seed(field: str, value: Any) -> None:
    """Raises ConfigError unless `value` is a seed of 32 bits: of larger ones, several would give the same numbers."""
    allowed = f"an integer from 0 to 2^32 - 1 ({MAX_SEED}) is needed"
    require(_is_integer(value) and 0 <= value <= MAX_SEED, field, value, allowed)


def check_number(field: str, value: float) -> None:
    """Raises ConfigError unless float32 holds `value`, and a few products with it, as finite numbers."""
    allowed = f"a finite number is needed here: 0, or a magnitude from {SMALLEST:g} to {LARGEST}"
    require(value == 0 or SMALLEST <= abs(value) <= LARGEST, field, value, allowed)


def check_numbers(section: str, config: Any) -> None:
    """Checks every field of a dataclass that is a float or a tuple of floats with `check_number`."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.type in (float, tuple[float, ...]):
            for number in value if isinstance(value, tuple) else (value,):
                check_number(f"{section}.{field.name}", number)


def positive(section: str, config: Any, *names: str) -> None:
    """Requires that the named fields of `config` are positive and at most LARGEST.

    section: the prefix of their names in the message.
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
        require(lowest <= value <= highest, f"{section}.{name}", value, f"it must lie between {lowest} and {highest}")


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
