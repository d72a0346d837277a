"""What steers decoding towards an emotion, and how much: frozen options, without PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from emogen.errors import SettingsError

_MOST = 100.0
_MOST_CANDIDATES = 64
CHOICES = ("rerank", "mbr")


@dataclass(frozen=True)
class Control:
    """The weight of each controller. They add up; the defaults are all off. See `controllers` for the formulas.

    Attributes:
        guidance: scores go this many times the way from those without emotion to those with it; 1 is off, 2 rows a text.
        expert: weight of the scores with the emotion less those of the neutral label (of no emotion, where no label is called
            neutral); 0 is off, 2 rows a text.
        bayes: weight of the log probability that the text so far, each token appended, has the emotion: by the generator's own
            likelihoods under all its labels; 0 is off, one row a label and text.
        head: weight of the emotion head's log probability of the same; 0 is off, no further row; needs a head.
        rerank: so many texts are written, and the one that a guide finds nearest to the emotion is kept; 1 is off.
        mbr: so many texts are written, and the one that is most like all of them is kept (minimum Bayes risk); 1 is off. Not
            together with `rerank`.
    """

    guidance: float = 1.0
    expert: float = 0.0
    bayes: float = 0.0
    head: float = 0.0
    rerank: int = 1
    mbr: int = 1

    def __post_init__(self) -> None:
        for name in ("guidance", "expert", "bayes", "head"):
            value = getattr(self, name)
            if not 0 <= value <= _MOST:
                raise SettingsError(f"control {name}:{value:g}: allowed is between 0 and {_MOST:g}")
        for name in CHOICES:
            count = getattr(self, name)
            if not (1 <= count <= _MOST_CANDIDATES and count == int(count)):
                raise SettingsError(f"control {name}:{count}: allowed is a whole number between 1 and {_MOST_CANDIDATES}")
        if self.rerank > 1 and self.mbr > 1:
            raise SettingsError(f"control {self}: rerank and mbr each choose one text among many; leave one of them out")

    @property
    def names(self) -> tuple[str, ...]:
        """Return the controllers that are on."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) != field.default)

    @property
    def candidates(self) -> int:
        """Return how many texts are written for each that is kept."""
        return max(self.rerank, self.mbr)

    @property
    def choice(self) -> str | None:
        """Return the controller that chooses among whole texts, if one is on."""
        return next((name for name in CHOICES if getattr(self, name) > 1), None)

    def __str__(self) -> str:
        return ",".join(f"{name}:{_format_weight(getattr(self, name))}" for name in self.names) or "none"


CONTROLLERS = tuple(field.name for field in fields(Control))


def parse_control(text: str) -> Control:
    """Read `head:1.5,guidance:2`; `none` is no control.

    >>> str(parse_control("guidance:2, head:1.5"))
    'guidance:2,head:1.5'

    Raises:
        SettingsError: an unknown controller, one that stands twice, or a weight that is no number or out of range.
    """
    weights: dict[str, float] = {}
    for part in text.split(",") if text.strip() != "none" else ():
        name, _, weight = (piece.strip() for piece in part.partition(":"))
        if name not in CONTROLLERS:
            raise SettingsError(f"control {text!r}: {name!r} is not one of {', '.join(CONTROLLERS)}, none; write guidance:2")
        if name in weights:
            raise SettingsError(f"control {text!r} names {name} twice")
        try:
            number = float(weight)
        except ValueError:
            raise SettingsError(f"control {text!r}: {weight!r} is not a number; write {name}:2") from None
        if not math.isfinite(number):
            raise SettingsError(f"control {text!r}: {weight!r} is not finite; write {name}:2")
        weights[name] = number
    counts = {name: _whole(text, name, weights.pop(name, 1.0)) for name in CHOICES}
    return Control(**weights, rerank=counts["rerank"], mbr=counts["mbr"])


def _format_weight(weight: float) -> str:
    """Return all digits, so that what is written down is read back as the same."""
    return repr(float(weight)).removesuffix(".0")


def _whole(text: str, name: str, number: float) -> int:
    if number != int(number):
        raise SettingsError(f"control {text!r}: {name}:{number:g} is not a whole number")
    return int(number)
