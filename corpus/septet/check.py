"""Check the sources of Septet: their form, replies that name their emotion, openings that come too often.

python corpus/septet/check.py corpus/septet/en/*.jsonl
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from emogen.cli import run
from emogen.emotions import EKMAN
from emogen.errors import DataError
from emogen.words import words

FIELDS = ["id", "language", "domain", "speaker_emotion", "context", "replies"]
LENGTHS = {"en": (3, 20), "zh": (4, 28)}
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
            for text in (group["id"], " ".join(group["context"]), *group["replies"].values()):
                findings += [f"{path}:{number}: stands there twice: {text}"] if text in seen else []
                seen.add(text)
            openings.update(" ".join(words(reply)[:3]) for reply in group["replies"].values())
    most = max(3.0, MOST_OPENINGS * openings.total())
    findings += [f"opening {opening!r} {count} times" for opening, count in openings.most_common() if count > most]
    for finding in findings:
        click.echo(finding)
    click.echo(f"{groups} groups, {openings.total()} replies, {len(findings)} findings")
    if findings:
        raise DataError(f"{len(findings)} findings, printed above")


def faults_of(group: dict[str, object]) -> Iterator[str]:
    """Say what is wrong with one group."""
    replies = group.get("replies")
    if list(group) != FIELDS or not isinstance(replies, dict) or sorted(replies) != sorted(EKMAN.names):
        yield "has other fields"
        return
    least, most = LENGTHS[str(group["language"])]
    for emotion, reply in replies.items():
        length = sum(any(map(str.isalnum, word)) for word in words(reply))
        if not least <= length <= most:
            yield f"{emotion}: {length} words: {reply}"
        if emotion in NAMING and re.search(rf"(?<![a-z])(?:{NAMING[emotion]})(?![a-z])", reply.lower()):
            yield f"{emotion} is named: {reply}"


if __name__ == "__main__":
    run(main, "check.py")
