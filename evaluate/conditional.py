"""Where a condition is given: is an adversarially trained model beyond its own maximum-likelihood start?

    emogen data fetch goemotions && emogen data fetch empatheticdialogues
    python evaluate/conditional.py --work runs/conditional

Two tasks: `texts`, GoEmotions by emotion, without context; `replies`, the listeners' of EmpatheticDialogues, by context and
emotion. The training texts are divided by a hash of their words: half are the generators', a quarter is the guide's, a quarter
the judge's. The guide is a classifier. It labels the replies, whose own labels say what the *speaker* feels; left out are those
in which it gives no emotion more than half, and those that the judge has learnt. Its probability of the emotion that was asked
for is the emotion reward. The judge shares neither rows nor architecture with it, nor its architecture with the discriminator,
and learns no row that --start has learnt.
Asked for in the test are the emotions of held-out texts, as many of each as there are, at most `--each`; in `replies` with
their contexts, and people's replies are the references.

Every arm begins with a start, which maximum likelihood has trained (`mle`): `adversarial`, against a discriminator alone;
`adversarial+emotion`, with the emotion reward beside it; `emotion`, that reward alone; `longer`, maximum likelihood once more,
at a lower rate, which shows what time alone is worth. Rows `real` and `train` are people's texts: the test's own, and training
texts of the same emotions.

A model is compared with its start at equal diversity: `beyond_METRIC` of a row is the metric less what the start has where its
curve over temperatures, with straight lines between them, has the same distinct-2. There is none where the start is never as
diverse, or always more so. A row without temperature holds the mean of that difference over the diversities that both curves
reach, each of which counts the same. `beyond` in the result file gives mean and standard deviation over the training seeds, and
whether the first is more than two of the second. All arms of a seed are sampled with the same random numbers.

What stands in --work is used again, unless it was made with other settings: then the script stops. `--only-train` with
`--task`, `--arm` and `--seed` lets several processes share the work; train the starts before what needs them.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import torch
from emotion_text import Judging, Ready, balanced, compared, divided, judge_errors, scored, trained, without

import emogen
from emogen.cli import run
from emogen.data.check import split_of
from emogen.data.exchange import Exchange, Reading, read_exchanges, write_exchanges
from emogen.data.fingerprints import fingerprint, read_fingerprints
from emogen.decoding.params import SamplingParams
from emogen.emotions.labels import EKMAN, mixture
from emogen.errors import CheckpointError, DataError, SettingsError
from emogen.evaluate import bleu, perplexity, rouge
from emogen.evaluate.frontier import Point, axis, draw
from emogen.evaluate.report import command_of, read_json, write_result
from emogen.evaluate.score import Score, signature
from emogen.files import sha256, write_text
from emogen.recognition.leak import refuse_leaks
from emogen.recognition.recognizer import Recognizer, load_recognizer
from emogen.text.words import words
from emogen.train.config import ClassifierSettings, GanSettings, LmSettings, VaeSettings
from emogen.train.corpus import open_corpus
from emogen.train.fit import fit_gan, fit_lm
from emogen.train.language_model import LanguageModel, load_language_model
from emogen.train.run.folder import is_resumable, read_train_file
from emogen.train.run.memory import keep_freed_memory

RESULT = Path("evaluate/results/conditional.json")
TASKS = ("texts", "replies")
ARMS = ("mle", "longer", "adversarial", "adversarial+emotion", "emotion")
TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4)
DIVERSITY = "distinct2_corrected"
QUALITIES = ("emotion_accuracy", "forward_bleu4", "bleu", "rougeL")
DRAWN = QUALITIES[:2]
STATED = 0.5
CLASSIFIER = ClassifierSettings(multi_label="no", width=64, buckets=1 << 14)
LM = LmSettings(
    width=256,
    dropout=0.1,
    batch_size=32,
    context_tokens=32,
    reply_tokens=32,
    learning_rate=3e-3,
    steps=6500,
    validate_every=250,
)
# Rewards add up over a reply's tokens and the two weights are of means over tokens, so 8 is about .5 a token.
GAN = GanSettings(
    estimator="dense",
    potential="log-odds",
    kl_weight=8.0,
    mle_weight=8.0,
    learning_rate=1e-3,
    encoder_rate=1e-6,
    accuracy_ceiling=1.0,
    max_tokens=33,
    batch_size=32,
    warmup_steps=10,
    steps=110,
    validate_every=100,
)
# What goes on does not begin anew, so at a lower rate.
RATE_OF_LONGER = 0.25
PLACES = frozenset({"out", "init", "guide", "threads", "device"})
ANOTHER_SEED = "lm:another-seed"
SEEDS = 3

Settings = TypeVar("Settings", LmSettings, GanSettings)


@dataclass(frozen=True)
class Plan:
    """What is measured, and with what; the fields are the options."""

    work: Path
    task: tuple[str, ...]
    texts: str
    replies: str
    arm: tuple[str, ...]
    seed: tuple[int, ...]
    lm: LmSettings
    gan: GanSettings
    emotion_weight: float
    start: Path | None
    guide: ClassifierSettings
    judge: ClassifierSettings
    each: int
    temperature: tuple[float, ...]
    language_model: str
    allow_leak: bool

    @property
    def models(self) -> Path:
        """Return the folder of what one backbone writes and has learnt."""
        return self.work / Path(self.lm.backbone.removeprefix("hf:")).name


@dataclass(frozen=True)
class Classifiers:
    """Folders of the guide and the judge; `learnt` are the judge's training rows."""

    guide: Path
    judge: Path
    learnt: Sequence[Exchange]


