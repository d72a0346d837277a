"""Check the sources of Septet: their form, replies that name their emotion, openings that come too often.

python corpus/septet/check.py corpus/septet/en/*.jsonl
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from emogen.cli import run
from emogen.emotions.labels import EKMAN
from emogen.errors import DataError
from emogen.text.words import words

FIELDS = ["id", "language", "domain", "speaker_emotion", "context", "replies"]
TALK_FIELDS = ["id", "language", "domain", "turns"]
LEVELS = ["mild", "clear", "strong"]
MANNERS = {"soothe", "cheer", "mirror", "neutral"}
TURNS = range(6, 11)
LENGTHS = {"en": (1, 26), "zh": (2, 36)}
MOST_OPENINGS = 0.005
NAMING = {
    "anger": r"angry|anger|mad|furious|rage|annoy\w*|irritat\w*|生气|愤怒|气死|恼火|火大",
    "disgust": r"disgust\w*|gross|nasty|revolting|sicken\w*|恶心|厌恶|反胃",
    "fear": r"afraid|scar(?:ed|y|e)|fear\w*|terrif\w*|worr(?:y|ied)|nervous|anxious|frighten\w*|害怕|恐惧|担心|吓人|可怕",
    "joy": r"happy|happiness|joy\w*|glad|delight\w*|thrilled|excited|高兴|开心|快乐|幸福",
    "sadness": r"sad\w*|sorry|unhappy|depress\w*|heartbr\w*|miserable|sorrow\w*|难过|伤心|悲伤|心碎",
    "surprise": r"surpris\w*|shock\w*|astonish\w*|amaz\w*|unexpected\w*|惊讶|吃惊|意外|没想到",
}


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def main(files: tuple[Path, ...]) -> None:
    """Print what is wrong in FILES, one finding a line, then counts; the exit status is 1 where something is."""
    openings: Counter[str] = Counter()
    groups, findings, seen = 0, [], set()
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            group = json.loads(line)
            groups += 1
            findings += [f"{path}:{number}: {fault}" for fault in faults_of(group)]
            texts = [text for text, _ in texts_of(group)]
            said = [" ".join(group["context"])] if "context" in group else []
            for text in (group["id"], *said, *texts):
                findings += [f"{path}:{number}: stands there twice: {text}"] if text in seen else []
                seen.add(text)
            openings.update(f"{group['language']}: {' '.join(words(text)[:3])}" for text in texts)
    most = max(3.0, MOST_OPENINGS * openings.total())
    findings += [f"opening {opening!r} {count} times" for opening, count in openings.most_common() if count > most]
    for finding in findings:
        click.echo(finding)
    click.echo(f"{groups} groups, {openings.total()} replies, {len(findings)} findings")
    if findings:
        raise DataError(f"{len(findings)} findings, printed above")


def texts_of(group: dict[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the texts of a group of whatever kind, each with the emotions that it shows."""
    if "turns" in group:
        return [(turn["text"], (turn["emotion"],)) for turn in group["turns"]]
    replies = group["replies"]
    if isinstance(replies, list):
        return [(reply["text"], tuple(reply["emotion"])) for reply in replies]
    return [
        (text, (name,) if name in EKMAN.names and not set(replies) <= MANNERS else ())
        for name, reply in replies.items()
        for text in (reply.values() if isinstance(reply, dict) else [reply])
    ]


def faults_of(group: dict[str, Any]) -> Iterator[str]:
    """Say what is wrong with one group."""
    if not _has_form(group):
        yield "has other fields, or another number of replies or turns"
        return
    least, most = LENGTHS[group["language"]]
    for text, emotions in texts_of(group):
        length = sum(any(map(str.isalnum, word)) for word in words(text))
        if not least <= length <= most:
            yield f"{length} words: {text}"
        for emotion in emotions:
            if emotion in NAMING and re.search(rf"(?<![a-z])(?:{NAMING[emotion]})(?![a-z])", text.lower()):
                yield f"{emotion} is named: {text}"


def _has_form(group: dict[str, Any]) -> bool:
    """Tell whether it is one of the five kinds, whole."""
    if "turns" in group:
        speakers = "".join(turn["speaker"] for turn in group["turns"])
        is_told = all(turn["emotion"] in EKMAN.names for turn in group["turns"])
        return list(group) == TALK_FIELDS and len(speakers) in TURNS and is_told and ("AB" * len(speakers)).startswith(speakers)
    if list(group) != FIELDS or group["speaker_emotion"] not in EKMAN.names:
        return False
    replies = group["replies"]
    if isinstance(replies, list):
        return len(replies) == 3 and all(_is_blend(reply["emotion"]) for reply in replies)
    if all(isinstance(reply, dict) for reply in replies.values()):
        is_graded = all(list(levels) == LEVELS for levels in replies.values())
        return len(replies) == 3 and is_graded and set(replies) <= set(EKMAN.names)
    return sorted(replies) == sorted(EKMAN.names) or (len(replies) == 2 and set(replies) <= MANNERS)


def _is_blend(shares: dict[str, float]) -> bool:
    return len(shares) == 2 and set(shares) <= set(EKMAN.names) and abs(sum(shares.values()) - 1) < 1e-6


if __name__ == "__main__":
    run(main, "check.py")
