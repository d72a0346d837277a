"""`emogen data`: look over a data file, count it, split it; list the public corpora and fetch them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import click

from emogen.cli.printing import print_text
from emogen.cli.reading import reading_options
from emogen.data.check import Counts, Finding, KindCount, Lengths, Report, Stats, check_file, split_exchanges
from emogen.data.check import stats as count_file
from emogen.data.corpora import CORPORA, Corpus, Roles, corpus_named, locate, resolve
from emogen.data.exchange import UNKNOWN_EMOTION, Exchange, Reading, as_json, write_exchanges
from emogen.data.fetching import Progress
from emogen.data.fetching import fetch as fetch_corpus
from emogen.data.repair import FAULTS
from emogen.errors import DataError

_SHOWN = 10
_SHOWN_FINDINGS = 8
_SHOWN_OF_A_KIND = 3
_SHOWN_LABELS = 20
_STEP = 1 << 20
_JSON = click.option("--json", "as_object", is_flag=True, help="One JSON object instead of text.")
_SHARE = click.FloatRange(0, 1, max_open=True)


@click.group()
def data() -> None:
    """Check, count, split and fetch training data.

    FILE is JSON lines, CSV or TSV (each may be gzipped), "-" for standard input, or the name of a corpus.
    """


@data.command()
@click.argument("file")
@reading_options
@_JSON
def check(file: str, reading: Reading, as_object: bool) -> None:
    """Look at every row of FILE: what is wrong, what repeats, what leaks from train into test.

    Exits with 1 when a row is no exchange; repeats and leaks are told, but are no errors.
    """
    report = check_file(*resolve(file, reading))
    _print(json.dumps(asdict(report), ensure_ascii=False) if as_object else _report_text(report))
    if report.problems:
        sys.exit(1)


@data.command()
@click.argument("file")
@reading_options
@_JSON
def stats(file: str, reading: Reading, as_object: bool) -> None:
    """Count rows, labels, splits, lengths and words of FILE."""
    found = count_file(*resolve(file, reading))
    _print(json.dumps(asdict(found), ensure_ascii=False) if as_object else _stats_text(found))


@data.command()
@click.argument("file")
@click.option("--out", required=True, metavar="FILE", help="JSON lines, gzipped where it ends in .gz; - prints.")
@click.option("--valid", type=_SHARE, default=0.1, show_default=True, help="Share of rows for choosing a model.")
@click.option("--test", type=_SHARE, default=0.1, show_default=True, help="Share of rows for the final figures.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, another split.")
@reading_options
def split(file: str, out: str, valid: float, test: float, seed: int, reading: Reading) -> None:
    """Write FILE with every row in train, valid or test; the same reply never stands in two of them."""
    rows: Counter[str] = Counter()
    notes: list[str] = []
    path, reading = resolve(file, reading)
    exchanges = _count_rows(split_exchanges(path, reading, (1 - valid - test, valid, test), seed, notes), rows)
    if out == "-":
        for exchange in exchanges:
            _print(as_json(exchange))
    else:
        write_exchanges(Path(out), exchanges)
    for note in notes:
        click.echo(f"emogen: note: {note}", err=True)
    click.echo(f"{out}: {_list_names(rows)}", err=True)


@data.command("list")
@_JSON
def list_corpora(as_object: bool) -> None:
    """List the corpora that `emogen data fetch` knows."""
    rows = [
        {
            "name": corpus.name,
            "language": corpus.language,
            "labels": len(corpus.labels),
            "licence": corpus.licence,
            "home": corpus.home,
            "note": corpus.note,
            "path": _path_of(corpus),
        }
        for corpus in CORPORA
    ]
    if as_object:
        _print(json.dumps(rows, ensure_ascii=False))
        return
    for row in rows:
        state = row["path"] or "not fetched"
        _print(f"{row['name']:<20} {row['language']}  {row['labels']:>2} labels  {row['licence']}")
        _print(f"{'':<20} {row['home']}  ({state})")
        _print(f"{'':<20} {row['note']}")


@data.command()
@click.argument("name")
@click.option(
    "--from",
    "from_folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Read the official files, or NAME.jsonl[.gz], from here instead of the network.",
)
@click.option(
    "--to",
    "target_folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write NAME.jsonl.gz here.  [default: EMOGEN_DATA, or the cache folder]",
)
@click.option(
    "--roles",
    type=click.Choice(get_args(Roles)),
    default="replies",
    show_default=True,
    help="empatheticdialogues, esconv: the answers alone, or what the one who feels says as well.",
)
def fetch(name: str, from_folder: Path | None, target_folder: Path | None, roles: Roles) -> None:
    """Fetch a public corpus and print the path of the file written."""
    corpus = corpus_named(name)
    click.echo(f"{name}: {corpus.licence}; {corpus.home}", err=True)
    _print(str(fetch_corpus(corpus, target_folder, from_folder, roles, _progress())))


def _print(text: str) -> None:
    print_text(text)


def _count_rows(exchanges: Iterable[Exchange], rows: Counter[str]) -> Iterator[Exchange]:
    for exchange in exchanges:
        rows[exchange.split] += 1
        yield exchange


def _progress() -> Progress:
    """Tell of every further mebibyte: in one line that changes on a terminal, else in one line at the end."""
    conditioning: dict[str, int] = {}

    def tell(url: str, done: int, total: int | None) -> None:
        step, ended = done // _STEP, done == total
        if not ended and (not sys.stderr.isatty() or conditioning.get(url) == step):
            return
        conditioning[url] = step
        click.echo(f"\r{url}: {done / _STEP:.1f} MiB", err=True, nl=ended)

    return tell


def _path_of(corpus: Corpus) -> str | None:
    try:
        return str(locate(corpus.name))
    except DataError:
        return None


def _report_text(report: Report) -> str:
    problems = [*_problem_lines(report), f"problems     {sum(kind.rows for kind in report.kinds):,}"]
    layout = [f"layout       {sentence}" for sentence in report.layout]
    if not report.counts.rows:
        return "\n".join([*problems, "rows         0", *layout])
    return "\n".join(
        [
            *problems,
            *_counts_lines(report.counts),
            f"duplicates   {report.duplicates.rows:,}{_places(report.duplicates.lines)}",
            f"overlap      {report.overlap.rows:,} of valid and test in train{_places(report.overlap.lines)}",
            *_single_lines(report.single),
            *(f"note         {note}" for note in report.notes),
            *layout,
            *(_fault_line(fault) for fault in report.faults),
        ]
    )


def _problem_lines(report: Report) -> Iterator[str]:
    """Return of each kind of problem the first ones, how many more there are, and a way out that they share once."""
    most = min(_SHOWN_OF_A_KIND, max(_SHOWN_FINDINGS // max(len(report.kinds), 1), 1))
    for kind in report.kinds:
        first = [finding for finding in report.problems if finding.kind == kind.kind][:most]
        ways_out = {finding.message.partition("; ")[2] for finding in first}
        shared = ways_out.pop() if len(first) > 1 and len(ways_out) == 1 else ""
        for finding in first:
            yield f"{report.path}:{_place(finding)}: {finding.message.removesuffix('; ' + shared)}{_times(finding)}"
        more = kind.rows - sum(finding.rows for finding in first)
        if more:
            yield f"{report.path}: and {more:,} more row{'s' * (more > 1)} like these, the last in line {kind.last_line:,}"
        if shared:
            yield f"{'':<12} {shared}"


def _place(finding: Finding) -> str:
    is_run = finding.rows > 1 and finding.kind != UNKNOWN_EMOTION
    return f"{finding.line}-{finding.last_line}" if is_run else str(finding.line)


def _times(finding: Finding) -> str:
    return f" ({finding.rows:,} rows)" if finding.rows > 1 else ""


def _single_lines(single: Mapping[str, int]) -> list[str]:
    lines = [f"single row   {name!r}, line {line}" for name, line in list(single.items())[:_SHOWN]]
    more = len(single) - len(lines)
    return [*lines, f"single row   and {more:,} labels more"] if more else lines


def _fault_line(fault: KindCount) -> str:
    way_out = "get the text again" if fault.kind == "lost characters" else "pass --fix-text to mend them"
    rows = "1 row holds" if fault.rows == 1 else f"{fault.rows:,} rows hold"
    return f"texts        {rows} {FAULTS[fault.kind]}, the first in line {fault.line:,}; {way_out}"


def _places(lines: tuple[tuple[int, int], ...]) -> str:
    shown = ", ".join(f"{line} (as {first})" for line, first in lines[:_SHOWN])
    more = ", ..." if len(lines) > _SHOWN else ""
    return f": line {shown}{more}" if lines else ""


def _counts_lines(counts: Counts) -> list[str]:
    return [
        f"rows         {counts.rows:,}",
        f"splits       {_list_names(counts.splits)}",
        f"labels       {_list_names(dict(list(counts.labels.items())[:_SHOWN_LABELS]))}{_more_labels(counts.labels)}",
        f"reply        {_quantiles(counts.reply_words)}",
        f"context      {_quantiles(counts.context_words)}; {counts.rows_with_context:,} rows have one",
    ]


def _more_labels(labels: Mapping[str, int]) -> str:
    more = len(labels) - _SHOWN_LABELS
    return f", and {more:,} labels more" if more > 0 else ""


def _quantiles(lengths: Lengths) -> str:
    middle = f"5% {lengths.q05}, 25% {lengths.q25}, 50% {lengths.median}, 75% {lengths.q75}, 95% {lengths.q95}"
    return f"words: least {lengths.smallest}, {middle}, most {lengths.largest}"


def _list_names(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name or 'unnamed'} {rows:,}" for name, rows in counts.items()) or "none"


def _stats_text(found: Stats) -> str:
    return "\n".join(
        [
            *_counts_lines(found.counts),
            f"words        {found.words:,}, {found.distinct_words:,} distinct",
            f"words/label  {_list_names(found.words_by_label)}",
            f"opening      {found.opening!r} begins {found.opening_rows:,} rows",
            *(f"note         {note}" for note in found.notes),
        ]
    )
