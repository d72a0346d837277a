"""Somebody else's model, measured: any function from context and emotion to a text, or a file of texts, against references.

    emogen pull smollm2
    python examples/evaluate_another_model.py --model hf:smollm2      # or any chat model of the hub, or its folder
    python examples/evaluate_another_model.py --texts theirs.txt      # line i answers test context i of the starter corpus

Prints every score with its 95% interval, and the difference to the model that ships: tested on the same items by paired
bootstrap, p-values raised for the number of metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click
from demo import english_rows

import emogen
from emogen.checkpoint.finding import shipped_folder
from emogen.cli import run
from emogen.data.exchange import Exchange
from emogen.evaluate import Comparison, Report, SumStatistic, as_table, paired_bootstrap
from emogen.evaluate.inputs import Judging, Resources, System
from emogen.evaluate.suite import Evaluation, evaluate
from emogen.recognition.leak import refuse_leaks

Write = Callable[[Sequence[str], str], str]
"""What is needed of a model: from the utterances so far, oldest first, and an emotion's name to a reply."""


@click.command()
@click.option("--model", help="hf:NAME or a folder: a chat model that Transformers loads.")
@click.option("--texts", type=click.Path(path_type=Path, exists=True), help="A reply a line, in place of a model.")
@click.option("--rows", default=50, show_default=True, help="How many test contexts.")
def main(model: str | None, texts: Path | None, rows: int) -> None:
    """Compare another model's replies with those of the model that ships."""
    if (model is None) == (texts is None):
        raise click.UsageError("name a --model or a file of --texts, one of them")
    held_out = english_rows("test")[:rows]
    ours = emogen.load(shipped_folder("default"))
    written = ours.replies([row.context for row in held_out], [row.emotion for row in held_out], seed=1)
    theirs = texts.read_text(encoding="utf-8").splitlines() if texts else answers(chat_model(model or ""), held_out)
    systems = {"emogen": [reply.text for reply in written], "theirs": theirs}
    judge = emogen.load_recognizer(shipped_folder("judge"))
    judging = Judging("judge", judge.names.names, judge.probabilities, leak=refuse_leaks(judge.folder, [ours.folder]))
    found = {name: evaluate(system(name, lines, held_out), Resources(judges=(judging,))) for name, lines in systems.items()}
    click.echo(as_table(report(found)))


def answers(write: Write, held_out: Sequence[Exchange]) -> list[str]:
    """Return one reply to each context with the emotion that the person's reply had."""
    return [write(row.context, row.emotion.name) for row in held_out]


def chat_model(name: str) -> Write:
    """Return a chat model of Transformers that is told in its prompt what to express: put a call of your own model here."""
    from transformers import pipeline

    from emogen.pretrained.bases import find_base

    chat = pipeline("text-generation", model=str(find_base(name).folder), max_new_tokens=32, do_sample=False)

    def write(context: Sequence[str], emotion: str) -> str:
        prompt = f"Answer in one short sentence that expresses {emotion}: {' '.join(context)}"
        (found,) = chat([{"role": "user", "content": prompt}], return_full_text=False)
        return str(found["generated_text"])

    return write


def system(name: str, texts: Sequence[str], held_out: Sequence[Exchange]) -> System:
    """Return texts with the references that they are compared with, and the emotions that were asked for."""
    return System(name, texts, [[row.reply] for row in held_out], [row.emotion.name for row in held_out])


def report(found: dict[str, Evaluation]) -> Report:
    """Return the scores side by side, and the differences of all metrics that are sums over the texts."""
    (first, ours), (second, theirs) = found.items()
    tallies = {name: basis for name, basis in ours.bases.items() if isinstance(basis, SumStatistic)}
    compared: list[tuple[str, str, str, Comparison]] = [
        (first, second, name, paired_bootstrap(basis, other))
        for name, basis in tallies.items()
        if isinstance(other := theirs.bases.get(name), SumStatistic)
    ]
    notes = [f"{name}: {note}" for name, each in found.items() for note in each.notes]
    scores = {name: each.scores for name, each in found.items()}
    return Report(scores, {name: each.texts for name, each in found.items()}, notes, compared)


if __name__ == "__main__":
    run(main, "evaluate_another_model.py")
