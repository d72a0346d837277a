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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import click
import torch
from conditional_data import prepared, refuse_kin
from conditional_plan import (
    ANOTHER_SEED,
    ARMS,
    CLASSIFIER,
    DRAWN,
    GAN,
    LM,
    PLACES,
    RATE_OF_LONGER,
    SEEDS,
    TASKS,
    TEMPERATURES,
    Classifiers,
    Model,
    Plan,
    Settings,
    Task,
)
from conditional_summary import figure, summary, with_differences
from emotion_text import Judging, Ready, balanced, compared, judge_errors, scored

import emogen
from emogen.cli import run
from emogen.data.exchange import Exchange
from emogen.decoding.params import SamplingParams
from emogen.errors import CheckpointError, SettingsError
from emogen.evaluate import bleu, perplexity, rouge
from emogen.evaluate.report import command_of, read_json, write_result
from emogen.evaluate.score import Score
from emogen.files import sha256, write_text
from emogen.recognition.leak import refuse_leaks
from emogen.recognition.recognizer import load_recognizer
from emogen.train.config import GanSettings, LmSettings, VaeSettings
from emogen.train.fit import fit_gan, fit_lm
from emogen.train.language_model import LanguageModel, load_language_model
from emogen.train.run.folder import is_resumable, read_train_file
from emogen.train.run.memory import keep_freed_memory

RESULT = Path("evaluate/results/conditional.json")


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


# ---- rows, and classifiers


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
    """Return what a model writes at each temperature to the test's contexts and emotions.

    Kept in a file beside it, and used again.
    """
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


if __name__ == "__main__":
    run(main, "conditional.py")