@dataclass(frozen=True)
class Task:
    """Rows of a task, and who learns from them.

    Attributes:
        name: `texts` or `replies`.
        ready: its files and rows.
    """

    name: str
    ready: Ready


@dataclass(frozen=True)
class Model:
    """A trained model in its place."""

    task: Task
    arm: str
    seed: int
    folder: Path


def option(flag: str, default: object, text: str, **more: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return an option whose default is shown."""
    return click.option(flag, default=default, show_default=True, help=text, **more)


def several(flag: str, values: Sequence[object], text: str, kind: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return an option that may come several times."""
    return option(flag, values, text, multiple=True, type=kind)


@click.command()
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), required=True, help="What is made, and used again.")
@several("--task", TASKS, "What to measure.", click.Choice(TASKS))
@option("--texts", "goemotions", "Corpus of labelled texts.")
@option("--replies", "empatheticdialogues", "Corpus of replies, which the guide labels.")
@option("--backbone", "lstm", "Of the generators: lstm, transformer, or hf:NAME-OR-FOLDER.")
@option("--discriminator", ANOTHER_SEED, "hf:NAME-OR-FOLDER, lm:another-seed (the next seed's start); empty: one of our own.")
@click.option(
    "--start", type=click.Path(path_type=Path), help="Checkpoint that all tasks and seeds begin with; none is trained."
)
@several("--arm", ARMS, "Systems; mle is always measured.", click.Choice(ARMS))
@several("--seed", (0, 1, 2), "Of training and of sampling.", int)
@option("--start-steps", LM.steps, "Updates of a start at most, and of `longer`.")
@option("--start-minutes", LM.minutes, "Their training time at most; 0 for no limit.")
@option("--steps", GAN.steps, "Updates of the other arms at most.")
@option("--minutes", GAN.minutes, "Their training time at most; 0 for no limit.")
@click.option("--lm", "of_lm", multiple=True, metavar="NAME=VALUE", help="Other settings of the starts, as of train-lm.")
@click.option("--gan", "of_gan", multiple=True, metavar="NAME=VALUE", help="Other settings of the arms, as of train-gan.")
@option("--emotion-weight", 5.0, "Of the emotion reward.")
@option("--guide", "transformer", "Backbone of the guide.")
@option("--judge", "cnn", "Backbone of the judge.")
@option("--each", 150, "Texts of each emotion (fewer where test rows are fewer).", type=click.IntRange(1))
@several("--temperature", TEMPERATURES, "Of sampling.", float)
@option("--language-model", "", "hf:NAME-OR-FOLDER or a checkpoint, for perplexity at temperature 1.")
@option("--threads", 1, "CPU threads; 0 leaves the choice to PyTorch.", type=click.IntRange(min=0))
@click.option("--only-train", is_flag=True, help="Train what is missing; no figures.")
@click.option("--allow-leak", is_flag=True, help="Go on where the judge has seen rows of a model; the result says so.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(
    backbone: str,
    discriminator: str,
    start_steps: int,
    start_minutes: float,
    steps: int,
    minutes: float,
    of_lm: tuple[str, ...],
    of_gan: tuple[str, ...],
    guide: str,
    judge: str,
    threads: int,
    only_train: bool,
    out: Path,
    **options: Any,
) -> None:
    """Measure arms against their starts over temperatures, training what is missing."""
    keep_freed_memory()
    torch.set_num_threads(threads or torch.get_num_threads())
    lm = replace(changed(LM, of_lm), backbone=backbone, steps=start_steps, minutes=start_minutes, threads=threads)
    gan = replace(changed(GAN, of_gan), discriminator=discriminator, steps=steps, minutes=minutes, threads=threads)
    readers = [replace(CLASSIFIER, backbone=name, threads=threads) for name in (guide, judge)]
    plan = Plan(lm=lm, gan=gan, guide=readers[0], judge=readers[1], **options)
    refuse_kin(plan)
    classifiers, tasks = prepared(plan)
    models = [model for task in tasks for seed in plan.seed for model in arms(task, seed, plan, classifiers)]
    if not only_train:
        measure(plan, classifiers, tasks, models, out)


