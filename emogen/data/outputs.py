"""What systems wrote, as files give it: texts with their references and the emotion asked for, read once and kept on disk."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, TextIO

from emogen.data.cells import is_missing, parse_structure, split_names
from emogen.data.label_use import Renames, rename
from emogen.data.rows import Problem, Row, find_column, read_lines, read_rows
from emogen.emotions.labels import parse_shares
from emogen.emotions.names import normalize_name
from emogen.errors import DataError, SettingsError
from emogen.files import open_data

FORMATS = ("txt", "jsonl", "csv", "tsv")
TEXT_COLUMN = "reply|text|output"
EMOTION_COLUMN = "emotion|label"
REFERENCE_COLUMN = "reference|references|reply"
SEED_COLUMN = "training_seed|train_seed|run_seed|seed"

_ENDINGS = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv"}
_LINE = "text"
_MOST_SYSTEMS = 200
_MOST_SEEDS = 200
# Of the rows of `emogen sample --json`, whose seed is that of decoding.
_DECODED = frozenset({"log_probability", "finished"})
_LINE_AT, _TEXT_AT, _ASKED_AT, _REFERENCES_AT = range(4)


@dataclass(frozen=True)
class Source:
    """A file of texts that can be read any number of times.

    Attributes:
        name: as the user gave it, for messages.
        path: where it stands.
        format: txt (one text a line), jsonl, csv or tsv.
    """

    name: str
    path: Path
    format: str

    @property
    def stem(self) -> str:
        """Return the file's name without its ending."""
        if self.name == "-":
            return "stdin"
        return Path(self.name.removesuffix(".gz")).stem or self.name


@dataclass(frozen=True)
class OutputColumns:
    """Where a table keeps its fields; `a|b` takes the first that is there. Lines of text have no columns.

    Attributes:
        text: the text to score.
        emotion: what it was to express; empty if nobody asks.
        reference: one reference or a list of them, in the files of references.
        renames: pairs of an emotion in the file and the one that is read in its place.
        seed: of the training run that wrote the text. Where nobody names it, a file in which a system has rows of several seeds
            is refused, since such rows are no independent items.
        pool_seeds: take rows of several seeds for independent items, as those of several seeds of decoding are.
    """

    text: str = TEXT_COLUMN
    emotion: str = ""
    reference: str = REFERENCE_COLUMN
    renames: Renames = ()
    seed: str = ""
    pool_seeds: bool = False


@dataclass(frozen=True)
class Output:
    """One text of one system.

    Attributes:
        system: its name, if the row gives one.
        temperature: of sampling, if the row gives one.
        line: where the row ends in its file.
        text: may be empty.
        target: the heaviest emotion asked for; empty if it was not read.
        references: of this text; none if there are no files of them.
        others: the row's columns besides the text, as they stand in the file.
        seed: of the training run, as far as the columns tell; empty where none is named or all are pooled.
    """

    system: str
    temperature: float | None
    line: int
    text: str
    target: str
    references: tuple[str, ...]
    others: Mapping[str, object] = field(default_factory=dict)
    seed: str = ""


@dataclass(frozen=True)
class Stored:
    """One field of the rows of a group, read from disk whenever it is gone through."""

    path: Path
    place: int

    def __iter__(self) -> Iterator[Any]:
        with self.path.open(encoding="utf-8") as handle:
            for line in handle:
                yield json.loads(line)[self.place]


@dataclass(frozen=True)
class Group:
    """The texts of one system at one temperature, and of one training seed where these are told apart, on disk.

    Attributes:
        source: the file that they come from, as the user named it.
        system: name of the system.
        temperature: of sampling; None if the rows give none.
        path: where they are kept.
        count: how many there are.
        empty: how many of them are blank.
        seed: of training; empty where seeds are not told apart.
    """

    source: str
    system: str
    temperature: float | None
    path: Path
    count: int
    empty: int
    seed: str = ""

    @property
    def texts(self) -> Stored:
        """Return the texts, in the file's order."""
        return Stored(self.path, _TEXT_AT)

    @property
    def target(self) -> Stored:
        """Return the emotion asked for in each."""
        return Stored(self.path, _ASKED_AT)

    @property
    def references(self) -> Stored:
        """Return the list of references of each."""
        return Stored(self.path, _REFERENCES_AT)

    def where(self, number: int) -> str:
        """File and line of a text, counted from 0 within the group."""
        line = next((line for at, line in enumerate(Stored(self.path, _LINE_AT)) if at == number), "?")
        return f"{self.source}:{line}"


