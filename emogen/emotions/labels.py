"""Emotions as points on a simplex: label sets, mixtures, their parsing, and mappings between label sets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from emogen.emotions.names import MARKS, NONE, find_synonyms, fold_name, is_name, normalize_name, read_words, suggest_name
from emogen.errors import SettingsError

_SUM_TOLERANCE = 0.01
# As a Chinese keyboard types them.
_WIDE = str.maketrans("，＝", ",=")


@dataclass(frozen=True)
class LabelSet:
    """The ordered emotion names of a corpus or a model; a name holds none of `, = |`, which stand between names.

    >>> EKMAN.position("joy")
    3
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise SettingsError("a label set needs at least one name")
        if len(set(self.names)) != len(self.names):
            raise SettingsError(f"label set has a name twice: {', '.join(self.names)}")
        for name in self.names:
            if not is_name(name):
                marks = " ".join(MARKS)
                found = "is empty, has blanks around it, or holds a control character or one of"
                raise SettingsError(f"emotion name {name!r} {found} {marks}")

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._positions

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.names)}

    @cached_property
    def _by_fold(self) -> dict[str, str]:
        """Return the name that each folded spelling stands for; none where it stands for several."""
        spellings: dict[str, list[str]] = {}
        for name in self.names:
            spellings.setdefault(fold_name(name), []).append(name)
        return {folded: names[0] for folded, names in spellings.items() if len(names) == 1}

    def find_spelling(self, name: str) -> str | None:
        """Find the label that has this name in some spelling; None where there is none, or more than one.

        >>> EKMAN.find_spelling("JOY"), EKMAN.find_spelling("happy")
        ('joy', None)
        """
        return name if name in self._positions else self._by_fold.get(fold_name(name))

    def find(self, name: str) -> str | None:
        """Find the label that `name` means: by its spelling, else by `synonyms.toml`; None where no one label is meant.

        Ekman's labels also stand for the finer ones of the public corpora, as `TO_EKMAN` says.

        >>> EKMAN.find("Happy"), EKMAN.find("开心"), EKMAN.find("grateful"), EKMAN.find("hunger")
        ('joy', 'joy', 'joy', None)
        """
        found = self.find_spelling(name)
        if found is not None:
            return found
        for number, words in enumerate(find_synonyms(name)):
            meant = {label for word in words if (label := self._by_fold.get(word)) is not None}
            if not meant and number == 0 and self == EKMAN:
                meant = {TO_EKMAN[word] for word in words if word in TO_EKMAN}
            if meant:
                return meant.pop() if len(meant) == 1 else None
        return None

    def unknown(self, name: str) -> str:
        """Say that no label is meant by `name`, which ones there are, and which one may have been meant."""
        return f"emotion {name!r} is not one of {', '.join(self.names)}{self.suggestion(name)}"

    def suggestion(self, name: str) -> str:
        """Return ` (did you mean joy?)` where a label, or a word for one, is spelled much like `name`; else nothing."""
        return suggest_name(name, self._words)

    @cached_property
    def _words(self) -> dict[str, str]:
        """Return every folded word that leads to a label, with that label."""
        words = (*self._by_fold, *read_words())
        return {word: label for word in words if (label := self.find(word)) is not None}

    def position(self, name: str) -> int:
        """Return the place of the label that `name` means, as `find` finds it; raise SettingsError with the allowed names."""
        found = name if name in self._positions else self.find(name)
        if found is None:
            raise SettingsError(self.unknown(name))
        return self._positions[found]


@dataclass(frozen=True)
class Emotion:
    """A mixture of emotions with a strength.

    Attributes:
        labels: what the weights refer to.
        weights: one for each label, non-negative, sum 1.
        strength: 0 (no emotion asked for) to 1.
    """

    labels: LabelSet
    weights: tuple[float, ...]
    strength: float = 1.0

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.labels):
            raise SettingsError(f"{len(self.weights)} weights for {len(self.labels)} labels")
        if any(not 0.0 <= weight <= 1.0 + _SUM_TOLERANCE for weight in self.weights):
            raise SettingsError(f"emotion weights must lie between 0 and 1, found {list(self.weights)}")
        if abs(math.fsum(self.weights) - 1.0) > _SUM_TOLERANCE:
            raise SettingsError(f"emotion weights sum to {math.fsum(self.weights):g}, not to 1")
        if not 0.0 <= self.strength <= 1.0:
            raise SettingsError(f"strength {self.strength:g} is not between 0 and 1")

    @property
    def name(self) -> str:
        """Return the heaviest label; the first of them where several weigh the same."""
        return self.labels.names[max(range(len(self.weights)), key=self.weights.__getitem__)]

    @property
    def condition(self) -> tuple[float, ...]:
        """Return what a model is given: weights times strength, then the share of "no emotion"; sums to 1."""
        return (*(weight * self.strength for weight in self.weights), 1.0 - self.strength)

    @property
    def shown(self) -> str:
        """Return what it is, or "none" for no emotion; without its strength."""
        return str(self) if self.strength else "none"

    def __str__(self) -> str:
        parts = [(name, weight) for name, weight in zip(self.labels.names, self.weights, strict=True) if weight > 0]
        return parts[0][0] if len(parts) == 1 else ",".join(f"{name}={weight:g}" for name, weight in parts)


def mixture(shares: Mapping[str, float], labels: LabelSet, strength: float = 1.0) -> Emotion:
    """Return the mixture with the given shares; labels that are not named weigh nothing.

    Raises:
        SettingsError: an unknown name, a share outside 0 to 1, or shares that do not sum to 1.
    """
    weights = [0.0] * len(labels)
    for name, share in shares.items():
        weights[labels.position(name)] += share
    return Emotion(labels, tuple(weights), strength)