def changed(settings: Settings, values: Sequence[str]) -> Settings:
    """Return the settings with values by name; raise SettingsError for a name or value that they do not have."""
    known = {field.name for field in fields(settings) if getattr(settings, field.name) is not None} - PLACES
    new: dict[str, Any] = {}
    for given in values:
        name, _, value = given.partition("=")
        if name not in known:
            raise SettingsError(f"{given}: {name!r} is not one of {', '.join(sorted(known))}; write NAME=VALUE")
        try:
            new[name] = type(getattr(settings, name))(value)
        except ValueError:
            raise SettingsError(f"{given}: {value!r} is no {type(getattr(settings, name)).__name__}") from None
    return replace(settings, **new)


def refuse_kin(plan: Plan) -> None:
    """Raise SettingsError where the judge is built like what steers the generators."""
    # A discriminator of our own is a Transformer.
    own = {"": "transformer", ANOTHER_SEED: plan.lm.backbone}
    opponent = own.get(plan.gan.discriminator, plan.gan.discriminator)
    for role, backbone in (("guide", plan.guide.backbone), ("discriminator", opponent)):
        if plan.judge.backbone == backbone:
            raise SettingsError(f"--judge {backbone}: the {role} is built like it; take another backbone for one of them")


# ---- rows, and classifiers


def prepared(plan: Plan) -> tuple[Classifiers, list[Task]]:
    """Return the tasks' rows, divided, with guide and judge trained."""
    plan.work.mkdir(parents=True, exist_ok=True)
    opened = open_corpus([plan.texts], Reading(labels=EKMAN if plan.texts == "goemotions" else None))
    ((source, reading),) = opened.parts
    parts = quartered(divided(opened.exchanges()))
    parts["judge"] = unseen(parts["judge"], plan.start)
    name = stem(plan.texts)
    files = {part: plan.work / f"{name}-{part}.jsonl.gz" for part in ("generator", "guide", "judge")}
    for part, path in files.items():
        write_exchanges(path, [*parts[part], *parts["valid"]])
    guide, judge = (
        trained(plan.work / role, files[role], reading, settings)
        for role, settings in (("guide", plan.guide), ("judge", plan.judge))
    )
    classifiers = Classifiers(guide, judge, parts["judge"])
    texts = ready(name, Path(source), reading, files["generator"], files["judge"], parts, plan.each)
    tasks = {"texts": lambda: Task("texts", texts), "replies": lambda: Task("replies", replies(plan, classifiers, texts))}
    return classifiers, [tasks[chosen]() for chosen in TASKS if chosen in plan.task]


def stem(corpus: str) -> str:
    """Return a corpus by its name, or a file's name without endings."""
    return Path(corpus).name.partition(".")[0]


