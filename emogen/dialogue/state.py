"""What a speaker feels over the turns of a conversation: new turns count most, old ones fade."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from emogen.emotions.labels import Emotion, LabelSet, no_emotion
from emogen.emotions.space import POINTS, Point, Points, coordinates, emotion_of, require_labels
from emogen.errors import SettingsError

DECAY = 0.5


class Recognised(Protocol):
    """What was found in a text, as `Recognizer.recognize` gives it."""

    @property
    def probabilities(self) -> Mapping[str, float]:
        """Return the probability of each label."""


class Recognises(Protocol):
    """A recogniser over some labels, such as `Recognizer`."""

    @property
    def names(self) -> LabelSet:
        """Return its labels."""

    def recognize(self, texts: Sequence[str]) -> Sequence[Recognised]:
        """Return what each text expresses."""


@dataclass(frozen=True)
class EmotionState:
    """What a speaker feels by now; each new turn makes another state.

    Attributes:
        emotion: distribution over the labels, and its strength.
        turns: how many have been heard.
        weight: of all turns heard, as they count by now; the latest counts 1.
    """

    emotion: Emotion
    turns: int = 0
    weight: float = 0.0

    @property
    def labels(self) -> LabelSet:
        """Return what the distribution is over."""
        return self.emotion.labels

    @property
    def shares(self) -> tuple[float, ...]:
        """Return a point of the simplex: one share a label, then that of no emotion."""
        return self.emotion.condition

    def point(self, points: Points = POINTS) -> Point:
        """Valence, arousal and dominance; they fade as the shares do, in which they are linear."""
        return coordinates(self.emotion, points)

    def after(self, heard: Emotion | Recognised | None, decay: float = DECAY) -> EmotionState:
        """Return the state after one more turn: the mean of the shares of all turns, that of n turns ago counting decay^n.

        It is an exponential average that begins with the first turn and not with a guess (Kingma & Ba 2015, section 3). A
        turn counts half as much h turns later, with decay = 0.5^(1/h).

        Args:
            heard: the turn's emotion, what a recogniser found in it, or None where it shows nothing.
            decay: what a turn counts one turn later, 0 (the last turn alone counts) to 1 (all count alike).

        Raises:
            SettingsError: another decay, or an emotion over other labels.
        """
        if not 0.0 <= decay <= 1.0:
            raise SettingsError(f"decay {decay:g} is not between 0 and 1")
        found, left = self._emotion(heard), decay * self.weight
        shares = [left * old + new for old, new in zip(self.shares, found.condition, strict=True)]
        return EmotionState(emotion_of(shares, self.labels), self.turns + 1, left + 1.0)

    def as_object(self, points: Points = POINTS) -> dict[str, object]:
        """Return what JSON holds: turns, emotion (shares by label), strength, and point, null where a label has none."""
        weights = zip(self.labels.names, self.emotion.weights, strict=True)
        has_point = all(name in points for name in self.labels.names)
        return {
            "turns": self.turns,
            "emotion": {name: round(weight, 6) for name, weight in weights},
            "strength": round(self.emotion.strength, 6),
            "point": [round(value, 6) for value in self.point(points)] if has_point else None,
        }

    def _emotion(self, heard: Emotion | Recognised | None) -> Emotion:
        if heard is None:
            return no_emotion(self.labels)
        if not isinstance(heard, Emotion):
            return as_emotion(heard, self.labels)
        require_labels(heard, self.labels)
        return heard


def at_rest(labels: LabelSet) -> EmotionState:
    """Return the state before anything was said: no emotion."""
    return EmotionState(no_emotion(labels))


def felt(
    recognizer: Recognises, utterances: Sequence[str], decay: float = DECAY, before: EmotionState | None = None
) -> EmotionState:
    """Return what a speaker feels after some more utterances, oldest first; `before` them he was at rest, or as it says."""
    state = before or at_rest(recognizer.names)
    for found in recognizer.recognize(utterances):
        state = state.after(found, decay)
    return state


def as_emotion(found: Recognised, labels: LabelSet) -> Emotion:
    """Return what a recogniser found as a mixture: its probabilities over their sum.

    The strength is that sum, at most 1: probabilities of several labels at once may sum to little, where none is there.

    Raises:
        SettingsError: a probability that is none, or of a label that `labels` lacks.
    """
    given = dict(found.probabilities)
    unknown = [name for name in given if name not in labels]
    if unknown:
        raise SettingsError(f"emotion {unknown[0]!r} was recognised, which is not one of {', '.join(labels.names)}")
    if not all(0.0 <= share <= 1.0 for share in given.values()):
        raise SettingsError(f"probabilities {given} do not lie between 0 and 1")
    shares = [given.get(name, 0.0) for name in labels.names]
    total = math.fsum(shares)
    return emotion_of([*shares, max(0.0, 1.0 - total)], labels)
