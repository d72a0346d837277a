"""Which emotion to answer with: a table from what the user feels to the mixture that the reply shows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emogen.emotions.labels import EKMAN, TO_EKMAN, Emotion, LabelSet, mixture, no_emotion, parse_emotion
from emogen.emotions.space import NEUTRAL, POINTS, emotion_of, nearest, point_of, require_labels
from emogen.errors import DataError, SettingsError
from emogen.files import parse_json, parse_toml, read_text, write_text

_KEYS = ("name", "intent", "user", "reply", "rows")
_ROW_KEYS = ("emotion", "strength")


@dataclass(frozen=True)
class Policy:
    """A reply policy as plain data.

    Attributes:
        name: for messages.
        intent: what it is for, in one sentence.
        user: labels of what the user feels.
        rows: for each of them, the emotion of the reply, all over the same labels; strength 0 asks for nothing.
    """

    name: str
    intent: str
    user: LabelSet
    rows: tuple[Emotion, ...]

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.user):
            raise SettingsError(f"policy {self.name}: {len(self.rows)} rows for {len(self.user)} labels; give each label one")
        for row in self.rows:
            require_labels(row, self.reply)

    @property
    def reply(self) -> LabelSet:
        """Return labels of the replies."""
        return self.rows[0].labels

    def answer(self, felt: Emotion) -> Emotion:
        """Return the emotion to answer with.

        The rows, mixed as the user's feelings are, each as strong as the feeling times the row.

        Args:
            felt: by the user in the last turn, or by now (`EmotionState.emotion`), over `user`.

        Raises:
            SettingsError: over other labels.
        """
        if felt.labels != self.user:
            have, need = (", ".join(labels.names) for labels in (felt.labels, self.user))
            raise SettingsError(
                f"policy {self.name} answers {need}, but the user's emotion is over {have}; fit the policy to them"
            )
        weights = felt.condition[:-1]
        columns = zip(*(row.condition[:-1] for row in self.rows), strict=True)
        shares = [math.fsum(map(math.prod, zip(weights, column, strict=True))) for column in columns]
        return emotion_of([*shares, max(0.0, 1.0 - math.fsum(shares))], self.reply)

    def fit_labels(self, user: LabelSet, reply: LabelSet) -> Policy:
        """Return the same policy over a recogniser's and a generator's labels, in their order.

        Raises:
            SettingsError: the recogniser gives a label that has no row, or the generator lacks one that a row asks for.
        """
        lacking = [name for name in user.names if name not in self.user]
        if lacking:
            raise SettingsError(
                f"policy {self.name} has no row for {', '.join(lacking)}, only for {', '.join(self.user.names)}; add rows, or "
                "name a recogniser over those labels"
            )
        rows = (self.rows[self.user.position(name)] for name in user.names)
        return Policy(self.name, self.intent, user, tuple(self._over(row, reply) for row in rows))

    def _over(self, row: Emotion, reply: LabelSet) -> Emotion:
        if not row.strength:
            return no_emotion(reply)
        shares = {name: weight for name, weight in zip(self.reply.names, row.weights, strict=True) if weight}
        unknown = [name for name in shares if name not in reply]
        if unknown:
            known = ", ".join(reply.names)
            raise SettingsError(f"policy {self.name} answers with {', '.join(unknown)}, which is not one of {known}")
        return mixture(shares, reply, row.strength)

    def as_object(self) -> dict[str, object]:
        """Return what a file holds; see `read_policy`."""
        rows = zip(self.user.names, self.rows, strict=True)
        return {
            "name": self.name,
            "intent": self.intent,
            "user": list(self.user.names),
            "reply": list(self.reply.names),
            "rows": {name: {"emotion": _shares(row), "strength": row.strength} for name, row in rows},
        }

    def as_text(self) -> str:
        """Return it for people: the intent, and a line a row."""
        width = max(map(len, self.user.names))
        rows = zip(self.user.names, self.rows, strict=True)
        lines = (f"{name:<{width}}  {describe_emotion(row)}" for name, row in rows)
        return "\n".join([f"{self.name}: {self.intent}", *lines])


@dataclass(frozen=True)
class _Plan:
    """A policy in the words of Ekman's labels and "caring": for each feeling the reply's shares, and its strength."""

    intent: str
    rows: Mapping[str, tuple[Mapping[str, float], float]]


_SOOTHE = _Plan(
    "calm the user: unpleasant feelings get a caring and quiet answer, never their own anger or fear; pleasant ones are shared",
    {
        "anger": ({"neutral": 0.6, "caring": 0.2, "sadness": 0.2}, 0.7),
        "disgust": ({"neutral": 0.7, "caring": 0.2, "sadness": 0.1}, 0.7),
        "fear": ({"neutral": 0.5, "caring": 0.5}, 0.8),
        "joy": ({"joy": 0.7, "neutral": 0.3}, 0.7),
        "neutral": ({"neutral": 1.0}, 1.0),
        "sadness": ({"caring": 0.5, "sadness": 0.3, "neutral": 0.2}, 0.8),
        "surprise": ({"neutral": 0.7, "surprise": 0.3}, 0.7),
    },
)
_CHEER = _Plan(
    "brighten the user up: every feeling is answered with joy, sadness and fear with care beside it",
    {
        "anger": ({"joy": 0.7, "neutral": 0.3}, 0.8),
        "disgust": ({"joy": 0.7, "neutral": 0.3}, 0.8),
        "fear": ({"joy": 0.7, "caring": 0.3}, 1.0),
        "joy": ({"joy": 1.0}, 1.0),
        "neutral": ({"joy": 1.0}, 0.8),
        "sadness": ({"joy": 0.7, "caring": 0.3}, 1.0),
        "surprise": ({"joy": 0.7, "surprise": 0.3}, 1.0),
    },
)
_NEUTRAL = _Plan("stay matter-of-fact, whatever the user feels", dict.fromkeys(EKMAN.names, ({"neutral": 1.0}, 1.0)))
_MIRROR = "show the user that he is understood: answer with the feeling that he shows"

# Care for somebody who is unhappy is said in words of sorrow ("I'm sorry to hear that"), though caring is of joy's family.
_SAID_AS = {"caring": "sadness"}

BUILT_IN = ("mirror", "soothe", "cheer", "neutral")
NO_POLICY = "none"


def built_in(name: str, user: LabelSet, reply: LabelSet) -> Policy:
    """Return one of the policies that come with the toolkit, over a recogniser's and a generator's labels.

    `soothe`, `cheer` and `neutral` are tables over Ekman's labels: a user's label has the row of its Ekman family. A label
    that the reply lacks is replaced by its family's name (caring by sadness), else by the nearest label of that family;
    neutral, where no label is called so, by no emotion.

    Raises:
        SettingsError: another name, or a label of which neither family nor point is known.
    """
    if name == "mirror":
        return Policy(name, _MIRROR, user, tuple(_from_shares({label: 1.0}, 1.0, reply) for label in user.names))
    plans = {"soothe": _SOOTHE, "cheer": _CHEER, "neutral": _NEUTRAL}
    if name not in plans:
        raise SettingsError(f"policy {name!r} is not one of {', '.join(BUILT_IN)}; or name a file, .json or .toml")
    plan = plans[name]
    return Policy(name, plan.intent, user, tuple(_from_shares(*plan.rows[_family(label)], reply) for label in user.names))


def find_policy(name: str, user: LabelSet, reply: LabelSet) -> Policy:
    """Return a policy by its name, or by its file (.json or .toml), over a recogniser's and a generator's labels.

    Raises:
        SettingsError: neither such a policy nor such a file, or labels that differ.
        DataError: a file that holds no policy.
    """
    if name.lower().endswith((".json", ".toml")):
        return read_policy(Path(name)).fit_labels(user, reply)
    return built_in(name, user, reply)


def read_policy(path: str | Path) -> Policy:
    """Return a policy from a JSON or TOML file.

    It holds `user` and `reply`, lists of labels; `rows`, which gives each user's label a table with `emotion` (shares by
    name that sum to 1, or text: `joy=0.7,neutral=0.3`) and `strength` (0 to 1, 1 where it is not said); and, if wanted,
    `name` and `intent`.

    Raises:
        DataError: what cannot be read, or is no policy, with the row.
    """
    path = Path(path)
    content = _content(path)
    try:
        unknown = [key for key in content if key not in _KEYS]
        if unknown:
            raise SettingsError(f"unknown key {unknown[0]!r}; known are {', '.join(_KEYS)}")
        user, reply = (_labels(content, key) for key in ("user", "reply"))
        texts = [_text(content, key, default) for key, default in (("name", path.stem), ("intent", ""))]
        return Policy(texts[0], texts[1], user, tuple(_rows(content, user, reply)))
    except SettingsError as error:
        raise DataError(f"{path}: {error}") from None


def write_policy(path: str | Path, policy: Policy) -> None:
    """Write a policy as JSON, or as TOML where the name ends so; whole or not at all.

    Raises:
        SettingsError: another ending.
        EmogenError: the file cannot be written.
    """
    path = Path(path)
    _require_ending(path)
    as_text = _toml if path.suffix.lower() == ".toml" else _json
    write_text(path, as_text(policy))


def learn_policy(
    pairs: Iterable[tuple[Emotion, Emotion]], user: LabelSet, reply: LabelSet, smoothing: float = 1.0, name: str = "learnt"
) -> Policy:
    """Return the policy of people: how often which emotion answered which.

    With c[u, r] the sum over the pairs of the product of their shares, R labels and smoothing a, a row has the shares
    P(r | u) = (c[u, r] + a) / (c[u] + a R), and as strength the part of the replies that showed an emotion at all,
    c[u] / n[u], n[u] counting those without one too. A feeling that nobody showed has strength 0: it asks for nothing.

    Args:
        pairs: what was felt and what it was answered with; a recogniser's mixtures count by their shares.
        user: labels of the first.
        reply: labels of the second.
        smoothing: added to every count, at least 0.
        name: of the policy.

    Raises:
        DataError: no pair with a feeling.
        SettingsError: another smoothing, or emotions over other labels.
    """
    if not 0 <= smoothing < math.inf:
        raise SettingsError(f"smoothing {smoothing:g} is not at least 0")
    counts, number = np.zeros((len(user), len(reply) + 1)), 0
    for felt, answered in pairs:
        number += 1
        require_labels(felt, user)
        require_labels(answered, reply)
        counts += np.outer(felt.condition[:-1], answered.condition)
    if not counts.sum() > 0:
        raise DataError(f"{number} pairs of turns hold no feeling to learn a policy from; give a corpus of dialogues")
    intent = f"answer as people did in {number:,} pairs of turns (smoothing {smoothing:g})"
    return Policy(name, intent, user, tuple(_learnt(row, reply, smoothing) for row in counts))


def _learnt(counts: NDArray[np.float64], reply: LabelSet, smoothing: float) -> Emotion:
    shown, heard = float(counts[:-1].sum()), float(counts.sum())
    if not shown:
        return no_emotion(reply)
    shares = (counts[:-1] + smoothing) / (shown + smoothing * len(reply))
    return Emotion(reply, tuple(map(float, shares)), min(1.0, shown / heard))


def _family(label: str) -> str:
    """Return the Ekman label that stands for `label`."""
    if label in EKMAN:
        return label
    if label in TO_EKMAN:
        return TO_EKMAN[label]
    if label in POINTS:
        return nearest(point_of(label), EKMAN)
    raise SettingsError(f"emotion {label!r} belongs to none of {', '.join(EKMAN.names)}; write a policy file with a row for it")


def _counterpart(label: str, reply: LabelSet) -> str:
    """Return the label of the reply that comes nearest to `label`; empty for neutral where none is called so."""
    if label in reply:
        return label
    family = _SAID_AS.get(label) or _family(label)
    if family in reply:
        return family
    if family == NEUTRAL:
        return ""
    kin = tuple(name for name in reply.names if name in POINTS and TO_EKMAN.get(name) == family)
    known = kin or tuple(name for name in reply.names if name in POINTS)
    if not known:
        raise SettingsError(f"no label of {', '.join(reply.names)} can stand for {label!r}; write a policy file")
    return nearest(point_of(label if label in POINTS else family), LabelSet(known))


def _from_shares(shares: Mapping[str, float], strength: float, reply: LabelSet) -> Emotion:
    felt = [0.0] * (len(reply) + 1)
    for label, share in shares.items():
        name = _counterpart(label, reply)
        felt[reply.position(name) if name else -1] += share * strength
    felt[-1] += 1.0 - strength
    return emotion_of(felt, reply)


def _content(path: Path) -> dict[str, Any]:
    _require_ending(path)
    parse = parse_toml if path.suffix.lower() == ".toml" else parse_json
    try:
        content = parse(read_text(path, "utf-8-sig"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: cannot be read as a policy ({reason})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: a policy is one table with {', '.join(_KEYS)}")
    return content


def _require_ending(path: Path) -> None:
    if path.suffix.lower() not in (".json", ".toml"):
        raise SettingsError(f"{path}: a policy's file ends in .json or .toml; rename it")


def _labels(content: Mapping[str, Any], key: str) -> LabelSet:
    names = content.get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SettingsError(f"{key} is no list of emotion names; write {key} = joy, sadness, ... as a list")
    return LabelSet(tuple(names))


def _text(content: Mapping[str, Any], key: str, default: str) -> str:
    value = content.get(key, default)
    if not isinstance(value, str):
        raise SettingsError(f"{key} {value!r} is no text")
    return value


def _rows(content: Mapping[str, Any], user: LabelSet, reply: LabelSet) -> Iterator[Emotion]:
    rows = content.get("rows")
    if not isinstance(rows, dict):
        raise SettingsError("rows is no table; give each of the user's emotions a row")
    rows = _by_label(rows, user)
    for name in user.names:
        if name not in rows:
            raise SettingsError(f"no row for {name}; give each of the user's emotions a row")
        try:
            yield _row(rows[name], reply)
        except SettingsError as error:
            raise SettingsError(f"row {name}: {error}") from None


def _by_label(rows: Mapping[str, Any], user: LabelSet) -> dict[str, Any]:
    """Return the rows under the user's labels, which a file may name in other words."""
    found: dict[str, Any] = {}
    for name, row in rows.items():
        label = user.find(name)
        if label is None:
            raise SettingsError(f"row {name!r} is not one of {', '.join(user.names)}{user.suggestion(name)}")
        if label in found:
            raise SettingsError(f"row {name!r} is a second one for {label}; leave one of them out")
        found[label] = row
    return found