def quartered(parts: Mapping[str, Sequence[Exchange]]) -> dict[str, list[Exchange]]:
    """Return `divided` with the judge's half divided once more, by another hash of the words: a part of it becomes the guide's."""
    found = {name: list(rows) for name, rows in parts.items()} | {"guide": [], "judge": []}
    for row in parts["judge"]:
        share = split_of(" ".join(words(row.reply)), (0.5, 0.5, 0.0), seed=1)
        found["guide" if share == "train" else "judge"].append(row)
    return found


def unseen(rows: Sequence[Exchange], start: Path | None) -> list[Exchange]:
    """Return the rows that a start was not trained on."""
    seen = set(read_fingerprints(start).tolist()) if start else set()
    return [row for row in rows if fingerprint(row.reply) not in seen]


def ready(
    name: str,
    source: Path,
    reading: Reading,
    generator: Path,
    judge: Path,
    parts: Mapping[str, Sequence[Exchange]],
    each: int,
) -> Ready:
    """Return a task's files and rows; raise DataError where nothing is held out."""
    test = balanced(parts["test"], dict.fromkeys(parts["test"][0].emotion.labels.names, each) if parts["test"] else {})
    if not test:
        raise DataError(f"{source}: no test row in which an emotion leads; check the split column")
    return Ready(name, source, reading, generator, judge, parts["generator"], parts["valid"], test)


def replies(plan: Plan, classifiers: Classifiers, texts: Ready) -> Ready:
    """Return the rows of the task of that name, with the guide's labels."""
    opened = open_corpus([plan.replies], Reading())
    ((source, _),) = opened.parts
    guide = load_recognizer(classifiers.guide)
    name, reading = stem(plan.replies), Reading(labels=guide.names)
    version = hashlib.sha256(sha256(guide.folder / "model.safetensors").encode() + sha256(Path(source)).encode()).hexdigest()
    labelled = plan.work / f"{name}-{version[:12]}.jsonl.gz"
    if not labelled.is_file():
        write_exchanges(labelled, relabelled(list(opened.exchanges()), guide))
    parts: dict[str, list[Exchange]] = {"generator": [], "valid": [], "test": []}
    for row in without(classifiers.learnt, read_exchanges(labelled, reading)):
        parts["generator" if row.split == "train" else row.split].append(row)
    generator = plan.work / f"{name}-generator.jsonl.gz"
    write_exchanges(generator, [*parts["generator"], *parts["valid"]])
    return ready(name, Path(source), reading, generator, texts.judge, parts, plan.each)


def relabelled(rows: Sequence[Exchange], guide: Recognizer) -> list[Exchange]:
    """Return the rows with the emotion that the guide finds in the reply; without those in which none has more than half."""
    probabilities = guide.probabilities([row.reply for row in rows])
    names = [guide.names.names[place] for place in probabilities.argmax(1)]
    sure = probabilities.max(1) > STATED
    found = zip(rows, names, sure, strict=True)
    return [replace(row, emotion=mixture({name: 1.0}, guide.names)) for row, name, is_sure in found if is_sure]


# ---- models


def arms(task: Task, seed: int, plan: Plan, classifiers: Classifiers) -> Iterator[Model]:
    """Yield the models of one seed, the start first; those that are not there yet are trained."""
    start = plan.start or start_of(task, seed, plan)
    yield Model(task, "mle", seed, start)
    for arm in (arm for arm in plan.arm if arm != "mle"):
        folder = plan.models / f"{task.ready.name}-{arm}-{seed}"
        settings = settings_of(arm, start, plan, classifiers)
        if isinstance(settings, GanSettings) and settings.discriminator == ANOTHER_SEED:
            reader = start_of(task, (seed + 1) % max(SEEDS, len(plan.seed)), plan)
            settings = replace(settings, discriminator=f"lm:{reader}")
        yield Model(task, arm, seed, learnt(folder, task.ready, replace(settings, seed=seed, init=str(start))))
        click.echo(f"{folder} stands", err=True)


def start_of(task: Task, seed: int, plan: Plan) -> Path:
    """Return the model of maximum likelihood."""
    return learnt(plan.models / f"{task.ready.name}-mle-{seed}", task.ready, replace(plan.lm, seed=seed))


