"""`emogen evaluate`."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from tqdm import tqdm

from emogen.cli.evaluation_request import Request
from emogen.cli.evaluation_resources import load_encoding, load_fluency, load_judges, train_reverse
from emogen.cli.printing import print_text
from emogen.cli.reading import map_option
from emogen.data.outputs import (
    EMOTION_COLUMN,
    FORMATS,
    REFERENCE_COLUMN,
    TEXT_COLUMN,
    Group,
    Texts,
    open_source,
    read_outputs,
    store,
)
from emogen.errors import CheckpointError, DataError, SettingsError
from emogen.evaluate.frontier import Point, axis, draw
from emogen.evaluate.inputs import Resources, System
from emogen.evaluate.overlap import Language
from emogen.evaluate.report import Report, as_json, as_markdown, as_table
from emogen.evaluate.significance import Comparison
from emogen.evaluate.suite import Evaluation, compare, evaluate, over_training_seeds, plan_scores

if TYPE_CHECKING:
    pass

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Named:
    """A system as it is shown, with its texts: one group, or one for each training seed."""

    name: str
    groups: tuple[Group, ...]
    runs: tuple[System, ...]

    @property
    def texts(self) -> int:
        """Return how many texts it has."""
        return sum(group.count for group in self.groups)


@click.command("evaluate")
@click.argument("hyps", nargs=-1)
@click.option("--references", multiple=True, metavar="FILE", help="Row i belongs to text i; several files: several each.")
@click.option("--real", multiple=True, metavar="FILE", help="Real texts that belong to no text in particular.")
@click.option("--train", multiple=True, metavar="FILE", help="What the systems were trained on.")
@click.option("--judge", multiple=True, metavar="DIR", help="Checkpoint of a classifier that judges the emotion.")
@click.option("--guide", multiple=True, metavar="DIR", help="Checkpoint that wrote or steered the texts: checked for leaks.")
@click.option("--allow-leak", is_flag=True, help="Judge in spite of a leak; the signature says so.")
@click.option("--text-column", metavar="NAME", default=TEXT_COLUMN, show_default=True, help="a|b takes the first there is.")
@click.option("--emotion-column", metavar="NAME", help=f"Emotion asked for.  [default, with --judge: {EMOTION_COLUMN}]")
@click.option("--reference-column", metavar="NAME", default=REFERENCE_COLUMN, show_default=True, help="A text, or a list.")
@map_option
@click.option("--seed-column", metavar="NAME", help="Training seed: intervals and tests then go over seeds.")
@click.option("--pool-seeds", is_flag=True, help="Rows of several seeds are independent: the seeds are those of decoding.")
@click.option("--format", type=click.Choice(FORMATS), help="Where the name does not say.  [default for -: txt]")
@click.option("--language", type=click.Choice(get_args(Language)), default="auto", show_default=True, help="auto: by script.")
@click.option("--lowercase", is_flag=True, help="BLEU and chrF without regard to case.")
@click.option("--encoder", metavar="hf:NAME", help="Name or folder: frechet, similarity, bertscore.")
@click.option("--mauve", is_flag=True, help="Compute MAUVE, with --encoder and real texts; it takes minutes.")
@click.option("--language-model", metavar="NAME", help="hf:NAME-OR-FOLDER, or a checkpoint's folder: perplexity.")
@click.option("--reverse", is_flag=True, help="Train a small model on the texts, test it on real ones; takes minutes.")
@click.option("--lexicon", is_flag=True, help="Compare the polarity asked for with VADER's.")
@click.option("--compare", nargs=2, multiple=True, metavar="A B", help="Test two files on the same items.")
@click.option("--frontier", metavar="OUT", help="Draw quality against diversity into OUT.png and OUT.svg.")
@click.option(
    "--quality", metavar="METRIC", help="Metric on the frontier's quality axis.  [default: emotion_accuracy, else bleu]"
)
@click.option(
    "--diversity",
    metavar="METRIC",
    default="distinct2_corrected",
    show_default=True,
    help="Metric on the frontier's diversity axis.",
)
@click.option("--sample", type=click.IntRange(min=1), default=100_000, show_default=True, help="Most texts held in memory.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of samples, intervals and tests.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto.")
@click.option("--json", "as_object", is_flag=True, help="One JSON object.")
@click.option("--markdown", "as_page", is_flag=True, help="A page with tables, and how each score was computed.")
def evaluate_command(**given: Any) -> None:
    """Score the texts in HYPS, each with a 95% interval.

    HYPS are files of lines (.txt), JSON lines, CSV or TSV, each may be gzipped; "-" is standard input. Rows with a column
    `system` or `temperature` are scored by system and temperature, others by file. Without further options: diversity and
    length.
    """
    request = Request(**given)
    _refuse_impossible(request)
    with tempfile.TemporaryDirectory(prefix="emogen-") as folder:
        _run(request, Path(folder))


def _refuse_impossible(request: Request) -> None:
    """Raise SettingsError where options do not go together, DataError where no plot can be; before anything is read."""
    real = bool(request.references or request.real)
    needs = {
        "name a file of texts to score, or - for standard input": bool(request.files),
        "only one of the files can be standard input": [
            *request.files,
            *request.references,
            *request.real,
            *request.train,
        ].count("-")
        <= 1,
        "--json and --markdown: take one of them": not (request.as_object and request.as_page),
        "--encoder takes hf:NAME or hf:FOLDER": request.encoder is None or request.encoder.startswith("hf:"),
        "--language-model is empty; name one, or leave it out": request.language_model != "",
        "--frontier is empty; name the plot, such as plots/frontier": request.frontier != "",
        "--mauve needs --encoder, and --references or --real": not request.mauve or bool(request.encoder and real),
        "--reverse needs --references or --real": not request.reverse or real,
        "--guide needs a --judge to check": not request.guide or bool(request.judge),
        "--quality needs --frontier": request.quality is None or bool(request.frontier),
        "--seed-column is empty; name the column of the training seed": request.seed_column != "",
        "--seed-column and --pool-seeds: take one of them": not (request.seed_column and request.pool_seeds),
        "--reference-column needs --references": request.reference_column == REFERENCE_COLUMN or bool(request.references),
        '--frontier needs matplotlib: pip install -e ".[plots]"': not request.frontier or bool(find_spec("matplotlib")),
        '--mauve needs the package mauve-text: pip install -e ".[mauve]"': not request.mauve or bool(find_spec("mauve")),
        '--lexicon needs vaderSentiment: pip install -e ".[lexicon]"': not request.lexicon or bool(find_spec("vaderSentiment")),
    }
    for need, met in needs.items():
        if not met:
            raise SettingsError(need)
    if request.frontier:
        path = Path(request.frontier)
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not path.name or "\0" in str(path):
            raise DataError(f"--frontier {str(path)!r}: is no name of a file; name the plot, such as plots/frontier")
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise DataError(f"--frontier {path}: {folder} is no folder that can be written; name another place")


def _run(request: Request, folder: Path) -> None:
    # What is wrong with files and folders is told before a model is loaded.
    for judge in request.judge:
        if not (Path(judge) / "config.json").is_file():
            raise CheckpointError(f"{judge}: no classifier there (no config.json); train one, or name another folder")
    systems = _systems(request, folder)
    training, real = _texts(request.train, request, folder), _texts(request.real, request, folder)
    pairs = [_pair(first, second, systems) for first, second in request.compare]
    means = Resources(
        training=training,
        real=real,
        judges=load_judges(request),
        encoder=load_encoding(request),
        language_model=load_fluency(request),
        reverse=train_reverse if request.reverse else None,
    )
    axes = _axes(request, systems, means)
    found = {named.name: _evaluation(named, means, request) for named in systems}
    notes = _notes(systems, found)
    comparisons = list(_comparisons(pairs, request.seed, found, notes))
    points = _points(systems, found, axes, notes) if axes else []
    _show(request, found, comparisons, list(dict.fromkeys(notes)))
    if axes:
        path = Path(request.frontier or "")
        if not points:
            raise DataError(f"{path}: no system has a temperature, {axes.quality} and {axes.diversity}; no frontier is drawn")
        drawn = draw(points, path, axis(axes.quality.partition(":")[0]), axis(axes.diversity.partition(":")[0]))
        click.echo(f"frontier: {', '.join(map(str, drawn))}", err=True)


def _systems(request: Request, folder: Path) -> list[_Named]:
    """Return the groups of all files; the files are read once, in turn."""
    references = [open_source(file, request.format or "", folder) for file in request.references]
    named: dict[str, _Named] = {}
    for file in request.files:
        source = open_source(file, request.format or "", folder)
        outputs = _watch(read_outputs(source, request.columns, references), f"reading {file}", None)
        groups = store(outputs, source, folder, bool(request.seed_column))
        runs: dict[tuple[str, float | None], list[Group]] = {}
        for group in groups:
            runs.setdefault((group.system, group.temperature), []).append(group)
        firsts = [own[0] for own in runs.values()]
        for own in runs.values():
            name = _shown_name(own[0], firsts, named)
            named[name] = _Named(name, tuple(own), tuple(_system(name, group, request) for group in own))
    return list(named.values())


def _evaluation(named: _Named, means: Resources, request: Request) -> Evaluation:
    """Return the system's scores, over its training seeds where there are several."""
    runs = [evaluate(run, means, request.options, _watch) for run in named.runs]
    if len(runs) > 1:
        return over_training_seeds(runs)
    if not request.seed_column:
        return runs[0]
    note = f"a single training seed ({named.groups[0].seed}): intervals are over its texts alone"
    return replace(runs[0], notes=(*runs[0].notes, note))


