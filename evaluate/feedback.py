"""Does a model learn what its users like, and keep its emotions? A simulated user who likes to be asked back says so.

    emogen data fetch empatheticdialogues
    python evaluate/feedback.py
    python evaluate/feedback.py --loss kto --contexts 1180 --out evaluate/results/feedback_single.json

For each seed the model replies twice to --contexts contexts of the corpus' train split, each with an emotion asked for, the
labels in turn. The user of `likes` calls the better of the two good and the other one bad, and says nothing where both please
alike. The opinions go through a `FeedbackStore` of their own, and `emogen train-feedback` makes a new model of their pairs.

Then both models reply to --test contexts of the test split, that no opinion was about, with the same seeds. `preference` is the
share of contexts in which the user prefers the new model's reply to the old one's, those that please alike counting half; the
row `old` compares the old model with itself under another seed. `emotion_accuracy` is by the judge, which shares no training
row and no architecture with the model. `asks_back`, `unique`, `distinct2` and `words` say how the replies changed.
`held_out_before` and `held_out_after` are the shares of the opinions' own held-out pairs whose better reply the old and the new
model find likelier.

With `--loss kto` the user sees one reply to each context and calls it good or bad, as most users do; training is on single
opinions.

`--split valid` is for choosing settings. At the end stands what must hold, over the seeds.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import click
import numpy as np
import torch

from emogen.checkpoint.finding import shipped_folder
from emogen.checkpoint.model import EmotionModel, load
from emogen.cli import run
from emogen.data.corpora import resolve
from emogen.data.exchange import Reading, read_exchanges
from emogen.data.preferences import Preference
from emogen.dialogue.feedback import FeedbackStore, Opinion, Verdict
from emogen.evaluate.diversity import distinct, unique
from emogen.evaluate.emotion import emotion_accuracy, judged_labels
from emogen.evaluate.preference import preference
from emogen.evaluate.report import command_of, write_result
from emogen.evaluate.score import Score
from emogen.evaluate.significance import over_seeds
from emogen.recognition.leak import refuse_leaks
from emogen.recognition.recognizer import Recognizer, load_recognizer
from emogen.train.config import FeedbackSettings
from emogen.train.fit_preference import Preferred, fit_preference, fit_unpaired
from emogen.train.run.memory import keep_freed_memory

RESULT = Path("evaluate/results/feedback.json")
MOST_WORDS = 15
LEAST_PREFERENCE = 0.7
MOST_LOST = 0.02

Context = tuple[str, ...]


def likes(text: str) -> bool:
    """Tell whether a reply pleases the simulated user: it is short, and it asks back."""
    return text.rstrip().endswith("?") and 0 < len(text.split()) <= MOST_WORDS


def prefers(one: str, other: str) -> int:
    """Return 1 where the user prefers `one`, -1 where the other, 0 where both please alike."""
    return int(likes(one)) - int(likes(other))


@dataclass(frozen=True)
class Asked:
    """What replies are asked for with: contexts, and an emotion for each."""

    contexts: Sequence[Context]
    emotions: Sequence[str]


@dataclass(frozen=True)
class Bench:
    """What all seeds share.

    Attributes:
        old: the model that opinions are about.
        judge: measures the emotion.
        conditioning: contexts of the train split.
        fresh: contexts of the split that is measured on.
        settings: of the training.
    """

    old: EmotionModel
    judge: Recognizer
    conditioning: Asked
    fresh: Asked
    settings: FeedbackSettings


@click.command()
@click.option("--corpus", default="empatheticdialogues", show_default=True, help="Dialogues whose contexts are replied to.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="The model.  [default: the small one that ships]")
@click.option("--judge", type=click.Path(path_type=Path), help="A classifier over its labels.  [default: the one that ships]")
@click.option("--split", type=click.Choice(["test", "valid"]), default="test", show_default=True, help="Of what is measured.")
@click.option("--contexts", type=click.IntRange(1), default=3000, show_default=True, help="That the user has opinions on.")
@click.option("--test", type=click.IntRange(1), default=1050, show_default=True, help="Contexts that are measured on.")
@click.option("--seed", "seeds", type=int, multiple=True, default=(0, 1, 2), show_default=True, help="Of all that is drawn.")
@click.option("--learning-rate", default=FeedbackSettings.learning_rate, show_default=True, help="As of train-feedback.")
@click.option("--epochs", default=FeedbackSettings.epochs, show_default=True, help="As of train-feedback.")
@click.option("--beta", default=FeedbackSettings.beta, show_default=True, help="As of train-feedback.")
@click.option("--loss", type=click.Choice(["dpo", "kto"]), default="dpo", show_default=True, help="Pairs, or single opinions.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
@click.pass_context
def main(
    context: click.Context,
    corpus: str,
    checkpoint: Path | None,
    judge: Path | None,
    split: str,
    contexts: int,
    test: int,
    seeds: tuple[int, ...],
    learning_rate: float,
    epochs: int,
    beta: float,
    loss: Literal["dpo", "kto"],
    out: Path,
) -> None:
    """Let a simulated user rate replies, train on the opinions, and measure on other contexts."""
    keep_freed_memory()
    torch.set_num_threads(1)
    start, judged_by = checkpoint or shipped_folder("default"), judge or shipped_folder("judge")
    leak = refuse_leaks(judged_by, [start])
    old = load(start)
    settings = FeedbackSettings(
        checkpoint=str(start), learning_rate=learning_rate, epochs=epochs, beta=beta, loss=loss, device="cpu", threads=1
    )
    bench = Bench(
        old=old,
        judge=load_recognizer(judged_by),
        conditioning=target(corpus, "train", contexts, old),
        fresh=target(corpus, split, test, old),
        settings=settings,
    )
    rows = [row for seed in seeds for row in rows_of(bench, seed)]
    checks = checked(rows)
    notes = {"split": split, "settings": settings_shown(settings), "leak": leak, "checks": checks}
    write_result(out, command_of("feedback", context), [Path(resolve(corpus, Reading())[0]), start, judged_by], rows, notes)
    click.echo("\n".join(f"{'holds' if check['holds'] else 'MISSED'}  {check['claim']}: {check['found']}" for check in checks))


def settings_shown(settings: FeedbackSettings) -> dict[str, object]:
    """Return the settings that decide what is learnt."""
    names = (
        "loss",
        "learning_rate",
        "epochs",
        "batch_size",
        "beta",
        "likelihood_weight",
        "smoothing",
        "held_out",
        "unconditional_share",
    )
    return {name: getattr(settings, name) for name in names}


def target(corpus: str, split: str, most: int, model: EmotionModel) -> Asked:
    """Different contexts of a split, drawn evenly, and the model's labels in turn."""
    path, reading = resolve(corpus, Reading())
    found = {row.context: None for row in read_exchanges(path, reading) if row.split == split and row.context}
    contexts = random.Random(0).sample(sorted(found), min(most, len(found)))
    names = model.labels.names
    return Asked(contexts, [names[place % len(names)] for place in range(len(contexts))])


