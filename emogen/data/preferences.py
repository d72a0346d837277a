"""Preferences: of two replies to the same context, with the same emotion asked for, which is the better one."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from emogen.data.rows import Problem, Row, read_rows
from emogen.emotions.labels import Emotion, LabelSet, mixture, no_emotion, parse_emotion
from emogen.errors import DataError, SettingsError
from emogen.files import write_text


@dataclass(frozen=True)
class Preference:
    """A pair of replies.

    Attributes:
        context: earlier utterances, oldest first; may be empty.
        emotion: that was asked for, of both replies.
        better: the reply that is preferred.
        worse: the other one.
    """

    context: tuple[str, ...]
    emotion: Emotion
    better: str
    worse: str

    @property
    def replies(self) -> tuple[str, ...]:
        """Return both."""
        return self.better, self.worse

    def over(self, labels: LabelSet) -> Preference | None:
        """Return the same over other labels; None where one that its emotion has a share of is not among them."""
        if not self.emotion.strength:
            return replace(self, emotion=no_emotion(labels))
        shares = shares_of(self.emotion)
        if any(name not in labels for name in shares):
            return None
        return replace(self, emotion=mixture(shares, labels, self.emotion.strength))


@dataclass(frozen=True)
class Rating:
    """A reply that somebody called good or bad, whatever other replies there are.

    Attributes:
        context: earlier utterances, oldest first; may be empty.
        emotion: that was asked for.
        reply: that was rated.
        is_good: what it was called.
    """

    context: tuple[str, ...]
    emotion: Emotion
    reply: str
    is_good: bool

    @property
    def replies(self) -> tuple[str, ...]:
        """Return the one that was rated."""
        return (self.reply,)

    def over(self, labels: LabelSet) -> Rating | None:
        """Return the same over other labels; None where one that its emotion has a share of is not among them."""
        found = Preference(self.context, self.emotion, "", "").over(labels)
        return replace(self, emotion=found.emotion) if found else None


Opined = TypeVar("Opined", Preference, Rating)


def shares_of(emotion: Emotion) -> dict[str, float]:
    """Return the weights that are not 0, by name."""
    return {name: weight for name, weight in zip(emotion.labels.names, emotion.weights, strict=True) if weight > 0}


def usable_pairs(pairs: Iterable[Preference]) -> list[Preference]:
    """Return the pairs from which a preference can be learnt, each once: two replies that differ, neither of them blank."""
    return list(dict.fromkeys(pair for pair in pairs if "" != _plain(pair.better) != _plain(pair.worse) != ""))


def usable_ratings(ratings: Iterable[Rating]) -> list[Rating]:
    """Return the ratings from which something can be learnt, each once: of replies that are not blank."""
    return list(dict.fromkeys(rating for rating in ratings if _plain(rating.reply)))


def _plain(text: str) -> str:
    return " ".join(text.split())


def split_by_context(pairs: Sequence[Opined], share: float) -> tuple[list[Opined], list[Opined]]:
    """Return pairs to train on and pairs held out; all pairs of a context are on one side, whatever else there is.

    Args:
        pairs: in any order, which decides nothing.
        share: of the contexts that are held out, rounded up, but one is left to train on; those whose hash is smallest.
    """
    contexts = sorted({pair.context for pair in pairs}, key=_hash)
    held = set(contexts[: min(math.ceil(share * len(contexts)), len(contexts) - 1)])
    return [pair for pair in pairs if pair.context not in held], [pair for pair in pairs if pair.context in held]


def _hash(context: Sequence[str]) -> bytes:
    return hashlib.sha256(json.dumps(list(context)).encode()).digest()


def as_json(pair: Preference | Rating) -> str:
    """Write a pair as one line of JSON that `read_preferences` reads back; of a rating `reply` and `good` stand there."""
    shares = shares_of(pair.emotion)
    target = pair.emotion.name if len(shares) == 1 else shares
    record: dict[str, object] = {"context": list(pair.context), "emotion": target if pair.emotion.strength else None}
    if 0 < pair.emotion.strength < 1:
        record["strength"] = pair.emotion.strength
    if isinstance(pair, Rating):
        return json.dumps({**record, "reply": pair.reply, "good": pair.is_good}, ensure_ascii=False)
    return json.dumps({**record, "better": pair.better, "worse": pair.worse}, ensure_ascii=False)


def write_preferences(path: str | Path, pairs: Iterable[Preference]) -> None:
    """Write JSON lines, whole or not at all; raise EmogenError where the file cannot be written."""
    path = Path(path)
    write_text(path, "".join(f"{as_json(pair)}\n" for pair in pairs))


def read_preferences(path: str | Path, labels: LabelSet) -> Iterator[Preference]:
    """Yield pairs of a file of JSON lines: `context`, `better`, `worse`, and `emotion` with `strength` where one was asked for.

    TRL's preference format is read too: `prompt`, `chosen` and `rejected`, each a text or a list of messages with `role` and
    `content`; without `prompt` it is what both lists begin with.

    Args:
        path: `emotion` there is a name, `joy=0.7,fear=0.3`, an object of names and shares, or null for none.
        labels: what emotions are expressed in.

    Raises:
        DataError: at the first thing that is wrong, with its line.
    """
    for row in read_rows(path, "jsonl"):
        if isinstance(row, Problem):
            raise DataError(f"{path}:{row.number}: {row.message}")
        try:
            yield _preference(row, labels)
        except (DataError, SettingsError) as error:
            raise DataError(f"{path}:{row.number}: {error}") from None


def _preference(row: Row, labels: LabelSet) -> Preference:
    fields = _from_trl(row.fields) if {"chosen", "rejected"} <= row.fields.keys() else row.fields
    context = fields.get("context", [])
    context = [context] if isinstance(context, str) else context
    if not isinstance(context, list) or not all(isinstance(turn, str) for turn in context):
        raise DataError(f"context is {context!r:.60}; a list of utterances is expected")
    return Preference(tuple(context), _emotion(fields, labels), _text(fields, "better"), _text(fields, "worse"))


def _from_trl(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of TRL's preference format under our names; others stay."""
    chosen, rejected = (_turns(fields[name], name) for name in ("chosen", "rejected"))
    prompt = fields.get("prompt")
    if prompt is None:
        context = chosen[:-1]
        if rejected[:-1] != context:
            raise DataError("chosen and rejected differ before their last message; a pair has one context and two replies")
        chosen, rejected = chosen[-1:], rejected[-1:]
    else:
        context = _turns(prompt, "prompt")
    if len(chosen) != 1 or len(rejected) != 1:
        raise DataError("chosen and rejected are not one message each after the prompt; a pair has two replies, one each")
    return {**fields, "context": context, "better": chosen[0], "worse": rejected[0]}


