r"""The recipe of the adapter that ships: a guide, its corpus, the training command, and the checkpoint in float16.

    emogen data fetch goemotions && emogen data fetch dailydialog && emogen data fetch empatheticdialogues
    emogen pull smollm2
    python examples/smollm2_adapter.py prepare --work runs
    emogen train-lm runs/adapter.jsonl.gz --labels ekman --backbone hf:smollm2 --lora-rank 16 --pretrained-rate 7e-4 \
        --batch-size 32 --steps 200000 --minutes 38 --validate-every 300 --context-tokens 40 --threads 1 --out runs/smollm2
    python examples/smollm2_adapter.py ship --work runs --model runs/smollm2
    python examples/smollm2_adapter.py make --work runs --count 13000

The guide is a fine-tuned MiniLM. It is trained on the generator's share of GoEmotions and DailyDialog, so that neither its rows
nor its architecture are those of the judge (see default_model.py). It labels the listeners' replies of EmpatheticDialogues,
whose own labels say what the *speaker* feels, and takes out of all training rows those whose label it finds unlikely. Frequent
emotions are thinned and rare ones repeated, so that each is learnt.

`make` writes texts with the adapter for the small model that ships (see default_model.py): with and without context, all
emotions alike, those alone that the guide finds convincing, none twice, and none that the judge was trained on.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import click
import torch
from default_model import JUDGE_SHARE, NATIVE, cleaned, relabelled, share_of, ship_model, shuffled, trained
from tqdm import tqdm

from emogen.checkpoint.model import EmotionModel, load
from emogen.cli import run
from emogen.data.exchange import Exchange, read_exchanges, write_exchanges
from emogen.data.fingerprints import Fingerprints, fingerprint, read_fingerprints
from emogen.decoding.params import SamplingParams
from emogen.emotions.labels import EKMAN, mixture
from emogen.recognition.recognizer import Recognizer, load_recognizer
from emogen.train.config import ClassifierSettings
from emogen.train.run.state import mixed_precision

GUIDE = ClassifierSettings(backbone="hf:all-MiniLM-L6-v2", batch_size=64, epochs=1, multi_label="no", seed=3)
NEUTRAL_OF_GUIDE = 0.25
LEAST_LIKELY = 0.25
LEAST_SURE = 0.5
MOST_ROWS = 14_000
LEAST_ROWS = 4_000
MOST_COPIES = 4
WRITING = SamplingParams(temperature=0.9, top_k=60, max_tokens=32)
TEXTS_AT_ONCE = 256


@click.group()
def recipe() -> None:
    """Prepare the adapter's corpus, and store a trained adapter for shipping."""


@recipe.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder for what is made.")
@click.option("--judge", type=click.Path(path_type=Path), default=Path("checkpoints/judge"), show_default=True)
def prepare(work: Path, judge: Path) -> None:
    """Train the guide and write adapter.jsonl.gz; neither has a row that the judge was trained on."""
    judged = set(read_fingerprints(judge).tolist())
    own = [e for corpus in ("goemotions", "dailydialog") for e in cleaned(corpus) if is_generators(e, judged)]
    guide = trained(work / "adapter-guide", [e for e in own if is_read_by_guide(e)], GUIDE)
    with mixed_precision("auto", torch.device("cpu")):
        replies = relabelled([e for e in cleaned("empatheticdialogues") if is_generators(e, judged)], guide)
        chosen = list(balanced(convincing([*own, *replies], guide, LEAST_LIKELY)))
    click.echo(write_exchanges(work / "adapter.jsonl.gz", shuffled(chosen)))


@recipe.command()
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Trained checkpoint.")
@click.option("--to", "target", type=click.Path(path_type=Path), default=Path("checkpoints/smollm2-emotion"), show_default=True)
def ship(work: Path, model: Path, target: Path) -> None:
    """Store the adapter in float16, with the facts of its training."""
    ship_model(work / "adapter.jsonl.gz", model, target)


