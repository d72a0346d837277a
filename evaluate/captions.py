"""Texygen's protocol on its COCO captions: how good and how various a language model's captions are, over temperatures.

    emogen data fetch image_coco
    python evaluate/captions.py --work runs/captions

The protocol (Zhu et al. 2018): 10,000 captions to train on, 10,000 samples, BLEU of each sample against all 10,000 test
captions at once, self-BLEU of each sample against all the others; NLTK's smoothing "method1", marks split from words. Here a
twentieth of the training captions is not trained on but chooses the epoch. Rows: `real`, the test captions; `train`, the
training captions scored as if a model had written them (what copying would get); each training seed at each temperature; and
`lm` without a temperature: how likely the test captions are under the model, in nats per token of its own and per word.

The published NLL_gen is per token of Texygen's vocabulary, with an LSTM and padding of its own: it compares with neither.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click

import emogen
from emogen.atomic import sha256, write_text
from emogen.checkpoint import Checkpoint
from emogen.data.check import split_of
from emogen.data.exchange import Exchange, Reading, write_exchanges
from emogen.decoding.sampling import Sampling
from emogen.errors import CheckpointError, DataError, SettingsError
from emogen.evaluate.diversity import backward_bleu, commonest, copied, forward_bleu, mean_length, self_bleu, unique
from emogen.evaluate.fluency import perplexity
from emogen.evaluate.frontier import Point, axis, draw
from emogen.evaluate.report import command_of, write_result
from emogen.evaluate.score import Score
from emogen.judges.language_model import own_model
from emogen.train.config import LmSettings
from emogen.train.corpus import open_corpus
from emogen.train.fit import fit_lm
from emogen.train.folder import is_resumable, read_train_file

RESULT = Path("evaluate/results/captions.json")
TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
ORDERS = (2, 3, 4, 5)
# Captions carry no emotion, so the model is nearly always told none.
GENERATOR = LmSettings(steps=100_000, width=512, dropout=0.5, emotion_dropout=0.99, validate_every=150)
QUALITY, DIVERSITY = "forward_bleu5", "self_bleu5"


@dataclass(frozen=True)
class Captions:
    """A corpus of captions.

    Attributes:
        source: its file.
        reading: its labels and limits.
        data: file with the training captions, a twentieth of them as valid rows.
        train: all training captions.
        test: the references.
    """

    source: Path
    reading: Reading
    data: Path
    train: Sequence[str]
    test: Sequence[str]


@click.command()
@click.option("--corpus", default="image_coco", show_default=True, help="Name or file; its test rows are the references.")
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), required=True, help="What is made, and used again.")
@click.option("--minutes", default=8.0, show_default=True, help="Training time of each model; 0 for no limit.")
@click.option("--steps", default=GENERATOR.steps, show_default=True, help="Updates of each model at most.")
@click.option("--width", default=GENERATOR.width, show_default=True, help="Of each model's states.")
@click.option("--seeds", default=3, show_default=True, help="Models, each trained with a seed of its own.")
@click.option("--samples", default=10_000, show_default=True, help="Captions of each model at each temperature.")
@click.option("--temperature", "temperatures", multiple=True, type=float, default=TEMPERATURES, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(
    corpus: str,
    work: Path,
    minutes: float,
    steps: int,
    width: int,
    seeds: int,
    samples: int,
    temperatures: tuple[float, ...],
    out: Path,
) -> None:
    """Train what is missing, sample, score, and draw quality against diversity."""
    captions = prepared(corpus, work)
    settings = replace(GENERATOR, minutes=minutes, steps=steps, width=width)
    models = [trained(work / f"lm-{seed}", captions, replace(settings, seed=seed)) for seed in range(seeds)]
    rows = []
    for row in measured(captions, models, samples, temperatures):
        click.echo(row, err=True)
        rows.append(row)
    trainings = {folder.name: read_train_file(folder).get("settings", {}) | {"out": ""} for folder in models}
    extra = {"references": len(captions.test), "settings": trainings}
    write_result(out, command_of(RESULT.stem, click.get_current_context()), [captions.source, *models], rows, extra)
    drawn(rows, out)


def prepared(corpus: str, work: Path) -> Captions:
    """The captions, with a twentieth of the training ones, by a hash, held out to choose the epoch."""
    opened = open_corpus([corpus], Reading())
    ((source, reading),) = opened.parts
    rows = list(opened.exchanges())
    train, test = ([row for row in rows if row.split == split] for split in ("train", "test"))
    if not train or not test:
        raise DataError(f"{source}: {len(train)} train and {len(test)} test rows; captions of both are needed")
    work.mkdir(parents=True, exist_ok=True)
    data = work / "captions.jsonl.gz"
    write_exchanges(data, map(held_out, train))
    return Captions(Path(source), reading, data, [row.reply for row in train], [row.reply for row in test])


def held_out(row: Exchange) -> Exchange:
    """The row as one of train or valid."""
    return replace(row, split=split_of(row.reply, (0.95, 0.05, 0.0), seed=0))


def trained(folder: Path, captions: Captions, settings: LmSettings) -> Path:
    """The model in `folder`: as it stands there if its run has ended, else trained, or trained to its end."""
    if read_train_file(folder).get("finished"):
        refuse_another(folder, captions.data, settings)
        return folder
    settings = replace(settings, out=str(folder))
    return fit_lm([str(captions.data)], captions.reading, settings, resuming=is_resumable(folder))


def refuse_another(folder: Path, data: Path, settings: LmSettings) -> None:
    """Raises CheckpointError where the finished run was another than the one asked for."""
    run = read_train_file(folder)
    asked = asdict(replace(settings, out=run["settings"]["out"]))
    held = {name: run["settings"].get(name) for name in asked}
    other = [f"{name} {held[name]}, not {value}" for name, value in asked.items() if held[name] != value]
    if sha256(data) not in run["sources"].values():
        other.append("other captions")
    if other:
        raise CheckpointError(f"{folder}: its run had {', '.join(other)}; pass the same values, or another --work")


def measured(
    captions: Captions, models: Sequence[Path], samples: int, temperatures: Sequence[float]
) -> Iterator[dict[str, object]]:
    """All rows, one at a time; where fewer samples are drawn, so are fewer real captions."""
    draw_real = random.Random(0)
    train, test = (draw_real.sample(texts, min(samples, len(texts))) for texts in (captions.train, captions.test))
    yield {"system": "real", "seed": 0, **scored(test, captions.train)}
    yield {"system": "train", "seed": 0, **scored(train), **compared(train, captions.test)}
    for seed, folder in enumerate(models):
        model = emogen.load(folder)
        yield {"system": "lm", "seed": seed, **likelihood(model, captions.test)}
        for temperature in temperatures:
            texts = sampled(model, samples, temperature, seed)
            figures = {**scored(texts, captions.train), **compared(texts, captions.test)}
            yield {"system": "lm", "seed": seed, "temperature": temperature, **figures}


def sampled(model: Checkpoint, samples: int, temperature: float, seed: int) -> list[str]:
    """Captions from the model's whole distribution; they are kept beside it."""
    path = model.folder / f"samples-{samples}-at-{temperature:g}.json"
    if not path.exists():
        options = Sampling(temperature=temperature, max_tokens=model.description.limits.reply_tokens + 1)
        texts = [caption.text or "." for caption in model.sample(n=samples, sampling=options, seed=seed)]
        write_text(path, json.dumps(texts, ensure_ascii=False))
    kept: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def likelihood(model: Checkpoint, test: Sequence[str]) -> dict[str, object]:
    """How expected the test captions are, each with its end."""
    nats = own_model(model).nll(test)
    tokens = sum(len(model.tokenizer.encode(text)) + 1 for text in test)
    by_word = perplexity(test, nats, model.folder.name)
    return {"nll_token": float(nats.sum()) / tokens, "nll_word": math.log(by_word.value), "perplexity": by_word}