def _shown_name(group: Group, groups: Sequence[Group], taken: Mapping[str, _Named]) -> str:
    """Return the system's name, with the temperature where there are several, and with the file where another has the name."""
    several = sum(other.system == group.system for other in groups) > 1
    temperature = "?" if group.temperature is None else f"{group.temperature:g}"
    name = f"{group.system} t={temperature}" if several else group.system
    return f"{group.source}: {name}" if name in taken else name


def _system(name: str, group: Group, request: Request) -> System:
    return System(
        name=f"{name} seed {group.seed}" if group.seed else name,
        texts=group.texts,
        references=group.references if request.references else None,
        target=group.target if request.judge or request.lexicon else None,
        where=group.where,
    )


def _texts(files: Sequence[str], request: Request, folder: Path) -> Texts | None:
    """Return texts of several files; a file without the column is refused at once, not after an hour of scoring."""
    if not files:
        return None
    sources = tuple(open_source(file, request.format or "", folder) for file in files)
    for source in sources:
        next(iter(Texts((source,), request.text_column)))
    return Texts(sources, request.text_column)


def _notes(systems: Sequence[_Named], found: Mapping[str, Evaluation]) -> list[str]:
    """Return what is to be said of the systems, each note once, behind the names of those that it is of.

    This holds where there are several.
    """
    concerned: dict[str, list[str]] = {}
    for named in systems:
        empty = sum(group.empty for group in named.groups)
        own = [f"{empty:,} of {named.texts:,} texts are empty"] if empty else []
        for note in (*own, *found[named.name].notes):
            concerned.setdefault(note, []).append(named.name)
    if len(systems) == 1:
        return list(concerned)
    return [f"{'all systems' if len(names) == len(systems) else ', '.join(names)}: {note}" for note, names in concerned.items()]


