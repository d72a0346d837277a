"""Its rows: who reads which quarter of a corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from conditional_plan import ANOTHER_SEED, STATED, TASKS, Classifiers, Plan, Task
from emotion_text import Ready, balanced, divided, trained, without

from emogen.data.check import split_of
from emogen.data.exchange import Exchange, Reading, read_exchanges, write_exchanges
from emogen.data.fingerprints import fingerprint, read_fingerprints
from emogen.emotions.labels import EKMAN, mixture
from emogen.errors import DataError, SettingsError
from emogen.files import sha256
from emogen.recognition.recognizer import Recognizer, load_recognizer
from emogen.text.words import words
from emogen.train.corpus import open_corpus


def refuse_kin(plan: Plan) -> None:
    """Raise SettingsError where the judge is built like what steers the generators."""
    # A discriminator of our own is a Transformer.
    own = {"": "transformer", ANOTHER_SEED: plan.lm.backbone}
    opponent = own.get(plan.gan.discriminator, plan.gan.discriminator)
    for role, backbone in (("guide", plan.guide.backbone), ("discriminator", opponent)):
        if plan.judge.backbone == backbone:
            raise SettingsError(f"--judge {backbone}: the {role} is built like it; take another backbone for one of them")


def prepared(plan: Plan) -> tuple[Classifiers, list[Task]]:
    """Return the tasks' rows, divided, with guide and judge trained."""
    plan.work.mkdir(parents=True, exist_ok=True)
    opened = open_corpus([plan.texts], Reading(labels=EKMAN if plan.texts == "goemotions" else None))
    ((source, reading),) = opened.parts
    parts = quartered(divided(opened.exchanges()))
    parts["judge"] = unseen(parts["judge"], plan.start)
    name = stem(plan.texts)
    files = {part: plan.work / f"{name}-{part}.jsonl.gz" for part in ("generator", "guide", "judge")}
    for part, path in files.items():
        write_exchanges(path, [*parts[part], *parts["valid"]])
    guide, judge = (
        trained(plan.work / role, files[role], reading, settings)
        for role, settings in (("guide", plan.guide), ("judge", plan.judge))
    )
    classifiers = Classifiers(guide, judge, parts["judge"])
    texts = ready(name, Path(source), reading, files["generator"], files["judge"], parts, plan.each)
    tasks = {"texts": lambda: Task("texts", texts), "replies": lambda: Task("replies", replies(plan, classifiers, texts))}
    return classifiers, [tasks[chosen]() for chosen in TASKS if chosen in plan.task]


def stem(corpus: str) -> str:
    """Return a corpus by its name, or a file's name without endings."""
    return Path(corpus).name.partition(".")[0]


def quartered(parts: Mapping[str, Sequence[Exchange]]) -> dict[str, list[Exchange]]:
    """Return `divided` with the judge's half divided once more, by another hash of the words.

    A part of it becomes the guide's.
    """
    found = {name: list(rows) for name, rows in parts.items()} | {"guide": [], "judge": []}
    for row in parts["judge"]:
        share = split_of(" ".join(words(row.reply)), (0.5, 0.5, 0.0), seed=1)
        found["guide" if share == "train" else "judge"].append(row)
    return found


def unseen(rows: Sequence[Exchange], start: Path | None) -> list[Exchange]:
    """Return the rows that a start was not trained on."""
    seen = set(read_fingerprints(start).tolist()) if start else set()
    return [row for row in rows if fingerprint(row.reply) not in seen]


def ready(
    name: str,
    source: Path,
    reading: Reading,
    generator: Path,
    judge: Path,
    parts: Mapping[str, Sequence[Exchange]],
    each: int,
) -> Ready:
    """Return a task's files and rows; raise DataError where nothing is held out."""
    test = balanced(parts["test"], dict.fromkeys(parts["test"][0].emotion.labels.names, each) if parts["test"] else {})
    if not test:
        raise DataError(f"{source}: no test row in which an emotion leads; check the split column")
    return Ready(name, source, reading, generator, judge, parts["generator"], parts["valid"], test)


def replies(plan: Plan, classifiers: Classifiers, texts: Ready) -> Ready:
    """Return the rows of the task of that name, with the guide's labels."""
    opened = open_corpus([plan.replies], Reading())
    ((source, _),) = opened.parts
    guide = load_recognizer(classifiers.guide)
    name, reading = stem(plan.replies), Reading(labels=guide.names)
    version = hashlib.sha256(sha256(guide.folder / "model.safetensors").encode() + sha256(Path(source)).encode()).hexdigest()
    labelled = plan.work / f"{name}-{version[:12]}.jsonl.gz"
    if not labelled.is_file():
        write_exchanges(labelled, relabelled(list(opened.exchanges()), guide))
    parts: dict[str, list[Exchange]] = {"generator": [], "valid": [], "test": []}
    for row in without(classifiers.learnt, read_exchanges(labelled, reading)):
        parts["generator" if row.split == "train" else row.split].append(row)
    generator = plan.work / f"{name}-generator.jsonl.gz"
    write_exchanges(generator, [*parts["generator"], *parts["valid"]])
    return ready(name, Path(source), reading, generator, texts.judge, parts, plan.each)


def relabelled(rows: Sequence[Exchange], guide: Recognizer) -> list[Exchange]:
    """Return the rows with the emotion that the guide finds in the reply; without those in which none has more than half."""
    probabilities = guide.probabilities([row.reply for row in rows])
    names = [guide.names.names[place] for place in probabilities.argmax(1)]
    sure = probabilities.max(1) > STATED
    found = zip(rows, names, sure, strict=True)
    return [replace(row, emotion=mixture({name: 1.0}, guide.names)) for row, name, is_sure in found if is_sure]
