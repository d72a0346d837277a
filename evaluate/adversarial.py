"""What the adversarial part of a run changes: a generator before and after it, beside the replies that people gave.

    python evaluate/adversarial.py runs/replies.jsonl.gz --before runs/lm --after runs/gan

Both models reply to the same held-out contexts, the same number for each emotion, at temperature 1. The judge is the one that
ships (checkpoints/judge): its training rows are no rows of the generator's corpus (see examples/default_model.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

import emogen
from emogen.checkpoint import Checkpoint, shipped
from emogen.data.batches import Batch, TokenArrays
from emogen.data.exchange import Exchange, Reading, read_exchanges
from emogen.decoding.sampling import Sampling
from emogen.emotions import EKMAN
from emogen.evaluate import bleu, commonest, distinct, emotion_accuracy, emotion_f1, judged_labels, self_bleu, unique
from emogen.evaluate.report import write_result
from emogen.judges.recognizer import load_recognizer
from emogen.train.config import GeneratorRun
from emogen.train.corpus import held_out_batches, prepare
from emogen.train.mle import held_out_nll

RESULT = Path("evaluate/results/adversarial.json")
NLL_ROWS = 3_000


@click.command()
@click.argument("replies", type=click.Path(exists=True, path_type=Path))
@click.option("--before", type=click.Path(exists=True, path_type=Path), required=True, help="Checkpoint of the MLE model.")
@click.option("--after", type=click.Path(exists=True, path_type=Path), required=True, help="Checkpoint of train-gan.")
@click.option("--each", default=150, show_default=True, help="Test rows for each emotion.")
@click.option("--seeds", default=3, show_default=True, help="Sampling seeds.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(replies: Path, before: Path, after: Path, each: int, seeds: int, out: Path) -> None:
    """Measure the models in BEFORE and AFTER on the test split of REPLIES."""
    held_out = balanced(replies, each)
    rows = [{"system": "real", "seed": 0, **figures([row.reply for row in held_out], held_out)}]
    for system, folder in (("mle", before), ("adversarial", after)):
        model = emogen.load(folder)
        nll = held_out_nll(model.generator, held_out_rows(model, replies))["nll"]
        for seed in range(seeds):
            rows.append(
                {"system": system, "seed": seed, "nll_heldout": nll, **figures(written(model, held_out, seed), held_out)}
            )
            click.echo(rows[-1], err=True)
    models = " ".join(f"--{name} {path.parent.name}/{path.name}" for name, path in (("before", before), ("after", after)))
    command = f"python evaluate/adversarial.py {replies.parent.name}/{replies.name} {models} --each {each} --seeds {seeds}"
    write_result(out, command, [replies, before, after, shipped("judge")], rows)


def balanced(replies: Path, each: int) -> list[Exchange]:
    """The same number of test rows for each emotion that clearly leads its row (or all there are), drawn with a fixed seed."""
    found: dict[str, list[Exchange]] = {name: [] for name in EKMAN.names}
    for row in read_exchanges(replies, Reading(labels=EKMAN)):
        if row.split == "test" and max(row.emotion.weights) > 0.5:
            found[row.emotion.name].append(row)
    draw = random.Random(0)
    return [row for rows in found.values() for row in draw.sample(rows, min(each, len(rows)))]


def written(model: Checkpoint, held_out: Sequence[Exchange], seed: int) -> list[str]:
    """One reply to each context with the emotion of the person's reply."""
    options = Sampling(max_tokens=model.description.limits.reply_tokens + 1)
    found = model.reply([row.context for row in held_out], [row.emotion for row in held_out], sampling=options, seed=seed)
    return [reply.text or "." for reply in found]


def figures(texts: Sequence[str], held_out: Sequence[Exchange]) -> dict[str, object]:
    """Judged emotion, diversity and overlap of the texts, with intervals."""
    judge = load_recognizer(shipped("judge"))
    judged = judged_labels(judge.probabilities(texts), judge.names.names)
    asked = [row.emotion.name for row in held_out]
    references = [[row.reply] for row in held_out]
    # People's replies are the references.
    overlap = {} if [[text] for text in texts] == references else {"bleu": bleu(texts, references, language="en")}
    return {
        "n": len(texts),
        "emotion_accuracy": emotion_accuracy(asked, judged),
        "emotion_f1": emotion_f1(asked, judged, judge.names.names),
        "distinct2": distinct(texts, 2),
        "self_bleu4": self_bleu(texts),
        "unique": unique(texts),
        "commonest": commonest(texts),
        **overlap,
    }


def held_out_rows(model: Checkpoint, replies: Path) -> Iterator[Batch]:
    """Test rows as the model's tokenizer has them."""
    limits = model.description.limits
    config = GeneratorRun(context_tokens=limits.context_tokens, reply_tokens=limits.reply_tokens)
    arrays: dict[str, TokenArrays] = prepare([str(replies)], Reading(), config, model.tokenizer, model.labels).arrays
    return held_out_batches(arrays, "test", NLL_ROWS)


if __name__ == "__main__":
    main()
