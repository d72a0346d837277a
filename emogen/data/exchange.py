"""Exchanges and the files that hold them: JSON lines, CSV and TSV, gzipped or not, or standard input."""

from __future__ import annotations

import gzip
import io
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TextIO

from emogen.data.cells import is_missing, name_of_number, parse_flag, parse_number, parse_structure, split_names
from emogen.data.columns import (
    NUMBERS_REMEDY,
    ColumnRoles,
    Columns,
    UnfitError,
    describe_columns,
    find_roles,
    plain_words,
    resolve_roles,
)
from emogen.data.label_use import LabelUse, Renames, describe_unknown, find_label, rename
from emogen.data.repair import fix_text
from emogen.data.rows import (
    FileLayout,
    Problem,
    Row,
    describe_joined_rows,
    detect_layout,
    read_rows,
    reads_once,
    show_value,
)
from emogen.emotions.labels import EKMAN, Emotion, LabelSet, mixture, named_label_set, parse_shares
from emogen.emotions.names import is_name, normalize_name
from emogen.errors import DataError, SettingsError
from emogen.files import replace_file

Split = Literal["train", "valid", "test", ""]
_SPLITS = ("train", "valid", "test", "")
_SPLIT_NAMES = {
    **{"dev": "valid", "val": "valid", "validation": "valid", "valid": "valid"},
    **{"train": "train", "training": "train", "test": "test", "testing": "test"},
}
_TURN_MARK = "||"
_MAX_LABELS = 1000
UNKNOWN_EMOTION = "unknown emotion"
_STRUCTURE = frozenset('[]{}"')


@dataclass(frozen=True)
class Exchange:
    """One example.

    Attributes:
        context: earlier utterances, oldest first; may be empty.
        reply: the text that carries the emotion.
        emotion: of the reply.
        split: train, valid, test, or empty where the file does not say.
    """

    context: tuple[str, ...]
    reply: str
    emotion: Emotion
    split: Split = ""


@dataclass(frozen=True)
class Reading:
    """How a file is read.

    Attributes:
        columns: names of the fields.
        labels: what emotions are expressed in; None takes the file's own (Ekman-7 where that suffices).
        max_words: a longer reply is reported, not cut.
        format: jsonl, csv or tsv where the file name does not say.
        renames: pairs of a label in the file and the one that is read in its place.
        skip_blank: leave out rows without a text or a label, in place of reporting them.
        delimiter: between the cells of a table; empty detects it where the header has none of the format's own.
        encoding: of the text; empty takes UTF-8, and UTF-16 or UTF-32 after a byte order mark.
        header: names of the columns of a table without a header line, with commas between them.
        quoting: "csv" reads quoted cells of a table, "none" takes quotes for plain characters.
        fix_text: undo what exports left in texts, see `emogen.data.repair`.
        class_names: where the emotion column holds the numbers of classes: `goemotions` or another label set, or names
            with commas between them, of the classes 0, 1, 2 and so on.
    """

    columns: Columns = field(default_factory=Columns)
    labels: LabelSet | None = None
    max_words: int = 1000
    format: str = ""
    renames: Renames = ()
    skip_blank: bool = False
    delimiter: str = ""
    encoding: str = ""
    header: str = ""
    quoting: str = "csv"
    fix_text: bool = False
    class_names: str = ""

    def rows(self, path: str | Path) -> Iterator[Row | Problem]:
        """Yield the records of a file, see `read_rows`."""
        return read_rows(
            path,
            self.format,
            delimiter=self.delimiter,
            encoding=self.encoding,
            header=self.header,
            quoting=self.quoting,
        )

    def layout(self, path: str | Path) -> FileLayout | None:
        """Detect how the file is laid out; None where it can be read only once."""
        return detect_layout(path, self.format, delimiter=self.delimiter, encoding=self.encoding)


def read_exchanges(path: str | Path, reading: Reading | None = None, use: LabelUse | None = None) -> Iterator[Exchange]:
    """Yield exchanges of a file, one at a time, in its order.

    Args:
        path: a file, or "-" for standard input.
        reading: columns, labels, limits.
        use: counts how the rows name their emotions.

    Raises:
        DataError: at the first thing that is wrong, with its line; of unknown emotions, all of the file.
    """
    for _, exchange in good_rows(path, reading or Reading(), use or LabelUse()):
        yield exchange