@dataclass(frozen=True)
class Texts:
    """One column of files, read whenever it is gone through: training texts, or real ones.

    Raises:
        DataError: while read, if a file holds no text or a row lacks the column.
    """

    sources: tuple[Source, ...]
    column: str = TEXT_COLUMN

    def __iter__(self) -> Iterator[str]:
        for source in self.sources:
            for row in records(source):
                yield _text(source, row, self.column, "text")


def text_rows(source: Source, column: str = TEXT_COLUMN) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield each text of a file with the row's other columns; a line of text has none. Errors as for `Texts`."""
    for row in records(source):
        yield _text(source, row, column, "text"), _others(source, row, column)


def _others(source: Source, row: Row, column: str) -> dict[str, object]:
    if source.format == "txt":
        return {}
    own = next((name for name in column.split("|") if name in row.fields), None)
    return {name: value for name, value in row.fields.items() if name != own}


def open_source(name: str, chosen: str, folder: Path) -> Source:
    """Return a file by its name; standard input (`-`) and pipes are copied into `folder`, so that they can be read again.

    Args:
        name: a path, or "-".
        chosen: the format where the name does not say; empty takes lines of text for standard input.
        folder: where copies go.

    Raises:
        DataError: a folder, a missing file, or an unknown ending.
    """
    path = Path(name)
    if name != "-" and path.is_dir():
        raise DataError(f"{name}: is a folder; give a file")
    if name != "-" and not path.exists():
        raise DataError(f"{name}: no such file")
    chosen = _format(name, chosen)
    if name != "-" and path.is_file():
        return Source(name, path, chosen)
    copy = folder / f"copy{len(list(folder.iterdir()))}"
    _copy(name, copy)
    return Source(name, copy, chosen)


def records(source: Source) -> Iterator[Row]:
    """Yield the rows of a file; a line of text is a row of one field.

    Raises:
        DataError: at the first row that cannot be read, with its line, and where there is no row.
    """
    empty = True
    try:
        for row in _lines(source) if source.format == "txt" else read_rows(source.path, source.format):
            if isinstance(row, Problem):
                raise DataError(f"{source.name}:{row.number}: {row.message}")
            empty = False
            yield row
    except DataError as error:
        raise DataError(str(error).replace(str(source.path), source.name)) from None
    if empty:
        raise DataError(f"{source.name}: holds no texts; at least one is needed")


def read_outputs(source: Source, columns: OutputColumns, references: Sequence[Source] = ()) -> Iterator[Output]:
    """Yield the texts of a file, each with its references: row i of every file of references belongs to text i.

    Raises:
        DataError: files of different lengths, or a row without a column that is needed, with file and line.
    """
    listed = [_references(other, columns.reference) for other in references]
    lines: Iterator[tuple[Any, ...]] = zip_longest(records(source), *listed)
    for row, *others in lines:
        if row is None or None in others:
            texts = _count(source)
            other, found = next((other, count) for other in references if (count := _count(other)) != texts)
            belongs = "row i of the references belongs to text i"
            raise DataError(f"{source.name} has {texts:,} texts but {other.name} has {found:,} rows of references; {belongs}")
        yield _output(source, row, columns, tuple(chain.from_iterable(others)))


