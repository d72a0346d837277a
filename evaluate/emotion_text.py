"""Texts by emotion, without any context: does a language model write what is asked for, as people do, and in as many ways?

    emogen data fetch goemotions        (dair_emotion and smp2020_ewect are got by hand: see `emogen data list`)
    python evaluate/emotion_text.py goemotions dair_emotion smp2020_ewect --work runs/emotion-text

The training rows are halved by a hash of their words: on one half a language model is trained, on the other the judge, a `cnn`
classifier, so that the two share no text. What stands in --work is used again. The model is asked for each emotion as often as
the balanced test rows hold it. Rows: `real`, those test rows; `train`, as many of the generator's own training texts, scored as
if it had written them (what copying would get); and each model at each temperature.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click

import emogen
from emogen.checkpoint.model import EmotionModel
from emogen.cli import run
from emogen.data.check import split_of
from emogen.data.exchange import Exchange, Reading, write_exchanges
from emogen.data.fingerprints import fingerprint
from emogen.decoding.params import SamplingParams
from emogen.emotions.labels import EKMAN
from emogen.errors import CheckpointError, DataError, SettingsError, UndefinedScoreError
from emogen.evaluate.correction import corrected_accuracy
from emogen.evaluate.distribution import frechet
from emogen.evaluate.diversity import commonest, distinct_corrected, mean_length, unique
from emogen.evaluate.emotion import Confusion, confusion, emotion_accuracy, emotion_f1, judged_labels
from emogen.evaluate.report import command_of, write_result
from emogen.evaluate.score import Score
from emogen.evaluate.set_bleu import backward_bleu, forward_bleu, self_bleu
from emogen.evaluate.training_overlap import novelty
from emogen.files import sha256
from emogen.recognition.encoder import TextEncoder, load_text_encoder
from emogen.recognition.leak import refuse_leaks
from emogen.recognition.recognizer import Recognizer, load_recognizer
from emogen.text.words import words
from emogen.train.config import ClassifierSettings, LmSettings, RunConfig
from emogen.train.corpus import open_corpus
from emogen.train.fit import fit_lm
from emogen.train.fit_classifier import fit_classifier
from emogen.train.run.folder import is_resumable, read_train_file

RESULT = Path("evaluate/results/emotion_text.json")
TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
GENERATOR = LmSettings(steps=100_000, width=512, dropout=0.4, reply_tokens=64, validate_every=200)
JUDGE = ClassifierSettings(backbone="cnn", multi_label="no")
PAIRS = 1000
OWN = "own"
# Of the language model that measures; it is asked for no emotion.
MOST_DROPPED = 0.9


@dataclass(frozen=True)
class Ready:
    """A corpus divided among those who may see its rows.

    Attributes:
        name: of the corpus.
        source: its file.
        reading: its labels and limits.
        generator: file with the generator's training half, and the valid rows.
        judge: file with the judge's training half, and the valid rows.
        learnt: the generator's training rows.
        valid: rows that choose the epochs and give the judge's confusion.
        test: balanced rows that nobody has seen.
    """

    name: str
    source: Path
    reading: Reading
    generator: Path
    judge: Path
    learnt: Sequence[Exchange]
    valid: Sequence[Exchange]
    test: Sequence[Exchange]

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the emotions, in order."""
        return self.test[0].emotion.labels.names


@dataclass(frozen=True)
class Judging:
    """What all texts of a corpus are scored with.

    Attributes:
        judge: finds their emotion.
        errors: the judge's confusion on the valid rows.
        encoder: for the Fréchet distance, where one is named.
    """

    judge: Recognizer
    errors: Confusion
    encoder: TextEncoder | None


