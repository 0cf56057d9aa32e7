"""Converts settings to and from nested mappings (a ConfigDict, parsed JSON)."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from pvdm_jax.config.checks import check_number, require
from pvdm_jax.config.denoisers import DenoiserConfig, UNetConfig
from pvdm_jax.config.run import Config


def config_to_dict(config: Any) -> dict[str, Any]:
    """A dataclass of settings as nested dicts and lists, ready for JSON; `config_from_dict` is the inverse."""

    def plain(value):
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return list(value) if isinstance(value, tuple) else value

    return plain(config)


def default_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of all fields of a `Config` whose denoiser is of the kind named in `settings` (nested dicts)."""
    kind = settings.get("denoiser", {}).get("name", UNetConfig.name)
    return config_to_dict(Config()) | {"denoiser": config_to_dict(DenoiserConfig.kind(kind)())}


def config_from_dict(cls: type, values: Mapping[str, Any], path: str = "") -> Any:
    """Makes the dataclass `cls` from a mapping (a ConfigDict or parsed JSON), checking every name and type.

    path: the prefix of field names in messages. A missing field has its default; an int is accepted for a float. A
    denoiser's class follows from its name. Raises ConfigError for an unknown field (listing the allowed ones), a wrong
    type, or a value that `cls` rejects.
    """
    if cls is DenoiserConfig:
        cls = DenoiserConfig.kind(values.get("name", UNetConfig.name))
    hints = typing.get_type_hints(cls)
    allowed = [f.name for f in dataclasses.fields(cls)]
    made = {}
    for name, value in values.items():
        field = f"{path}{name}"
        require(
            name in allowed,
            field,
            value,
            f"there is no such field; {path.rstrip('.') or 'the config'} has {', '.join(allowed)}",
        )
        made[name] = _convert(hints[name], value, field)
    return cls(**made)


def _convert(hint: Any, value: Any, field: str) -> Any:
    if dataclasses.is_dataclass(hint):
        require(isinstance(value, Mapping) or hasattr(value, "items"), field, value, "a group of fields is needed here")
        return config_from_dict(hint, value, f"{field}.")
    if typing.get_origin(hint) in (tuple, types.GenericAlias):
        require(isinstance(value, list | tuple), field, value, "a list is needed here")
        return tuple(_convert(typing.get_args(hint)[0], item, field) for item in value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        check_number(field, value)
        value = float(value)
    correct = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    require(correct, field, value, f"{hint.__name__} is needed here, not {type(value).__name__}")
    return value
