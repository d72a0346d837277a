"""Replies to the test contexts of EmpatheticDialogues by one protocol: people's, five published systems', ours, anybody's.

    python evaluate/empathetic_replies.py --outputs ed_system_outputs.jsonl.gz --checkpoint runs/lm --replies theirs=replies.txt

OUTPUTS holds a row for each of the 5,255 test replies: `context`, tokenised; `reference`, the listener's reply, tokenised;
`emotion`, what the speaker feels; `outputs`, the published systems' replies by name; their authors released these
(MoEL: Lin et al. 2019, MIME: Majumder et al. 2020). They are scored as they stand. All other replies are brought into the
references' form first, by `as_published`. BLEU is sacrebleu's 13a and, as chrF, lower-cased; ROUGE is rouge-score's without
stemming; what is counted in words takes those of `emogen.text.words`. Our models read the contexts as people wrote them.

With `--candidates N` each checkpoint has a row of the first of N samples, and one of that which is most like all N (minimum
Bayes risk, as in `--control mbr:N`, but over the references' form). With `--neighbours` there are rows, too, whose candidates
are the N samples and the replies to similar training conversations, and whose references are the replies to the most similar
(`reply_memory.py`) and, at a tenth of the weight, the samples; in the last row a reply loses utility for each time that it was
given before. The weights were chosen on valid rows. `--samples` keeps what is drawn, so that a run can go on. The systems of
the result file were trained by (rows of the classifier: `reply_speakers.py`)

    emogen train-lm empatheticdialogues --backbone lstm --width 512 --layers 2 --vocabulary 8000 --batch-size 64 --dropout 0.3
        --context-tokens 64 --reply-tokens 40 --learning-rate 2e-3 --validate-every 500 --minutes 27 --seed S --out ed/lstm-S
    emogen train-classifier speakers.jsonl.gz --labels empathetic --backbone hf:all-MiniLM-L6-v2 --epochs 2 --balance 0
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import click
import numpy as np
from empathetic_choice import REPEATED, chosen, most_useful, utilities_of
from empathetic_trials import Trial, as_published, read_trials, restored
from numpy.typing import NDArray
from reply_memory import Remembered, Turn, remember, remembered
from reply_samples import drawn

import emogen
from emogen.checkpoint.model import EmotionModel
from emogen.cli import run
from emogen.data.corpora import resolve
from emogen.data.exchange import Reading, read_exchanges
from emogen.data.rows import Problem, read_rows
from emogen.decoding.params import SamplingParams
from emogen.emotions.labels import EMPATHETIC, TO_EKMAN, Emotion, map_names
from emogen.errors import DataError, SettingsError
from emogen.evaluate.emotion import emotion_accuracy, emotion_f1, judged_labels
from emogen.evaluate.inputs import Options, System
from emogen.evaluate.report import write_result
from emogen.evaluate.resampling import SumStatistic
from emogen.evaluate.score import Score
from emogen.evaluate.significance import holm, paired_bootstrap
from emogen.evaluate.suite import Evaluation, evaluate
from emogen.recognition.leak import refuse_leaks
from emogen.recognition.recognizer import Recognizer, load_recognizer

RESULT = Path("evaluate/results/empathetic_replies.json")
COMPARED = ("bleu", "rougeL")
FEELINGS = ("speaker", "recognised")
NEIGHBOURS = "neighbours"


@dataclass(frozen=True)
class Decoding:
    """How our models reply.

    Attributes:
        emotion: `none`, `speaker`, `recognised`, or one of the model's.
        seeds: their number.
        temperature, top_p: of `SamplingParams`.
        candidates: replies drawn to each context.
        neighbours: whether similar conversations give candidates and references too.
    """

    emotion: str
    seeds: int
    temperature: float
    top_p: float
    candidates: int = 1
    neighbours: bool = False


@dataclass(frozen=True)
class Scene:
    """What our models reply to.

    Attributes:
        trials: the test set.
        contexts: of the trials, as people wrote them.
        recognised: what the speaker feels in each, to a classifier; nothing without one.
        remembered: of each trial, what was replied in similar conversations; nothing where that was not asked for.
        samples: the folder that keeps what is drawn.
    """

    trials: Sequence[Trial]
    contexts: Sequence[tuple[str, ...]] = ()
    recognised: Sequence[str] = ()
    remembered: Sequence[Remembered] = ()
    samples: Path | None = None


@dataclass(frozen=True)
class Judging:
    """Who judges the emotion of our replies; `leak` says what the judge shares with the guides."""

    judge: Recognizer | None = None
    leak: str = "unchecked"


@dataclass(frozen=True)
class Entry:
    """A system's replies, one for each trial, in the references' form; `facts` are further keys of its row."""

    system: str
    seed: int
    texts: Sequence[str]
    facts: Mapping[str, object] = field(default_factory=dict)
    is_published: bool = False


@click.command()
@click.option(
    "--outputs", type=click.Path(exists=True, path_type=Path), required=True, help="References and published replies."
)
@click.option("--checkpoint", "checkpoints", multiple=True, metavar="[NAME=]DIR", help="A generator of ours; any number.")
@click.option("--replies", multiple=True, metavar="[NAME=]FILE", help="Somebody's: .txt, a reply a line, or JSON lines.")
@click.option("--corpus", default="empatheticdialogues", show_default=True, help="The contexts as people wrote them.")
@click.option(
    "--emotion", default="none", show_default=True, help="To reply with: none, speaker (the speaker's), recognised, or a name."
)
@click.option("--speakers", type=click.Path(exists=True, path_type=Path), help="Classifier that recognises the speaker's.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Decoding seeds of a checkpoint.")
@click.option("--temperature", default=0.7, show_default=True)
@click.option("--top-p", default=0.9, show_default=True)
@click.option(
    "--candidates", type=click.IntRange(1, 64), default=1, show_default=True, help="Drawn for each reply of the mbr rows."
)
@click.option("--neighbours", is_flag=True, help="Rows with replies of similar training conversations; needs --speakers.")
@click.option("--samples", type=click.Path(file_okay=False, path_type=Path), help="Folder that keeps what is drawn.")
@click.option("--greedy", is_flag=True, help="The likeliest token always; one seed.")
@click.option("--judge", type=click.Path(exists=True, path_type=Path), help="Classifier that judges the emotion asked for.")
@click.option(
    "--guide", "guides", multiple=True, type=click.Path(exists=True, path_type=Path), help="What the judge must not know."
)
@click.option("--allow-leak", is_flag=True, help="Go on where the judge shares rows or architecture with a guide.")
@click.option("--classifier", "classifiers", multiple=True, metavar="[NAME=]DIR", help="Recognises the speaker's emotion.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(
    outputs: Path,
    checkpoints: tuple[str, ...],
    replies: tuple[str, ...],
    corpus: str,
    emotion: str,
    speakers: Path | None,
    seeds: int,
    temperature: float,
    top_p: float,
    candidates: int,
    neighbours: bool,
    samples: Path | None,
    greedy: bool,
    judge: Path | None,
    guides: tuple[Path, ...],
    allow_leak: bool,
    classifiers: tuple[str, ...],
    out: Path,
) -> None:
    """Score people, the published systems in OUTPUTS, checkpoints and files of replies on the same contexts."""
    if judge and emotion == "none":
        raise SettingsError("--judge judges the emotion that was asked for: pass --emotion too, or leave --judge out")
    if (neighbours or emotion == "recognised") and not speakers:
        raise SettingsError("--neighbours and --emotion recognised need a classifier of the speaker's emotion: --speakers DIR")
    decoding = Decoding(emotion, 1 if greedy else seeds, 0.0 if greedy else temperature, top_p, candidates, neighbours)
    trials = read_trials(outputs)
    ours, theirs, readers = trained(checkpoints), named(replies), named(classifiers)
    refuse_shared_names([*trials[0].published, "human", NEIGHBOURS, *ours, *theirs, *readers])
    judging = Judging(load_recognizer(judge), refuse_leaks(judge, guides, allow_leak)) if judge else Judging()
    contexts, known = restored(trials, corpus) if ours or readers else ([], None)
    scene = Scene(trials, contexts, samples=samples)
    if speakers:
        scene = understood(scene, load_recognizer(speakers), corpus if neighbours else None)

    entries = [human(trials), *published(trials), *(from_file(name, path, trials) for name, path in theirs.items())]
    entries += recalled(scene)
    for name, folders in ours.items():
        for training, folder in enumerate(folders):
            entries += written(name, training, emogen.load(folder), scene, decoding, judging)
    evaluations = [evaluated(entry, trials) for entry in entries]
    rows = [row(entry, found) for entry, found in zip(entries, evaluations, strict=True)]
    rows += [recognition(name, load_recognizer(folder), trials, contexts) for name, folder in readers.items()]

    extra = {
        "utterances_as_written": known,
        "leak": judging.leak if judge else None,
        "comparisons": comparisons(entries, evaluations),
        "signatures": signatures(rows),
    }
    source = [Path(resolve(corpus, Reading())[0])] if contexts else []
    folders = [folder for several in ours.values() for folder in several]
    others = [folder for folder in (judge, speakers) if folder]
    data = [outputs, *source, *theirs.values(), *folders, *readers.values(), *others]
    write_result(out, command(outputs, ours, theirs, readers, judge, speakers, decoding), data, rows, extra)


def named(values: Sequence[str]) -> dict[str, Path]:
    """Return paths by name from `NAME=PATH` or `PATH`, whose name is then its own without endings."""
    found: dict[str, Path] = {}
    for value in values:
        name, equals, path = value.partition("=")
        place = Path(path if equals else value)
        name = name if equals else place.name.partition(".")[0]
        if not place.exists():
            raise DataError(f"{place}: is not there; pass [NAME=]PATH")
        refuse_shared_names([*found, name])
        found[name] = place
    return found


def trained(values: Sequence[str]) -> dict[str, list[Path]]:
    """Return checkpoints by name, as `named` reads them; those of one name are trainings of one system."""
    found: dict[str, list[Path]] = {}
    for value in values:
        for name, folder in named([value]).items():
            found.setdefault(name, []).append(folder)
    return found


def refuse_shared_names(names: Sequence[str]) -> None:
    """Raise SettingsError if two systems would have one name."""
    for place, name in enumerate(names):
        if name in names[:place]:
            raise SettingsError(f"two systems are called {name!r}: write NAME=PATH to give one another name")


def human(trials: Sequence[Trial]) -> Entry:
    """Return people's replies: the references themselves, so without overlap."""
    return Entry("human", 0, [each.reference for each in trials])