def good_rows(path: str | Path, reading: Reading, use: LabelUse) -> Iterator[tuple[int, Exchange]]:
    """Yield exchanges with their lines; arguments and errors as for `read_exchanges`."""
    labels = reading.labels or infer_labels(path, reading)
    rows = scan(path, replace(reading, labels=labels), use)
    for found in rows:
        if not isinstance(found, Problem):
            yield found
        elif found.kind == UNKNOWN_EMOTION:
            # The other names too, so that all can be put right at once.
            deque(rows, maxlen=0)
            raise DataError(use.refusal(path, labels, reading.renames))
        else:
            raise DataError(f"{path}:{found.number}: {found.message}")


def scan(
    path: str | Path, reading: Reading | None = None, use: LabelUse | None = None
) -> Iterator[tuple[int, Exchange] | Problem]:
    """Yield every record of a file, good (with its line) or not; what cannot be read at all raises DataError."""
    reading, use = reading or Reading(), use or LabelUse()
    labels = reading.labels or infer_labels(path, reading)
    empty = True
    for found in exchanges_of(reading.rows(path), reading, labels, use):
        empty = False
        yield found
    if empty and use.skipped:
        raise DataError(f"{path}: none of its {use.skipped:,} rows has both a text and a label")
    if empty:
        raise DataError(f"{path}: holds no rows; one exchange a line is expected")


def exchanges_of(
    rows: Iterable[Row | Problem], reading: Reading, labels: LabelSet, use: LabelUse | None = None
) -> Iterator[tuple[int, Exchange] | Problem]:
    """Yield each row as an exchange with its line, or why it is none; problems pass through."""
    use = use or LabelUse()
    for row in rows:
        if isinstance(row, Problem):
            yield replace(row, message=f"{row.message}, or {row.option}", option="") if row.option else row
            continue
        try:
            if not reading.skip_blank or _has_parts(row, reading, use):
                yield row.number, _exchange(row, reading, labels, use)
        except UnfitError as unfit:
            yield Problem(row.number, unfit.kind, str(unfit))


def survey_labels(path: str | Path, reading: Reading) -> LabelUse:
    """Count the names of emotions in a file that can be read more than once; numbers are no names.

    Raises:
        DataError: so many names that the column cannot be one of emotions, or the file cannot be read.
    """
    use = LabelUse()
    for row in reading.rows(path):
        if isinstance(row, Problem):
            continue
        try:
            if reading.skip_blank and not _has_parts(row, reading, use):
                continue
            roles = find_roles(row, reading.columns)
            shares = _shares(row, roles, reading)
        except UnfitError:
            continue
        use.add((name for name in shares if parse_number(rename(name, reading.renames)) is None), row.number)
        if len(use.rows) > _MAX_LABELS and reading.labels is None:
            found = f"column {roles.emotion!r} holds more than {_MAX_LABELS} emotions"
            raise DataError(f"{path}:{row.number}: {found}; name another with --emotion-column, or pass --labels")
    return use


def infer_labels(path: str | Path, reading: Reading) -> LabelSet:
    """Return the label set that a file's own emotion column spans: Ekman-7 if that covers it, else its names in order.

    What can be read only once (standard input, a pipe) is taken for Ekman-7. Errors as for `survey_labels`.
    """
    return EKMAN if reads_once(path) else survey_labels(path, reading).label_set(reading.renames)