def store(outputs: Iterable[Output], source: Source, folder: Path, by_seed: bool = False) -> list[Group]:
    """Write the texts of each system at each temperature to a file of its own, in the order in which they first come.

    Args:
        outputs: the texts.
        source: the file that they come from.
        folder: where the files go.
        by_seed: whether each training seed gets a file of its own, too.

    Raises:
        DataError: more than 200 systems, temperatures and seeds; or, not `by_seed`, a system with rows of several seeds.
    """
    with ExitStack() as files:
        begun: dict[tuple[str, float | None, str], _Begun] = {}
        for output in outputs:
            key = (output.system or source.stem, output.temperature, output.seed if by_seed else "")
            if key not in begun:
                if len(begun) == _MOST_SYSTEMS:
                    found = f"more than {_MOST_SYSTEMS} systems, temperatures and seeds"
                    raise DataError(
                        f"{source.name}:{output.line}: {found}; are the columns system and temperature what they seem?"
                    )
                path = folder / f"rows{len(list(folder.iterdir()))}"
                begun[key] = _Begun(path, files.enter_context(path.open("w", encoding="utf-8")))
            begun[key].add(output)
    if not by_seed:
        for (system, _, _), kept in begun.items():
            _refuse_several_seeds(source, system, kept)
    return [
        Group(source.name, system, temperature, kept.path, kept.count, kept.empty, seed)
        for (system, temperature, seed), kept in begun.items()
    ]


def _refuse_several_seeds(source: Source, system: str, kept: _Begun) -> None:
    """Refuse a seed for each row, or very many: those are seeds of decoding."""
    seeds = sorted(kept.seeds, key=lambda seed: (len(seed), seed))
    if 1 < len(seeds) < min(kept.count, _MOST_SEEDS + 1):
        named = ", ".join([*seeds[:3], *(["..."] if len(seeds) > 3 else [])])
        raise DataError(
            f"{source.name}: system {system!r} has rows of {len(seeds)} seeds ({named}); if these are training seeds, pass "
            "--seed-column NAME, and intervals and tests go over seeds; if they are seeds of decoding, pass --pool-seeds"
        )


@dataclass
class _Begun:
    """A file that is being written."""

    path: Path
    handle: TextIO
    count: int = field(default=0)
    empty: int = field(default=0)
    seeds: set[str] = field(default_factory=set)

    def add(self, output: Output) -> None:
        self.count += 1
        if output.seed and len(self.seeds) <= _MOST_SEEDS:
            self.seeds.add(output.seed)
        self.empty += not output.text.strip()
        self.handle.write(json.dumps([output.line, output.text, output.target, output.references]) + "\n")


def _format(name: str, chosen: str) -> str:
    if name == "-":
        return chosen or "txt"
    ending = Path(name.removesuffix(".gz")).suffix.lower()
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    if not chosen:
        allowed = f"{', '.join(_ENDINGS)} (each may be gzipped, .gz)"
        raise DataError(f"{name}: ending {ending!r} is not one of {allowed}; rename the file or pass --format")
    return chosen


def _copy(name: str, path: Path) -> None:
    if name == "-" and sys.stdin is None:
        raise DataError("-: standard input is closed; name a file")
    with path.open("wb") as copy:
        if name == "-":
            shutil.copyfileobj(sys.stdin.buffer, copy)
        else:
            with open_data(name) as pipe:
                shutil.copyfileobj(pipe, copy)


def _lines(source: Source) -> Iterator[Row | Problem]:
    for number, line in enumerate(read_lines(source.path), 1):
        yield line if isinstance(line, Problem) else Row(number, {_LINE: line})


def _output(source: Source, row: Row, columns: OutputColumns, references: tuple[str, ...]) -> Output:
    fields = row.fields if source.format != "txt" else {}
    text = find_column(fields, columns.text)
    if text and text == find_column(fields, columns.emotion):
        what = f"column {text!r} is read both as text and as emotion"
        raise DataError(f"{source.name}:{row.number}: {what}; name another with --text-column or --emotion-column")
    return Output(
        system=_system(f"{source.name}:{row.number}", fields.get("system")),
        temperature=_temperature(f"{source.name}:{row.number}", fields.get("temperature")),
        line=row.number,
        text=_text(source, row, columns.text, "text"),
        target=rename(_target(source, row, columns.emotion), columns.renames) if columns.emotion else "",
        references=references,
        others=_others(source, row, columns.text),
        seed=_seed(source, row, columns),
    )