def rows_of(bench: Bench, seed: int) -> list[dict[str, object]]:
    """Of one seed the old model and the new one."""
    with tempfile.TemporaryDirectory(prefix="emogen-") as folder:
        with FeedbackStore(Path(folder) / "feedback.db") as store:
            own = replace(bench.settings, out=f"{folder}/new", seed=seed)
            if own.loss == "kto":
                rate_single(bench, store, seed)
                facts = trained_on_single(store, own)
            else:
                rate(bench, store, seed)
                facts = trained_on_pairs(store, own)
        new = load(f"{folder}/new")
        click.echo(f"seed {seed}: {facts}", err=True)
        old_texts, again, new_texts = (
            replies(model, bench.fresh, own)
            for model, own in ((bench.old, fresh(seed)), (bench.old, fresh(seed) + 1), (new, fresh(seed)))
        )
    return [
        row("old", bench, seed, old_texts, again),
        row("new", bench, seed, new_texts, old_texts) | facts,
    ]


def trained_on_pairs(store: FeedbackStore, settings: FeedbackSettings) -> dict[str, object]:
    """Train on the pairs in a store; give what a row says of them."""
    pairs = store.pairs()
    trained = fit_preference(pairs, "feedback.db", settings)
    return {"opinions": len(store.opinions()), "pairs": len(pairs), **held_out(trained)}