def _pair(first: str, second: str, systems: Sequence[_Named]) -> tuple[str, str]:
    """Return the names of two files' systems, once it is known that they can be compared; before anything is scored."""
    one, other = _only(first, systems), _only(second, systems)
    runs = (len(one.runs), len(other.runs))
    if max(runs) > 1:
        if min(runs) == 1:
            raise DataError(
                f"--compare: {first} has {runs[0]} training seeds and {second} has {runs[1]}; each needs at least two"
            )
    elif one.texts != other.texts:
        raise DataError(
            f"--compare: {first} has {one.texts:,} texts but {second} has {other.texts:,}; "
            "line i of both must belong to the same item"
        )
    return one.name, other.name


def _only(file: str, systems: Sequence[_Named]) -> _Named:
    """Return the one system of a file."""
    found = [named for named in systems if named.groups[0].source == file]
    if len(found) > 1:
        raise DataError(f"--compare: {file} holds {len(found)} systems and temperatures; give each a file of its own")
    return found[0]


def _comparisons(
    pairs: Sequence[tuple[str, str]], seed: int, found: Mapping[str, Evaluation], notes: list[str]
) -> Iterator[tuple[str, str, str, Comparison]]:
    for first, second in pairs:
        compared, refused = compare(found[first], found[second], seed, _watch)
        notes.extend(f"{first} and {second}: {note}" for note in refused)
        yield from ((first, second, metric, comparison) for metric, comparison in compared.items())


