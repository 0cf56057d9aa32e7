"""From a configuration file and command-line overrides to one checked `Config`.

A configuration file is Python with a function `get_config()`, or `get_config(variant)`, that returns an
ml_collections ConfigDict: `default_config()` with some fields changed. `configs/` has the project's own; a bare name
such as "demo" means one of those. Overrides (`--config.denoiser.width=64`) are parsed by ml_collections'
config_flags, by the type of the field that they set. Whatever can't be used is refused with a ConfigError.
"""

import dataclasses
import difflib
import importlib.util
import inspect
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from pvdm_jax.config import Config, ConfigError, DenoiserConfig, config_from_dict, require

DENOISER_NAME = "--config.denoiser.name="


def default_config() -> ConfigDict:
    """All fields of `Config` with their defaults, to be changed by a configuration file."""
    return ConfigDict(dataclasses.asdict(Config()))


def use_denoiser(config: ConfigDict, name: str) -> None:
    """Makes the denoiser of `config` one of the kind `name`.

    Fields that every denoiser has keep their values; the others have that kind's defaults. Raises ConfigError if there
    is no such kind.
    """
    if name == config.denoiser.name:
        return
    shared = {field.name for field in dataclasses.fields(DenoiserConfig)} - {"name"}
    kept = {field: config.denoiser[field] for field in shared}
    config.denoiser = ConfigDict(dataclasses.asdict(DenoiserConfig.kind(name)()) | kept)


def config_folder() -> Path:
    """The folder of the project's own configuration files: installed within the package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def config_names() -> list[str]:
    """The names of the project's own configuration files."""
    return sorted(path.stem for path in config_folder().glob("*.py") if path.stem != "__init__")


def load_settings(spec: str, overrides: Sequence[str] = ()) -> Config:
    """Loads "FILE.py", "FILE.py:variant", "NAME" or "NAME:variant" and applies `overrides` in their order.

    An override is "--config.some.field=value"; for a boolean field "--config.some.field" and "--noconfig.some.field"
    work as well. A list of integers is written 1,2,4. Raises ConfigError for a missing file, an unknown variant or
    field, a value of the wrong type, or one that `Config` refuses. Exceptions of a configuration file's own code pass
    through.
    """
    name, _, variant = spec.partition(":")
    config = _get_config(_find(name), spec, variant)
    # The denoiser's kind decides which fields there are, so it comes first.
    for override in sorted(overrides, key=lambda text: not text.startswith(DENOISER_NAME)):
        if override.startswith(DENOISER_NAME):
            use_denoiser(config, override.removeprefix(DENOISER_NAME))
        else:
            config = _override(config, override)
    return config_from_dict(Config, config)


def _find(name: str) -> Path:
    path = Path(name) if name.endswith(".py") else config_folder() / f"{name}.py"
    allowed = f"name a configuration file, or one of {', '.join(config_names())}"
    require(path.is_file(), "--config", name, f"there is no file {path}; {allowed}")
    return path


def _get_config(path: Path, spec: str, variant: str) -> ConfigDict:
    module_spec = importlib.util.spec_from_file_location(f"pvdm_config_{path.stem}", path)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config is {spec!r}; it is not Python: {error}") from error
    get_config = getattr(module, "get_config", None)
    require(callable(get_config), "--config", spec, "the file has no function get_config()")
    _check_variant(inspect.signature(get_config), path, spec, variant)
    config = get_config(variant) if variant else get_config()
    allowed = "get_config() must return a ConfigDict, such as default_config() with some fields changed"
    require(isinstance(config, ConfigDict), "--config", spec, f"it returns a {type(config).__name__}; {allowed}")
    missing = [field.name for field in dataclasses.fields(Config) if field.name not in config]
    require(not missing, "--config", spec, f"it lacks {', '.join(missing)}; {allowed}")
    return config


def _check_variant(signature: inspect.Signature, path: Path, spec: str, variant: str) -> None:
    """Raises ConfigError if a variant is given that `get_config` does not take, or one that it needs is missing."""
    parameters = signature.parameters.values()
    needed = [parameter for parameter in parameters if parameter.default is inspect.Parameter.empty]
    needed = [parameter for parameter in needed if parameter.kind is not inspect.Parameter.VAR_POSITIONAL]
    require(not variant or len(parameters) > 0, "--config", spec, f"{path.name} has no variants")
    require(variant or not needed, "--config", spec, f"{path.name} needs a variant: {spec}:VARIANT")


def _override(config: ConfigDict, override: str) -> ConfigDict:
    """Applies one override. They are applied one at a time, so that an error is about a known field."""
    name, _, value = override.partition("=")
    prefix = next((prefix for prefix in ("--config.", "--noconfig.") if name.startswith(prefix)), None)
    require(prefix is not None, "override", override, "write --config.some.field=value")
    field = name.removeprefix(prefix)
    kind = _field_type(field, value, config.denoiser.name)
    flag_values = flags.FlagValues()
    argv = ["pvdm", override]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=flag_values, sys_argv=argv)
        flag_values(argv)
    except (flags.Error, TypeError, ValueError) as error:
        raise ConfigError(f"{field} is {value!r}; {_described(kind)} is needed here") from error
    return flag_values.config


def _described(kind: type) -> str:
    plain = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}
    return plain.get(kind, "a list of integers such as 1,2,4")


def _field_type(field: str, value: str, denoiser: str) -> type:
    """The declared type of a dotted field, in a configuration whose denoiser is of the given kind.

    Raises ConfigError if there is no such field, or it is a group.
    """
    group, path = Config, ""
    for name in field.split("."):
        names = [f.name for f in dataclasses.fields(group)] if dataclasses.is_dataclass(group) else []
        if name not in names:
            known = (
                f"{path.rstrip('.') or 'the config'} has {', '.join(names)}" if names else f"{path[:-1]} is not a group"
            )
            raise ConfigError(f"{field} is {value!r}; there is no such field; {known}{_suggestion(field, denoiser)}")
        group = _declared(group, name, denoiser)
        path += f"{name}."
    if dataclasses.is_dataclass(group):
        names = ", ".join(f"{path}{f.name}" for f in dataclasses.fields(group))
        raise ConfigError(f"{field} is {value!r}; it is a group of fields, set one of {names}")
    return group


def _declared(group: type, name: str, denoiser: str) -> type:
    """The declared type of a group's field; of the denoiser, the class of its kind."""
    declared = typing.get_type_hints(group)[name]
    return DenoiserConfig.kind(denoiser) if declared is DenoiserConfig else declared


def _suggestion(field: str, denoiser: str) -> str:
    """A hint naming fields whose last part is the same or spelt alike, preferably fields of the same group."""
    group, _, last = field.rpartition(".")
    fields = list(_all_fields(Config, "", denoiser))
    alike = difflib.get_close_matches(last, {known.rpartition(".")[2] for known in fields}, n=1, cutoff=0.7)
    close = [known for known in fields if known.rpartition(".")[2] in alike]
    close = [known for known in close if known.rpartition(".")[0] == group] or close
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _all_fields(group: type, path: str, denoiser: str) -> Iterator[str]:
    for field in dataclasses.fields(group):
        declared = _declared(group, field.name, denoiser)
        if dataclasses.is_dataclass(declared):
            yield from _all_fields(declared, f"{path}{field.name}.", denoiser)
        else:
            yield f"{path}{field.name}"