def trained_on_single(store: FeedbackStore, settings: FeedbackSettings) -> dict[str, object]:
    """Train on the single opinions in a store; give what a row says of them."""
    ratings = store.ratings()
    fit_unpaired(ratings, "feedback.db", settings)
    return {"opinions": len(ratings), "good": sum(rating.is_good for rating in ratings)}


def rate(bench: Bench, store: FeedbackStore, seed: int) -> None:
    """The simulated user's opinions on two replies to each context."""
    first, second = (replies(bench.old, bench.conditioning, number) for number in (2 * seed, 2 * seed + 1))
    for place, (one, other) in enumerate(zip(first, second, strict=True)):
        if verdict := prefers(one, other):
            for number, (text, is_good) in enumerate(((one, verdict > 0), (other, verdict < 0))):
                context, emotion = bench.conditioning.contexts[place], bench.old.emotion(bench.conditioning.emotions[place])
                given: Verdict = "good" if is_good else "bad"
                store.rate(Opinion(f"{place}-{number}", context, text, emotion, given, str(bench.old.folder.name)))


def rate_single(bench: Bench, store: FeedbackStore, seed: int) -> None:
    """The simulated user's opinion on one reply to each context."""
    for place, text in enumerate(replies(bench.old, bench.conditioning, 2 * seed)):
        context, emotion = bench.conditioning.contexts[place], bench.old.emotion(bench.conditioning.emotions[place])
        given: Verdict = "good" if likes(text) else "bad"
        store.rate(Opinion(str(place), context, text, emotion, given, str(bench.old.folder.name)))


def fresh(seed: int) -> int:
    """Return a seed of replies that are measured; those that are rated have others."""
    return 1000 + 2 * seed


def replies(model: EmotionModel, to: Asked, seed: int) -> list[str]:
    """Return a reply to each context, decoded as the model does by default."""
    return [sample.text for sample in model.replies(to.contexts, to.emotions, seed=seed)]


def row(system: str, bench: Bench, seed: int, texts: Sequence[str], others: Sequence[str]) -> dict[str, object]:
    """Return how the replies of a system are, and how they please beside others to the same contexts."""
    labels = bench.judge.names.names
    return {
        "system": system,
        "seed": seed,
        "preference": preference([float(prefers(*pair)) for pair in zip(texts, others, strict=True)]),
        "emotion_accuracy": emotion_accuracy(bench.fresh.emotions, judged_labels(bench.judge.probabilities(texts), labels)),
        "asks_back": float(np.mean([likes(text) for text in texts])),
        "unique": unique(texts),
        "distinct2": distinct(texts, 2),
        "words": float(np.mean([len(text.split()) for text in texts])),
        "n": len(texts),
    }


def held_out(trained: Preferred[Preference]) -> dict[str, Score]:
    """Of the opinions' own held-out pairs the share whose better reply the old and the new model find likelier."""
    owners = [pair.context for pair in trained.held_out]
    return {
        f"held_out_{name}": preference((found[0] - found[1]).tolist(), owners)
        for name, found in (("before", trained.before), ("after", trained.after))
    }


def checked(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return what must hold of the means over the seeds."""
    preferred = spread([value(row, "preference") for row in rows if row["system"] == "new"])
    accuracies = [[value(row, "emotion_accuracy") for row in rows if row["system"] == name] for name in ("old", "new")]
    lost = spread([before - after for before, after in zip(*accuracies, strict=True)])
    return [
        {
            "claim": f"preference at least {LEAST_PREFERENCE}",
            "found": preferred,
            "holds": preferred["mean"] >= LEAST_PREFERENCE,
        },
        {"claim": f"emotion accuracy lost at most {MOST_LOST}", "found": lost, "holds": lost["mean"] <= MOST_LOST},
    ]


def value(row: dict[str, object], name: str) -> float:
    """Of a score in a row its value."""
    score = row[name]
    assert isinstance(score, Score)
    return score.value


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the mean over the seeds and, of several, its 95% interval."""
    if len(values) < 2:
        return {"mean": round(values[0], 4)}
    found = over_seeds(values)
    return {"mean": round(found.mean, 4), "low": round(found.low, 4), "high": round(found.high, 4)}


if __name__ == "__main__":
    run(main, "feedback.py")
