"""How commands read: the options that say it of a data file, the same for every command, and the lines of a pipe."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from itertools import chain
from pathlib import Path
from typing import Any

import click

from emogen.data.columns import Columns
from emogen.data.encodings import known_encoding
from emogen.data.exchange import Reading
from emogen.data.label_use import Renames
from emogen.data.rows import FORMATS, QUOTINGS, parse_delimiter
from emogen.emotions.labels import LABEL_SETS, LabelSet, named_label_set
from emogen.emotions.names import is_name, normalize_name
from emogen.errors import DataError, SettingsError, on_one_line
from emogen.files import read_toml

Command = Callable[..., Any]

_COLUMNS = ("reply", "emotion", "context", "split")
_LABELS_HELP = f"{', '.join(LABEL_SETS)}, or names with commas between.  [default: the file's own; ekman for a pipe]"


def reading_options(command: Command) -> Command:
    """Add the options to a click command, which gets the Reading they make as `reading`."""
    default = Reading()
    columns = default.columns

    @_column("reply", columns.reply, "Column of the text; a|b takes the first that is there.")
    @_column("emotion", columns.emotion, "Column of the emotion.")
    @click.option(
        "--emotion-columns",
        metavar="NAMES",
        default="",
        help="Columns with 0 or 1, one an emotion, with commas between, in place of --emotion-column.",
    )
    @_column("context", columns.context, "Column of earlier utterances: a list, or text with || between; '' reads none.")
    @_column("split", columns.split, "Column of train, valid, test; '' reads none.")
    @click.option("--labels", metavar="NAMES", help=_LABELS_HELP)
    @click.option(
        "--max-words",
        type=click.IntRange(min=1),
        default=default.max_words,
        show_default=True,
        help="A longer reply is an error; each CJK character is a word.",
    )
    @map_option
    @click.option("--skip-blank", is_flag=True, help="Leave out rows without a text or a label, and say how many.")
    @click.option("--format", type=click.Choice(FORMATS), help="Where the name does not say.  [default for -: jsonl]")
    @click.option(
        "--class-names",
        metavar="NAMES",
        default="",
        help="Names of the classes 0, 1, 2, ... where the emotion column holds numbers; goemotions or a list as in --labels.",
    )
    @click.option(
        "--delimiter",
        default="",
        help="Between the cells of a table: a character, or tab, comma, semicolon, pipe.  [default: detected]",
    )
    @click.option(
        "--encoding", metavar="NAME", default="", help="Encoding of the file, such as gb18030 or cp1252.  [default: utf-8]"
    )
    @click.option("--header", metavar="NAMES", default="", help="Names of the columns of a table without a header line.")
    @click.option(
        "--quoting",
        type=click.Choice(QUOTINGS),
        default=default.quoting,
        show_default=True,
        help="Whether cells of a table may be quoted, or quotes are plain characters.",
    )
    @click.option(
        "--fix-text",
        is_flag=True,
        help="Decode &amp; and written-out \\n in texts, and UTF-8 that was read as Windows-1252.",
    )
    @wraps(command)
    def with_reading(**options: Any) -> Any:
        return command(reading=_take_reading(options), **options)

    return with_reading


def map_option(command: Command) -> Command:
    """Add the option that reads labels as others; it arrives as `map`, for `parse_renames`."""
    return click.option(
        "--map",
        "map",
        multiple=True,
        metavar="NAME=LABEL",
        help="Read the label NAME as LABEL; may be given several times. Also a TOML file with a table [map].",
    )(command)


def parse_renames(given: Sequence[str], labels: LabelSet | None = None) -> Renames:
    """Read what `--map` was given: `NAME=LABEL`, or the path of a TOML file whose table `map` holds such pairs.

    Args:
        given: in the order of the command line.
        labels: that are read in place of others; None lets any name be one.

    Raises:
        SettingsError: what is neither, a name twice with two labels, or a label that is none of `labels`.
    """
    return checked_renames(chain.from_iterable(map(_renames, given)), labels)


def checked_renames(pairs: Iterable[tuple[str, str]], labels: LabelSet | None) -> Renames:
    """Return pairs of `--map`, each once; labels and errors as for `parse_renames`."""
    renames: dict[str, str] = {}
    for name, label in pairs:
        given = f"--map {on_one_line(name)}={on_one_line(label)}"
        for text in (name, label):
            if not is_name(text):
                raise SettingsError(f"{given}: {text!r} is no name of an emotion; write --map happy=joy")
        if renames.setdefault(name, label) != label:
            raise SettingsError(f"{given}: {name!r} is read as {renames[name]!r} already; give one label for it")
        if labels and labels.find(label) is None:
            raise SettingsError(f"{given}: {labels.unknown(label)}")
    return tuple(renames.items())


def with_renames_of(config_file: Path | None, reading: Reading) -> Reading:
    """Add the table `map` of a file of settings to what is read; what the command line says goes before the file."""
    if config_file is None:
        return reading
    pairs = dict(read_renames(config_file)) | dict(reading.renames)
    return dataclasses.replace(reading, renames=checked_renames(pairs.items(), reading.labels))


def _renames(given: str) -> Iterator[tuple[str, str]]:
    if given.endswith(".toml"):
        pairs = read_renames(Path(given))
        if not pairs:
            raise SettingsError(f'--map {on_one_line(given)}: has no table [map]; write happy = "joy" under it')
        yield from pairs
        return
    name, mark, label = map(normalize_name, given.partition("="))
    if not mark:
        raise SettingsError(f"--map {on_one_line(given)}: write NAME=LABEL, or the path of a TOML file with a table [map]")
    yield name, label


def read_renames(path: Path) -> tuple[tuple[str, str], ...]:
    """Read the table `map` of a TOML file; empty where it has none. Raises SettingsError where it cannot be read."""
    try:
        table = read_toml(path).get("map", {})
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: cannot be read as TOML ({error})") from None
    if not isinstance(table, dict) or not all(isinstance(label, str) for label in table.values()):
        raise SettingsError(f'{path}: map is no table of names and labels; write happy = "joy" under [map]')
    return tuple((normalize_name(name), normalize_name(label)) for name, label in table.items())


def _column(name: str, default: str, text: str) -> Callable[[Command], Command]:
    return click.option(f"--{name}-column", metavar="NAME", default=default, show_default=True, help=text)


def _take_reading(options: dict[str, Any]) -> Reading:
    """Take its own options out of `options`."""
    columns = Columns(**{name: options.pop(f"{name}_column") for name in _COLUMNS}, emotions=options.pop("emotion_columns"))
    class_names = options.pop("class_names")
    if class_names:
        named_label_set(class_names)
    names = options.pop("labels")
    labels = named_label_set(names) if names else None
    return Reading(
        columns=columns,
        labels=labels,
        max_words=options.pop("max_words"),
        format=options.pop("format") or "",
        renames=parse_renames(options.pop("map"), labels),
        skip_blank=options.pop("skip_blank"),
        delimiter=parse_delimiter(options.pop("delimiter")),
        encoding=known_encoding(options.pop("encoding")),
        header=options.pop("header"),
        quoting=options.pop("quoting"),
        fix_text=options.pop("fix_text"),
        class_names=class_names,
    )


def piped_lines() -> Iterator[str]:
    """Yield lines as they come; a pipe may have no end, so that nothing is kept of it."""
    if sys.stdin is None:
        raise DataError("-: standard input is closed; name a file")
    for number, line in enumerate(sys.stdin.buffer):
        yield line.decode("utf-8" if number else "utf-8-sig", "replace").rstrip("\r\n")
