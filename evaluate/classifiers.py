"""How well classifiers of each backbone find the emotion: macro-F1 on the official test rows, several training seeds.

    python evaluate/classifiers.py --work runs/classifiers
    python evaluate/classifiers.py --work runs/classifiers --task tweeteval-minilm --seeds 1

A classifier that stands in WORK already is not trained again; one whose training was cut off is resumed. Temperature,
thresholds and the epoch that is kept are chosen on the valid rows; the test rows are read once, to be scored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from emogen.cli import run
from emogen.data.corpora import locate, resolve
from emogen.data.exchange import Exchange, Reading, read_exchanges
from emogen.emotions.labels import EKMAN, GOEMOTIONS, TO_EKMAN, LabelSet, map_names
from emogen.evaluate.emotion import calibration_error, emotion_accuracy, emotion_f1, judged_labels, multilabel_f1
from emogen.evaluate.report import write_result
from emogen.evaluate.score import Score
from emogen.models.classifier import decide_labels
from emogen.recognition.recognizer import Recognizer, load_recognizer
from emogen.train.config import ClassifierSettings
from emogen.train.fit_classifier import fit_classifier
from emogen.train.run.folder import is_resumable, read_train_file
from emogen.train.thresholds import best_thresholds

RESULT = Path("evaluate/results/classifiers.json")
WORK = Path("runs/classifiers")
MINILM = "hf:all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Task:
    """One line of the table: a corpus, a backbone, and how it is trained.

    Attributes:
        corpus: name of a fetched corpus.
        settings: of `emogen train-classifier`.
        begins_with: task whose classifier of the same seed it starts from.
    """

    corpus: str
    settings: ClassifierSettings = field(default_factory=ClassifierSettings)
    begins_with: str = ""


TASKS = {
    "goemotions-minilm": Task("goemotions", ClassifierSettings(backbone=MINILM, epochs=3, max_tokens=64)),
    "tweeteval-minilm": Task(
        "tweeteval_emotion",
        ClassifierSettings(backbone=MINILM, epochs=6, max_tokens=96, learning_rate=1e-4),
        begins_with="goemotions-minilm",
    ),
    "tweeteval-cnn": Task("tweeteval_emotion", ClassifierSettings(backbone="cnn", epochs=10)),
    "dair-cnn": Task("dair_emotion", ClassifierSettings(backbone="cnn", epochs=6)),
    "smp2020-cnn": Task("smp2020_ewect", ClassifierSettings(backbone="cnn", epochs=5, order=3, batch_size=64)),
}
EKMAN_OF = "goemotions-minilm"


@click.command()
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path("runs/classifiers"), show_default=True, help="Checkpoints."
)
@click.option("--task", "tasks", multiple=True, type=click.Choice(list(TASKS)), help="Only these; all by default.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Training seeds.")
@click.option("--threads", type=click.IntRange(min=0), default=0, show_default=True, help="CPU threads.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(work: Path, tasks: tuple[str, ...], seeds: int, threads: int, out: Path) -> None:
    """Train what is not there yet, score all on the test rows, and write the result."""
    chosen = [name for name in TASKS if name in tasks or not tasks]
    rows: list[dict[str, Any]] = []
    for name in chosen:
        for seed in range(seeds):
            folder = trained(name, seed, work, threads)
            rows += scored(name, seed, folder)
            click.echo(json.dumps({key: shown(value) for key, value in rows[-1].items()}), err=True)
    only = "".join(f" --task {name}" for name in chosen) if tasks else ""
    command = f"python evaluate/classifiers.py --work {work}{only} --seeds {seeds}"
    write_result(out, command, [locate(TASKS[name].corpus) for name in chosen], rows)


def trained(name: str, seed: int, work: Path, threads: int) -> Path:
    """Return the task's checkpoint of that seed, trained if need be."""
    folder = work / f"{name}-{seed}"
    if read_train_file(folder).get("finished", False):
        return folder
    task = TASKS[name]
    begin = str(trained(task.begins_with, seed, work, threads)) if task.begins_with else None
    settings = replace(task.settings, seed=seed, out=str(folder), threads=threads, init=begin)
    return fit_classifier([task.corpus], Reading(), settings, resuming=folder.is_dir() and is_resumable(folder))


def scored(name: str, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Return the task's row, and that of the same classifier read in Ekman's families where the corpus is GoEmotions."""
    recognizer = load_recognizer(folder)
    rows = split_rows(TASKS[name].corpus, "test")
    probabilities = recognizer.probabilities([row.reply for row in rows])
    facts = {"seed": seed, "corpus": TASKS[name].corpus, "n": len(rows), "seconds": train_seconds(folder)}
    found = decide_labels(torch.from_numpy(probabilities).float(), recognizer.classifier.config).numpy()
    first = {"system": name, **facts, **figures(rows, probabilities, found, recognizer)}
    if name != EKMAN_OF:
        return [first]
    valid = split_rows(TASKS[name].corpus, "valid")
    families, of_valid = (in_families(each) for each in (probabilities, recognizer.probabilities([r.reply for r in valid])))
    thresholds = best_thresholds(torch.from_numpy(of_valid), torch.from_numpy(gold_families(valid))).numpy()
    ekman = multilabel_f1(gold_families(rows), families >= thresholds, EKMAN.names)
    return [{"system": f"{name} as ekman", **facts, "emotion_f1": ekman}, first]


def figures(rows: Sequence[Exchange], probabilities: Any, found: Any, recognizer: Recognizer) -> dict[str, Score]:
    """Return Macro-F1, and for a single label accuracy and calibration error."""
    names = recognizer.names.names
    if recognizer.classifier.config.multi_label:
        gold = np.array([row.emotion.weights for row in rows]) > 0
        return {"emotion_f1": multilabel_f1(gold, found, names)}
    target, judged = [row.emotion.name for row in rows], judged_labels(probabilities, names)
    return {
        "emotion_f1": emotion_f1(target, judged, names),
        "emotion_accuracy": emotion_accuracy(target, judged),
        "calibration_error": calibration_error(probabilities, target, names),
    }


def split_rows(corpus: str, split: str) -> list[Exchange]:
    """Return the rows of one split."""
    path, reading = resolve(corpus, Reading())
    return [row for row in read_exchanges(path, reading) if row.split == split]


def in_families(probabilities: Any) -> Any:
    """Return GoEmotions' probabilities [texts, 28] as those that some label of each Ekman family is given, [texts, 7]."""
    return np.stack([1 - np.prod(1 - probabilities[:, members], axis=1) for members in family_members(GOEMOTIONS)], axis=1)


def gold_families(rows: Sequence[Exchange]) -> Any:
    """Tell whether a row has a label of each Ekman family, [texts, 7] bool."""
    gold = np.array([row.emotion.weights for row in rows]) > 0
    return np.stack([gold[:, members].any(axis=1) for members in family_members(GOEMOTIONS)], axis=1)


def family_members(labels: LabelSet) -> list[list[int]]:
    """For each Ekman label the places of the labels that belong to it."""
    family = [map_names([name], TO_EKMAN, EKMAN)[0] for name in labels.names]
    return [[place for place, found in enumerate(family) if found == name] for name in EKMAN.names]


def train_seconds(folder: Path) -> float:
    """Return how long the training took, looks included."""
    return round(float(read_train_file(folder)["figures"]["elapsed"]), 1)


def shown(value: object) -> object:
    """Return a score as its value."""
    return round(value.value, 4) if isinstance(value, Score) else value


if __name__ == "__main__":
    run(main, "classifiers.py")