def blend(names: Sequence[str], labels: LabelSet) -> Emotion:
    """Return the even mixture of `names`, as for a row that carries several labels."""
    weights = [0.0] * len(labels)
    for name in names:
        weights[labels.position(name)] += 1.0 / len(names)
    return Emotion(labels, tuple(weights))


def parse_emotion(text: str, labels: LabelSet, strength: float = 1.0) -> Emotion:
    """Read `joy`, `joy=0.7,surprise=0.3` or `none`; a name is understood as `LabelSet.find` does.

    A label that is itself called none goes before the word that asks for no emotion.

    >>> str(parse_emotion("joy=0.7, surprise=0.3", EKMAN)), str(parse_emotion("Happy", EKMAN))
    ('joy=0.7,surprise=0.3', 'joy')
    >>> parse_emotion("none", EKMAN).strength
    0.0

    Raises:
        SettingsError: an unknown name, a share that is no number, or shares that do not sum to 1.
    """
    text = text.translate(_WIDE)
    if "=" not in text:
        return no_emotion(labels) if is_word(text, NONE, labels) else mixture({normalize_name(text): 1.0}, labels, strength)
    shares = parse_shares(text)
    try:
        return mixture(shares, labels, strength)
    except SettingsError as error:
        raise SettingsError(f"emotion {text!r}: {error}") from None


def is_word(text: str, word: str, labels: LabelSet) -> bool:
    """Return whether `text` is a word such as `none` or `auto`, and not the label that a model may have by that name."""
    return fold_name(text) == word and labels.find_spelling(text) is None


def parse_shares(text: str) -> dict[str, float]:
    """Read `joy=0.7,surprise=0.3` whatever the names.

    Raises:
        SettingsError: a name that stands twice, or a share that is no number.
    """
    shares: dict[str, float] = {}
    for part in text.translate(_WIDE).split(","):
        name, _, share = (normalize_name(piece) for piece in part.partition("="))
        if name in shares:
            raise SettingsError(f"emotion {text!r} names {name!r} twice")
        try:
            shares[name] = float(share)
        except ValueError:
            raise SettingsError(f"emotion {text!r}: {share!r} is not a number; write joy=0.7,fear=0.3") from None
    return shares


def no_emotion(labels: LabelSet) -> Emotion:
    """Return the point that asks for nothing: strength 0 (its weights then do not matter)."""
    return Emotion(labels, (1.0 / len(labels),) * len(labels), strength=0.0)


def map_names(names: Iterable[str], mapping: Mapping[str, str], labels: LabelSet) -> list[str]:
    """Return native label names as names of `labels`: unchanged where known, else through `mapping`; others are kept out.

    >>> map_names(["gratitude", "joy", "hunger"], TO_EKMAN, EKMAN)
    ['joy', 'joy']
    """
    mapped = (name if name in labels else mapping.get(name) for name in names)
    return [name for name in mapped if name is not None and name in labels]


def _label_set(names: str) -> LabelSet:
    return LabelSet(tuple(names.split()))


EKMAN = _label_set("anger disgust fear joy neutral sadness surprise")

GOEMOTIONS = _label_set(
    "admiration amusement anger annoyance approval caring confusion curiosity desire disappointment disapproval "
    "disgust embarrassment excitement fear gratitude grief joy love nervousness optimism pride realization relief "
    "remorse sadness surprise neutral"
)

EMPATHETIC = _label_set(
    "afraid angry annoyed anticipating anxious apprehensive ashamed caring confident content devastated disappointed "
    "disgusted embarrassed excited faithful furious grateful guilty hopeful impressed jealous joyful lonely nostalgic "
    "prepared proud sad sentimental surprised terrified trusting"
)

_EKMAN_FAMILIES = {
    "anger": "angry annoyance annoyed disapproval furious jealous jealousy",
    "disgust": "disgusted",
    "fear": "afraid anxiety anxious apprehensive nervousness terrified",
    "joy": (
        "admiration amusement anticipating approval caring confident content desire excited excitement faithful "
        "grateful gratitude happiness happy hopeful impressed joyful love optimism prepared pride proud relief trusting"
    ),
    "neutral": "",
    "sadness": (
        "ashamed depression devastated disappointed disappointment embarrassed embarrassment grief guilt guilty lonely "
        "nostalgic pain remorse sad sentimental shame"
    ),
    "surprise": "confusion curiosity realization surprised",
}

TO_EKMAN: Mapping[str, str] = {name: family for family, names in _EKMAN_FAMILIES.items() for name in names.split()}
"""Labels of the public corpora as Ekman's six and neutral.

For GoEmotions this is the grouping of its authors (Demszky et al. 2020, appendix); the rest is debatable:
shame and guilt go to sadness, caring and trust to joy.
"""

LABEL_SETS: Mapping[str, LabelSet] = {"ekman": EKMAN, "goemotions": GOEMOTIONS, "empathetic": EMPATHETIC}


def named_label_set(text: str) -> LabelSet:
    """`ekman`, `goemotions`, `empathetic`, or names with commas between them.

    Raises:
        SettingsError: one bare word that names no known set.
    """
    if (known := fold_name(text)) in LABEL_SETS:
        return LABEL_SETS[known]
    names = tuple(normalize_name(name) for name in text.translate(_WIDE).split(",") if name.strip())
    if len(names) < 2:
        allowed = f"{', '.join(LABEL_SETS)}, or at least two names with commas between them"
        raise SettingsError(f"labels {text!r}: give {allowed}")
    return LabelSet(names)