def write_exchanges(path: str | Path, exchanges: Iterable[Exchange]) -> int:
    """Write JSON lines (gzipped where the name ends in .gz), whole or not at all; return the number of rows.

    The same exchanges give the same bytes.

    Raises:
        DataError: a text with half of a surrogate pair, which no file can hold.
        EmogenError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    if path.name.removesuffix(".gz").endswith((".csv", ".tsv")):
        raise DataError(f"{path}: JSON lines are written; name the file .jsonl or .jsonl.gz")
    count = 0
    with replace_file(path) as beside, _text_file(beside, zipped=path.suffix == ".gz") as handle:
        for count, exchange in enumerate(exchanges, 1):
            try:
                handle.write(as_json(exchange) + "\n")
            except UnicodeEncodeError:
                raise DataError(f"{path}: exchange {count} holds half of a surrogate pair, no character") from None
    return count


@contextmanager
def _text_file(path: Path, zipped: bool) -> Iterator[TextIO]:
    # gzip would otherwise store the time and the file's passing name, and no two files would be equal.
    with path.open("wb") as raw:
        binary = gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) if zipped else raw
        with io.TextIOWrapper(binary, encoding="utf-8", newline="\n") as handle:
            yield handle


def as_json(exchange: Exchange) -> str:
    """Return the exchange as one line of JSON that `read_exchanges` reads back."""
    names = {n: w for n, w in zip(exchange.emotion.labels.names, exchange.emotion.weights, strict=True) if w > 0}
    record: dict[str, object] = {
        "context": list(exchange.context),
        "reply": exchange.reply,
        "emotion": exchange.emotion.name if len(names) == 1 else names,
    }
    if exchange.split:
        record["split"] = exchange.split
    return json.dumps(record, ensure_ascii=False)


class _BlankError(UnfitError):
    """A record without a text or a label."""


def _has_parts(row: Row, reading: Reading, use: LabelUse) -> bool:
    """Tell whether a row has a text and a label, and count it where it has not; a column that is missing is another matter."""
    roles = resolve_roles(tuple(row.fields), reading.columns)
    try:
        if roles.reply:
            _reply(row, roles, reading)
        if roles.emotion or roles.emotions:
            _shares(row, roles, reading)
    except _BlankError:
        use.skipped += 1
        return False
    except UnfitError:
        pass
    return True


def _exchange(row: Row, reading: Reading, labels: LabelSet, use: LabelUse) -> Exchange:
    roles = find_roles(row, reading.columns)
    _refuse_joined_lines(row, roles, reading, labels)
    reply = _reply(row, roles, reading)
    if len(reply) > reading.max_words and (length := len(plain_words(reply))) > reading.max_words:
        message = f"reply has {length} words, more than {reading.max_words}; split it or raise --max-words"
        raise UnfitError("too long", message)
    shares = _shares(row, roles, reading)
    use.add(shares, row.number)
    return Exchange(
        context=_context(_optional(row, roles.context), reading.fix_text),
        reply=reply,
        emotion=_emotion(shares, labels, reading.renames),
        split=_split(_optional(row, roles.split)),
    )


def _refuse_joined_lines(row: Row, roles: ColumnRoles, reading: Reading, labels: LabelSet) -> None:
    """Refuse a row of several lines each of which is a row of its own, down to its emotion."""
    for alone in row.alone:
        try:
            _emotion(_shares(Row(row.number, alone, is_table=True), roles, reading), labels, reading.renames)
        except UnfitError:
            return
    if row.alone:
        problem = describe_joined_rows(row.number - len(row.alone) + 1, row.number)
        raise UnfitError(problem.kind, f"{problem.message}, or {problem.option}")


def _optional(row: Row, column: str) -> object:
    value = row.fields[column] if column else None
    return "" if value is None or (row.is_table and is_missing(value)) else value


# ---- columns


# ---- cells


def _reply(row: Row, roles: ColumnRoles, reading: Reading) -> str:
    value = row.fields[roles.reply]
    if value is None or (row.is_table and value and is_missing(value)):
        raise _BlankError("empty reply", f"the reply is missing{_format_row(value)}; fill it in, or pass --skip-blank")
    if row.is_table and isinstance(value, str) and not isinstance(parse_structure(value), str | int | float):
        raise UnfitError("reply is no text", f"reply {show_value(value)} is a list or table written out; give one text a row")
    return _text(value, "reply", reading.fix_text)


def _format_row(value: object) -> str:
    return f", written {value!r}" if value and isinstance(value, str) else ""


def _text(value: object, what: str, fix: bool = False) -> str:
    if not isinstance(value, str):
        raise UnfitError(f"{what} is no text", f"{what} {show_value(value)} is no text")
    if not value.strip():
        way_out = "; fill it in, or pass --skip-blank" if what == "reply" else ""
        raise _BlankError(f"empty {what}", f"the {what} is empty{way_out}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise UnfitError("not UTF-8", f"the {what} holds half of a surrogate pair, which is no character")
    return (fix_text(value) if fix else value).strip()


def _context(value: object, fix: bool) -> tuple[str, ...]:
    if isinstance(value, str):
        listed = parse_structure(value)
        value = listed if isinstance(listed, list) else [part for part in value.split(_TURN_MARK) if part.strip()]
    if not isinstance(value, list | tuple):
        raise UnfitError("context is no text", f"context {show_value(value)} is neither text nor a list of texts")
    return tuple(_text(turn, "context", fix) for turn in value)


def _emotion_value(row: Row, roles: ColumnRoles) -> object:
    """Return what the emotion column holds; of several columns with 0 or 1 the names of those with 1."""
    if not roles.emotions:
        return row.fields[roles.emotion]
    held = []
    for name in roles.emotions:
        flag = parse_flag(row.fields[name])
        if flag is None:
            message = f"column {name!r} holds {show_value(row.fields[name])}; 0 or 1 is expected in each of --emotion-columns"
            raise UnfitError("no emotion", message)
        held += [name.strip()] if flag else []
    if not held:
        raise _BlankError(
            "missing emotion", f"none of the columns {', '.join(roles.emotions)} is 1; give the row one, or pass --skip-blank"
        )
    return held


def _emotion(given: Mapping[str, float], labels: LabelSet, renames: Renames) -> Emotion:
    shares: dict[str, float] = {}
    for name, share in given.items():
        known = find_label(name, labels, renames)
        if known is None and parse_number(name) is not None:
            raise UnfitError("no emotion", f"emotion {name:.20} is a number, not a name; {NUMBERS_REMEDY}")
        if known is None:
            raise UnfitError(UNKNOWN_EMOTION, describe_unknown(name, labels, renames))
        shares[known] = shares.get(known, 0.0) + share
    try:
        return mixture(shares, labels)
    except SettingsError as error:
        raise UnfitError("no emotion", str(error)) from None


def _shares(row: Row, roles: ColumnRoles, reading: Reading) -> dict[str, float]:
    """Return names with their shares, the numbers of classes as the classes' names."""
    if not (roles.emotion or roles.emotions) or "" in roles.emotions:
        raise UnfitError("no such column", describe_columns(row, reading.columns, roles))
    shares = _parse_shares(_emotion_value(row, roles))
    if not reading.class_names:
        return shares
    classes = named_label_set(reading.class_names).names
    named: dict[str, float] = {}
    for name, share in shares.items():
        if parse_number(name) is not None and not (name.isdecimal() and int(name) < len(classes)):
            message = f"emotion {name} is not one of the numbers 0 to {len(classes) - 1} of --class-names"
            raise UnfitError("no emotion", message)
        known = classes[int(name)] if parse_number(name) is not None else name
        named[known] = named.get(known, 0.0) + share
    return named


