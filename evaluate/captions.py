"""Texygen's protocol on its COCO captions: how good and how various captions of a language model and of a GAN are.

    emogen data fetch image_coco
    python evaluate/captions.py --work runs/captions

The protocol (Zhu et al. 2018): 10,000 captions to train on, 10,000 samples, BLEU of each sample against all 10,000 test
captions at once, self-BLEU of each sample against all the others; NLTK's smoothing "method1", marks split from words. Here a
twentieth of the training captions is not trained on but chooses the epoch. The GAN of each seed begins as that seed's language
model. Rows: `real`, the test captions; `train`, the training captions scored as if a model had written them (what copying would
get); `published: NAME`, as printed in the papers; `lm` and `gan` of each training seed at each temperature; the two without a
temperature: how likely the test captions are under the model, in nats per token of its own and per word; `gan over lm`: how far
a GAN lies above its own language model's temperature curve, in forward BLEU-4 at equal self-BLEU-4.

The published NLL_gen is per token of Texygen's vocabulary, with an LSTM and padding of its own: it compares with neither.
"""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast, get_args

import click
import numpy as np
import torch

import emogen
from emogen.checkpoint.folder import save_model
from emogen.checkpoint.model import EmotionModel
from emogen.cli import run
from emogen.data.check import split_of
from emogen.data.exchange import Exchange, Reading, write_exchanges
from emogen.decoding.params import SamplingParams
from emogen.errors import CheckpointError, DataError, SettingsError
from emogen.evaluate.diversity import commonest, mean_length, unique
from emogen.evaluate.fluency import perplexity
from emogen.evaluate.frontier import Point, axis, draw
from emogen.evaluate.report import command_of, read_json, write_result
from emogen.evaluate.score import Score
from emogen.evaluate.set_bleu import backward_bleu, forward_bleu, self_bleu
from emogen.evaluate.significance import over_seeds
from emogen.evaluate.training_overlap import copied
from emogen.files import sha256, write_text
from emogen.train.config import Estimator, GanSettings, LmSettings, VaeSettings
from emogen.train.corpus import open_corpus
from emogen.train.fit import fit_gan, fit_lm
from emogen.train.language_model import own_model
from emogen.train.run.folder import is_resumable, read_train_file

RESULT = Path("evaluate/results/captions.json")
TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
ORDERS = (2, 3, 4, 5)
# Captions carry no emotion, so the model is nearly always told none.
GENERATOR = LmSettings(steps=100_000, width=512, dropout=0.5, emotion_dropout=0.99, validate_every=150)
# Chosen by BLEU of the valid captions alone, with one seed.
ADVERSARY = GanSettings(
    steps=60,
    estimator="dense",
    potential="log-odds",
    discount=0.0,
    batch_size=16,
    samples=4,
    warmup_steps=0,
    learning_rate=2e-4,
    discriminator_rate=1e-3,
    encoder_rate=1e-6,
    kl_weight=1.0,
    accuracy_floor=0.0,
    accuracy_ceiling=0.55,
    validate_every=20,
    save_every=40,
)
QUALITY, DIVERSITY = "forward_bleu4", "self_bleu4"
NAMES = {"train": "training captions", "lm": "our MLE", "gan": "our GAN"}
GAIN = f"{QUALITY}_gain"
LEVELS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
# BLEU-2 to 5 and self-BLEU-2 to 5 as printed: Zhu et al. 2018 (Texygen), RelGAN at temperature 100 in Nie et al. 2019.
PUBLISHED = {
    "training captions": ((0.740, 0.520, 0.337, 0.218), (0.892, 0.747, 0.573, 0.415)),
    "MLE": ((0.731, 0.497, 0.305, 0.189), (0.916, 0.769, 0.583, 0.408)),
    "SeqGAN": ((0.745, 0.498, 0.294, 0.180), (0.950, 0.840, 0.670, 0.489)),
    "RankGAN": ((0.743, 0.467, 0.264, 0.156), (0.959, 0.882, 0.762, 0.618)),
    "LeakGAN": ((0.746, 0.528, 0.355, 0.230), (0.966, 0.913, 0.848, 0.780)),
    "RelGAN (100)": ((0.849, 0.687, 0.502, 0.331), ()),
}

Row = Mapping[str, object]
Curve = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Captions:
    """A corpus of captions.

    Attributes:
        source: its file.
        reading: its labels and limits.
        data: file with the training captions, a twentieth of them as valid rows.
        label: the emotion that the rows name, since every row must name one.
        train: all training captions.
        test: the references.
    """

    source: Path
    reading: Reading
    data: Path
    label: str
    train: Sequence[str]
    test: Sequence[str]


