"""Whether judged accuracy comes out right once it is corrected by the judge's own confusion matrix.

    python evaluate/correction.py dair_emotion --judge runs/classifiers/dair-cnn-0

Labelled test rows stand for generated texts, so the truth is known: their class shares are shifted (drawn from a Dirichlet
distribution), and a part of them is claimed to be asked for another emotion than they have. The judge's confusion matrix comes
from the valid rows. `plain` counts the judge's agreement with what was asked, `corrected` is
`emogen.evaluate.corrected_accuracy`; `error` is the distance from the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from emogen.cli import run
from emogen.data.corpora import locate, resolve
from emogen.data.exchange import Reading, read_exchanges
from emogen.errors import UndefinedScoreError
from emogen.evaluate import confusion, corrected_accuracy, emotion_accuracy, judged_labels
from emogen.evaluate.report import write_result
from emogen.recognition.recognizer import Recognizer, load_recognizer

RESULT = Path("evaluate/results/correction.json")
RIGHT = (0.5, 0.7, 0.9)


@click.command()
@click.argument("corpus")
@click.option(
    "--judge", type=click.Path(exists=True, path_type=Path), required=True, help="Classifier with the corpus' labels."
)
@click.option("--texts", type=click.IntRange(min=1), default=1500, show_default=True, help="Judged texts a trial.")
@click.option(
    "--concentration",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="Of the shifted shares; less shifts more.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Trials at each true accuracy.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(corpus: str, judge: Path, texts: int, concentration: float, seeds: int, out: Path) -> None:
    """Shift, mislabel, judge and correct the test rows of CORPUS."""
    recognizer = load_recognizer(judge)
    valid, test = (judged(recognizer, corpus, split) for split in ("valid", "test"))
    matrix = confusion(*valid, recognizer.names.names)
    rows: list[dict[str, object]] = []
    for right in RIGHT:
        for seed in range(seeds):
            random = np.random.default_rng([seed, round(100 * right)])
            gold, found = shifted(*test, recognizer.names.names, texts, concentration, random)
            target = claimed(gold, recognizer.names.names, right, random)
            truth = float(np.mean([one == other for one, other in zip(target, gold, strict=True)]))
            scores = {"plain": emotion_accuracy.statistic(target, found).score(seed)}
            try:
                scores["corrected"] = corrected_accuracy(target, found, matrix, seed)
            except UndefinedScoreError as reason:
                click.echo(f"seed {seed} at {right}: not corrected: {reason}", err=True)
            for system, score in scores.items():
                error = abs(score.value - truth)
                rows.append(
                    {"system": system, "seed": seed, "truth": truth, "emotion_accuracy": score, "error": error, "n": len(gold)}
                )
    command = f"python evaluate/correction.py {corpus} --judge {judge}"
    options = f" --texts {texts} --concentration {concentration:g} --seeds {seeds}"
    write_result(out, command + options, [locate(corpus), judge], rows)
    for system in ("plain", "corrected"):
        errors = [row["error"] for row in rows if row["system"] == system]
        click.echo(f"{system}: mean error {np.mean(errors):.4f}, largest {np.max(errors):.4f}", err=True)  # type: ignore[arg-type]


def judged(recognizer: Recognizer, corpus: str, split: str) -> tuple[list[str], list[str]]:
    """Return the labels of the rows of a split, and what the judge takes them for."""
    path, reading = resolve(corpus, Reading(labels=recognizer.names))
    rows = [row for row in read_exchanges(path, reading) if row.split == split]
    found = judged_labels(recognizer.probabilities([row.reply for row in rows]), recognizer.names.names)
    return [row.emotion.name for row in rows], found


def shifted(
    gold: Sequence[str],
    found: Sequence[str],
    labels: Sequence[str],
    texts: int,
    concentration: float,
    random: np.random.Generator,
) -> tuple[list[str], list[str]]:
    """About `texts` rows with class shares drawn from a Dirichlet distribution, each row at most once."""
    shares = random.dirichlet([concentration] * len(labels))
    chosen: list[int] = []
    for label, share in zip(labels, shares, strict=True):
        places: NDArray[np.int64] = random.permutation([at for at, name in enumerate(gold) if name == label])
        chosen += places[: round(share * texts)].tolist()
    return [gold[at] for at in chosen], [found[at] for at in chosen]


def claimed(gold: Sequence[str], labels: Sequence[str], right: float, random: np.random.Generator) -> list[str]:
    """Return what was asked for: a row's own label for the share `right` of them, else another one."""
    others = {label: [name for name in labels if name != label] for label in labels}
    return [label if random.random() < right else str(random.choice(others[label])) for label in gold]


if __name__ == "__main__":
    run(main, "correction.py")
