"""Exchanges and the files that hold them: JSON lines, CSV and TSV, gzipped or not, or standard input."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, TextIO

from emogen.atomic import replacing
from emogen.emotions import EKMAN, TO_EKMAN, Emotion, LabelSet, is_name, mixture, parse_shares
from emogen.errors import DataError, SettingsError
from emogen.words import words

Split = Literal["train", "valid", "test", ""]
_SPLITS = ("train", "valid", "test", "")
_SPLIT_NAMES = {"dev": "valid", "val": "valid", "validation": "valid"}
_FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv"}
_TURN_MARK = "||"
_SHOWN = 60
_MAX_LABELS = 1000

csv.field_size_limit(1 << 24)


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
class Columns:
    """The names under which a file keeps its fields; `a|b` takes the first that is there."""

    reply: str = "reply|text"
    emotion: str = "emotion|label"
    context: str = "context"
    split: str = "split"


@dataclass(frozen=True)
class Reading:
    """How a file is read.

    Attributes:
        columns: names of the fields.
        labels: what emotions are expressed in; None takes the file's own (Ekman-7 where that suffices).
        max_words: a longer reply is reported, not cut.
        format: jsonl, csv or tsv where the file name does not say.
    """

    columns: Columns = field(default_factory=Columns)
    labels: LabelSet | None = None
    max_words: int = 1000
    format: str = ""


@dataclass(frozen=True)
class Row:
    """One record as it stands in the file; `number` is its last physical line, counted from 1."""

    number: int
    fields: Mapping[str, object]


@dataclass(frozen=True)
class Problem:
    """Why the record that ends in line `number` is no exchange; `kind` groups problems of one sort."""

    number: int
    kind: str
    message: str


def plain_words(text: str) -> list[str]:
    """Words of a text without marks and emoji, in lower case; every CJK character is one.

    >>> plain_words("(Well, I'm fine.) 我很好！")
    ['well', "i'm", 'fine', '我', '很', '好']
    """
    return [word for word in words(text) if word[0].isalnum()]


def read_exchanges(path: str | Path, reading: Reading | None = None) -> Iterator[Exchange]:
    """Exchanges of a file, one at a time, in its order.

    Args:
        path: a file, or "-" for standard input.
        reading: columns, labels, limits.

    Raises:
        DataError: at the first thing that is wrong, with its line.
    """
    for found in scan(path, reading):
        if isinstance(found, Problem):
            raise DataError(f"{path}:{found.number}: {found.message}")
        yield found[1]


def scan(path: str | Path, reading: Reading | None = None) -> Iterator[tuple[int, Exchange] | Problem]:
    """Every record of a file, good (with its line) or not; what cannot be read at all raises DataError."""
    reading = reading or Reading()
    labels = reading.labels or infer_labels(path, reading)
    empty = True
    for found in exchanges_of(read_rows(path, reading.format), reading, labels):
        empty = False
        yield found
    if empty:
        raise DataError(f"{path}: holds no rows; one exchange a line is expected")


def exchanges_of(rows: Iterable[Row | Problem], reading: Reading, labels: LabelSet) -> Iterator[tuple[int, Exchange] | Problem]:
    """Each row as an exchange with its line, or why it is none; problems pass through."""
    for row in rows:
        if isinstance(row, Problem):
            yield row
            continue
        try:
            yield row.number, _exchange(row.fields, reading, labels)
        except _UnfitError as unfit:
            yield Problem(row.number, unfit.kind, str(unfit))


def infer_labels(path: str | Path, reading: Reading) -> LabelSet:
    """The label set that a file's own emotion column spans: Ekman-7 if that covers it, else its names in order.

    What can be read only once (standard input, a pipe) is taken for Ekman-7.

    Raises:
        DataError: so many names that the column cannot be one of emotions, or the file cannot be read.
    """
    if _reads_once(path):
        return EKMAN
    names: set[str] = set()
    for row in read_rows(path, reading.format):
        if isinstance(row, Row):
            try:
                names.update(_shares(_pick(row.fields, reading.columns.emotion, "emotion")))
            except _UnfitError:
                continue
            if len(names) > _MAX_LABELS:
                column = _present(row.fields, reading.columns.emotion)
                found = f"column {column!r} holds more than {_MAX_LABELS} emotions"
                raise DataError(f"{path}:{row.number}: {found}; name another with --emotion-column, or pass --labels")
    return LabelSet(tuple(sorted(names))) if names - set(EKMAN.names) else EKMAN


def read_rows(path: str | Path, file_format: str = "") -> Iterator[Row | Problem]:
    """Records of a file; a line that is not UTF-8 or not JSON becomes a Problem.

    Raises:
        DataError: the file is missing, a folder, not gzip, of an unknown format, or a table without a usable header.
    """
    chosen = file_format or _format_of(path)
    if chosen not in _FORMATS.values():
        raise DataError(f"{path}: format {chosen!r} is not one of jsonl, csv, tsv")
    try:
        with _open(path) as handle:
            if chosen == "jsonl":
                yield from _json_rows(handle)
            else:
                yield from _table_rows(path, handle, "\t" if chosen == "tsv" else ",")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def write_exchanges(path: str | Path, exchanges: Iterable[Exchange]) -> int:
    """Writes JSON lines (gzipped where the name ends in .gz), whole or not at all; returns the number of rows.

    The same exchanges give the same bytes.

    Raises:
        DataError: a text with half of a surrogate pair, which no file can hold.
        EmogenError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    if path.name.removesuffix(".gz").endswith((".csv", ".tsv")):
        raise DataError(f"{path}: JSON lines are written; name the file .jsonl or .jsonl.gz")
    count = 0
    with replacing(path) as beside, _text_file(beside, zipped=path.suffix == ".gz") as handle:
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
    """The exchange as one line of JSON that `read_exchanges` reads back."""
    names = {n: w for n, w in zip(exchange.emotion.labels.names, exchange.emotion.weights, strict=True) if w > 0}
    record: dict[str, object] = {
        "context": list(exchange.context),
        "reply": exchange.reply,
        "emotion": exchange.emotion.name if len(names) == 1 else names,
    }
    if exchange.split:
        record["split"] = exchange.split
    return json.dumps(record, ensure_ascii=False)