def settings_of(arm: str, start: Path, plan: Plan, classifiers: Classifiers) -> LmSettings | GanSettings:
    """Return how an arm is trained further."""
    if arm == "longer":
        rates = {name: getattr(plan.lm, name) * RATE_OF_LONGER for name in ("learning_rate", "pretrained_rate")}
        return replace(plan.lm, **rates)
    if arm == "adversarial":
        return plan.gan
    guided = replace(plan.gan, emotion_reward=plan.emotion_weight, guide=str(classifiers.guide))
    return replace(guided, discriminator_reward=0.0) if arm == "emotion" else guided


def learnt(folder: Path, ready: Ready, settings: LmSettings | GanSettings) -> Path:
    """Return the generator in `folder`: as it stands there if its run has ended, else trained, or trained to its end."""
    if read_train_file(folder).get("finished"):
        refuse_other_run(folder, ready.generator, settings)
        return folder
    resuming, settings = is_resumable(folder), replace(settings, out=str(folder))
    if isinstance(settings, LmSettings):
        return fit_lm([str(ready.generator)], ready.reading, settings, resuming)
    return fit_gan([str(ready.generator)], ready.reading, settings, VaeSettings(), resuming)


def refuse_other_run(folder: Path, data: Path, settings: LmSettings | VaeSettings | GanSettings) -> None:
    """Raise CheckpointError where the finished run had other settings, rows or another start than those asked for."""
    run = read_train_file(folder)
    held, target = run["settings"], asdict(settings)
    other = [
        f"{name} {held[name]}, not {value}"
        for name, value in target.items()
        if name in held and name not in PLACES and held[name] != value
    ]
    if sha256(data) not in run["sources"].values():
        other.append("other rows")
    if settings.init and run.get("start_sha256") != sha256(Path(settings.init) / "model.safetensors"):
        other.append("another start")
    if other:
        raise CheckpointError(f"{folder}: its run had {', '.join(other)}; pass the same values, or another --work")


# ---- figures


def measure(plan: Plan, classifiers: Classifiers, tasks: Sequence[Task], models: Sequence[Model], out: Path) -> None:
    """Write the result file and the figures."""
    leak = refuse_leaks(classifiers.judge, [classifiers.guide, *dict.fromkeys(m.folder for m in models)], plan.allow_leak)
    language = load_language_model(plan.language_model) if plan.language_model else None
    judge = load_recognizer(classifiers.judge)
    rows: list[dict[str, object]] = []
    for task in tasks:
        judging = Judging(judge, judge_errors(judge, task.ready), None)
        own = [model for model in models if model.task is task]
        rows += with_differences(list(task_rows(task, own, plan, judging, language)))
    files = [*dict.fromkeys([*(task.ready.source for task in tasks), classifiers.guide, classifiers.judge])]
    folders = dict.fromkeys(model.folder for model in models)
    extra = {
        "judge_leaks": leak,
        "beyond": summary(rows),
        "models": {folder.name: about(folder) for folder in (classifiers.guide, classifiers.judge, *folders)},
        "signatures": {name: value.signature for row in rows for name, value in row.items() if isinstance(value, Score)},
    }
    write_result(out, command_of(RESULT.stem, click.get_current_context()), files, rows, extra)
    for task in tasks:
        for quality in DRAWN:
            figure(rows, task.ready.name, quality, out)


def about(folder: Path) -> dict[str, object]:
    """Return a model's weights and training, without places."""
    run = read_train_file(folder)
    settings = {
        name: value.rpartition("/")[2] if name == "discriminator" else value
        for name, value in run.get("settings", {}).items()
        if name not in PLACES
    }
    return {"weights": sha256(folder / "model.safetensors"), "steps": run.get("steps"), "settings": settings}


def task_rows(
    task: Task, models: Sequence[Model], plan: Plan, judging: Judging, language: LanguageModel | None
) -> Iterator[dict[str, object]]:
    """Yield the rows of one task, as they come."""
    test, corpus = task.ready.test, {"corpus": task.ready.name}
    yield corpus | {"system": "real", "seed": 0} | figures([row.reply for row in test], test, task, judging, language)
    copied = balanced(task.ready.learnt, Counter(row.emotion.name for row in test))
    yield corpus | {"system": "train", "seed": 0} | figures([row.reply for row in copied], copied, task, judging, None)
    for model in models:
        for temperature, texts in zip(plan.temperature, written(model, plan), strict=True):
            measures = figures(texts, test, task, judging, language if temperature == 1 else None)
            yield corpus | {"system": model.arm, "seed": model.seed, "temperature": temperature} | measures
        click.echo(f"{model.folder.name} measured", err=True)