def published(trials: Sequence[Trial]) -> list[Entry]:
    """Return the published systems, in the file's order."""
    return [Entry(name, 0, [each.published[name] for each in trials], is_published=True) for name in trials[0].published]


def from_file(name: str, path: Path, trials: Sequence[Trial]) -> Entry:
    """Return somebody's replies from a file; raise DataError unless it holds one for each trial."""
    texts = list(replies_in(path))
    if len(texts) != len(trials):
        raise DataError(f"{path}: {len(texts)} replies for {len(trials)} contexts: one for each is needed, in their order")
    return Entry(name, 0, [as_published(text) for text in texts])


def replies_in(path: Path) -> Iterator[str]:
    """Yield the lines of a .txt file, or `reply` or `text` of each row of any other."""
    if path.suffix == ".txt":
        yield from path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        return
    for read in read_rows(path):
        if isinstance(read, Problem):
            raise DataError(f"{path}:{read.number}: {read.message}")
        text = read.fields.get("reply", read.fields.get("text"))
        if not isinstance(text, str):
            raise DataError(f"{path}:{read.number}: has no text under 'reply' or 'text'")
        yield text


def understood(scene: Scene, reader: Recognizer, corpus: str | None) -> Scene:
    """With what the speakers feel, to `reader`, and with replies to similar training conversations of `corpus`."""
    found, names = felt(reader, scene.contexts), reader.names.names
    scene = replace(scene, recognised=judged_labels(found, names))
    if not corpus:
        return scene
    path, reading = resolve(corpus, Reading(labels=EMPATHETIC))
    rows = (row for row in read_exchanges(path, reading) if row.split == "train" and row.context)
    memory = remember(
        [Turn(said(row.context), len(row.context) == 1, row.reply, names.index(row.emotion.name)) for row in rows]
    )
    turns = zip(scene.contexts, found, strict=True)
    return replace(scene, remembered=[remembered(memory, said(context), len(context) == 1, each) for context, each in turns])


def recalled(scene: Scene) -> Iterator[Entry]:
    """Yield the replies of similar conversations alone, without a generator."""
    if scene.remembered:
        texts = most_useful([utilities_of(memory, ()) for memory in scene.remembered], REPEATED)
        yield Entry(NEIGHBOURS, 0, list(map(as_published, texts)), {"case": "mbr, few repeats"})


def written(
    name: str, training: int, model: EmotionModel, scene: Scene, decoding: Decoding, judging: Judging
) -> Iterator[Entry]:
    """Yield a checkpoint's replies for each seed, chosen in each way, with the judged emotion where one was asked for."""
    emotions = target(model, scene.trials, decoding.emotion, scene.recognised)
    options = SamplingParams(n=decoding.candidates, temperature=decoding.temperature, top_p=decoding.top_p)
    options = replace(options, max_tokens=model.default_sampling.max_tokens)
    shown = ("emotion", "temperature", "top_p")
    facts = {"training": training, **{key: getattr(decoding, key) for key in shown}}
    for seed in range(decoding.seeds):
        samples = drawn(model, scene.contexts, emotions, replace(options, seed=seed), scene.samples)
        for case, texts in chosen(samples, scene.remembered, decoding.candidates).items():
            conditioning = {"case": case, **facts} if case else facts
            yield Entry(name, seed, list(map(as_published, texts)), {**conditioning, **judged(judging, emotions, texts)})
        click.echo(f"{name}: training {training}, seed {seed} of {decoding.seeds}", err=True)


def target(model: EmotionModel, trials: Sequence[Trial], choice: str, recognised: Sequence[str] = ()) -> list[Emotion]:
    """Return the emotion to reply with in each trial; raise SettingsError where the model does not know it.

    Args:
        model: that replies.
        trials: what it replies to.
        choice: `none`, `speaker`, `recognised`, or one of the model's.
        recognised: what a classifier finds the speakers to feel.
    """
    if choice not in FEELINGS:
        return [model.emotion(None if choice == "none" else choice)] * len(trials)
    feelings = [each.feeling for each in trials] if choice == "speaker" else recognised
    mapped = {feeling: map_names([feeling], TO_EKMAN, model.labels) for feeling in set(feelings)}
    for feeling, names in mapped.items():
        if not names:
            raise SettingsError(f"--emotion {choice}: {feeling!r} has no counterpart among {', '.join(model.labels.names)}")
    return [model.emotion(mapped[feeling][0]) for feeling in feelings]


def judged(judging: Judging, emotions: Sequence[Emotion], texts: Sequence[str]) -> dict[str, Score]:
    """Agreement of the emotions asked for with what the judge finds; nothing without a judge."""
    if not judging.judge:
        return {}
    labels = judging.judge.names.names
    names = [emotion.name for emotion in emotions]
    found = judged_labels(judging.judge.probabilities(texts), labels)
    scores = {"emotion_accuracy": emotion_accuracy(names, found), "emotion_f1": emotion_f1(names, found, labels)}
    mark = f"|judge:{judging.judge.folder.name}|leak:{judging.leak}"
    return {metric: replace(score, signature=score.signature + mark) for metric, score in scores.items()}


def evaluated(entry: Entry, trials: Sequence[Trial]) -> Evaluation:
    """Overlap with the references, which are people's replies themselves and so have none, and diversity."""
    references = None if entry.system == "human" else [[each.reference] for each in trials]
    return evaluate(System(entry.system, entry.texts, references), options=Options(language="en", lowercase=True))