@click.command()
@click.argument("corpora", nargs=-1, required=True)
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), required=True, help="What is made, and used again.")
@click.option("--checkpoint", "named", multiple=True, metavar="CORPUS=DIR", help="Measure this model; none is trained then.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0),
    default=8.0,
    show_default=True,
    help="Training time of a language model; 0 for no limit.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=GENERATOR.steps,
    show_default=True,
    help="Updates of a language model at most.",
)
@click.option(
    "--width", type=click.IntRange(min=1), default=GENERATOR.width, show_default=True, help="Of a language model's states."
)
@click.option("--judge-epochs", type=click.IntRange(min=0), default=0, help="Of the judge; 0 for the cnn's own number.")
@click.option(
    "--each",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Texts of each emotion (fewer where test rows are fewer).",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Sampling seeds at temperature 1; elsewhere it is one.",
)
@click.option("--temperature", "temperatures", multiple=True, type=float, default=TEMPERATURES, show_default=True)
@click.option("--encoder", help="hf:NAME-OR-FOLDER, for the Fréchet distance.")
@click.option("--allow-leak", is_flag=True, help="Go on where the judge has seen rows of a model; the result says so.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(
    corpora: tuple[str, ...],
    work: Path,
    named: tuple[str, ...],
    minutes: float,
    steps: int,
    width: int,
    judge_epochs: int,
    each: int,
    seeds: int,
    temperatures: tuple[float, ...],
    encoder: str | None,
    allow_leak: bool,
    out: Path,
) -> None:
    """Measure texts by emotion on CORPORA (names or files), training what is missing."""
    stems = [Path(corpus).name.partition(".")[0] for corpus in corpora]
    for name in named:
        if name.partition("=")[0] not in stems or not name.partition("=")[2]:
            raise SettingsError(f"--checkpoint {name}: allowed is CORPUS=DIR with one of {', '.join(stems)}")
    settings = replace(GENERATOR, minutes=minutes, steps=steps, width=width)
    vectors = load_text_encoder(encoder) if encoder else None
    draws = [(1.0, seed) for seed in range(seeds)] + [(temperature, 0) for temperature in temperatures if temperature != 1]
    rows: list[dict[str, object]] = []
    files: list[Path] = []
    leaks = {}
    for corpus in corpora:
        ready = prepared(corpus, work, each)
        judge = trained(work / f"{ready.name}-judge", ready.judge, ready.reading, replace(JUDGE, epochs=judge_epochs))
        models = given(named, ready.name) or [trained(work / f"{ready.name}-lm", ready.generator, ready.reading, settings)]
        leaks[ready.name] = refuse_leaks(judge, models, allow_leak)
        judging = Judging(recognizer := load_recognizer(judge), judge_errors(recognizer, ready), vectors)
        files += [ready.source, judge, *models]
        for row in measured(ready, models, judging, draws):
            click.echo(row, err=True)
            rows.append({"corpus": ready.name, **row})
    trainings = {folder.name: read_train_file(folder).get("settings", {}) | {"out": ""} for folder in files if folder.is_dir()}
    write_result(
        out, command_of(RESULT.stem, click.get_current_context()), files, rows, {"judge_leaks": leaks, "settings": trainings}
    )


def given(named: Sequence[str], corpus: str) -> list[Path]:
    """Return the checkpoints that are named for a corpus."""
    pairs = [name.partition("=") for name in named]
    return [Path(folder) for name, _, folder in pairs if name == corpus]


def prepared(corpus: str, work: Path, each: int) -> Ready:
    """Return the corpus, divided; GoEmotions is read in the seven emotions of Ekman."""
    opened = open_corpus([corpus], Reading(labels=EKMAN if corpus == "goemotions" else None))
    ((source, reading),) = opened.parts
    parts = divided(opened.exchanges())
    name = Path(corpus).name.partition(".")[0]
    halves = {half: work / f"{name}-{half}.jsonl.gz" for half in ("generator", "judge")}
    work.mkdir(parents=True, exist_ok=True)
    for half, path in halves.items():
        write_exchanges(path, [*parts[half], *parts["valid"]])
    test = balanced(parts["test"], dict.fromkeys(opened.labels.names, each))
    if not test:
        raise DataError(f"{source}: no test row to compare with; check the split column")
    return Ready(name, Path(source), reading, halves["generator"], halves["judge"], parts["generator"], parts["valid"], test)


def divided(rows: Iterable[Exchange]) -> dict[str, list[Exchange]]:
    """Return rows in which one emotion leads: test, valid, and the two halves of train, none with a text of another.

    A text's half follows from its words, so that case and blanks do not tell two copies apart, as in the check for leaks.
    """
    parts: dict[str, list[Exchange]] = {name: [] for name in ("test", "valid", "generator", "judge")}
    for row in rows:
        if max(row.emotion.weights) > 0.5:
            parts[half_of(row.reply) if row.split == "train" else row.split].append(row)
    parts["valid"] = without(parts["test"], parts["valid"])
    for half in ("generator", "judge"):
        parts[half] = without([*parts["test"], *parts["valid"]], parts[half])
    return parts


def without(others: Iterable[Exchange], rows: Iterable[Exchange]) -> list[Exchange]:
    """Return the rows whose text is none of the others'."""
    seen = {fingerprint(row.reply) for row in others}
    return [row for row in rows if fingerprint(row.reply) not in seen]


def half_of(text: str) -> str:
    """Return whose training row it is."""
    return "generator" if split_of(" ".join(words(text)), (0.5, 0.5, 0.0), seed=0) == "train" else "judge"


def balanced(rows: Iterable[Exchange], numbers: Mapping[str, int]) -> list[Exchange]:
    """So many rows of each emotion, or all there are, drawn with a fixed seed."""
    found: dict[str, list[Exchange]] = {name: [] for name in numbers}
    for row in rows:
        if row.emotion.name in found:
            found[row.emotion.name].append(row)
    draw = random.Random(0)
    return [row for name, own in found.items() for row in draw.sample(own, min(numbers[name], len(own)))]


def trained(folder: Path, data: Path, reading: Reading, settings: LmSettings | ClassifierSettings) -> Path:
    """Return the model in `folder`: as it stands there if its run has ended, else trained, or trained to its end."""
    if read_train_file(folder).get("finished"):
        refuse_another(folder, data, settings)
        return folder
    settings, resuming = replace(settings, out=str(folder)), is_resumable(folder)
    if isinstance(settings, LmSettings):
        return fit_lm([str(data)], reading, settings, resuming)
    return fit_classifier([str(data)], reading, settings, resuming)