@recipe.command()
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--writer", type=click.Path(path_type=Path), default=Path("checkpoints/smollm2-emotion"), show_default=True)
@click.option("--judge", type=click.Path(path_type=Path), default=Path("checkpoints/judge"), show_default=True)
@click.option("--count", type=int, default=30_000, show_default=True, help="Texts written; about half are kept.")
@click.option("--seed", type=int, default=0, show_default=True)
def make(work: Path, writer: Path, judge: Path, count: int, seed: int) -> None:
    """Write made.jsonl.gz, texts by the adapter for the training of a small model."""
    target = list(islice(asks(read_exchanges(work / "adapter.jsonl.gz", NATIVE), seed), count))
    guide = load_recognizer(work / "adapter-guide")
    with mixed_precision("auto", torch.device("cpu")):
        kept = list(fresh(convincing(list(written(target, load(writer), seed)), guide, LEAST_SURE), read_fingerprints(judge)))
    click.echo(write_exchanges(work / "made.jsonl.gz", kept))


def asks(exchanges: Iterable[Exchange], seed: int) -> Iterator[Exchange]:
    """Yield contexts and emotions to write for, without end.

    One emotion after another, without a context and with one in turn.
    """
    contexts: dict[str, list[Exchange]] = {name: [] for name in EKMAN.names}
    for exchange in exchanges:
        if exchange.split == "train" and exchange.context:
            contexts[exchange.emotion.name].append(exchange)
    draw = random.Random(seed)
    for name in cycle(EKMAN.names):
        yield Exchange(context=(), reply="", emotion=mixture({name: 1.0}, EKMAN), split="train")
        yield replace(draw.choice(contexts[name]), emotion=mixture({name: 1.0}, EKMAN))


def written(target: Sequence[Exchange], model: EmotionModel, seed: int) -> Iterator[Exchange]:
    """Yield what the model replies to each, where it came to an end."""
    for at in tqdm(range(0, len(target), TEXTS_AT_ONCE), unit="batch"):
        part = target[at : at + TEXTS_AT_ONCE]
        found = model.replies([e.context for e in part], [e.emotion for e in part], 1, WRITING, seed + at)
        yield from (
            replace(e, reply=s.text) for e, s in zip(part, found, strict=True) if s.finished and len(s.text.split()) > 1
        )


def fresh(exchanges: Iterable[Exchange], taken: Fingerprints) -> Iterator[Exchange]:
    """Yield each text once, and none whose fingerprint is taken."""
    seen = set(taken.tolist())
    for exchange in exchanges:
        own = fingerprint(exchange.reply)
        if own not in seen:
            seen.add(own)
            yield exchange


def is_generators(exchange: Exchange, judged: set[int]) -> bool:
    """Tell whether a row is held out.

    Or the judge was trained neither on it nor on one that differs in spaces or signs alone.
    """
    return exchange.split != "train" or (share_of(exchange.reply) >= JUDGE_SHARE and fingerprint(exchange.reply) not in judged)


def is_read_by_guide(exchange: Exchange) -> bool:
    """Return all rows but three in four of the neutral ones."""
    return exchange.emotion.name != "neutral" or share_of("g" + exchange.reply) < NEUTRAL_OF_GUIDE


def convincing(exchanges: Sequence[Exchange], guide: Recognizer, least_sure: float) -> Iterator[Exchange]:
    """Yield held-out rows, and training rows whose emotion the guide finds likely too: surely where it named them itself."""
    for at in range(0, len(exchanges), 1024):
        part = exchanges[at : at + 1024]
        for exchange, shares in zip(part, guide.probabilities([e.reply for e in part]), strict=True):
            least = least_sure if max(exchange.emotion.weights) == 1 else LEAST_SURE
            if exchange.split != "train" or shares[EKMAN.position(exchange.emotion.name)] >= least:
                yield exchange


def balanced(exchanges: Iterable[Exchange]) -> Iterator[Exchange]:
    """Yield held-out rows as they are; of the training rows of each emotion at most so many, and rare ones several times."""
    rows = list(exchanges)
    counts = Counter(e.emotion.name for e in rows if e.split == "train")
    for exchange in rows:
        count = counts[exchange.emotion.name]
        if exchange.split != "train":
            yield exchange
        elif share_of("b" + exchange.reply) < MOST_ROWS / count:
            yield from [exchange] * max(1, min(MOST_COPIES, LEAST_ROWS // count))


if __name__ == "__main__":
    run(recipe, "smollm2_adapter.py")
