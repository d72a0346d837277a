"""Emotions as points in a space of valence, arousal and dominance: distances, mixtures, and the course of a conversation.

Source of the figures: Russell & Mehrabian 1977, Evidence for a three-factor theory of emotions, Journal of Research in
Personality 11, 273-294, table 4: mean pleasure, arousal and dominance of 151 terms, each from -1 to 1. A label has the
figures of its own word there (anger those of "angry"); neutral is the origin. A label without a word of its own has an
estimate of ours: the mean of the terms that `ESTIMATED` names for it. The figures were taken from transcriptions of the
table. Where these differ, the value is taken that most of them give: of "guilty" the arousal .28 (one has -.28), of
"grateful" the dominance -.21 (one has -.18), of "confused" .27 and -.32 (one has .28 and -.03).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from emogen.emotions.labels import Emotion, LabelSet, no_emotion
from emogen.errors import SettingsError

NEUTRAL = "neutral"


@dataclass(frozen=True)
class Point:
    """A place in the space, each coordinate from -1 to 1; the origin is neutral.

    Attributes:
        valence: unpleasant to pleasant.
        arousal: calm to excited.
        dominance: controlled by what happens to in control.
    """

    valence: float
    arousal: float
    dominance: float

    def __post_init__(self) -> None:
        if not all(-1.0 <= value <= 1.0 for value in self):
            raise SettingsError(f"point {tuple(self)}: valence, arousal and dominance lie between -1 and 1")

    def __iter__(self) -> Iterator[float]:
        yield from (self.valence, self.arousal, self.dominance)


Points: TypeAlias = Mapping[str, Point]

ORIGIN = Point(0.0, 0.0, 0.0)

TERMS: Points = {
    "affectionate": Point(0.64, 0.35, 0.24),
    "angry": Point(-0.51, 0.59, 0.25),
    "anguished": Point(-0.50, 0.08, -0.20),
    "anxious": Point(0.01, 0.59, -0.15),
    "appreciative": Point(0.55, 0.07, -0.14),
    "capable": Point(0.70, 0.28, 0.61),
    "concentrating": Point(0.42, 0.28, 0.39),
    "confused": Point(-0.53, 0.27, -0.32),
    "consoled": Point(0.29, -0.19, -0.28),
    "contemptuous": Point(-0.24, 0.31, 0.21),
    "crushed": Point(-0.69, 0.03, -0.50),
    "curious": Point(0.22, 0.62, -0.01),
    "depressed": Point(-0.72, -0.29, -0.41),
    "despairing": Point(-0.72, -0.16, -0.38),
    "devoted": Point(0.49, 0.17, 0.10),
    "discontented": Point(-0.53, -0.16, -0.26),
    "discouraged": Point(-0.61, -0.15, -0.29),
    "disgusted": Point(-0.60, 0.35, 0.11),
    "displeased": Point(-0.55, 0.16, -0.05),
    "embarrassed": Point(-0.46, 0.54, -0.24),
    "enjoyment": Point(0.77, 0.44, 0.42),
    "enraged": Point(-0.44, 0.72, 0.32),
    "excited": Point(0.62, 0.75, 0.38),
    "fearful": Point(-0.64, 0.60, -0.43),
    "friendly": Point(0.69, 0.35, 0.30),
    "frustrated": Point(-0.64, 0.52, -0.35),
    "grateful": Point(0.64, 0.16, -0.21),
    "guilty": Point(-0.57, 0.28, -0.34),
    "happy": Point(0.81, 0.51, 0.46),
    "hopeful": Point(0.51, 0.23, 0.14),
    "hostile": Point(-0.42, 0.53, 0.30),
    "impressed": Point(0.41, 0.30, -0.32),
    "in love": Point(0.82, 0.65, -0.05),
    "interested": Point(0.64, 0.51, 0.17),
    "joyful": Point(0.76, 0.48, 0.35),
    "kind": Point(0.73, 0.19, 0.57),
    "lonely": Point(-0.66, -0.43, -0.32),
    "mildly annoyed": Point(-0.28, 0.17, 0.04),
    "pain": Point(-0.58, 0.41, -0.34),
    "protected": Point(0.60, -0.22, -0.42),
    "proud": Point(0.77, 0.38, 0.65),
    "regretful": Point(-0.52, 0.02, -0.21),
    "relaxed": Point(0.68, -0.46, 0.06),
    "repentant": Point(-0.06, 0.06, -0.12),
    "respectful": Point(0.38, 0.13, -0.08),
    "reverent": Point(0.31, -0.08, -0.29),
    "sad": Point(-0.63, -0.27, -0.33),
    "secure": Point(0.74, -0.13, 0.03),
    "shamed": Point(-0.57, 0.01, -0.34),
    "surprised": Point(0.40, 0.67, -0.13),
    "suspicious": Point(-0.25, 0.42, 0.11),
    "tense": Point(-0.33, 0.58, -0.11),
    "terrified": Point(-0.62, 0.82, -0.43),
    "untroubled": Point(0.79, -0.01, 0.33),
}
"""The terms of the published table that labels need."""

_OWN_WORDS = {
    "anger": "angry",
    "anxiety": "anxious",
    "ashamed": "shamed",
    "confusion": "confused",
    "curiosity": "curious",
    "depression": "depressed",
    "disgust": "disgusted",
    "embarrassment": "embarrassed",
    "excitement": "excited",
    "fear": "fearful",
    "gratitude": "grateful",
    "guilt": "guilty",
    "happiness": "happy",
    "joy": "joyful",
    "pride": "proud",
    "sadness": "sad",
    "shame": "shamed",
    "surprise": "surprised",
}
_SAME_WORDS = (
    *("angry", "anxious", "disgusted", "embarrassed", "excited", "grateful", "guilty", "happy", "hopeful", "impressed"),
    *("joyful", "lonely", "pain", "proud", "sad", "surprised", "terrified"),
)

ESTIMATED: Mapping[str, tuple[str, ...]] = {
    "admiration": ("impressed", "respectful", "appreciative"),
    "afraid": ("fearful",),
    "amusement": ("enjoyment",),
    "annoyance": ("mildly annoyed",),
    "annoyed": ("mildly annoyed",),
    "anticipating": ("interested", "hopeful"),
    "apprehensive": ("anxious", "tense", "suspicious"),
    "approval": ("appreciative", "respectful", "friendly"),
    "caring": ("kind", "affectionate", "devoted"),
    "confident": ("capable", "secure"),
    "content": ("untroubled", "relaxed", "secure"),
    "desire": ("interested", "hopeful", "in love"),
    "devastated": ("crushed", "despairing"),
    "disappointed": ("discouraged", "discontented"),
    "disappointment": ("discouraged", "discontented"),
    "disapproval": ("displeased", "contemptuous"),
    "faithful": ("devoted", "affectionate"),
    "furious": ("enraged",),
    "grief": ("anguished", "despairing"),
    "jealous": ("hostile", "frustrated", "suspicious"),
    "jealousy": ("hostile", "frustrated", "suspicious"),
    "love": ("in love", "affectionate"),
    "nervousness": ("anxious", "tense"),
    "nostalgic": ("affectionate", "consoled", "regretful"),
    "optimism": ("hopeful",),
    "prepared": ("capable", "concentrating"),
    "realization": ("surprised", "concentrating"),
    "relief": ("relaxed", "consoled", "secure"),
    "remorse": ("regretful", "repentant", "guilty"),
    "sentimental": ("affectionate", "consoled", "reverent"),
    "trusting": ("secure", "friendly", "protected"),
}
"""Labels without a word of their own in the table, and the terms whose mean stands for them: an estimate, not a measurement."""


def _mean(points: Sequence[Point], weights: Sequence[float]) -> Point:
    """Return the weighted sum of points, kept inside the space against rounding."""
    sums = (math.fsum(map(math.prod, zip(weights, values, strict=True))) for values in zip(*points, strict=True))
    return Point(*(min(1.0, max(-1.0, value)) for value in sums))


POINTS: Points = {
    NEUTRAL: ORIGIN,
    **{name: TERMS[name] for name in _SAME_WORDS},
    **{name: TERMS[term] for name, term in _OWN_WORDS.items()},
    **{name: _mean([TERMS[term] for term in terms], [1 / len(terms)] * len(terms)) for name, terms in ESTIMATED.items()},
}
"""The point of every label of Ekman's, GoEmotions' and EmpatheticDialogues' sets, and of some other corpora's."""


def point_of(name: str, points: Points = POINTS) -> Point:
    """Tell where a label stands; raise SettingsError for one that has no point.

    >>> point_of("anger")
    Point(valence=-0.51, arousal=0.59, dominance=0.25)
    """
    if name not in points:
        raise SettingsError(f"emotion {name!r} has no valence, arousal and dominance; give `points` with one for it")
    return points[name]


def coordinates(emotion: Emotion, points: Points = POINTS) -> Point:
    """Tell where a mixture stands: the weighted mean of its labels' points, times its strength.

    Args:
        emotion: the mixture; labels that weigh nothing need no point.
        points: of the labels.

    Raises:
        SettingsError: a label without a point.
    """
    parts = [(name, weight) for name, weight in zip(emotion.labels.names, emotion.weights, strict=True) if weight > 0]
    found = [point_of(name, points) for name, _ in parts]
    return _mean(found, [weight * emotion.strength for _, weight in parts])


def distance(one: Point, other: Point) -> float:
    """Return the Euclidean distance, 0 to 2 times the root of 3."""
    return math.dist(tuple(one), tuple(other))


def divergence(one: Emotion, other: Emotion) -> float:
    """Return the Jensen-Shannon divergence of two mixtures in bits: 0 where they are equal, 1 where they share nothing.

    The share of "no emotion" counts as one more label, so that strength matters; two emotions of strength 0 are equal
    whatever their weights.

    Source: Lin 1991, Divergence measures based on the Shannon entropy.

    Raises:
        SettingsError: mixtures over different labels.
    """
    require_labels(other, one.labels)
    return min(1.0, max(0.0, sum(map(_half_divergence, one.condition, other.condition))))


def _half_divergence(one: float, other: float) -> float:
    middle = (one + other) / 2
    return sum(share / 2 * math.log2(share / middle) for share in (one, other) if share > 0)


def require_labels(emotion: Emotion, labels: LabelSet) -> None:
    """Raise SettingsError where an emotion is over other labels."""
    if emotion.labels != labels:
        raise SettingsError(f"emotion {emotion} is over {', '.join(emotion.labels.names)}, not over {', '.join(labels.names)}")


def emotion_of(shares: Sequence[float], labels: LabelSet) -> Emotion:
    """Return the emotion whose condition (weights times strength, then the share of "no emotion") is `shares`, scaled to sum 1.

    Raises:
        SettingsError: a share that is negative or no number, a wrong count, or nothing but zeros.
    """
    if len(shares) != len(labels) + 1:
        raise SettingsError(f"{len(shares)} shares for {len(labels)} labels and no emotion")
    total = math.fsum(shares)
    if not all(share >= 0 for share in shares) or not 0 < total < math.inf:
        raise SettingsError(f"shares {list(shares)} are no distribution; each is at least 0, and one more")
    felt = math.fsum(shares[:-1])
    if not felt:
        return no_emotion(labels)
    return Emotion(labels, tuple(share / felt for share in shares[:-1]), min(1.0, felt / total))


def mix(emotions: Sequence[Emotion], weights: Sequence[float] | None = None) -> Emotion:
    """Return the mixture of emotions; its point is the weighted mean of their points.

    Args:
        emotions: at least one, over the same labels; a stronger one has more say.
        weights: one for each, non-negative; even by default.

    Raises:
        SettingsError: no emotion, different labels, or weights that do not fit.
    """
    if not emotions:
        raise SettingsError("no emotions to mix; give at least one")
    given = [1.0] * len(emotions) if weights is None else list(weights)
    if len(given) != len(emotions) or not all(weight >= 0 for weight in given) or not 0 < math.fsum(given) < math.inf:
        raise SettingsError(f"weights {given} for {len(emotions)} emotions; give each one of at least 0, and one above it")
    for emotion in emotions:
        require_labels(emotion, emotions[0].labels)
    columns = zip(*(emotion.condition for emotion in emotions), strict=True)
    return emotion_of([math.fsum(map(math.prod, zip(given, column, strict=True))) for column in columns], emotions[0].labels)


def nearest(point: Point, labels: LabelSet, points: Points = POINTS) -> str:
    """Return the label whose point is nearest; the first of them where several are.

    Raises:
        SettingsError: a label without a point.
    """
    return min(labels.names, key=lambda name: distance(point, point_of(name, points)))


@dataclass(frozen=True)
class Trajectory:
    """The course of a conversation through the space.

    Attributes:
        points: one a turn, at least one.
        names: for each turn the heaviest label of its emotion; empty where the emotion has strength 0.
    """

    points: tuple[Point, ...]
    names: tuple[str, ...]

    def summary(self, least: float = 0.2) -> Summary:
        """Start, end and what happened in between; `least` is the rise or fall of valence that counts as one."""
        if not least > 0:
            raise SettingsError(f"least {least:g} of a turning point must be above 0")
        start, *_, end = self.points * 2 if len(self.points) == 1 else self.points
        drift = tuple(after - before for before, after in zip(start, end, strict=True))
        steps = [distance(before, after) for before, after in pairwise(self.points)]
        volatility = math.sqrt(math.fsum(step * step for step in steps) / len(steps)) if steps else 0.0
        values = [point.valence for point in self.points]
        low = high = extreme = 0
        direction, found = 0, []
        for at, value in enumerate(values):
            if not direction:
                low, high = min(low, at, key=values.__getitem__), max(high, at, key=values.__getitem__)
                if values[high] - values[low] >= least:
                    direction, extreme = (1 if high > low else -1), at
            elif direction * (value - values[extreme]) > 0:
                extreme = at
            elif direction * (values[extreme] - value) >= least:
                found.append(extreme + 1)
                direction, extreme = -direction, at
        turning = tuple(found)
        return Summary(len(self.points), start, end, (drift[0], drift[1], drift[2]), math.fsum(steps), volatility, turning)

    def as_object(self) -> dict[str, object]:
        """Return what JSON holds: `turns`, a list of objects, and `summary`."""
        turns = [{"turn": at, "emotion": name, **_format_point(point)} for at, (name, point) in enumerate(self._rows, 1)]
        return {"turns": turns, "summary": self.summary().as_object()}

    def as_text(self) -> str:
        """Return a table for people, a line a turn, and the summary under it."""
        width = max(len("emotion"), *map(len, self.names))
        lines = [f"turn  {'emotion':<{width}}  valence  arousal  dominance"]
        for at, (name, point) in enumerate(self._rows, 1):
            lines.append(
                f"{at:>4}  {name or '-':<{width}}  {point.valence:+7.2f}  {point.arousal:+7.2f}  {point.dominance:+9.2f}"
            )
        return "\n".join([*lines, self.summary().as_text()])

    @property
    def _rows(self) -> Iterator[tuple[str, Point]]:
        return zip(self.names, self.points, strict=True)


@dataclass(frozen=True)
class Summary:
    """What became of a conversation.

    Attributes:
        turns: how many.
        start: point of the first turn.
        end: point of the last.
        drift: end less start: valence, arousal, dominance, each -2 to 2.
        length: of the way, step by step.
        volatility: root of the mean squared step between successive turns (the successive difference of von Neumann 1941);
            0 for one turn.
        turning: turns, counted from 1, at which valence stops rising and falls, or stops falling and rises.
    """

    turns: int
    start: Point
    end: Point
    drift: tuple[float, float, float]
    length: float
    volatility: float
    turning: tuple[int, ...]

    def as_object(self) -> dict[str, object]:
        """Return what JSON holds."""
        return {
            "turns": self.turns,
            "start": _format_point(self.start),
            "end": _format_point(self.end),
            "drift": dict(zip(("valence", "arousal", "dominance"), (round(value, 6) for value in self.drift), strict=True)),
            "length": round(self.length, 6),
            "volatility": round(self.volatility, 6),
            "turning_points": list(self.turning),
        }

    def as_text(self) -> str:
        """Return one line."""
        drift = " ".join(f"{value:+.2f}" for value in self.drift)
        turning = ", ".join(map(str, self.turning)) or "none"
        return f"drift {drift} (valence, arousal, dominance), volatility {self.volatility:.2f}, turning points: {turning}"


def trajectory(emotions: Sequence[Emotion], points: Points = POINTS) -> Trajectory:
    """Return the course of a conversation.

    Args:
        emotions: of its turns, in order, over any labels; of a state or as recognised.
        points: of the labels.

    Raises:
        SettingsError: no turn, or a label without a point.
    """
    if not emotions:
        raise SettingsError("a trajectory needs at least one turn")
    names = tuple(emotion.name if emotion.strength else "" for emotion in emotions)
    return Trajectory(tuple(coordinates(emotion, points) for emotion in emotions), names)


def _format_point(point: Point) -> dict[str, float]:
    return {name: round(getattr(point, name), 6) for name in ("valence", "arousal", "dominance")}
