"""How well does a recogniser read what it was not trained on? The figures of its model card.

    python evaluate/recognizer.py --checkpoint checkpoints/recognizer

On the test rows of each corpus, and on everyday statements that were written before any training (`tests/everyday.jsonl`). A
row with several labels counts as hit by any of them; for the macro-F1 it counts under the one that was hit, else the heaviest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from emogen.checkpoint.finding import shipped_folder
from emogen.cli import run
from emogen.data.corpora import locate
from emogen.data.exchange import Exchange, Reading, read_exchanges
from emogen.data.rows import Row, read_rows
from emogen.emotions.labels import EKMAN
from emogen.evaluate.report import command_of, write_result
from emogen.recognition.recognizer import Recognizer, load_recognizer

RESULT = Path("evaluate/results/recognizer.json")
EVERYDAY = Path("tests/everyday.jsonl")
CORPORA = ("goemotions", "dailydialog", "dailydialog_zh", "zh_multi_emotion", "starter", "septet-en", "septet-zh")


@click.command()
@click.option(
    "--checkpoint", "folders", multiple=True, type=click.Path(path_type=Path), help="Several may be given.  [default: ours]"
)
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
@click.pass_context
def main(context: click.Context, folders: tuple[Path, ...], out: Path) -> None:
    """Measure each recogniser on each corpus."""
    chosen = folders or (shipped_folder("recognizer"),)
    tests = {
        name: [row for row in read_exchanges(locate(name), Reading(labels=EKMAN)) if row.split == "test"] for name in CORPORA
    }
    tests |= {f"everyday statements, {language}": everyday(language) for language in ("en", "zh")}
    rows = [measured(load_recognizer(folder), name, found) for folder in chosen for name, found in tests.items()]
    write_result(out, command_of("recognizer", context), [*chosen, *map(locate, CORPORA)], rows)
    for row in rows:
        click.echo(row)


def test_rows(corpus: str) -> list[Exchange]:
    """Test rows of a corpus, in Ekman's emotions."""
    return [row for row in read_exchanges(locate(corpus), Reading(labels=EKMAN)) if row.split == "test"]


def everyday(language: str) -> list[Exchange]:
    """Return statements of a language that nobody trains on."""
    spoken = [row.fields["language"] for row in read_rows(EVERYDAY) if isinstance(row, Row)]
    return [row for row, own in zip(read_exchanges(EVERYDAY), spoken, strict=True) if own == language]


def measured(recognizer: Recognizer, corpus: str, rows: Sequence[Exchange]) -> dict[str, object]:
    """Accuracy, mean recall over the emotions that occur, and macro-F1."""
    weights = np.array([[row.emotion.weights[row.emotion.labels.position(name)] for name in EKMAN.names] for row in rows])
    judged = recognizer.over(EKMAN)([row.reply for row in rows]).argmax(1)
    hit = weights[np.arange(len(rows)), judged] > 0
    heaviest = weights.argmax(1)
    true = np.where(hit, judged, heaviest)
    there = [label for label in range(len(EKMAN)) if (heaviest == label).any()]
    scores = [2 * (hit & (judged == label)).sum() / ((true == label).sum() + (judged == label).sum()) for label in there]
    return {
        "system": recognizer.folder.name,
        "seed": 0,
        "corpus": corpus,
        "n": len(rows),
        "accuracy": round(float(hit.mean()), 4),
        "recall": round(float(np.mean([hit[heaviest == label].mean() for label in there])), 4),
        "macro_f1": round(float(np.mean(scores)), 4),
    }


if __name__ == "__main__":
    run(main, "recognizer.py")