def or_own(language_model: str, folder: Path, ready: Ready, lm: LmSettings) -> str:
    """Return the name as it is; for `own` the folder of a language model that knows the judge's rows alone."""
    if language_model != OWN:
        return language_model
    # Half of the steps for half of the rows.
    settings = replace(lm, emotion_dropout=MOST_DROPPED, seed=0, steps=max(1, lm.steps // 2))
    return str(trained(folder, ready.judge, ready.reading, settings))


def refuse_another(folder: Path, data: Path, settings: RunConfig) -> None:
    """Raise CheckpointError where the finished run was another than the one asked for; 0 leaves a value open."""
    run = read_train_file(folder)
    target = {name: value for name, value in asdict(settings).items() if value and name != "out"}
    held = {name: run["settings"].get(name) for name in target}
    other = [f"{name} {held[name]}, not {value}" for name, value in target.items() if held[name] != value]
    if sha256(data) not in run["sources"].values():
        other.append("other rows")
    if other:
        raise CheckpointError(f"{folder}: its run had {', '.join(other)}; pass the same values, or another --work")


def judge_errors(judge: Recognizer, ready: Ready) -> Confusion:
    """Return the judge's confusion on the valid rows."""
    judged = judged_labels(judge.probabilities([row.reply for row in ready.valid]), ready.labels)
    return confusion([row.emotion.name for row in ready.valid], judged, ready.labels)


def measured(
    ready: Ready, models: Sequence[Path], judging: Judging, draws: Sequence[tuple[float, int]]
) -> Iterable[dict[str, object]]:
    """Return the rows of one corpus, one at a time."""
    target = [row.emotion.name for row in ready.test]
    real = [row.reply for row in ready.test]
    yield {"system": "real", "seed": 0, **scored(real, target, ready, judging)}
    copied = balanced(ready.learnt, Counter(target))
    texts = [row.reply for row in copied]
    against = {**scored(texts, [row.emotion.name for row in copied], ready, judging), **compared(texts, real, judging)}
    yield {"system": "train", "seed": 0, **against}
    for folder in models:
        model = emogen.load(folder)
        for temperature, seed in draws:
            texts = sampled(model, target, temperature, seed)
            figures = {**scored(texts, target, ready, judging), **compared(texts, real, judging)}
            yield {"system": folder.name.removeprefix(f"{ready.name}-"), "seed": seed, "temperature": temperature, **figures}


def sampled(model: EmotionModel, target: Sequence[str], temperature: float, seed: int) -> list[str]:
    """Return one text for each emotion that is asked for, from the model's whole distribution."""
    options = SamplingParams(temperature=temperature, max_tokens=model.description.limits.reply_tokens + 1)
    found = model.replies([()] * len(target), target, sampling=options, seed=seed)
    return [text.text or "." for text in found]


def corrected(target: Sequence[str], judged: Sequence[str], errors: Confusion) -> dict[str, object]:
    """Return the corrected accuracy; nothing where the judge's errors do not explain what it found."""
    try:
        return {"emotion_accuracy_corrected": corrected_accuracy(target, judged, errors)}
    except UndefinedScoreError as reason:
        click.echo(f"not corrected: {reason}", err=True)
        return {}


def scored(texts: Sequence[str], target: Sequence[str], ready: Ready, judging: Judging) -> dict[str, object]:
    """Return judged emotion and diversity; novelty is against the generator's half."""
    judged = judged_labels(judging.judge.probabilities(texts), ready.labels)
    return {
        "n": len(texts),
        "emotion_accuracy": emotion_accuracy(target, judged),
        **corrected(target, judged, judging.errors),
        "emotion_f1": emotion_f1(target, judged, ready.labels),
        **distinct_pairs(texts),
        "self_bleu4": self_bleu(texts),
        "novelty": novelty(texts, (row.reply for row in ready.learnt)),
        "unique": unique(texts),
        "commonest": commonest(texts),
        "mean_length": mean_length(texts),
    }


def distinct_pairs(texts: Sequence[str]) -> dict[str, Score]:
    """Return distinct-2 of 1,000 pairs of words, where the texts hold so many."""
    pairs = sum(max(0, len(words(text)) - 1) for text in texts)
    return {"distinct2_corrected": distinct_corrected(texts, 2, PAIRS)} if pairs >= PAIRS else {}


def compared(texts: Sequence[str], real: Sequence[str], judging: Judging) -> dict[str, Score]:
    """Return the texts beside the balanced test rows."""
    figures = {"forward_bleu4": forward_bleu(texts, real), "backward_bleu4": backward_bleu(texts, real)}
    if judging.encoder:
        vectors = judging.encoder.sentences(texts), judging.encoder.sentences(real)
        figures["frechet"] = frechet(*vectors, encoder=judging.encoder.name)
    return figures


if __name__ == "__main__":
    run(main, "emotion_text.py")