class _UnfitError(Exception):
    """A record that is no exchange."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def _reads_once(path: str | Path) -> bool:
    return str(path) == "-" or (Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir())


def _open(path: str | Path) -> AbstractContextManager[BinaryIO]:
    if str(path) == "-":
        if sys.stdin is None:
            raise DataError("-: standard input is closed; name a file")
        return nullcontext(sys.stdin.buffer)
    return gzip.open(path, "rb") if str(path).endswith(".gz") else Path(path).open("rb")  # type: ignore[return-value]


def _format_of(path: str | Path) -> str:
    if str(path) == "-":
        return "jsonl"
    if Path(path).is_dir():
        raise DataError(f"{path}: is a folder; give a file")
    suffix = Path(str(path).removesuffix(".gz")).suffix.lower()
    if suffix not in _FORMATS:
        allowed = f"{', '.join(_FORMATS)} (each may be gzipped, .gz)"
        raise DataError(f"{path}: ending {suffix!r} is not one of {allowed}; rename the file or pass --format")
    return _FORMATS[suffix]


def _json_rows(handle: BinaryIO) -> Iterator[Row | Problem]:
    for number, raw in enumerate(handle, 1):
        if not raw.strip():
            continue
        try:
            fields = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            yield _not_utf8(number, error)
        except json.JSONDecodeError as error:
            yield _broken_json(number, f"{error.msg} at column {error.colno}")
        except (ValueError, RecursionError) as error:
            yield _broken_json(number, str(error))
        else:
            if isinstance(fields, dict):
                yield Row(number, fields)
            else:
                yield Problem(number, "broken JSON", f"a JSON object is expected, found {_shown(fields)}")


def _broken_json(number: int, reason: str) -> Problem:
    return Problem(number, "broken JSON", f"broken JSON ({reason}); one object a line is expected")


def _table_rows(path: str | Path, handle: BinaryIO, delimiter: str) -> Iterator[Row | Problem]:
    bad: list[Problem] = []
    header: list[str] = []
    for begin, end, cells in _records(_decoded(handle, bad), delimiter):
        if not header:
            header = _header(f"{path}:{end}", cells, bad)
            continue
        yield from bad
        bad.clear()
        if isinstance(cells, csv.Error):
            yield Problem(end, "broken table row", _broken(cells) + _since(begin, end))
        elif len(cells) == len(header):
            yield Row(end, dict(zip(header, cells, strict=True)))
        elif cells:
            message = f"{len(cells)} cells where the header has {len(header)}; quote cells that hold {delimiter!r}"
            yield Problem(end, "wrong number of cells", message + _since(begin, end))


def _records(lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, int, list[str] | csv.Error]]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        begin = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield begin, reader.line_num, error
        else:
            yield begin, reader.line_num, cells


def _header(where: str, cells: list[str] | csv.Error, bad: list[Problem]) -> list[str]:
    if bad:
        raise DataError(f"{where}: {bad[0].message}")
    if isinstance(cells, csv.Error):
        raise DataError(f"{where}: {_broken(cells)}")
    names = [cell.strip() for cell in cells]
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise DataError(f"{where}: the header names the column {twice[0]!r} twice; rename one of them")
    return names


def _broken(error: csv.Error) -> str:
    if "new-line character" in str(error):
        return "broken table row (a carriage return alone); end lines with a line feed, and quote cells that hold either"
    return f"broken table row ({error}); write a quote inside a quoted cell twice"


def _since(begin: int, number: int) -> str:
    return f" (the row begins in line {begin}: a quote left open?)" if begin < number else ""


def _decoded(handle: BinaryIO, bad: list[Problem]) -> Iterator[str]:
    for number, raw in enumerate(handle, 1):
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            bad.append(_not_utf8(number, error))
            yield "\n"


def _not_utf8(number: int, error: UnicodeDecodeError) -> Problem:
    byte = error.object[error.start]
    found = f"byte {byte:#04x} at position {error.start} is not UTF-8"
    return Problem(number, "not UTF-8", f"{found}; save the file as UTF-8")


def _exchange(fields: Mapping[str, object], reading: Reading, labels: LabelSet) -> Exchange:
    columns = reading.columns
    reply = _text(_pick(fields, columns.reply, "reply"), "reply")
    if len(reply) > reading.max_words and (length := len(plain_words(reply))) > reading.max_words:
        message = f"reply has {length} words, more than {reading.max_words}; split it or raise --max-words"
        raise _UnfitError("too long", message)
    return Exchange(
        context=_context(_optional(fields, columns.context)),
        reply=reply,
        emotion=_emotion(_pick(fields, columns.emotion, "emotion"), labels),
        split=_split(_optional(fields, columns.split)),
    )


def _optional(fields: Mapping[str, object], column: str) -> object:
    name = _present(fields, column)
    value = None if name is None else fields[name]
    return "" if value is None else value


def _present(fields: Mapping[str, object], column: str) -> str | None:
    return next((name for name in column.split("|") if name in fields), None)


def _pick(fields: Mapping[str, object], column: str, what: str) -> object:
    name = _present(fields, column)
    if name is None:
        wanted = " or ".join(repr(part) for part in column.split("|"))
        found = ", ".join(map(str, fields)) or "none"
        raise _UnfitError("no such column", f"no column {wanted}, found {found}; name it with --{what}-column")
    return fields[name]


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise _UnfitError(f"{what} is no text", f"{what} {_shown(value)} is no text")
    if not value.strip():
        raise _UnfitError(f"empty {what}", f"the {what} is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _UnfitError("not UTF-8", f"the {what} holds half of a surrogate pair, which is no character")
    return value.strip()


def _context(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part for part in value.split(_TURN_MARK) if part.strip()]
    if not isinstance(value, list | tuple):
        raise _UnfitError("context is no text", f"context {_shown(value)} is neither text nor a list of texts")
    return tuple(_text(turn, "context") for turn in value)


def _emotion(value: object, labels: LabelSet) -> Emotion:
    shares: dict[str, float] = {}
    for name, share in _shares(value).items():
        known = name if name in labels else _ekman(name, labels)
        if known is None:
            message = f"emotion {_shown(name)} is not one of {', '.join(labels.names)}; rename it or pass --labels"
            raise _UnfitError("unknown emotion", message)
        shares[known] = shares.get(known, 0.0) + share
    try:
        return mixture(shares, labels)
    except SettingsError as error:
        raise _UnfitError("no emotion", str(error)) from None


def _ekman(name: str, labels: LabelSet) -> str | None:
    return TO_EKMAN.get(name) if labels == EKMAN else None


def _shares(value: object) -> dict[str, float]:
    """Names with their shares: as given by a table or `joy=0.7,fear=0.3`, even for a list, `joy,fear` or `joy|fear`."""
    if isinstance(value, str) and "=" in value:
        try:
            shares = parse_shares(value)
        except SettingsError as error:
            raise _UnfitError("no emotion", str(error)) from None
    elif isinstance(value, str):
        shares = _even([part.strip() for part in value.replace("|", ",").split(",") if part.strip()])
    elif isinstance(value, list) and all(isinstance(name, str) for name in value):
        shares = _even(value)
    elif isinstance(value, dict) and all(isinstance(share, int | float) for share in value.values()):
        shares = {name: _number(share) for name, share in value.items()}
    else:
        shares = {}
    if not shares or not all(is_name(name) for name in shares):
        raise _UnfitError("no emotion", f"emotion {_shown(value)} is neither a name, a list of names nor a table of shares")
    return shares


def _even(names: list[str]) -> dict[str, float]:
    distinct = dict.fromkeys(names)
    return {name: 1.0 / len(distinct) for name in distinct}


def _number(share: float) -> float:
    try:
        return float(share)
    except OverflowError:
        return float("inf")


def _split(value: object) -> Split:
    name = _SPLIT_NAMES.get(str(value), value)
    if name not in _SPLITS:
        raise _UnfitError("unknown split", f"split {_shown(value)} is not one of train, valid, test")
    return name  # type: ignore[return-value]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
