"""How the rows of a file name their emotions: counted while they are read, and told in a line or two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from emogen.emotions.labels import EKMAN, LabelSet
from emogen.emotions.names import AUTO, NONE, find_synonyms, fold_name

Renames = tuple[tuple[str, str], ...]
"""Pairs of a name in the file and the name that is read in its place."""

_SHOWN = 10


def rename(name: str, renames: Renames) -> str:
    """Return what is read in place of `name`: by its exact spelling, else whatever its case."""
    if not renames:
        return name
    exact = dict(renames)
    return exact.get(name) or {fold_name(given): label for given, label in renames}.get(fold_name(name), name)


def find_label(name: str, labels: LabelSet, renames: Renames = ()) -> str | None:
    """Return the label that a row means by `name`, after `renames`; None where none is meant."""
    return labels.find(rename(name, renames))


@dataclass
class LabelUse:
    """Names of emotions in a file, as they are spelled there.

    Attributes:
        rows: that carry each name.
        lines: where each name stands first.
        skipped: rows that were left out because they have no text or no label.
    """

    rows: Counter[str] = field(default_factory=Counter)
    lines: dict[str, int] = field(default_factory=dict)
    skipped: int = 0

    def add(self, names: Iterable[str], line: int) -> None:
        """Count the names of one row."""
        for name in names:
            self.rows[name] += 1
            self.lines.setdefault(name, line)

    def label_set(self, renames: Renames = ()) -> LabelSet:
        """Return the label set that the names span: Ekman-7 where that suffices, else the names themselves, in order.

        Spellings of one name become the commonest of them.
        """
        spellings: dict[str, Counter[str]] = {}
        for name, count in self.rows.items():
            read = rename(name, renames)
            spellings.setdefault(fold_name(read), Counter())[read] += count
        chosen = (min(group, key=lambda name: (-group[name], name != name.lower(), name)) for group in spellings.values())
        names = sorted(chosen)
        if all(EKMAN.find_spelling(name) is not None for name in names):
            return EKMAN
        return LabelSet(tuple(names))

    def rows_of_labels(self, labels: LabelSet, renames: Renames = ()) -> Counter[str]:
        """Return the rows of each label; a row that names one twice, in two ways, counts twice."""
        counts: Counter[str] = Counter()
        for name, rows in self.rows.items():
            label = find_label(name, labels, renames)
            if label is not None:
                counts[label] += rows
        return counts

    def notes(self, labels: LabelSet, renames: Renames = ()) -> Iterator[str]:
        """Yield a line for each thing that a user should know about how the names were read."""
        for label, names in self._read_as(labels, renames).items():
            yield f"label {label!r} is also read from {self._list_labels(names)}"
        for group in _equal_in_meaning(labels):
            one, *others = map(repr, group)
            yield f"labels {one} and {', '.join(others)} mean the same; join them with --map {group[-1]}={group[0]}"
        for given, label in renames:
            if all(fold_name(given) != fold_name(name) for name in self.rows):
                yield f"--map {given}={label}: no row has the label {given!r}"
        for word, meaning in ((NONE, "no emotion"), (AUTO, "the policy's answer")):
            own = labels.find_spelling(word)
            if own is not None and any(find_label(name, labels, renames) == own for name in self.rows):
                yield f"label {own!r} goes before the word {word} for {meaning}, wherever an emotion is asked for"
        if self.skipped:
            yield f"{_rows(self.skipped)} without a text or a label left out"

    def refusal(self, path: object, labels: LabelSet, renames: Renames = ()) -> str:
        """Return the message about all names that are no label."""
        unknown = [name for name in self.rows if find_label(name, labels, renames) is None]
        if len(unknown) == 1:
            (name,) = unknown
            rows = f" ({_rows(self.rows[name])})" if self.rows[name] > 1 else ""
            return f"{path}:{self.lines[name]}: {describe_unknown(name, labels, renames)}{rows}"
        shown = ", ".join(
            f"{name!r} in {_rows(self.rows[name])} from line {self.lines[name]} on{labels.suggestion(name)}"
            for name in unknown[:_SHOWN]
        )
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        found = f"{path}: {len(unknown)} names are not one of {', '.join(labels.names)}: {shown}{more}"
        return f"{found}; map each with --map NAME=LABEL, or pass --labels"

    def _read_as(self, labels: LabelSet, renames: Renames) -> dict[str, list[str]]:
        """Return labels that stand for names spelled otherwise, with those names."""
        found: dict[str, list[str]] = {}
        for name in self.rows:
            label = find_label(name, labels, renames)
            if label is not None and label != name:
                found.setdefault(label, []).append(name)
        return found

    def _list_labels(self, names: list[str]) -> str:
        ordered = sorted(names, key=lambda name: (-self.rows[name], name))
        rows = sum(self.rows[name] for name in names)
        parts = [f"{name!r} {self.rows[name]:,}" for name in ordered[:_SHOWN]]
        more = ", ..." if len(ordered) > _SHOWN else ""
        return f"{', '.join(parts)}{more} ({_rows(rows)})"


@lru_cache(maxsize=4096)
def describe_unknown(name: str, labels: LabelSet, renames: Renames = ()) -> str:
    """Return what is said of one name that is no label."""
    read = rename(name, renames)
    return f"{labels.unknown(read)}; map it with --map {name}=LABEL, or pass --labels"


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _equal_in_meaning(labels: LabelSet) -> Iterator[list[str]]:
    """Yield labels of one set that `synonyms.toml` holds for the same emotion."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in labels.names:
        for words in list(find_synonyms(name))[:1]:
            groups.setdefault(words, []).append(name)
    yield from (group for group in groups.values() if len(group) > 1)