def scored(texts: Sequence[str], training: Sequence[str] = ()) -> dict[str, object]:
    """Diversity, and the share of captions copied from training where that is given."""
    return {
        "n": len(texts),
        **{f"self_bleu{order}": self_bleu(texts, order) for order in ORDERS},
        "unique": unique(texts),
        "commonest": commonest(texts),
        "mean_length": mean_length(texts),
        **({"copied": copied(texts, training)} if training else {}),
    }


def compared(texts: Sequence[str], test: Sequence[str]) -> dict[str, Score]:
    """BLEU against all test captions, and of all test captions against the texts."""
    ways = {"forward": forward_bleu, "backward": backward_bleu}
    return {f"{way}_bleu{order}": measure(texts, test, order) for way, measure in ways.items() for order in ORDERS}


def drawn(rows: Iterable[Mapping[str, object]], out: Path) -> None:
    """The frontiers of the models as OUT.png and OUT.svg, if matplotlib is there, with the training captions as a point."""
    points = [point_of(row) for row in rows if QUALITY in row]
    try:
        draw(points, out.with_suffix(".png"), axis(QUALITY), axis(DIVERSITY))
    except SettingsError as error:
        click.echo(f"no figure: {error}", err=True)


def point_of(row: Mapping[str, object]) -> Point:
    """A row in the plane; what people wrote stands at temperature 1."""
    quality, diversity, temperature = row[QUALITY], row[DIVERSITY], row.get("temperature", 1.0)
    assert isinstance(quality, Score)
    assert isinstance(diversity, Score)
    assert isinstance(temperature, float)
    name = "training captions" if row["system"] == "train" else f"{row['system']}, seed {row['seed']}"
    return Point(name, temperature, quality, diversity)


if __name__ == "__main__":
    main()
