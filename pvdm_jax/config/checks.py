"""Checks of settings. Each raises a ConfigError that names the field, its value and what is allowed."""

from typing import Any


class ConfigError(ValueError):
    """An invalid setting: the message names the field, its value and what is allowed."""


def require(condition: bool, field: str, value: Any, allowed: str) -> None:
    """Raises ConfigError(`field is value; allowed`) unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{field} is {value!r}; {allowed}")


def positive(section: str, config: Any, *names: str) -> None:
    """Requires that the named fields of `config` are positive. section: what their names begin with in the message."""
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{section}.{name}", value, "it must be positive")


def at_least_zero(section: str, config: Any, *names: str) -> None:
    """Requires that the named fields are not negative."""
    for name in names:
        value = getattr(config, name)
        require(value >= 0, f"{section}.{name}", value, "it can't be negative")


def probability(section: str, config: Any, *names: str) -> None:
    """Requires that the named fields lie between 0 and 1."""
    for name in names:
        value = getattr(config, name)
        require(0 <= value <= 1, f"{section}.{name}", value, "a probability lies between 0 and 1")


def one_of(section: str, config: Any, name: str, allowed: tuple[str, ...]) -> None:
    """Requires that the field is one of the allowed values."""
    value = getattr(config, name)
    require(value in allowed, f"{section}.{name}", value, f"choose one of {', '.join(allowed)}")