@click.command()
@click.option("--corpus", default="image_coco", show_default=True, help="Name or file; its test rows are the references.")
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), required=True, help="What is made, and used again.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0),
    default=8.0,
    show_default=True,
    help="Training time of each language model; 0 for no limit.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=GENERATOR.steps,
    show_default=True,
    help="Updates of each language model at most.",
)
@click.option("--width", type=click.IntRange(min=1), default=GENERATOR.width, show_default=True, help="Of each model's states.")
@click.option(
    "--gan-minutes", default=0.0, show_default=True, help="Time of each model's adversarial training; 0 for no limit."
)
@click.option(
    "--gan-steps",
    type=click.IntRange(min=0),
    default=ADVERSARY.steps,
    show_default=True,
    help="Its updates at most; with 0 there is no GAN.",
)
@click.option("--estimator", type=click.Choice(get_args(Estimator)), default=ADVERSARY.estimator, show_default=True)
@click.option(
    "--discriminator",
    type=click.Choice(["readers", "own"]),
    default="readers",
    show_default=True,
    help="Readers: the language models of the other seeds, trained further; own: one from scratch.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Models of each kind, each trained with a seed of its own.",
)
@click.option("--only-train", is_flag=True, help="Train what is missing and stop; another call with the same values scores.")
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="Captions of each model at each temperature.",
)
@click.option("--temperature", "temperatures", multiple=True, type=float, default=TEMPERATURES, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(
    corpus: str,
    work: Path,
    minutes: float,
    steps: int,
    width: int,
    gan_minutes: float,
    gan_steps: int,
    estimator: Estimator,
    discriminator: str,
    seeds: int,
    only_train: bool,
    samples: int,
    temperatures: tuple[float, ...],
    out: Path,
) -> None:
    """Train what is missing, sample, score, and draw quality against diversity."""
    captions = prepared(corpus, work)
    generator = replace(GENERATOR, minutes=minutes, steps=steps, width=width)
    models = {("lm", seed): trained(work / f"lm-{seed}", captions, replace(generator, seed=seed)) for seed in range(seeds)}
    if gan_steps:
        adversary = replace(ADVERSARY, minutes=gan_minutes, steps=gan_steps, estimator=estimator)
        models |= adversarial(models, captions, adversary, discriminator == "readers")
    if only_train:
        return
    rows = []
    for row in measured(captions, models, samples, temperatures):
        click.echo(row, err=True)
        rows.append(row)
    rows += gains(rows)
    folders = list(models.values())
    trainings = {folder.name: without_paths(read_train_file(folder).get("settings", {})) for folder in folders}
    extra = {"references": len(captions.test), "settings": trainings}
    write_result(out, command_of(RESULT.stem, click.get_current_context()), [captions.source, *folders], rows, extra)
    drawn(rows, out)


def prepared(corpus: str, work: Path) -> Captions:
    """Return the captions, with a twentieth of the training ones, by a hash, held out to choose the epoch."""
    opened = open_corpus([corpus], Reading())
    ((source, reading),) = opened.parts
    rows = list(opened.exchanges())
    train, test = ([row for row in rows if row.split == split] for split in ("train", "test"))
    if not train or not test:
        raise DataError(f"{source}: {len(train)} train and {len(test)} test rows; captions of both are needed")
    work.mkdir(parents=True, exist_ok=True)
    data = work / "captions.jsonl.gz"
    write_exchanges(data, map(held_out, train))
    labels = sorted({row.emotion.name for row in rows})
    if len(labels) > 1:
        raise DataError(f"{source}: rows of {', '.join(labels)}; captions are of one label, such as neutral")
    return Captions(Path(source), reading, data, labels[0], [row.reply for row in train], [row.reply for row in test])


def held_out(row: Exchange) -> Exchange:
    """Return the row as one of train or valid."""
    return replace(row, split=split_of(row.reply, (0.95, 0.05, 0.0), seed=0))


def trained(folder: Path, captions: Captions, settings: LmSettings | GanSettings) -> Path:
    """Return the model in `folder`: as it stands there if its run has ended, else trained, or trained to its end."""
    if read_train_file(folder).get("finished"):
        refuse_another(folder, captions.data, settings)
        return folder
    resuming, data = is_resumable(folder), [str(captions.data)]
    if isinstance(settings, GanSettings):
        return fit_gan(data, captions.reading, replace(settings, out=str(folder)), VaeSettings(), resuming)
    return fit_lm(data, captions.reading, replace(settings, out=str(folder)), resuming)


def refuse_another(folder: Path, data: Path, settings: LmSettings | GanSettings) -> None:
    """Raise CheckpointError where the run was another than the one asked for; settings it did not know had their defaults."""
    run = read_train_file(folder)
    held, target = (without_paths(each) for each in (asdict(type(settings)()) | run["settings"], asdict(settings)))
    other = [f"{name} {held[name]}, not {value}" for name, value in target.items() if held[name] != value]
    if sha256(data) not in run["sources"].values():
        other.append("other captions")
    if settings.init and sha256(Path(settings.init) / "model.safetensors") != run["start_sha256"]:
        other.append("another start")
    if other:
        raise CheckpointError(f"{folder}: its run had {', '.join(other)}; pass the same values, or another --work")


def without_paths(settings: Mapping[str, object]) -> dict[str, object]:
    """Return the settings of a run wherever it was made; a discriminator's language models by their names."""
    readers = {"discriminator": re.sub(r"[^:,]*/", "", str(settings["discriminator"]))} if "discriminator" in settings else {}
    return {**settings, "out": "", "init": "", **readers}


def adversarial(
    models: Mapping[tuple[str, int], Path], captions: Captions, settings: GanSettings, has_readers: bool
) -> dict[tuple[str, int], Path]:
    """Return the GANs beside the language models that they begin as.

    With readers each one's discriminator is made of the language models of the other seeds; where there are none, or without
    readers, it is one from scratch.
    """
    starts = {seed: start_of(folder, captions.label) for (_, seed), folder in models.items()}
    found = {}
    for seed, start in starts.items():
        readers = ",".join(str(other) for number, other in starts.items() if has_readers and number != seed)
        own = replace(settings, seed=seed, init=str(start), discriminator=f"lm:{readers}" if readers else "")
        found["gan", seed] = trained(start.with_name(f"gan-{seed}"), captions, own)
    return found


def start_of(folder: Path, label: str) -> Path:
    """Return what a GAN begins as, beside its language model."""
    start = folder.with_name(folder.name.replace("lm", "start"))
    if not (start / "config.json").exists():
        write_start(emogen.load(folder), start, label)
    return start


def write_start(model: EmotionModel, folder: Path, label: str) -> None:
    """The language model to whom the captions' label says nothing: each row that the GAN is trained on names it."""
    folder.mkdir(exist_ok=True)
    for name in ("tokenizer.model", "train.json", "rows.npy"):
        shutil.copyfile(model.folder / name, folder / name)
    with torch.no_grad():
        shifts = model.generator.inject.weight
        shifts[:, model.labels.names.index(label)] = shifts[:, len(model.labels)]
    save_model(folder, model.description, model.model)


def loaded(folder: Path, system: str, label: str) -> EmotionModel:
    """Return the model, asked for no emotion as it was trained: a GAN with the captions' label."""
    model = emogen.load(folder)
    if system == "gan":
        with torch.no_grad():
            shifts = model.generator.inject.weight
            shifts[:, len(model.labels)] = shifts[:, model.labels.names.index(label)]
    return model


def measured(
    captions: Captions, models: Mapping[tuple[str, int], Path], samples: int, temperatures: Sequence[float]
) -> Iterator[dict[str, object]]:
    """Yield the rows of people, papers and models, one at a time; where fewer samples are drawn, so are fewer real captions."""
    draw_real = random.Random(0)
    train, test = (draw_real.sample(texts, min(samples, len(texts))) for texts in (captions.train, captions.test))
    yield {"system": "real", "seed": 0, **scored(test, captions.train)}
    yield {"system": "train", "seed": 0, **scored(train), **compared(train, captions.test)}
    yield from published()
    for (system, seed), folder in models.items():
        model = loaded(folder, system, captions.label)
        yield {"system": system, "seed": seed, **likelihood(model, captions.test)}
        for temperature in temperatures:
            texts = sampled(model, samples, temperature, seed)
            figures = {**scored(texts, captions.train), **compared(texts, captions.test)}
            yield {"system": system, "seed": seed, "temperature": temperature, **figures}


def published() -> Iterator[dict[str, object]]:
    """Yield what the papers print, on the same captions by the same protocol."""
    for name, (bleu, own) in PUBLISHED.items():
        forward = {f"forward_bleu{order}": value for order, value in zip(ORDERS, bleu, strict=True)}
        diversity = {f"self_bleu{order}": value for order, value in zip(ORDERS, own, strict=bool(own))}
        yield {"system": f"published: {name}", "seed": 0, **forward, **diversity}


def sampled(model: EmotionModel, samples: int, temperature: float, seed: int) -> list[str]:
    """Return captions from the model's whole distribution; they are kept beside it."""
    path = model.folder / f"samples-{samples}-at-{temperature:g}.json"
    if not path.exists():
        options = SamplingParams(temperature=temperature, max_tokens=model.description.limits.reply_tokens + 1)
        texts = [caption.text or "." for caption in model.sample(n=samples, sampling=options, seed=seed)]
        write_text(path, json.dumps(texts, ensure_ascii=False))
    kept: list[str] = read_json(path)
    return kept


def likelihood(model: EmotionModel, test: Sequence[str]) -> dict[str, object]:
    """Return how expected the test captions are, each with its end."""
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


def gains(rows: Sequence[Row]) -> Iterator[dict[str, object]]:
    """Yield each GAN's forward BLEU-4 less that of the language model it began as, where both have the same self-BLEU-4.

    Both curves are interpolated linearly between temperatures; a level that one of them does not reach is left out. The mean is
    over the levels. The last row has mean and standard deviation over the seeds.
    """
    seeds = sorted({cast("int", row["seed"]) for row in rows if row["system"] == "gan"})
    found = [gain(curve(rows, "lm", seed), curve(rows, "gan", seed)) for seed in seeds]
    yield from ({"system": "gan over lm", "seed": seed, **figures} for seed, figures in zip(seeds, found, strict=True))
    if len(seeds) > 1:
        yield {"system": "gan over lm, all seeds", "seed": "all"} | together(found)


def gain(before: Curve, after: Curve) -> dict[str, float]:
    """Return at each level that both curves reach, and their mean if there is one."""
    low, high = (choose(ends(before[0]), ends(after[0])) for choose, ends in ((max, min), (min, max)))
    reached = [level for level in LEVELS if low <= level <= high]
    at = {level: float(np.interp(level, *after) - np.interp(level, *before)) for level in reached}
    mean = {GAIN: statistics.fmean(at.values())} if at else {}
    return mean | {f"{GAIN}_at_{level:g}": value for level, value in at.items()}


def curve(rows: Sequence[Row], system: str, seed: int) -> Curve:
    """Diversity and quality of one model over temperatures, in the order of the diversity."""
    own = (row for row in rows if (row["system"], row["seed"]) == (system, seed) and "temperature" in row)
    places = sorted((cast("Score", row[DIVERSITY]).value, cast("Score", row[QUALITY]).value) for row in own)
    return [diverse for diverse, _ in places], [good for _, good in places]


def together(found: Sequence[Mapping[str, float]]) -> dict[str, object]:
    """Return the mean with its interval, and standard deviation, of what all seeds have."""
    spreads = {name: over_seeds([each[name] for each in found]) for name in found[0] if all(name in each for each in found)}
    means = {name: Score(spread.mean, spread.low, spread.high, "") for name, spread in spreads.items()}
    return means | {f"{name}_deviation": spread.deviation for name, spread in spreads.items()}


def drawn(rows: Sequence[Row], out: Path) -> None:
    """The mean frontiers over seeds as OUT.png and OUT.svg, if matplotlib is there, with what is published as marks."""
    try:
        draw(points(rows), out.with_suffix(".png"), axis(QUALITY), axis(DIVERSITY))
    except SettingsError as error:
        click.echo(f"no figure: {error}", err=True)


def points(rows: Sequence[Row]) -> list[Point]:
    """Return one point a system and temperature, with the interval over seeds; what has no temperature stands at 1."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        if QUALITY in row and DIVERSITY in row:
            groups.setdefault((cast("str", row["system"]), cast("float", row.get("temperature", 1.0))), []).append(row)
    return [
        Point(NAMES.get(system, system), temperature, mean_score(group, QUALITY), mean_score(group, DIVERSITY))
        for (system, temperature), group in groups.items()
    ]


def mean_score(rows: Sequence[Row], name: str) -> Score:
    """Return the mean over seeds with its interval; of a single row its own."""
    values = [cast("Score | float", row[name]) for row in rows]
    scores = [value if isinstance(value, Score) else Score(value, value, value, "") for value in values]
    if len(scores) == 1:
        return scores[0]
    spread = over_seeds([score.value for score in scores])
    return Score(spread.mean, spread.low, spread.high, "")


if __name__ == "__main__":
    run(main, "captions.py")