def written(model: Model, plan: Plan) -> list[list[str]]:
    """Return what a model writes at each temperature to the test's contexts and emotions; kept in a file beside it, and used again."""
    test = model.task.ready.test
    target = [(row.context, row.emotion.name) for row in test]
    key = [sha256(model.folder / "model.safetensors"), model.seed, plan.temperature, target]
    version = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    path = plan.models / "texts" / f"{model.task.ready.name}-{model.arm}-{model.seed}-{version}.json"
    if not path.is_file():
        found = emogen.load(model.folder, "auto")
        most = found.description.limits.reply_tokens + 1
        contexts, emotions = zip(*target, strict=True)
        texts = []
        for temperature in plan.temperature:
            sampling = SamplingParams(temperature=temperature, max_tokens=most)
            drawn = found.replies(contexts, emotions, sampling=sampling, seed=model.seed)
            texts.append([each.text.strip() or "." for each in drawn])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(texts, ensure_ascii=False))
    stored: list[list[str]] = read_json(path)
    return stored


def figures(
    texts: Sequence[str], target: Sequence[Exchange], task: Task, judging: Judging, language: LanguageModel | None
) -> dict[str, object]:
    """Return all that is measured of texts; against the test's own where they are not these themselves."""
    names, real = [row.emotion.name for row in target], [row.reply for row in task.ready.test]
    found = scored(texts, names, task.ready, judging)
    if texts != real:
        found |= compared(texts, real, judging)
        if task.name == "replies" and target == task.ready.test:
            references = [[text] for text in real]
            found |= {"bleu": bleu(texts, references, "en", lowercase=True), "rougeL": rouge(texts, references, "rougeL", "en")}
    return found | ({"perplexity": perplexity(texts, language.nll, language.name)} if language else {})


# ---- against the start


@dataclass(frozen=True)
class Curve:
    """A metric over diversity, [points] each, by rising diversity."""

    diversity: np.ndarray[Any, np.dtype[np.float64]]
    quality: np.ndarray[Any, np.dtype[np.float64]]

    def at(self, diversity: float) -> float | None:
        """Return the metric where the line through the points has that diversity; None beyond its ends.

        >>> Curve(np.array([0.0, 1.0]), np.array([1.0, 0.5])).at(0.5)
        0.75
        """
        if not self.diversity[0] <= diversity <= self.diversity[-1]:
            return None
        return float(np.interp(diversity, self.diversity, self.quality))


def curve_of(rows: Sequence[Mapping[str, object]], quality: str) -> Curve | None:
    """Return the curve of one model; None where a row lacks a figure."""
    points = sorted((value(row[DIVERSITY]), value(row[quality])) for row in rows if DIVERSITY in row and quality in row)
    if not points or len(points) < len(rows):
        return None
    return Curve(np.array([one for one, _ in points]), np.array([other for _, other in points]))


def value(score: object) -> float:
    """Return the value of a Score."""
    assert isinstance(score, Score)
    return score.value


def mean_difference(own: Curve, start: Curve) -> float | None:
    """Return the mean of own quality less the start's over the diversities that both lines reach; None where they have none in common.

    Both are straight between their points, so the trapezoids over all points are exact.

    >>> start = Curve(np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    >>> mean_difference(Curve(np.array([0.5, 1.0, 2.0]), np.array([0.5, 0.5, 0.0])), start)
    0.25
    """
    low, high = max(own.diversity[0], start.diversity[0]), min(own.diversity[-1], start.diversity[-1])
    if low >= high:
        return None
    knots = np.unique(np.clip(np.concatenate([own.diversity, start.diversity]), low, high))
    lines = [np.interp(knots, curve.diversity, curve.quality) for curve in (own, start)]
    return float(np.trapezoid(lines[0] - lines[1], knots) / (high - low))