@dataclass(frozen=True)
class _Axes:
    quality: str
    diversity: str


def _axes(request: Request, systems: Sequence[_Named], means: Resources) -> _Axes | None:
    """Return the metrics of the frontier, once it is known that it can be drawn; before anything is scored."""
    if not request.frontier:
        return None
    known = plan_scores(systems[0].runs[0], means, request.options)
    judged = next((name for name in known if name.partition(":")[0] == "emotion_accuracy"), "bleu")
    if not request.quality and judged not in known:
        raise SettingsError("--frontier needs a quality: pass --judge, --references or --quality")
    axes = _Axes(request.quality or judged, request.diversity)
    for option, name in (("--quality", axes.quality), ("--diversity", axes.diversity)):
        if name not in known:
            raise SettingsError(f"{option} {name!r} is not one of the metrics computed here: {', '.join(known)}")
    if all(named.groups[0].temperature is None for named in systems):
        raise DataError(f"--frontier: no row of {', '.join(request.files)} has a column 'temperature'")
    return axes


def _points(systems: Sequence[_Named], found: Mapping[str, Evaluation], axes: _Axes, notes: list[str]) -> list[Point]:
    """Return one for each system that has a temperature and both metrics."""
    points: list[Point] = []
    for named in systems:
        scores, temperature = found[named.name].scores, named.groups[0].temperature
        if temperature is None or axes.quality not in scores or axes.diversity not in scores:
            notes.append(f"{named.name}: is not in the frontier, for want of a temperature or of one of its metrics")
        else:
            points.append(Point(named.groups[0].system, temperature, scores[axes.quality], scores[axes.diversity]))
    return points


def _show(
    request: Request,
    found: Mapping[str, Evaluation],
    comparisons: Sequence[tuple[str, str, str, Comparison]],
    notes: Sequence[str],
) -> None:
    """Score on standard output; notes too, except under a table."""
    scores = {name: evaluation.scores for name, evaluation in found.items()}
    texts = {name: evaluation.texts for name, evaluation in found.items()}
    inside = request.as_object or request.as_page
    report = Report(scores, texts, notes if inside else (), comparisons)
    if request.as_object:
        _print(_with_details(as_json(report), found))
    elif request.as_page:
        _print(as_markdown(report) + "".join(_confusion_pages(found)))
    else:
        _print(as_table(report, shutil.get_terminal_size((120, 24)).columns))
        for note in notes:
            click.echo(f"note: {note}", err=True)


def _with_details(content: str, found: Mapping[str, Evaluation]) -> str:
    """Return the JSON of the report, with lengths and confusion matrices beside the scores."""
    report = json.loads(content)
    for name, evaluation in found.items():
        place = report["systems"][name] if "systems" in report else report
        place["lengths"] = vars(evaluation.lengths)
        if evaluation.by_seed:
            place["by_seed"] = evaluation.by_seed
        place["confusion"] = {
            judge: {"labels": matrix.labels, "counts": matrix.counts.tolist()}
            for judge, matrix in evaluation.confusions.items()
        }
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _confusion_pages(found: Mapping[str, Evaluation]) -> Iterator[str]:
    for name, evaluation in found.items():
        for judge, matrix in evaluation.confusions.items():
            rows = [["asked \\ judged", *matrix.labels], ["---"] * (1 + len(matrix.labels))]
            rows += [[label, *map(str, row)] for label, row in zip(matrix.labels, matrix.counts.tolist(), strict=True)]
            table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
            yield f"\nTexts of {name}, by the emotion asked for and the one that {judge} found:\n\n{table}\n"


def _watch(items: Iterable[Item], what: str, total: int | None, /) -> Iterable[Item]:
    """Return a progress bar for what takes more than two seconds; a log gets a line every half minute at most."""
    terminal = sys.stderr.isatty()
    bar: Iterable[Item] = tqdm(
        items,
        desc=what,
        total=total,
        delay=2,
        leave=False,
        file=sys.stderr,
        mininterval=0.5 if terminal else 30.0,
        dynamic_ncols=terminal,
    )
    return bar


def _print(text: str) -> None:
    print_text(text, nl=False)