def _references(source: Source, column: str) -> Iterator[list[str]]:
    for row in records(source):
        value = _pick(source, row, column, "reference")
        written = parse_structure(value) if isinstance(value, str) and source.format in ("csv", "tsv") else value
        listed = written if isinstance(written, list) else [value]
        if not listed or not isinstance(value, str | list):
            raise DataError(f"{source.name}:{row.number}: reference {value!r} is neither a text nor a list of texts")
        yield [_check(source, row, text, "reference") for text in listed]


def _count(source: Source) -> int:
    return sum(1 for _ in records(source))


def _text(source: Source, row: Row, column: str, what: str) -> str:
    return _check(source, row, _pick(source, row, column, what), what)


def _pick(source: Source, row: Row, column: str, what: str) -> object:
    if source.format == "txt":
        return row.fields[_LINE]
    name = find_column(row.fields, column)
    if name is None:
        wanted = " or ".join(repr(part) for part in column.split("|"))
        found = ", ".join(map(str, row.fields)) or "none"
        raise DataError(f"{source.name}:{row.number}: no column {wanted}, found {found}; name it with --{what}-column")
    return row.fields[name]


def _check(source: Source, row: Row, text: object, what: str) -> str:
    if not isinstance(text, str):
        raise DataError(f"{source.name}:{row.number}: {what} {text!r} is no text")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(f"{source.name}:{row.number}: the {what} holds half of a surrogate pair, which is no character")
    return text


def _target(source: Source, row: Row, column: str) -> str:
    where = f"{source.name}:{row.number}"
    if source.format == "txt":
        raise DataError(f"{source.name}: lines of text name no emotion; give JSON lines or a table with a column for it")
    value = _pick(source, row, column, "emotion")
    try:
        shares = {normalize_name(name): share for name, share in _shares(value).items()}
    except SettingsError as error:
        raise DataError(f"{where}: {error}") from None
    if not shares or not all(map(_is_finite, shares.values())):
        raise DataError(f"{where}: emotion {value!r} is neither a name, a list of names nor a table of finite shares")
    return max(shares, key=shares.__getitem__)


def _shares(value: object) -> Mapping[str, float]:
    """Return names with their shares, even ones for a list, which may be written out; none if `value` is no emotion."""
    if isinstance(value, str):
        value = "" if is_missing(value) else parse_structure(value)
    if isinstance(value, str) and "=" in value:
        return parse_shares(value)
    if isinstance(value, str):
        value = split_names(value)
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return dict.fromkeys(value, 1.0)
    if isinstance(value, dict) and all(isinstance(share, int | float) for share in value.values()):
        return value
    return {}


def _is_finite(share: float) -> bool:
    """Also of whole numbers that are too large for a float."""
    return -math.inf < share < math.inf


def _system(where: str, value: object) -> str:
    """Return a system's name; a number is one too, 0 as well."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"{where}: system {value!r} is neither a name nor a number")
    return str(value)


def _seed(source: Source, row: Row, columns: OutputColumns) -> str:
    """Return the training seed of a row: required where its column is named, else what may be one."""
    if columns.seed:
        if source.format == "txt":
            raise DataError(f"{source.name}: lines of text name no seed; give JSON lines or a table with a column for it")
        return _seed_name(source, row, _pick(source, row, columns.seed, "seed"))
    if columns.pool_seeds or source.format == "txt" or row.fields.keys() >= _DECODED:
        return ""
    value = next((row.fields[name] for name in SEED_COLUMN.split("|") if row.fields.get(name) not in (None, "")), None)
    return "" if value is None else str(value)


def _seed_name(source: Source, row: Row, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        raise DataError(f"{source.name}:{row.number}: seed {value!r} is neither a name nor a number")
    return str(value)


def _temperature(where: str, value: object) -> float | None:
    if value is None or value == "":
        return None
    try:
        found = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found) or found < 0:
        raise DataError(f"{where}: temperature {value!r} is no number of at least 0")
    return found