def _turns(value: object, name: str) -> list[str]:
    """Return a text, or the texts of messages; a system message is refused, since the models read none."""
    if isinstance(value, str):
        return [value]
    turns = []
    for message in value if isinstance(value, list) else [value]:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise DataError(f"{name} is {value!r:.60}; a text or a list of messages with role and content is expected")
        if message.get("role") not in ("user", "assistant"):
            raise DataError(f"{name} has a message of the role {message.get('role')!r:.20}; allowed are user and assistant")
        turns.append(message["content"])
    return turns


def _text(fields: Mapping[str, object], name: str) -> str:
    text = fields.get(name)
    if not isinstance(text, str):
        raise DataError(f"{name} is {text!r:.60}; a pair has the texts better and worse")
    return text


def _emotion(fields: Mapping[str, object], labels: LabelSet) -> Emotion:
    target, strength = fields.get("emotion"), fields.get("strength", 1.0)
    if isinstance(strength, bool) or not isinstance(strength, int | float):
        raise DataError(f"strength is {strength!r:.60}; a number between 0 and 1 is expected")
    if target is None:
        return no_emotion(labels)
    if isinstance(target, str):
        return parse_emotion(target, labels, strength)
    if not isinstance(target, dict) or not all(isinstance(share, int | float) for share in target.values()):
        raise DataError(f"emotion is {target!r:.60}; write joy, joy=0.7,fear=0.3, or null for none")
    return mixture(target, labels, strength)
