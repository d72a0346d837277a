"""Which column of a row is what: context, reply, emotion, split."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import lru_cache

from emogen.data.cells import parse_flag, parse_number
from emogen.data.rows import (
    Row,
    find_column,
)
from emogen.emotions.labels import EKMAN, TO_EKMAN
from emogen.text.words import words

_MAX_SHOWN_COLUMNS = 20


# Of a header there are hardly columns with more words.
_HEADER_WORDS = 4


_ALIKE = 0.8


_KNOWN_NAMES = frozenset((*EKMAN.names, *TO_EKMAN, "anticipation", "trust", "pessimism", "hate", "boredom"))


_TEXT_NAMES = ("tweet", "sentence", "content", "utterance", "message", "comment", "post", "review", "response", "answer")


NUMBERS_REMEDY = (
    "where numbers stand for classes, name them with --class-names or --map, or keep them as names, as in --labels 0,1,2; "
    "a column of measurements holds no emotions"
)


_PAIR_COLUMNS = ({"chosen", "rejected"}, {"better", "worse"})


@dataclass(frozen=True)
class Columns:
    """The names under which a file keeps its fields; `a|b` takes the first that is there, "" none.

    A name is found with other upper and lower case too, where it is not there as it is written.

    Attributes:
        reply: the text that carries the emotion.
        emotion: its emotion.
        context: earlier utterances; may be missing.
        split: train, valid or test; may be missing.
        emotions: in place of `emotion`, names of columns that hold 0 or 1 each, with commas between them.
    """

    reply: str = "reply|text"
    emotion: str = "emotion|label"
    context: str = "context"
    split: str = "split"
    emotions: str = ""

    @property
    def emotion_names(self) -> tuple[str, ...]:
        """Return the columns of `emotions`, each the name of an emotion."""
        return tuple(name.strip() for name in self.emotions.split(",") if name.strip())


def plain_words(text: str) -> list[str]:
    """Return words of a text without marks and emoji, in lower case; every CJK character is one.

    >>> plain_words("(Well, I'm fine.) 我很好！")
    ['well', "i'm", 'fine', '我', '很', '好']
    """
    return [word for word in words(text) if word[0].isalnum()]


class UnfitError(Exception):
    """A record that is no exchange."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class ColumnRoles:
    """The fields of a record by what they are read as; an optional one that is not there is empty."""

    reply: str
    emotion: str
    context: str
    split: str
    emotions: tuple[str, ...]


def find_roles(row: Row, columns: Columns) -> ColumnRoles:
    """Find which field is what; raise UnfitError where the reply is missing, or one is two things at once."""
    roles = resolve_roles(tuple(row.fields), columns)
    if not roles.reply:
        raise UnfitError("no such column", describe_columns(row, columns, roles))
    read: dict[str, str] = {}
    for role, name in (
        ("reply", roles.reply),
        *[("emotion", name) for name in roles.emotions or (roles.emotion,)],
        ("context", roles.context),
        ("split", roles.split),
    ):
        if name and name in read:
            free = f", or none with --{role}-column ''" if role in ("context", "split") else ""
            message = f"column {name!r} is read both as {read[name]} and as {role}; name another with --{role}-column{free}"
            raise UnfitError("one column read as two", message)
        read[name] = role
    return roles


@lru_cache(maxsize=256)
def resolve_roles(names: tuple[str, ...], columns: Columns) -> ColumnRoles:
    """Find which of a row's columns have which role."""
    several = tuple(find_column(names, name) or "" for name in columns.emotion_names)
    return ColumnRoles(
        reply=find_column(names, columns.reply) or "",
        emotion="" if several else find_column(names, columns.emotion) or "",
        context=find_column(names, columns.context) or "",
        split=find_column(names, columns.split) or "",
        emotions=several,
    )


def describe_columns(row: Row, columns: Columns, roles: ColumnRoles) -> str:
    """Say which columns are missing, which there are, and what the file may be instead."""
    names = [str(name) for name in row.fields]
    several = columns.emotion_names
    lacking = [columns.reply] if not roles.reply else []
    lacking += [name for name, found in zip(several, roles.emotions, strict=True) if not found]
    lacking += [columns.emotion] if not several and not roles.emotion else []
    wanted = ", nor ".join(" or ".join(repr(part) for part in column.split("|")) for column in lacking)
    more = f", and {len(names) - _MAX_SHOWN_COLUMNS:,} more" if len(names) > _MAX_SHOWN_COLUMNS else ""
    found = ", ".join(names[:_MAX_SHOWN_COLUMNS]) + more or "none"
    return f"no column {wanted}, found {found}; {_column_remedy(row, columns, roles)}"


def _column_remedy(row: Row, columns: Columns, roles: ColumnRoles) -> str:
    names = [str(name) for name in row.fields]
    if any(pair <= {name.casefold() for name in names} for pair in _PAIR_COLUMNS):
        return "pairs of a better and a worse reply are read by emogen train-feedback --feedback FILE"
    flags = _flag_columns(row)
    known = [name for name in names if name.strip().casefold() in _KNOWN_NAMES]
    is_text = any(len(plain_words(name)) > _HEADER_WORDS or parse_number(name) is not None for name in names)
    if row.is_table and not flags and (known or is_text):
        return "if these are the cells of a row and the file has no header, name its columns, as in --header text,label"
    options = [] if roles.reply else [f"--reply-column{_likely_name(columns.reply, names)}"]
    if columns.emotions and "" in roles.emotions:
        options.append("--emotion-columns")
    elif flags and not roles.emotion:
        options.append(f"--emotion-columns {','.join(flags)}")
    elif not roles.emotion and not roles.emotions:
        options.append(f"--emotion-column{_likely_name(columns.emotion, names)}")
    return f"name {'them' if options[1:] else 'it'} with {' and '.join(options)}"


def _flag_columns(row: Row) -> list[str]:
    """Return columns with 0 or 1, from the first that is named as an emotion; empty unless two are so named."""
    held = [str(name) for name, value in row.fields.items() if parse_flag(value) is not None]
    known = [place for place, name in enumerate(held) if name.strip().casefold() in _KNOWN_NAMES]
    return held[known[0] :] if len(known) > 1 else []


def _likely_name(wanted: str, names: list[str]) -> str:
    """Return the column that was probably meant, after a blank; empty if none is alike."""
    candidates = [*wanted.split("|"), *(_TEXT_NAMES if "text" in wanted else ())]
    same = [name for name in names if name.strip().casefold() in candidates]
    alike = same or [name for name in names if difflib.get_close_matches(name.strip().casefold(), candidates, 1, _ALIKE)]
    return f" {alike[0]}" if alike else ""
