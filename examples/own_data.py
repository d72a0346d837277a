"""Your own data: a CSV of labelled replies, a model trained on them, texts with the emotion you ask for, and two figures.

    python examples/own_data.py                # examples/own_data.csv, half a minute
    python examples/own_data.py my.csv 2000    # your file with the same columns, and more updates

`Columns` names the columns of the file; leave `context` out where the lines answer nothing. With `init` the small model that
ships is trained on, which knows Ekman's emotions; without it a model of your own labels is trained from scratch, which takes
some thousand rows. The judge knows Ekman's emotions in English; `emogen train-classifier` makes another.
"""

from pathlib import Path

import click

import emogen
from emogen.checkpoint.finding import shipped_folder
from emogen.cli import run
from emogen.data.columns import Columns
from emogen.data.exchange import Reading
from emogen.evaluate import distinct, emotion_accuracy, judged_labels
from emogen.train.config import LmSettings
from emogen.train.fit import fit_lm

READING = Reading(columns=Columns(context="question", reply="answer", emotion="mood"))


@click.command()
@click.argument("path", metavar="[FILE]", default=str(Path(__file__).with_suffix(".csv")))
@click.argument("steps", metavar="[UPDATES]", type=click.IntRange(min=1), default=80)
def main(path: str, steps: int) -> None:
    """Train on FILE, write and measure."""
    settings = LmSettings(init=str(shipped_folder("default")), steps=steps, batch_size=16, seed=1)
    model = emogen.load(fit_lm([path], READING, settings))
    found = [reply for mood in model.labels.names for reply in model.sample(mood, n=20, context="How was the exam?")]
    for reply in found[::20]:
        print(f"{reply.emotion}: {reply.text}")
    judge, texts = emogen.load_recognizer(shipped_folder("judge")), [reply.text for reply in found]
    judged = judged_labels(judge.probabilities(texts), judge.names.names)
    for score in (emotion_accuracy([reply.emotion for reply in found], judged), distinct(texts, 2)):
        print(f"{score.value:.2f} ({score.low:.2f} to {score.high:.2f})  {score.signature}")


if __name__ == "__main__":
    run(main, "own_data.py")
