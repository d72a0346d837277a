"""What the metrics themselves promise: speed, and a distinct-n that does not depend on the number of texts.

    python evaluate/metrics.py --outputs ed_system_outputs.jsonl.gz

`--outputs` is the file that `empathetic_replies.py` reads. Rows: the wall time of `emogen evaluate` on its 5,255 replies
(overlap and diversity, intervals and start-up included); exact self-BLEU against NLTK's leave-one-out at 1,000 replies, and at
100,000 texts; distinct-2 of people's replies, raw and corrected, at 500 and 5,000 of them. The texts beside the replies are
those of GoEmotions and DailyDialog (`emogen data fetch`).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from empathetic_trials import read_trials
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from emogen.cli import run
from emogen.data.corpora import locate
from emogen.data.exchange import Reading, read_exchanges
from emogen.emotions.labels import EKMAN
from emogen.errors import DataError
from emogen.evaluate import distinct, distinct_corrected, self_bleu
from emogen.evaluate.report import write_result
from emogen.text.words import words

RESULT = Path("evaluate/results/metrics.json")
SYSTEM = "Transformer"
MANY = 100_000


@click.command()
@click.option("--outputs", type=click.Path(exists=True, path_type=Path), required=True, help="Replies of published systems.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(outputs: Path, out: Path) -> None:
    """Measure, and write the result."""
    trials = read_trials(outputs)
    if SYSTEM not in trials[0].published:
        raise DataError(f"{outputs}: has no outputs of {SYSTEM}, but those of {', '.join(trials[0].published)}")
    replies, people = [trial.published[SYSTEM] for trial in trials], [trial.reference for trial in trials]
    rows = [command_time(replies, people), *self_bleu_times(people), *distinct_by_size(people)]
    for row in rows:
        click.echo(row, err=True)
    data = [outputs, locate("goemotions"), locate("dailydialog")]
    write_result(out, f"python evaluate/metrics.py --outputs {outputs.name}", data, rows)


def command_time(replies: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Median of three runs of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        for name, texts in (("replies", replies), ("references", references)):
            (Path(folder) / f"{name}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "emogen", "evaluate", "replies.txt", "--references", "references.txt", "--json"]
        taken = [seconds(lambda: subprocess.run(command, cwd=folder, check=True, capture_output=True)) for _ in range(3)]
    return {"system": "emogen evaluate", "seed": 0, "n": len(replies), "seconds": statistics.median(taken)}


def self_bleu_times(people: Sequence[str]) -> list[dict[str, Any]]:
    """Return ours and NLTK's at 1,000 replies, with the largest difference of a text; ours at 100,000 texts."""
    few, many = people[:1000], [*people, *corpus_texts("goemotions"), *corpus_texts("dailydialog")][:MANY]
    found: list[float] = []
    slow = seconds(lambda: found.append(nltk_self_bleu(few)))
    fast = statistics.median(seconds(lambda: self_bleu(few)) for _ in range(5))
    difference = abs(self_bleu(few).value - found[0])
    return [
        {"system": "self-BLEU, NLTK", "seed": 0, "n": len(few), "seconds": slow},
        {
            "system": "self-BLEU",
            "seed": 0,
            "n": len(few),
            "seconds": fast,
            "ratio": slow / fast,
            "difference": float(f"{difference:.1e}"),
        },
        {"system": "self-BLEU, many", "seed": 0, "n": len(many), "seconds": seconds(lambda: self_bleu(many))},
    ]


def nltk_self_bleu(texts: Sequence[str]) -> float:
    """Return the mean BLEU of each text against all the others, as NLTK computes it."""
    tokens = [words(text) for text in texts]
    smooth = SmoothingFunction().method1
    others = ([*tokens[:at], *tokens[at + 1 :]] for at in range(len(tokens)))
    values = [float(sentence_bleu(rest, own, smoothing_function=smooth)) for own, rest in zip(tokens, others, strict=True)]
    return statistics.mean(values)


def distinct_by_size(people: Sequence[str]) -> list[dict[str, Any]]:
    """Return distinct-2 of the first 500 and 5,000 replies, and how far the larger number lies from the smaller."""
    rows: list[dict[str, Any]] = []
    for name, metric in (("distinct2", lambda texts: distinct(texts, 2)), ("distinct2_corrected", corrected)):
        small, large = metric(people[:500]), metric(people[:5000])
        rows.append({"system": name, "seed": 0, "at_500": small, "at_5000": large, "drift": abs(large.value / small.value - 1)})
    return rows


def corrected(texts: Sequence[str]) -> Any:
    """Return distinct-2 expected in 1,000 pairs."""
    return distinct_corrected(texts, 2)


def corpus_texts(name: str) -> list[str]:
    """Return all texts of a fetched corpus."""
    return [row.reply for row in read_exchanges(locate(name), Reading(labels=EKMAN))]


def seconds(job: Callable[[], object]) -> float:
    """Wall time of a call."""
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


if __name__ == "__main__":
    run(main, "metrics.py")