def with_differences(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return the rows of one task with what each is beyond its start, and a row for each model's whole curve."""
    found = [row for row in rows if "temperature" not in row]
    runs = dict.fromkeys((row["system"], row["seed"]) for row in rows if "temperature" in row)
    for system, seed in runs:
        own, start = ([row for row in rows if (row["system"], row["seed"]) == run] for run in ((system, seed), ("mle", seed)))
        # Temperatures alone tell a model's rows from people's.
        own, start = ([row for row in of if "temperature" in row] for of in (own, start))
        found += own if system == "mle" else beside(own, start)
    return found


def beside(own: Sequence[dict[str, object]], start: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return a model's rows with the differences, and one for its whole curve."""
    whole = {name: own[0][name] for name in ("corpus", "system", "seed")}
    rows = [dict(row) for row in own]
    for quality in QUALITIES:
        mine, theirs = curve_of(own, quality), curve_of(start, quality)
        if mine and theirs:
            note(whole, quality, mean_difference(mine, theirs))
            for row in rows:
                at = theirs.at(value(row[DIVERSITY]))
                note(row, quality, None if at is None else value(row[quality]) - at)
    return [*rows, whole]


def note(row: dict[str, object], quality: str, difference: float | None) -> None:
    """Write a difference into a row, where there is one."""
    if difference is not None:
        row[f"beyond_{quality}"] = difference


def summary(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return the mean and deviation over the seeds of each difference, at each temperature and over the whole curve (no temperature)."""
    groups: dict[tuple[object, ...], list[Mapping[str, object]]] = {}
    for row in rows:
        if row["system"] in ARMS[1:]:
            groups.setdefault((row["corpus"], row["system"], row.get("temperature")), []).append(row)
    found = []
    for (corpus, system, temperature), own in groups.items():
        for quality in QUALITIES:
            differences = [row.get(f"beyond_{quality}") for row in own]
            facts = {"corpus": corpus, "system": system, "temperature": temperature, "metric": quality}
            found += [facts | over_seeds(differences)] if any(one is not None for one in differences) else []
    return found


def over_seeds(differences: Sequence[object]) -> dict[str, object]:
    """Their mean and standard deviation; `is_beyond` needs more than two deviations, so at least two seeds, and all of them.

    >>> over_seeds([0.02, 0.03, 0.04])
    {'seeds': 3, 'mean': 0.03, 'deviation': 0.01, 'is_beyond': True}
    >>> over_seeds([0.02, None])
    {'seeds': 1, 'mean': 0.02, 'deviation': None, 'is_beyond': False}
    """
    known = [difference for difference in differences if isinstance(difference, float)]
    mean = round(statistics.mean(known), 5) if known else None
    deviation = round(statistics.stdev(known), 5) if len(known) > 1 else None
    is_whole = len(known) == len(differences)
    is_beyond = is_whole and mean is not None and deviation is not None and mean > 2 * deviation
    return {"seeds": len(known), "mean": mean, "deviation": deviation, "is_beyond": is_beyond}


def figure(rows: Sequence[Mapping[str, object]], corpus: str, quality: str, out: Path) -> None:
    """Draw the arms' curves, means over the seeds, beside the result file."""
    groups: dict[tuple[str, float], list[Mapping[str, object]]] = {}
    for row in rows:
        temperature = row.get("temperature")
        if row["corpus"] == corpus and isinstance(temperature, float) and DIVERSITY in row:
            groups.setdefault((str(row["system"]), temperature), []).append(row)
    points = [
        Point(system, temperature, mean_score(own, quality), mean_score(own, DIVERSITY))
        for (system, temperature), own in groups.items()
    ]
    if points:
        draw(points, out.with_name(f"{out.stem}_{corpus}_{quality}"), axis(quality), axis(DIVERSITY))


def mean_score(rows: Sequence[Mapping[str, object]], metric: str) -> Score:
    """Over the seeds: the mean, with the least and the most for an interval; of one seed its own score."""
    scores = [score for row in rows if isinstance(score := row[metric], Score)]
    if len(scores) == 1:
        return scores[0]
    values = [score.value for score in scores]
    about = signature("mean", {"of": metric, "seeds": len(values), "interval": "range"})
    return Score(statistics.mean(values), min(values), max(values), about)


if __name__ == "__main__":
    run(main, "conditional.py")