def _row(row: object, reply: LabelSet) -> Emotion:
    if not isinstance(row, dict) or "emotion" not in row or any(key not in _ROW_KEYS for key in row):
        raise SettingsError(f"{row!r} is no table of {' and '.join(_ROW_KEYS)}")
    strength, emotion = row.get("strength", 1.0), row["emotion"]
    if not _is_number(strength):
        raise SettingsError(f"strength {strength!r} is no number between 0 and 1")
    if isinstance(emotion, str):
        return parse_emotion(emotion, reply, float(strength))
    if not isinstance(emotion, dict) or not all(map(_is_number, emotion.values())):
        raise SettingsError(f"emotion {emotion!r} is neither text such as joy=0.7,neutral=0.3 nor a table of shares")
    return mixture(emotion, reply, float(strength))


def _is_number(value: object) -> bool:
    """Also of whole numbers that are too large for a float, which are none here."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _shares(row: Emotion) -> dict[str, float]:
    """Return the shares by name; those of a row of strength 0 do not matter and stand all the same."""
    return {name: weight for name, weight in zip(row.labels.names, row.weights, strict=True) if weight > 0}


def describe_emotion(emotion: Emotion) -> str:
    """Return a mixture for people: its shares, the heaviest first, and its strength."""
    heaviest = sorted(_shares(emotion).items(), key=lambda part: -part[1])
    parts = [f"{name} {weight:.2f}" for name, weight in heaviest if weight >= 0.005]
    return f"{', '.join(parts)} (strength {emotion.strength:.2f})" if emotion.strength else "no emotion"


def _json(policy: Policy) -> str:
    return json.dumps(policy.as_object(), ensure_ascii=False, indent=1) + "\n"


def _toml(policy: Policy) -> str:
    lines = [f"name = {_quote(policy.name)}", f"intent = {_quote(policy.intent)}"]
    lines += [f"{key} = {_list(labels.names)}" for key, labels in (("user", policy.user), ("reply", policy.reply))]
    for name, row in zip(policy.user.names, policy.rows, strict=True):
        shares = ", ".join(f"{_quote(label)} = {weight!r}" for label, weight in _shares(row).items())
        lines += ["", f"[rows.{_quote(name)}]", f"emotion = {{ {shares} }}", f"strength = {row.strength!r}"]
    return "\n".join(lines) + "\n"


def _list(names: Sequence[str]) -> str:
    return f"[{', '.join(map(_quote, names))}]"


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
