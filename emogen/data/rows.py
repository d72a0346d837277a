"""Records of a file: JSON lines, a JSON document, or a table, gzipped or not, or standard input."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from emogen.data.encodings import guess_encoding, holds_no_utf8, known_encoding, marked_encoding
from emogen.errors import DataError, SettingsError
from emogen.files import open_data

FORMATS = ("jsonl", "csv", "tsv")
QUOTINGS = ("csv", "none")

_ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv"}
_DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|"}
_DETECTED = ",;\t|"
_HEAD = 1 << 16
_SHOWN = 60
_BLANKS = re.compile(r"\s*")

csv.field_size_limit(1 << 24)


@dataclass(frozen=True)
class Row:
    """One record as it stands in the file.

    Attributes:
        number: its last physical line, counted from 1.
        fields: by column.
        is_table: whether it is a row of a table, whose cells are all texts.
        alone: where its cells hold line breaks and each of its lines would also make a row: the lines as rows.
    """

    number: int
    fields: Mapping[str, object]
    is_table: bool = False
    alone: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True)
class Problem:
    """Why the record that ends in line `number` cannot be used.

    Attributes:
        number: the line.
        kind: groups problems of one sort.
        message: what is wrong and what to do about it in the file.
        option: what to pass instead, where a command takes options for reading.
    """

    number: int
    kind: str
    message: str
    option: str = ""


@dataclass(frozen=True)
class FileLayout:
    """How a file is laid out: given, or detected at its beginning.

    Attributes:
        format: jsonl, csv or tsv.
        encoding: of its text.
        delimiter: between the cells of a table.
        is_document: whether JSON values span lines or stand in one array.
        skipped: lines before the header of a table: 1 where the first tells spreadsheets the delimiter.
    """

    format: str
    encoding: str = "utf-8"
    delimiter: str = ","
    is_document: bool = False
    skipped: int = 0

    def notes(self) -> tuple[str, ...]:
        """Say in sentences what differs from UTF-8 with one object a line, or with the delimiter of the format."""
        usual = {"csv": ",", "tsv": "\t"}.get(self.format, self.delimiter)
        conditioning = {
            f"the file is in {self.encoding.upper()}": self.encoding != "utf-8",
            f"cells are separated by {self.delimiter!r}": self.delimiter != usual,
            "the file is one JSON document, not one object a line; its objects are read as rows": self.is_document,
        }
        return tuple(sentence for sentence, holds in conditioning.items() if holds)


def read_rows(
    path: str | Path,
    file_format: str = "",
    *,
    delimiter: str = "",
    encoding: str = "",
    header: str = "",
    quoting: str = "csv",
) -> Iterator[Row | Problem]:
    """Yield the records of a file; one that cannot be read becomes a Problem.

    Args:
        path: a file, or "-" for standard input.
        file_format: jsonl, csv or tsv; empty takes what the file's name says.
        delimiter: of a table; empty detects it where the header holds none of the format's own.
        encoding: by a name that Python knows; empty takes UTF-8, or UTF-16 or UTF-32 after their byte order marks.
        header: column names with commas between them, for a table without a header line.
        quoting: "csv" reads quoted cells, "none" takes quotes for plain characters.

    Raises:
        DataError: the file is missing, a folder, not gzip, of an unknown format, or a table without a usable header.
        SettingsError: an unknown encoding or quoting, or a delimiter of several characters.
    """
    options = _FileOptions(file_format, parse_delimiter(delimiter), known_encoding(encoding), header, quoting)
    with _open_source(path) as handle:
        layout, head = _detect(path, handle, options)
        lines = _text_lines(handle, layout.encoding, head, bool(options.encoding))
        if layout.is_document:
            yield from _document_rows(path, lines)
        elif layout.format == "jsonl":
            for number, line in enumerate(lines, 1):
                if isinstance(line, Problem):
                    yield line
                elif line.strip():
                    try:
                        yield _json_row(number, json.loads(line))
                    except json.JSONDecodeError as error:
                        yield _broken_json(number, f"{error.msg} at column {error.colno}")
                    except (ValueError, RecursionError) as error:
                        yield _broken_json(number, str(error))
        else:
            yield from _table_rows(path, lines, layout, options)


def read_lines(path: str | Path) -> Iterator[str | Problem]:
    """Yield the lines of a file of plain text without their ends; one that is not in the file's encoding becomes a Problem.

    Raises:
        DataError: the file is missing, a folder, or not gzip.
    """
    with _open_source(path) as handle:
        head = handle.peek(_HEAD)
        for line in _text_lines(handle, marked_encoding(path, head), head, is_given=False):
            yield line if isinstance(line, Problem) else line.removesuffix("\n").removesuffix("\r")


def detect_layout(path: str | Path, file_format: str = "", *, delimiter: str = "", encoding: str = "") -> FileLayout | None:
    """Return the layout with which `read_rows` reads a file, or None for standard input and pipes, which are read only once."""
    if reads_once(path):
        return None
    with _open_source(path) as handle:
        return _detect(path, handle, _FileOptions(file_format, parse_delimiter(delimiter), known_encoding(encoding)))[0]


def reads_once(path: str | Path) -> bool:
    """Tell whether `path` is standard input or a pipe."""
    return str(path) == "-" or (Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir())


def find_column(fields: Iterable[str], wanted: str) -> str | None:
    """Find the first of the names `a|b` that is there: as it is written, else with other case or blanks around it.

    >>> find_column(["ID", "Tweet "], "text|tweet")
    'Tweet '
    """
    present = list(fields)
    for name in filter(None, wanted.split("|")):
        if name in present:
            return name
        alike = [other for other in present if _fold(other) == _fold(name)]
        if len(alike) == 1:
            return alike[0]
    return None


def _fold(name: str) -> str:
    return str(name).strip().casefold()


def parse_delimiter(text: str) -> str:
    r"""Read one character, or comma, semicolon, tab (or \t), pipe; empty stays empty; raise SettingsError."""
    delimiter = _DELIMITERS.get(text, text)
    if len(delimiter) > 1 or delimiter in ('"', "\n", "\r"):
        names = ", ".join(name for name in _DELIMITERS if name.isalpha())
        raise SettingsError(f"--delimiter {text!r}: allowed is one character that is neither quote nor line end, or {names}")
    return delimiter


# ---- opening


@dataclass(frozen=True)
class _FileOptions:
    """What the caller says of a file; empty where it is to be detected."""

    format: str
    delimiter: str = ""
    encoding: str = ""
    header: str = ""
    quoting: str = "csv"

    def __post_init__(self) -> None:
        if self.quoting not in QUOTINGS:
            raise SettingsError(f"--quoting {self.quoting!r}: allowed is {', '.join(QUOTINGS)}")


@contextmanager
def _open_source(path: str | Path) -> Iterator[io.BufferedReader]:
    """Open a file whose beginning can be looked at; what goes wrong with it is a DataError. Standard input stays open."""
    if str(path) != "-" and Path(path).is_dir():
        raise DataError(f"{path}: is a folder; give a file")
    try:
        if str(path) == "-":
            with _standard_input() as standard:
                yield standard
        elif str(path).endswith(".gz"):
            with open_data(path) as zipped, gzip.open(zipped, "rb") as unzipped:
                yield cast(io.BufferedReader, unzipped)
        else:
            with open_data(path, _HEAD) as plain:
                yield plain
    except UnicodeError as error:
        raise DataError(f"{path}: is not in the encoding that its byte order mark or --encoding says ({error})") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


@contextmanager
def _standard_input() -> Iterator[io.BufferedReader]:
    if sys.stdin is None:
        raise DataError("-: standard input is closed; name a file")
    standard: Any = sys.stdin.buffer
    if hasattr(standard, "peek"):
        yield standard
        return
    wrapped = io.BufferedReader(standard)
    try:
        yield wrapped
    finally:
        wrapped.detach()


def _detect(path: str | Path, handle: io.BufferedReader, options: _FileOptions) -> tuple[FileLayout, bytes]:
    """Return the layout, and the bytes at the beginning from which it was told."""
    chosen = options.format or _format_of(path)
    if chosen not in FORMATS:
        raise DataError(f"{path}: format {chosen!r} is not one of {', '.join(FORMATS)}")
    head = handle.peek(_HEAD)
    encoding = options.encoding or marked_encoding(path, head)
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head).removeprefix("\ufeff")
    if chosen == "jsonl":
        return FileLayout(chosen, encoding, is_document=_is_document(text)), head
    first = text.partition("\n")[0].rstrip("\r")
    # Spreadsheet programs write and read such a line.
    conditioning = re.fullmatch(r'"?sep=(.)"?', first, re.IGNORECASE)
    usual = "\t" if chosen == "tsv" else ","
    delimiter = options.delimiter or (
        conditioning[1] if conditioning else (usual if usual in first else max(usual + _DETECTED, key=first.count))
    )
    return FileLayout(chosen, encoding, delimiter, skipped=int(bool(conditioning))), head


def _format_of(path: str | Path) -> str:
    if str(path) == "-":
        return "jsonl"
    suffix = Path(str(path).removesuffix(".gz")).suffix.lower()
    if suffix not in _ENDINGS:
        allowed = f"{', '.join(_ENDINGS)} (each may be gzipped, .gz)"
        raise DataError(f"{path}: ending {suffix!r} is not one of {allowed}; rename the file or pass --format")
    return _ENDINGS[suffix]


def _is_document(text: str) -> bool:
    """Tell whether JSON begins that is not one object a line: an array, or an object over several lines."""
    lines = [line.strip() for line in text.split("\n", 64) if line.strip()]
    if not lines:
        return False
    if lines[0].startswith("["):
        return True
    return len(lines) > 1 and lines[0].startswith("{") and lines[1].startswith('"') and _is_broken(lines[0])


def _is_broken(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True
    return False


# ---- lines


def _text_lines(handle: BinaryIO, encoding: str, head: bytes, is_given: bool) -> Iterator[str | Problem]:
    """Yield physical lines, each as text or as the problem that it is none."""
    if encoding.startswith(("utf-16", "utf-32", "utf_16", "utf_32")):
        # Their line ends are no single bytes.
        wrapped = io.TextIOWrapper(handle, encoding, newline="\n")
        try:
            for number, line in enumerate(wrapped):
                yield line if number else line.removeprefix("\ufeff")
        finally:
            # Whoever stops half-way may have closed the file before.
            with suppress(ValueError):
                wrapped.detach()
        return
    guess: str | None = None
    for number, raw in enumerate(handle, 1):
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError as error:
            if guess is None and not is_given:
                guess = guess_encoding(head if holds_no_utf8(head) else raw)
            yield _undecodable(number, error, encoding, guess or "")
        else:
            yield text if number > 1 else text.removeprefix("\ufeff")


def _undecodable(number: int, error: UnicodeDecodeError, encoding: str, guess: str) -> Problem:
    byte = f"byte {error.object[error.start]:#04x} at position {error.start}"
    if encoding != "utf-8":
        return Problem(number, "wrong encoding", f"{byte} is not {encoding.upper()}; find out how the file was saved")
    likely = f"; the file looks like {guess.upper()}" if guess else ""
    option = f"pass --encoding {guess}" if guess else "pass --encoding with the name of its encoding"
    return Problem(number, "not UTF-8", f"{byte} is not UTF-8{likely}; save the file as UTF-8", option)


# ---- JSON


def _json_row(number: int, value: object) -> Row | Problem:
    if isinstance(value, dict):
        return Row(number, value)
    return Problem(number, "broken JSON", f"a JSON object is expected, found {show_value(value)}")


def _broken_json(number: int, reason: str) -> Problem:
    return Problem(number, "broken JSON", f"broken JSON ({reason}); one object a line is expected")


def _document_rows(path: str | Path, lines: Iterator[str | Problem]) -> Iterator[Row | Problem]:
    """Yield the objects of an array, or objects that follow each other; the text is held as a whole."""
    parts = []
    for line in lines:
        if isinstance(line, Problem):
            raise DataError(f"{path}:{line.number}: {line.message}")
        parts.append(line)
    text = "".join(parts)
    decoder = json.JSONDecoder()
    position, number = _skip_blanks(text, 0), 1
    is_array = text[position] == "["
    position = _skip_blanks(text, position + is_array)
    begin = 0
    while position < len(text) and not (is_array and text[position] == "]"):
        try:
            value, position = decoder.raw_decode(text, position)
            number, begin = number + text.count("\n", begin, position), position
            yield _json_row(number, value)
            position = _skip_blanks(text, position)
            if is_array and text[position : position + 1] not in (",", "]"):
                raise json.JSONDecodeError("',' or ']' expected", text, position)
            position = _skip_blanks(text, position + (text[position : position + 1] == ","))
        except json.JSONDecodeError as error:
            yield Problem(
                error.lineno, "broken JSON", f"broken JSON ({error.msg} at column {error.colno}); the rest is not read"
            )
            return
        except (ValueError, RecursionError) as error:
            yield Problem(number, "broken JSON", f"broken JSON ({error}); the rest is not read")
            return
    rest = text[position + 1 :].strip()
    if rest:
        yield Problem(number, "broken JSON", f"after the array stands {show_value(rest)}; one array of objects is expected")


def _skip_blanks(text: str, position: int) -> int:
    found = _BLANKS.match(text, position)
    return found.end() if found else position


# ---- tables


def _table_rows(
    path: str | Path, lines: Iterator[str | Problem], layout: FileLayout, options: _FileOptions
) -> Iterator[Row | Problem]:
    bad: list[Problem] = []
    header = [name.strip() for name in options.header.split(",")] if options.header else []
    for begin, held, cells in _records(_without_problems(lines, bad), layout.delimiter, options.quoting):
        end = begin + len(held) - 1
        if end <= layout.skipped:
            continue
        if not header:
            where = f"{path}:{end}"
            if bad:
                raise DataError(f"{where}: {bad[0].message}")
            if isinstance(cells, csv.Error):
                raise DataError(f"{where}: {_broken(cells, options.quoting)}")
            names = [cell.strip() for cell in cells]
            twice = [name for name, count in Counter(names).items() if name and count > 1]
            if twice:
                raise DataError(f"{where}: the header names the column {twice[0]!r} twice; rename one of them")
            header = names
            continue
        yield from bad
        bad.clear()
        if isinstance(cells, csv.Error):
            yield Problem(end, "broken table row", _broken(cells, options.quoting) + _since(begin, end), "pass --quoting none")
        elif len(cells) != len(header) and cells:
            message = f"{len(cells)} cells where the header has {len(header)}; quote cells that hold {layout.delimiter!r}"
            yield Problem(end, "wrong number of cells", message + _since(begin, end))
        elif any(cell.strip() for cell in cells):
            alone = _lines_alone(held, header, layout.delimiter)
            if alone and layout.delimiter == "\t":
                yield describe_joined_rows(begin, end)
            else:
                yield Row(end, dict(zip(header, cells, strict=True)), True, alone)


def describe_joined_rows(begin: int, end: int) -> Problem:
    """Return the problem of rows that a quote at the beginning of a cell makes one."""
    message = (
        f"a quote that opens in line {begin} makes lines {begin} to {end} one row, though each alone has as many cells as "
        "the header; write a quote inside a cell twice and put the cell in quotes"
    )
    return Problem(end, "rows joined by a quote", message, "pass --quoting none, which takes quotes for plain characters")


def _lines_alone(held: list[str], header: list[str], delimiter: str) -> tuple[Mapping[str, str], ...]:
    if len(held) < 2 or len(header) < 2 or any(line.count(delimiter) != len(header) - 1 for line in held):
        return ()
    return tuple(dict(zip(header, line.rstrip("\r\n").split(delimiter), strict=True)) for line in held)


def _records(lines: Iterator[str], delimiter: str, quoting: str) -> Iterator[tuple[int, list[str], list[str] | csv.Error]]:
    """Yield each record after its first line's number and its physical lines."""
    held: list[str] = []

    def remember_lines() -> Iterator[str]:
        for line in lines:
            held.append(line)
            yield line

    rule: Literal[0, 3] = csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL
    reader = csv.reader(remember_lines(), delimiter=delimiter, strict=True, quoting=rule)
    while True:
        begin = reader.line_num + 1
        held.clear()
        try:
            cells: list[str] | csv.Error = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells = error
        yield begin, list(held), cells


def _broken(error: csv.Error, quoting: str) -> str:
    if "new-line character" in str(error):
        return "broken table row (a carriage return alone); end lines with a line feed, and quote cells that hold either"
    if quoting == "none":
        return f"broken table row ({error})"
    return f"broken table row ({error}); write a quote inside a quoted cell twice"


def _since(begin: int, number: int) -> str:
    return f" (the row begins in line {begin}: a quote left open?)" if begin < number else ""


def _without_problems(lines: Iterator[str | Problem], bad: list[Problem]) -> Iterator[str]:
    for line in lines:
        if isinstance(line, Problem):
            bad.append(line)
            yield "\n"
        else:
            yield line


def show_value(value: object) -> str:
    """Write a value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
