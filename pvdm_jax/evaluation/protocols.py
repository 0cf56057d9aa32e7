"""The protocol that a command names: one of the built-in ones or a JSON file, with changes from the command line."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from pvdm_jax.config import ConfigError, config_from_dict, require
from pvdm_jax.config.evaluation import PROTOCOLS, ProtocolConfig
from pvdm_jax.storage.json_files import read_json


def load_protocol(name: str, changes: Sequence[str] = (), features: str | None = None) -> ProtocolConfig:
    """The protocol with this name or from this JSON file, with changes written as `field=value`, lists as 16,128.

    features: feature spaces to use instead of the protocol's, also a list. The name of a changed protocol ends with a
    plus. Raises ConfigError for an unknown name or field or an invalid value, and FileNotFoundError if there is no such
    file.
    """
    if name in PROTOCOLS:
        protocol = PROTOCOLS[name]
    else:
        allowed = f"choose {', '.join(PROTOCOLS)}, or name a .json file of its fields"
        require(name.endswith(".json"), "--protocol", name, allowed)
        values = {"name": pathlib.Path(name).stem} | read_json(name, dict)
        try:
            protocol = config_from_dict(ProtocolConfig, values, "protocol.")
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    changed = dict(_parse(change) for change in changes)
    if features is not None:
        changed["features"] = tuple(features.split(","))
    differing = {field: value for field, value in changed.items() if getattr(protocol, field) != value}
    if not differing:
        return protocol
    values = dataclasses.asdict(protocol) | differing
    if "name" not in differing:
        values["name"] = f"{protocol.name.removesuffix('+')}+"
    return config_from_dict(ProtocolConfig, values, "protocol.")


def _parse(change: str) -> tuple[str, Any]:
    """The field and the value of a change `field=value`, converted to the field's type."""
    field, equals, text = change.partition("=")
    defaults = dataclasses.asdict(ProtocolConfig())
    require(equals == "=", "--set", change, "write field=value")
    require(field in defaults, "--set", change, f"there is no such field; a protocol has {', '.join(defaults)}")
    default = defaults[field]
    try:
        if isinstance(default, tuple):
            kind = type(default[0])
            return field, tuple(kind(part) for part in text.split(","))
        return field, type(default)(text)
    except ValueError as error:
        kind = "a list such as 16,128" if isinstance(default, tuple) else type(default).__name__
        raise ConfigError(f"protocol.{field} is {text!r}; {kind} is needed") from error
