"""A metric's value with its interval and its signature, and the checks and walks over the items that metrics share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice, zip_longest
from typing import TypeVar, cast

from emogen.errors import DataError, SettingsError

Item = TypeVar("Item")
Left = TypeVar("Left")
Right = TypeVar("Right")


@dataclass(frozen=True)
class Score:
    """One metric's value.

    Attributes:
        value: the metric over all items, on the scale that the metric's docstring gives.
        low: lower end of the 95% interval.
        high: upper end of the 95% interval.
        signature: how the value was computed, as `name|key:value|...|version:...`.
    """

    value: float
    low: float
    high: float
    signature: str


def toolkit_version() -> str:
    """Version of the installed distribution, or `dev` when it runs from a source tree."""
    try:
        return version("emogen-toolkit")
    except PackageNotFoundError:
        return "dev"


class Signature(str):
    """How a score was computed, in sacrebleu's form `name|key:value|...`: a text whose fields can be read and set.

    >>> found = Signature.of("distinct", {"n": 2, "texts": 500})
    >>> found
    'distinct|n:2|texts:500'
    >>> found.with_fields({"texts": 600}).fields
    {'n': '2', 'texts': '600'}
    """

    __slots__ = ()

    @classmethod
    def of(cls, name: str, fields: Mapping[str, object]) -> Signature:
        """Write the signature of a metric of that name."""
        return cls("|".join([name, *(f"{key}:{value}" for key, value in fields.items())]))

    @property
    def name(self) -> str:
        """Return the metric's name."""
        return self.partition("|")[0]

    @property
    def fields(self) -> dict[str, str]:
        """Return the fields by name, in their order."""
        return dict(field.split(":", 1) for field in self.split("|")[1:])

    def with_fields(self, changed: Mapping[str, object]) -> Signature:
        """Return it with some fields set anew, in their places; new ones stand at the end."""
        return Signature.of(self.name, {**self.fields, **changed})


def signature(name: str, fields: Mapping[str, object]) -> Signature:
    """Return how a score was computed, with the version of the toolkit.

    >>> signature("distinct", {"n": 2, "texts": 500}).rpartition("|version:")[0]
    'distinct|n:2|texts:500'
    """
    return Signature.of(name, {**fields, "version": toolkit_version()})


def require_items(items: Sized, name: str) -> None:
    """Check that there is something to score.

    Raises:
        DataError: if `items` is empty.
    """
    if not len(items):
        raise DataError(f"no {name} to score: pass at least one")


def require_pairs(left: Sized, right: Sized, names: tuple[str, str]) -> None:
    """Check that two lists describe the same items.

    Raises:
        DataError: if they differ in length or are empty.
    """
    if len(left) != len(right):
        raise DataError(f"{len(left)} {names[0]} but {len(right)} {names[1]}: pass one of each for every item")
    require_items(left, names[0])


def align(left: Iterable[Left], right: Iterable[Right], names: tuple[str, str]) -> Iterator[tuple[Left, Right]]:
    """Yield pairs of two streams that must be equally long.

    Raises:
        DataError: if they have other lengths, as soon as that is known.
    """
    if isinstance(left, Sized) and isinstance(right, Sized):
        require_pairs(left, right, names)
    end = object()
    for number, (one, other) in enumerate(zip_longest(left, right, fillvalue=end)):
        if one is end or other is end:
            short, long = names if one is end else names[::-1]
            raise DataError(f"{number} {short} but more {long}: pass one of each for every item")
        yield cast(Left, one), cast(Right, other)


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of `size`, the last one perhaps shorter.

    Raises:
        SettingsError: if `size` is below 1.
    """
    if size < 1:
        raise SettingsError(f"batch_size is {size}: pass at least 1")
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch
