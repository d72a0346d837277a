"""Replies of DailyDialog's test dialogues: the emotion of the real reply is asked for, and a judge looks for it.

    python evaluate/daily_dialog.py --checkpoint runs/lm --guide runs/lm --limit 1000

Test dialogues that stand in the training set are left out of the corpus (`emogen data fetch dailydialog`). Overlap and
diversity are those of an even sample of the replies. Nine tenths of it are neutral or joyful, so the emotion is judged there
and, again, on a set with as many replies of each emotion as there are, up to `--each`. The row `real` says how often the
judge finds the label of people's own replies: a system can pass that only by being plainer than people are. BLEU and chrF
are lower-cased.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

import click

import emogen
from emogen.checkpoint.finding import shipped_folder
from emogen.checkpoint.model import EmotionModel
from emogen.cli import run
from emogen.data.corpora import resolve
from emogen.data.exchange import Exchange, Reading, read_exchanges
from emogen.decoding.control import Control, parse_control
from emogen.decoding.params import SamplingParams
from emogen.emotions.labels import EKMAN
from emogen.errors import DataError, SettingsError
from emogen.evaluate.inputs import Judging, Options, Resources, System
from emogen.evaluate.report import write_result
from emogen.evaluate.score import Score
from emogen.evaluate.suite import evaluate
from emogen.recognition.leak import refuse_leaks
from emogen.recognition.recognizer import load_recognizer

Language = Literal["en", "zh"]

RESULT = Path("evaluate/results/daily_dialog.json")
CORPORA: Mapping[Language, str] = {"en": "dailydialog", "zh": "dailydialog_zh"}


@dataclass(frozen=True)
class TestSet:
    """The replies that are asked for.

    Attributes:
        rows: replies with a context, each once.
        everyday: places in `rows` of an even sample of all test replies.
        balanced: places in `rows` of as many replies of each emotion as there are, up to a limit.
        language: en or zh.
    """

    rows: Sequence[Exchange]
    everyday: Sequence[int]
    balanced: Sequence[int]
    language: Language

    def target(self, places: Sequence[int]) -> list[str]:
        """Return the emotions of the real replies at these places."""
        return [self.rows[place].emotion.name for place in places]


@dataclass(frozen=True)
class Decoding:
    """Sampling options of our models, and the number of seeds."""

    seeds: int
    temperature: float
    top_p: float


@click.command()
@click.option("--checkpoint", "checkpoints", multiple=True, metavar="[NAME=]DIR", help="A generator; any number.")
@click.option("--language", type=click.Choice(["en", "zh"]), default="en", show_default=True)
@click.option("--corpus", help="A file, or the name of a fetched corpus.  [default: dailydialog, dailydialog_zh]")
@click.option(
    "--judge", type=click.Path(exists=True, path_type=Path), help="A classifier.  [default: the English one that ships]"
)
@click.option(
    "--guide", "guides", multiple=True, type=click.Path(exists=True, path_type=Path), help="What the judge must not know."
)
@click.option("--allow-leak", is_flag=True, help="Go on where the judge shares rows or architecture with a guide.")
@click.option("--limit", type=click.IntRange(2), default=5_000, show_default=True, help="Replies for overlap and diversity.")
@click.option(
    "--each", type=click.IntRange(1), default=60, show_default=True, help="Replies of an emotion in the balanced set."
)
@click.option("--control", "controls", multiple=True, help="Controllers of a row of its own each.  [default: none]")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Decoding seeds of a checkpoint.")
@click.option("--temperature", default=0.7, show_default=True)
@click.option("--top-p", default=0.9, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(
    checkpoints: tuple[str, ...],
    language: Language,
    corpus: str | None,
    judge: Path | None,
    guides: tuple[Path, ...],
    allow_leak: bool,
    limit: int,
    each: int,
    controls: tuple[str, ...],
    seeds: int,
    temperature: float,
    top_p: float,
    out: Path,
) -> None:
    """Reply to the test contexts with the emotion of the real reply, and score the replies."""
    if language != "en" and not judge:
        raise SettingsError("--language zh: the judge that ships reads English; name a Chinese one with --judge")
    chosen, decoding = judge or shipped_folder("judge"), Decoding(seeds, temperature, top_p)
    leak, steered = refuse_leaks(chosen, guides, allow_leak), [parse_control(text) for text in controls or ("none",)]
    judging = suitable_judge(chosen, leak)
    path, reading = resolve(corpus or CORPORA[language], Reading(labels=EKMAN))
    found = test_set(list(replies_to_contexts(path, reading)), limit, each, language)
    folders = named(checkpoints)

    real = [row.reply for row in found.rows]
    rows = [{"system": "real", "seed": 0, **figures(found, "real", real, judging)}]
    for name, folder in folders.items():
        model = emogen.load(folder)
        for control, seed in product(steered, range(decoding.seeds)):
            texts = written(model, found, decoding, control, seed)
            case = {"case": str(control)} if control.names else {}
            facts = {"system": name, **case, "seed": seed, "temperature": temperature, "top_p": top_p}
            rows.append({**facts, **figures(found, name, texts, judging)})
            click.echo(f"{name}: {control}, seed {seed} of {seeds}", err=True)

    extra = {
        "leak": leak,
        "replies": dict(Counter(found.target(found.everyday))),
        "replies_balanced": dict(Counter(found.target(found.balanced))),
        "signatures": {metric: score.signature for row in rows for metric, score in row.items() if isinstance(score, Score)},
    }
    steering = "".join(f"--control {control} " for control in steered if controls)
    target = f"{steering}--language {language} --limit {limit} --each {each} {shown(decoding)}"
    models = "".join(f"--checkpoint {name}={folder.parent.name}/{folder.name} " for name, folder in folders.items())
    guided = "".join(f"--guide {guide.parent.name}/{guide.name} " for guide in guides) + "--allow-leak " * allow_leak
    command = f"python evaluate/daily_dialog.py {models}--judge {chosen.parent.name}/{chosen.name} {guided}{target}"
    write_result(out, command, [Path(path), chosen, *folders.values()], rows, extra)


def shown(decoding: Decoding) -> str:
    """Return the decoding options as they are typed."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in asdict(decoding).items())


def named(values: Sequence[str]) -> dict[str, Path]:
    """Return folders by name from `NAME=DIR` or `DIR`, whose name is then the folder's."""
    found: dict[str, Path] = {}
    for value in values:
        name, equals, path = value.partition("=")
        folder = Path(path if equals else value)
        name = name if equals else folder.name
        if name in found or name == "real":
            raise SettingsError(f"two systems are called {name!r}: write NAME=DIR to give one another name")
        found[name] = folder
    return found


def suitable_judge(folder: Path, leak: str) -> Judging:
    """Return the judge; raise SettingsError where its labels are not the corpus's."""
    judge = load_recognizer(folder)
    if set(judge.names.names) != set(EKMAN.names):
        raise SettingsError(f"{folder}: judges {', '.join(judge.names.names)}; needed are {', '.join(EKMAN.names)}")
    return Judging(folder.name, judge.names.names, judge.probabilities, folder.name, leak)


def replies_to_contexts(path: str, reading: Reading) -> Iterator[Exchange]:
    """Yield the test rows that reply to something, as people type."""
    for row in read_exchanges(path, reading):
        if row.split == "test" and row.context:
            yield replace(row, reply=closed_up(row.reply), context=tuple(map(closed_up, row.context)))


def test_set(rows: Sequence[Exchange], limit: int, each: int, language: Language) -> TestSet:
    """Return an even sample and a balanced one, drawn with a fixed seed; raise DataError where there are too few rows."""
    if len(rows) < 2:
        raise DataError(f"{len(rows)} test replies with a context: at least 2 are needed")
    draw = random.Random(0)
    everyday = draw.sample(range(len(rows)), min(limit, len(rows)))
    places = {name: [at for at, row in enumerate(rows) if row.emotion.name == name] for name in EKMAN.names}
    balanced = [at for found in places.values() for at in draw.sample(found, min(each, len(found)))]
    used = sorted({*everyday, *balanced})
    moved = {at: place for place, at in enumerate(used)}
    return TestSet([rows[at] for at in used], [moved[at] for at in sorted(everyday)], [moved[at] for at in balanced], language)


def written(model: EmotionModel, found: TestSet, decoding: Decoding, control: Control, seed: int) -> list[str]:
    """Return one reply to each context, with the emotion of the real one.

    Raise SettingsError where the model does not know it.
    """
    emotions = [model.emotion(row.emotion.name) for row in found.rows]
    most = model.default_sampling.max_tokens
    sampling = SamplingParams(temperature=decoding.temperature, top_p=decoding.top_p, control=control, max_tokens=most)
    replies = model.replies([row.context for row in found.rows], emotions, sampling=sampling, seed=seed)
    return [closed_up(reply.text) for reply in replies]


def closed_up(text: str) -> str:
    """Return a text without the corpus's blanks about apostrophes and before marks.

    Contexts, replies and references are all so.

    >>> closed_up("Say , Jim , isn ’ t it late ?")
    "Say, Jim, isn't it late?"
    """
    text = re.sub(r"(?<=\w) ?' ?(?=(?:s|t|m|d|re|ve|ll)\b)", "'", text.replace("’", "'"), flags=re.IGNORECASE)
    return re.sub(r" +(?=[,.!?;:])", "", text)


def figures(found: TestSet, system: str, texts: Sequence[str], judging: Judging) -> dict[str, object]:
    """Return all scores over the even sample, and the judged emotion over the balanced set too.

    People's replies are the references themselves, so they have no overlap.
    """
    means, options = Resources(judges=(judging,)), Options(language=found.language, lowercase=True)
    listed = [[found.rows[place].reply] for place in found.everyday]
    everyday = [texts[place] for place in found.everyday]
    references = None if [[text] for text in everyday] == listed else listed
    even = evaluate(System(system, everyday, references, found.target(found.everyday)), means, options).scores
    some = System(system, [texts[place] for place in found.balanced], target=found.target(found.balanced))
    judged = {f"{name}_balanced": score for name, score in evaluate(some, means, options).scores.items() if "emotion" in name}
    return {"n": len(everyday), "n_balanced": len(found.balanced), **even, **judged}


if __name__ == "__main__":
    run(main, "daily_dialog.py")
