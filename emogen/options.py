"""Settings as frozen dataclasses, and the click options, TOML files and environment variables that set their fields."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from emogen.errors import SettingsError
from emogen.files import read_toml

T = TypeVar("T")
Command = Callable[..., Any]
# Old name -> new one; the old ones are understood until 0.2.
RENAMED = {
    "grace_seconds": "shutdown_timeout",
    "least_pairs": "min_pairs",
    "most_rows": "max_batch_size",
    "most_waiting": "max_queue",
    "open": "allow_unauthenticated",
    "seconds": "reply_timeout",
    "standardise": "scale_advantages",
    "untold": "unconditional_share",
}


def current_option(name: str) -> str:
    """Return an option's name of today, and say on standard error that the one given is old.

    Args:
        name: without its dashes in front.
    """
    new = RENAMED.get(name.replace("-", "_"), "").replace("_", "-")
    if not new:
        return name
    click.echo(f"--{name} is now --{new}; the old name goes away in 0.2", err=True)
    return new


def setting(default: T, help_text: str) -> T:
    """Return a dataclass field that becomes an option with this help."""
    return dataclasses.field(default=default, metadata={"help": help_text})


def options_of(settings: type) -> Callable[[Command], Command]:
    """Add a click option for each field of a settings class; one that is not given arrives as None.

    `batch_size` becomes `--batch-size` and is also read from `EMOGEN_BATCH_SIZE`.
    """

    def decorate(command: Command) -> Command:
        for field in reversed(dataclasses.fields(settings)):
            command = _option(field, typing.get_type_hints(settings)[field.name])(command)
        return command

    return decorate


def settings_options(settings: type) -> Callable[[Command], Command]:
    """Add the options of a settings class, `--config` (as `config_file`) and `--show-config`."""

    def decorate(command: Command) -> Command:
        for option in (
            options_of(settings),
            click.option("--show-config", is_flag=True, help="Print the settings as TOML and stop."),
            click.option("--config", "config_file", type=click.Path(path_type=Path), help="TOML file with settings."),
        ):
            command = option(command)
        return command

    return decorate


def settings_from(
    command: str, settings: type[T], config_file: Path | None, given: Mapping[str, object], *defaults: Mapping[str, object]
) -> T:
    """Return settings of a command: `defaults` in their order, then the file of `--config`, then what was given."""
    own = read_settings(config_file, settings, command) if config_file else {}
    return resolve(settings, given, *defaults, own)


def resolve(settings: type[T], given: Mapping[str, object], *files: Mapping[str, object]) -> T:
    """Return settings from defaults, then `files` in their order, then what was given (None counts as not given).

    Raises:
        SettingsError: a value that the settings class refuses.
    """
    values: dict[str, object] = {}
    for table in (*files, {name: value for name, value in given.items() if value is not None}):
        values |= table
    return settings(**values)


def read_settings(path: str | Path, settings: type, table: str) -> dict[str, object]:
    """Return the settings in a TOML file: its top level, or the table of that name where it has one.

    A table `map` is for `--map`.

    Raises:
        SettingsError: unreadable, a key that is no setting, or a value of another type.
    """
    path = Path(path)
    try:
        content = read_toml(path)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: cannot be read as TOML ({error})") from None
    if isinstance(content.get("map"), dict):
        content.pop("map")
    if not isinstance(content.get(table), dict):
        return check_settings(content, settings, str(path))
    outside = [key for key, value in content.items() if not isinstance(value, dict)]
    if outside:
        raise SettingsError(f"{path}: {outside[0]!r} stands outside [{table}]; move it into that table")
    return check_settings(content[table], settings, str(path))


def check_settings(values: Mapping[str, Any], settings: type, where: str) -> dict[str, object]:
    """Return `values` with the settings' types.

    Raises:
        SettingsError: a key that is no setting, or a value of another type.
    """
    hints = typing.get_type_hints(settings)
    names = {field.name for field in dataclasses.fields(settings)}
    result: dict[str, object] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        name = RENAMED.get(name, name) if name not in names else name
        if name not in names:
            raise SettingsError(f"{where}: unknown setting {key!r}; known are {', '.join(sorted(names))}")
        result[name] = _convert(value, hints[name], f"{where}: {key}")
    return result


def as_toml(settings: object) -> str:
    """Return settings as TOML that `--config` reads back; unset ones are left out."""
    lines = []
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, field.name)
        if value is not None:
            lines.append(f"{field.name} = {_toml_value(value)}")
    return "\n".join(lines) + "\n"


def _option(field: dataclasses.Field[Any], hint: Any) -> Callable[[Command], Command]:
    kind = _plain(hint)
    flag = f"--{field.name.replace('_', '-')}"
    envvar = [f"EMOGEN_{name.upper()}" for name in (field.name, *(old for old, new in RENAMED.items() if new == field.name))]
    shown = "" if field.default is None or field.default == "" else f"  [default: {field.default}]"
    help_text = field.metadata.get("help", "") + shown
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", field.name, default=None, envvar=envvar, help=help_text)
    choice = click.Choice(typing.get_args(kind)) if typing.get_origin(kind) is Literal else kind
    return click.option(flag, field.name, type=choice, default=None, envvar=envvar, help=help_text)


def _plain(hint: Any) -> Any:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _convert(value: Any, hint: Any, where: str) -> Any:
    kind = _plain(hint)
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            raise SettingsError(f"{where}: {value!r} is not one of {', '.join(map(str, typing.get_args(kind)))}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise SettingsError(f"{where}: {value!r} is no {kind.__name__}")
    return value


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
