"""A file of exchanges looked over before training: what is wrong with it, what is in it, and its splits."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emogen.data.columns import plain_words
from emogen.data.exchange import UNKNOWN_EMOTION, Exchange, Reading, Split, good_rows, infer_labels, read_exchanges, scan
from emogen.data.label_use import LabelUse
from emogen.data.repair import find_faults
from emogen.data.rows import Problem
from emogen.errors import DataError, SettingsError

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_SPLITS: tuple[Split, ...] = ("train", "valid", "test", "")
_SHOWN = 10
_MAX_KEPT = 1000
_OPENING_WORDS = 3
_MAX_OPENINGS = 100_000
_SUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Finding:
    """One problem, or the same problem in neighbouring rows: `rows` of them, from `line` to `last_line`."""

    line: int
    last_line: int
    rows: int
    kind: str
    message: str


@dataclass(frozen=True)
class KindCount:
    """How often problems of one kind, or one kind of fault in texts, occur: in `rows`, from `line` to `last_line`."""

    kind: str
    rows: int
    line: int
    last_line: int


@dataclass(frozen=True)
class Lengths:
    """Quantiles of a length in words (each CJK character is one, marks are none); all 0 where nothing is measured."""

    smallest: int
    q05: int
    q25: int
    median: int
    q75: int
    q95: int
    largest: int


@dataclass(frozen=True)
class Repeats:
    """Rows that stand elsewhere too.

    Attributes:
        rows: how many.
        lines: (line, line of the first that is the same), in the order of the file.
    """

    rows: int
    lines: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Counts:
    """What is in a file.

    Attributes:
        rows: those that are exchanges.
        labels: rows that carry each label; a row with several counts for each.
        splits: rows of each split; "" is for those that name none.
        reply_words: lengths of the replies.
        context_words: lengths of the contexts, all their utterances together, where there is one.
        rows_with_context: how many have one.
    """

    rows: int
    labels: Mapping[str, int]
    splits: Mapping[str, int]
    reply_words: Lengths
    context_words: Lengths
    rows_with_context: int


@dataclass(frozen=True)
class Report:
    """What `check_file` found.

    Attributes:
        path: the file.
        problems: rows that are no exchanges, in the order of the file; the first 1,000 findings of each kind.
        kinds: how many such rows there are of each kind, in the order in which the kinds first come.
        counts: of the other rows.
        duplicates: rows whose context and reply stand in an earlier row, every one.
        overlap: rows of valid or test whose reply also stands in train (upper and lower case and blanks aside); the
            first 10 with the line of train.
        single: labels that a single row carries, with its line.
        notes: how the labels were read, where that is not just as they stand there.
        layout: what was detected of the file, see `FileLayout.notes`; nothing of standard input.
        faults: rows whose texts have a fault, by its kind, see `emogen.data.repair`; they are exchanges all the same.
    """

    path: str
    problems: tuple[Finding, ...]
    kinds: tuple[KindCount, ...]
    counts: Counts
    duplicates: Repeats
    overlap: Repeats
    single: Mapping[str, int]
    notes: tuple[str, ...]
    layout: tuple[str, ...]
    faults: tuple[KindCount, ...]


@dataclass(frozen=True)
class Stats:
    """What `stats` counted.

    Attributes:
        path: the file.
        counts: rows, labels, splits and lengths.
        words: in all replies.
        distinct_words: different ones among them, upper and lower case aside.
        words_by_label: words of the rows that carry each label.
        opening: the commonest first three words of a reply.
        opening_rows: how many replies begin with them (at least; exact up to 100,000 different beginnings).
        notes: how the labels were read, where that is not just as they stand there.
    """

    path: str
    counts: Counts
    words: int
    distinct_words: int
    words_by_label: Mapping[str, int]
    opening: str
    opening_rows: int
    notes: tuple[str, ...] = ()


def check_file(path: str | Path, reading: Reading | None = None) -> Report:
    """Look at every row of a file, in one pass that keeps some 33 bytes a row, no text.

    Args:
        path: a file, or "-" for standard input.
        reading: columns, labels, limits.

    Raises:
        DataError: the file cannot be read at all, or holds no rows.
    """
    reading, use = _with_labels(path, reading), LabelUse()
    problems = _Problems()
    faults = _Kinds()
    tally = _Tally()
    prints = _Fingerprints()
    for found in scan(path, reading, use):
        if isinstance(found, Problem):
            problems.add(found)
            continue
        line, exchange = found
        problems.last_was_good()
        tally.add(line, exchange, len(plain_words(exchange.reply)))
        prints.add(line, exchange)
        for kind in {kind: None for text in (exchange.reply, *exchange.context) for kind in find_faults(text)}:
            faults.add(kind, line)
    layout = reading.layout(path)
    return Report(
        path=str(path),
        problems=tuple(problems.found),
        kinds=problems.kinds.counts(),
        counts=tally.counts(),
        duplicates=prints.duplicates(),
        overlap=prints.overlap(),
        single={name: tally.first_line[name] for name, rows in tally.labels.items() if rows == 1},
        notes=_notes(use, reading),
        layout=layout.notes() if layout else (),
        faults=faults.counts(),
    )


def stats(path: str | Path, reading: Reading | None = None) -> Stats:
    """Count of a file whose rows are all good, in one pass; what grows is the set of distinct words.

    Raises:
        DataError: at the first row that is no exchange.
    """
    tally = _Tally()
    distinct: set[str] = set()
    by_label: Counter[str] = Counter()
    openings = _Openings()
    total = 0
    reading, use = _with_labels(path, reading), LabelUse()
    for exchange in read_exchanges(path, reading, use):
        found = plain_words(exchange.reply)
        tally.add(0, exchange, len(found))
        total += len(found)
        distinct.update(found)
        by_label.update(dict.fromkeys(_labels(exchange), len(found)))
        openings.add(" ".join(found[:_OPENING_WORDS]))
    opening, rows = openings.commonest()
    words = _sort_descending(by_label)
    return Stats(str(path), tally.counts(), total, len(distinct), words, opening, rows, _notes(use, reading))


def _with_labels(path: str | Path, reading: Reading | None) -> Reading:
    reading = reading or Reading()
    return reading if reading.labels else replace(reading, labels=infer_labels(path, reading))


def _notes(use: LabelUse, reading: Reading) -> tuple[str, ...]:
    return tuple(use.notes(reading.labels, reading.renames)) if reading.labels else ()


def split_exchanges(
    path: str | Path,
    reading: Reading | None = None,
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    notes: list[str] | None = None,
) -> Iterator[Exchange]:
    """Return the exchanges of a file, each with a new split that a hash of its reply decides.

    The same reply (upper and lower case and blanks aside) always gets the same split, whatever its label and wherever
    it stands, so that none straddles train and test. Each label gets the given shares in expectation, not exactly.

    Args:
        path: a file, or "-" for standard input.
        reading: columns, labels, limits.
        shares: of train, valid and test; they sum to 1.
        seed: another seed, another split.
        notes: gets how the labels were read, once all rows have been.

    Raises:
        SettingsError: shares that are no shares.
        DataError: at the first row that is no exchange; at the end, where a label has a single row.
    """
    if not (min(shares) >= 0 and abs(sum(shares) - 1) <= _SUM_TOLERANCE and shares[0] > 0):
        raise SettingsError(f"shares {shares} must not be negative, sum to 1 and leave rows to train on")
    return _split(path, _with_labels(path, reading), shares, seed, [] if notes is None else notes)


def _split(
    path: str | Path, reading: Reading, shares: tuple[float, float, float], seed: int, notes: list[str]
) -> Iterator[Exchange]:
    rows: Counter[str] = Counter()
    first_line: dict[str, int] = {}
    use = LabelUse()
    for line, exchange in good_rows(path, reading, use):
        for name in _labels(exchange):
            rows[name] += 1
            first_line.setdefault(name, line)
        yield replace(exchange, split=split_of(exchange.reply, shares, seed))
    notes.extend(_notes(use, reading))
    for name, count in rows.items():
        if count == 1:
            where = f"{path}:{first_line[name]}: emotion {name!r} has only this row, which cannot be split"
            raise DataError(f"{where}; rename it, merge it with another, or drop it")


def split_of(reply: str, shares: tuple[float, float, float], seed: int) -> Split:
    """Return the split that a hash gives a reply: whatever its case and spacing, the same one always falls into the same split.

    Args:
        reply: the text.
        shares: of train, valid and test.
        seed: another one gives another division.

    >>> split_of("See you!", (0.5, 0.25, 0.25), 0) == split_of(" see  you! ", (0.5, 0.25, 0.25), 0)
    True
    """
    place = _hash(f"{seed}\n{_fold(reply)}") / 2**64
    if place < shares[0]:
        return "train"
    return "valid" if place < shares[0] + shares[1] else "test"


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "big")


def _labels(exchange: Exchange) -> list[str]:
    emotion = exchange.emotion
    return [name for name, weight in zip(emotion.labels.names, emotion.weights, strict=True) if weight > 0]


@lru_cache(maxsize=1024)
def _turn_words(turn: str) -> int:
    # Neighbouring rows of a dialogue share most of their contexts.
    return len(plain_words(turn))


def _sort_descending(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


@dataclass
class _Kinds:
    """Counts of what is told in kinds."""

    found: dict[str, KindCount] = field(default_factory=dict)

    def add(self, kind: str, line: int) -> None:
        known = self.found.get(kind, KindCount(kind, 0, line, line))
        self.found[kind] = replace(known, rows=known.rows + 1, last_line=line)

    def counts(self) -> tuple[KindCount, ...]:
        return tuple(self.found.values())


@dataclass
class _Problems:
    """Problems as they come, the same one in rows that follow each other as one finding, and not too many of a kind.

    Rows with the same unknown emotion are one finding wherever they stand: they are all put right in the same way.
    """

    found: list[Finding] = field(default_factory=list)
    kinds: _Kinds = field(default_factory=_Kinds)
    _places: dict[tuple[str, str], int] = field(default_factory=dict)
    _kept: Counter[str] = field(default_factory=Counter)

    def add(self, problem: Problem) -> None:
        self.kinds.add(problem.kind, problem.number)
        key = (problem.kind, problem.message)
        if key not in self._places:
            self._forget_others()
            if self._kept[problem.kind] == _MAX_KEPT:
                return
            self._kept[problem.kind] += 1
            self._places[key] = len(self.found)
            self.found.append(Finding(problem.number, problem.number, 0, *key))
        last = self.found[self._places[key]]
        self.found[self._places[key]] = replace(last, last_line=problem.number, rows=last.rows + 1)

    def last_was_good(self) -> None:
        self._forget_others()

    def _forget_others(self) -> None:
        self._places = {key: place for key, place in self._places.items() if key[0] == UNKNOWN_EMOTION}


@dataclass
class _Tally:
    """Counts that grow with the number of labels and of different lengths, not of rows."""

    rows: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    first_line: dict[str, int] = field(default_factory=dict)
    splits: Counter[str] = field(default_factory=Counter)
    replies: Counter[int] = field(default_factory=Counter)
    contexts: Counter[int] = field(default_factory=Counter)

    def add(self, line: int, exchange: Exchange, reply_words: int) -> None:
        self.rows += 1
        self.splits[exchange.split] += 1
        self.replies[reply_words] += 1
        if exchange.context:
            self.contexts[sum(map(_turn_words, exchange.context))] += 1
        for name in _labels(exchange):
            self.labels[name] += 1
            self.first_line.setdefault(name, line)

    def counts(self) -> Counts:
        return Counts(
            rows=self.rows,
            labels=_sort_descending(self.labels),
            splits={str(split): self.splits[split] for split in _SPLITS if self.splits[split]},
            reply_words=_lengths(self.replies),
            context_words=_lengths(self.contexts),
            rows_with_context=self.contexts.total(),
        )


def _lengths(counts: Mapping[int, int]) -> Lengths:
    """Return nearest-rank quantiles: the smallest length that at least the given share of rows does not exceed."""
    if not counts:
        return Lengths(0, 0, 0, 0, 0, 0, 0)
    lengths = np.array(sorted(counts))
    shares = np.cumsum([counts[length] for length in lengths.tolist()]) / sum(counts.values())
    places = np.minimum(np.searchsorted(shares, _QUANTILES), len(lengths) - 1)
    return Lengths(*lengths[places].tolist())


class _Openings:
    """How often each beginning occurs; the rare ones are forgotten whenever there are too many to keep."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()

    def add(self, opening: str) -> None:
        if not opening:
            return
        self._rows[opening] += 1
        if len(self._rows) > _MAX_OPENINGS:
            self._rows = Counter(dict(self._rows.most_common(_MAX_OPENINGS // 10)))

    def commonest(self) -> tuple[str, int]:
        return min(self._rows.items(), key=lambda item: (-item[1], item[0]), default=("", 0))


class _Fingerprints:
    """Eight bytes for each row's context and reply, eight for its reply, eight for its line, one for its split."""

    def __init__(self) -> None:
        self._rows = array("Q")
        self._replies = array("Q")
        self._lines = array("Q")
        self._splits = array("B")

    def add(self, line: int, exchange: Exchange) -> None:
        self._rows.append(_hash("\0".join((*exchange.context, exchange.reply))))
        self._replies.append(_hash(_fold(exchange.reply)))
        self._lines.append(line)
        self._splits.append(_SPLITS.index(exchange.split))

    def duplicates(self) -> Repeats:
        lines = _as_numpy(self._lines)
        _, first, inverse = np.unique(_as_numpy(self._rows), return_index=True, return_inverse=True)
        firsts = np.asarray(first[inverse], dtype=np.int64)
        again = np.flatnonzero(firsts != np.arange(len(firsts)))
        return Repeats(len(again), _pairs(lines[again], lines[firsts[again]]))

    def overlap(self) -> Repeats:
        lines, replies, splits = (_as_numpy(part) for part in (self._lines, self._replies, self._splits))
        train = np.flatnonzero(splits == _SPLITS.index("train"))
        held_out = np.flatnonzero((splits == _SPLITS.index("valid")) | (splits == _SPLITS.index("test")))
        known, first = np.unique(replies[train], return_index=True)
        places = np.minimum(np.searchsorted(known, replies[held_out]), max(len(known) - 1, 0))
        leaks = known[places] == replies[held_out] if len(known) else np.zeros(len(held_out), dtype=bool)
        shown = np.flatnonzero(leaks)[:_SHOWN]
        return Repeats(int(leaks.sum()), _pairs(lines[held_out[shown]], lines[train[first[places[shown]]]]))


def _as_numpy(values: array[int]) -> NDArray[Any]:
    return np.frombuffer(values, dtype=values.typecode) if values else np.zeros(0, dtype=values.typecode)


def _pairs(left: NDArray[Any], right: NDArray[Any]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(left.tolist(), right.tolist(), strict=True))