def row(entry: Entry, found: Evaluation) -> dict[str, object]:
    """Return all figures of a system."""
    return {"system": entry.system, "seed": entry.seed, "n": found.texts, **entry.facts, **found.scores}


def recognition(
    name: str, reader: Recognizer, trials: Sequence[Trial], contexts: Sequence[tuple[str, ...]]
) -> dict[str, object]:
    """Return how well a classifier names what the speaker feels, from all that he has said so far."""
    found = judged_labels(felt(reader, contexts), reader.names.names)
    feelings = [each.feeling for each in trials]
    scores = {
        "recognition_accuracy": emotion_accuracy(feelings, found),
        "recognition_f1": emotion_f1(feelings, found, EMPATHETIC.names),
    }
    return {"system": name, "seed": 0, "n": len(contexts), **scores}


def felt(reader: Recognizer, contexts: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Return probabilities of what each speaker feels, [contexts, 32], from all that he has said so far."""
    if set(reader.names.names) != set(EMPATHETIC.names):
        raise SettingsError(f"{reader.folder}: its labels are {', '.join(reader.names.names)}, not the 32 of the speakers")
    return reader.probabilities([said(context) for context in contexts])


def said(context: Sequence[str]) -> str:
    """Return what the speaker has said: the last utterance, and every other one before it."""
    return " ".join(context[::-2][::-1])


def comparisons(entries: Sequence[Entry], evaluations: Sequence[Evaluation]) -> list[dict[str, object]]:
    """Return each system that is not published against the best published one, by paired bootstrap over the contexts."""
    found = []
    for metric in COMPARED:
        scored = [(entry, tally) for entry, each in zip(entries, evaluations, strict=True) if (tally := summed(each, metric))]
        best, its = max(((entry, tally) for entry, tally in scored if entry.is_published), key=lambda pair: pair[1].value)
        for entry, tally in scored:
            if not entry.is_published:
                names = {"metric": metric, "first": best.system, "second": entry.system, "seed": entry.seed}
                found.append((names, paired_bootstrap(its, tally)))
    adjusted = holm([tested.p for _, tested in found])
    return [{**names, **asdict(tested), "p_holm": p} for (names, tested), p in zip(found, adjusted, strict=True)]


def summed(found: Evaluation, metric: str) -> SumStatistic | None:
    """Return what a metric of sums was computed from; None where a system lacks it."""
    basis = found.bases.get(metric)
    return basis if isinstance(basis, SumStatistic) else None


def signatures(rows: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """Return how each metric is computed, by its name."""
    return {metric: score.signature for row in rows for metric, score in row.items() if isinstance(score, Score)}


def command(
    outputs: Path,
    ours: Mapping[str, Sequence[Path]],
    theirs: Mapping[str, Path],
    readers: Mapping[str, Path],
    judge: Path | None,
    speakers: Path | None,
    decoding: Decoding,
) -> str:
    """Return what anyone can run, with the last two parts of each path."""
    parts = ["python evaluate/empathetic_replies.py", f"--outputs {outputs.name}"]
    models = [(name, folder) for name, folders in ours.items() for folder in folders]
    for option, paths in (("--checkpoint", models), ("--replies", theirs.items()), ("--classifier", readers.items())):
        parts += [f"{option} {name}={path.parent.name}/{path.name}" for name, path in paths]
    for option, folder in (("--judge", judge), ("--speakers", speakers)):
        parts += [f"{option} {folder.parent.name}/{folder.name}"] if folder else []
    if ours:
        drawing = f"--temperature {decoding.temperature} --top-p {decoding.top_p}" if decoding.temperature else "--greedy"
        parts.append(f"--emotion {decoding.emotion} --seeds {decoding.seeds} {drawing}")
        parts += [f"--candidates {decoding.candidates}"] if decoding.candidates > 1 else []
        parts += ["--neighbours"] if decoding.neighbours else []
    return " ".join(parts)


if __name__ == "__main__":
    run(main, "empathetic_replies.py")