def _parse_shares(value: object) -> dict[str, float]:
    """Return names with their shares: as a table or `joy=0.7,fear=0.3` gives them, even for a list, `joy,fear` or `joy|fear`.

    A list or table may be written out in a text. Numbers become names.
    """
    if is_missing(value):
        raise _BlankError("missing emotion", f"the emotion is missing{_format_row(value)}; fill it in, or pass --skip-blank")
    if value in ([], {}):
        raise _BlankError("no emotion", "the emotion is empty; fill it in, or pass --skip-blank")
    found = parse_structure(value) if isinstance(value, str) else value
    if isinstance(found, str) and "=" in found:
        try:
            shares = parse_shares(found)
        except SettingsError as error:
            raise UnfitError("no emotion", str(error)) from None
    elif isinstance(found, str):
        shares = _even(split_names(found))
    elif isinstance(found, list):
        shares = _even([_name(part) for part in found])
    elif isinstance(found, dict) and all(isinstance(share, int | float) for share in found.values()):
        shares = {str(name): _number(share) for name, share in found.items()}
    else:
        shares = _even([_name(found)])
    shares = {normalize_name(name): share for name, share in shares.items()}
    if not shares or not all(is_name(name) and not set(name) & _STRUCTURE for name in shares):
        raise UnfitError("no emotion", f"emotion {show_value(value)} is neither a name, a list of names nor a table of shares")
    return shares


def _name(value: object) -> str:
    """Return a name as it is, a number as a name, anything else as none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return name_of_number(_number(value))
    return value if isinstance(value, str) else ""


def _even(names: list[str]) -> dict[str, float]:
    distinct = dict.fromkeys(names)
    return {name: 1.0 / len(distinct) for name in distinct}


def _number(share: float) -> float:
    try:
        return float(share)
    except OverflowError:
        return float("inf")


def _split(value: object) -> Split:
    name = _SPLIT_NAMES.get(str(value).strip().casefold(), value)
    if name not in _SPLITS:
        raise UnfitError("unknown split", f"split {show_value(value)} is not one of train, valid, test")
    return name  # type: ignore[return-value]
