"""How commands read: the options that say it of a data file, the same for every command, and the lines of a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import click

from emogen.data.exchange import Columns, Reading
from emogen.data.rows import FORMATS, QUOTINGS, known_encoding, parse_delimiter
from emogen.emotions import LABEL_SETS, named_label_set
from emogen.errors import DataError

Command = Callable[..., Any]

_COLUMNS = ("reply", "emotion", "context", "split")
_LABELS_HELP = f"{', '.join(LABEL_SETS)}, or names with commas between.  [default: the file's own; ekman for a pipe]"


def reading_options(command: Command) -> Command:
    """Adds the options to a click command, which gets the Reading they make as `reading`."""
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
    @click.option("--encoding", metavar="NAME", default="", help="Of the file, such as gb18030 or cp1252.  [default: utf-8]")
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
        return command(reading=_reading(options), **options)

    return with_reading


def _column(name: str, default: str, text: str) -> Callable[[Command], Command]:
    return click.option(f"--{name}-column", metavar="NAME", default=default, show_default=True, help=text)


def _reading(options: dict[str, Any]) -> Reading:
    """Takes its own options out of `options`."""
    columns = Columns(**{name: options.pop(f"{name}_column") for name in _COLUMNS}, emotions=options.pop("emotion_columns"))
    labels, class_names = options.pop("labels"), options.pop("class_names")
    if class_names:
        named_label_set(class_names)
    return Reading(
        columns=columns,
        labels=named_label_set(labels) if labels else None,
        max_words=options.pop("max_words"),
        format=options.pop("format") or "",
        delimiter=parse_delimiter(options.pop("delimiter")),
        encoding=known_encoding(options.pop("encoding")),
        header=options.pop("header"),
        quoting=options.pop("quoting"),
        fix_text=options.pop("fix_text"),
        class_names=class_names,
    )


def piped_lines() -> Iterator[str]:
    """Lines as they come; a pipe may have no end, so that nothing is kept of it."""
    if sys.stdin is None:
        raise DataError("-: standard input is closed; name a file")
    for number, line in enumerate(sys.stdin.buffer):
        yield line.decode("utf-8" if number else "utf-8-sig", "replace").rstrip("\r\n")
