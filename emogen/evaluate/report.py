"""How scores are shown: the report of one evaluation as JSON, Markdown or a table, and the result file of a benchmark."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from emogen import files
from emogen.errors import DataError
from emogen.evaluate.score import Score, toolkit_version
from emogen.evaluate.significance import Comparison, holm
from emogen.files import sha256, write_text

_VERSIONED = ("torch", "transformers", "sentencepiece", "sacrebleu", "rouge-score", "nltk", "numpy")
_MOST_DECIMALS = 6
_BREAKS = frozenset({"Cc", "Cs", "Zl", "Zp"})

_Rows = list[list[str]]


@dataclass(frozen=True)
class Report:
    """The scores of one evaluation.

    Attributes:
        systems: for each system's name its scores by metric, in the order in which they are shown; a system may lack a metric.
        texts: for each system's name how many texts were scored.
        notes: one line each, such as which metric was left out and why.
        comparisons: first system, second system, metric, and how they compare.

    Raises:
        DataError: on creation, if there is no system, or a number is not finite.
    """

    systems: Mapping[str, Mapping[str, Score]]
    texts: Mapping[str, int]
    notes: Sequence[str] = ()
    comparisons: Sequence[tuple[str, str, str, Comparison]] = ()

    def __post_init__(self) -> None:
        if not self.systems:
            raise DataError("no system to report: pass the scores of at least one")
        for system, scores in self.systems.items():
            for metric, score in scores.items():
                _require_finite(f"{system}: {metric}", score.value, score.low, score.high)
        for first, second, metric, found in self.comparisons:
            _require_finite(f"{first} and {second}: {metric}", found.difference, found.low, found.high, found.p)


def as_json(report: Report) -> str:
    """Return the report for machines, at full precision, in the report's own order, with a line feed at its end.

    Returns:
        For one system `{"scores": {METRIC: {"value", "low", "high", "signature"}}, "texts", "notes"}`. For several
        `{"systems": {SYSTEM: {"scores", "texts"}}, "comparisons": [{"first", "second", "metric", "difference", "low", "high",
        "p", "p_holm", "test", "signature"}], "notes"}`, where `p_holm` is adjusted for all comparisons in the report. Never NaN
        or infinity.
    """
    systems = {
        system: {"scores": {metric: asdict(score) for metric, score in scores.items()}, "texts": report.texts[system]}
        for system, scores in report.systems.items()
    }
    notes = {"notes": list(report.notes)}
    if len(systems) == 1:
        (only,) = systems.values()
        return _dump({**only, **notes})
    comparisons = [
        {"first": first, "second": second, "metric": metric, **asdict(found), "p_holm": adjusted}
        for (first, second, metric, found), adjusted in zip(report.comparisons, _adjust(report), strict=True)
    ]
    return _dump({"systems": systems, "comparisons": comparisons, **notes})


def as_markdown(report: Report) -> str:
    """Return the report as a page in Markdown: scores, comparisons, notes, and how each score was computed.

    Systems are rows and metrics columns; a single system has a row for each metric instead. A cell is `value [low, high]` with
    the 95% interval, empty where a system lacks the metric. Values have three significant digits, and more where the interval
    is narrow.
    """
    parts = [_format_markdown(_score_rows(report))]
    if report.comparisons:
        parts.append(_format_markdown(_comparison_rows(report)))
    if report.notes:
        parts.append("\n".join(f"- {_escape(note)}" for note in report.notes))
    parts.append("How computed:\n\n" + "\n".join(f"- {line}" for line in _signatures(report)))
    return "\n\n".join(parts) + "\n"


def as_table(report: Report, width: int = 120) -> str:
    """Return the report for a terminal: what `as_markdown` says, in aligned columns, without the signatures.

    Characters that a terminal shows two columns wide (Chinese, most emoji) are counted as two.

    Args:
        report: the scores.
        width: of the terminal; a table of several systems that would be wider is continued below, with its systems named again.
    """
    parts = [_align(rows) for rows in _within(_score_rows(report), width)]
    if report.comparisons:
        parts.append(_align(_comparison_rows(report)))
    if report.notes:
        parts.append("\n".join(f"note: {_one_line(note)}" for note in report.notes))
    return "\n\n".join(parts) + "\n"


def write_result(
    path: str | Path,
    command: str,
    data: Sequence[str | Path],
    rows: Sequence[Mapping[str, object]],
    extra: Mapping[str, object] | None = None,
) -> None:
    """Write a benchmark's figures with all that is needed to judge and repeat them, whole or not at all.

    Args:
        path: evaluate/results/NAME.json; NAME is the benchmark's.
        command: what anyone can run to get the file.
        data: files that the figures depend on; their SHA-256 are written, folders count by their model's weights.
        rows: one for each system (and seed, temperature and so on). A Score becomes its value, with its interval beside it.
        extra: anything else, at the top level.
    """
    path = Path(path)
    found = {"emogen": toolkit_version()}
    for name in _VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    content = {
        "benchmark": path.stem,
        "command": command,
        "versions": found,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "data": {
            file.name if file.is_file() else f"{file.name}/model.safetensors": sha256(_weights(file))
            for file in map(Path, data)
        },
        **(extra or {}),
        "rows": [_flat(row) for row in rows],
    }
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file that an earlier call of a benchmark wrote, such as its result.

    Raises:
        DataError: it is no JSON.
    """
    try:
        return files.read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: is no JSON ({error}); move it away, and it is made again") from None


def command_of(script: str, context: click.Context) -> str:
    """Return how a benchmark of that name was called, quoted for a shell, without --out.

    Of absolute paths the last two parts.
    """
    parts = [f"python evaluate/{script}.py"]
    for option in context.command.params:
        name = option.name or ""
        if name != "out" and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            given = context.params[name]
            flag = option.opts[:1] if isinstance(option, click.Option) else []
            for value in given if isinstance(given, tuple) else (given,):
                parts += flag if value is True else [*flag, shlex.quote(re.sub(r"/.*/(?=[^/]+/[^/]+$)", "", str(value)))]
    return " ".join(parts)


def _weights(path: Path) -> Path:
    return path / "model.safetensors" if path.is_dir() else path


def _flat(row: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in row.items():
        if isinstance(value, Score):
            flat[name] = round(value.value, 5)
            flat[f"{name}_interval"] = [round(value.low, 5), round(value.high, 5)]
        else:
            flat[name] = round(value, 5) if isinstance(value, float) else value
    return flat


def _require_finite(name: str, *numbers: float) -> None:
    for number in numbers:
        if not math.isfinite(number):
            raise DataError(f"{name} has {number} for a value, an interval's end or p: leave it out of the report, with a note")


def _dump(content: Mapping[str, object]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _adjust(report: Report) -> list[float]:
    return holm([found.p for _, _, _, found in report.comparisons])


def _score_rows(report: Report) -> _Rows:
    """Return a row for each system, of its texts and metrics; of a single system the same table on its side."""
    metrics = list(dict.fromkeys(metric for scores in report.systems.values() for metric in scores))
    rows = [["", "texts", *metrics]]
    for system, scores in report.systems.items():
        rows.append([system, str(report.texts[system]), *(_score_cell(scores.get(metric)) for metric in metrics)])
    return rows if len(report.systems) > 1 else list(map(list, zip(*rows, strict=True)))


def _within(rows: _Rows, width: int) -> list[_Rows]:
    """Return the table in as many parts of its columns as fit the width.

    Each behind the first column and at least one column wide.
    """
    widths = [max(_width(_one_line(cell)) for cell in column) for column in zip(*rows, strict=True)]
    parts: list[list[int]] = [[]]
    for column in range(1, len(widths)):
        if parts[-1] and widths[0] + sum(2 + widths[own] for own in [*parts[-1], column]) > width:
            parts.append([])
        parts[-1].append(column)
    return [[[row[0], *(row[column] for column in own)] for row in rows] for own in parts]


def _score_cell(score: Score | None) -> str:
    if score is None:
        return ""
    decimals = max(_decimals(score.value, 3), _decimals(score.high - score.low, 1))
    return f"{score.value:.{decimals}f} [{score.low:.{decimals}f}, {score.high:.{decimals}f}]"


def _comparison_rows(report: Report) -> _Rows:
    rows = [["metric", "first", "second", "second - first", "p", "p (Holm)", "test"]]
    for (first, second, metric, found), adjusted in zip(report.comparisons, _adjust(report), strict=True):
        p_values = [f"{found.p:.2g}", f"{adjusted:.2g}"]
        width = found.high - found.low
        decimals = _decimals(width, 2) if width else _decimals(found.difference, 3)
        rows.append(
            [
                metric,
                first,
                second,
                (f"{found.difference:+.{decimals}f} [{found.low:+.{decimals}f}, {found.high:+.{decimals}f}]"),
                *p_values,
                found.test.replace("_", " "),
            ]
        )
    return rows


def _decimals(number: float, digits: int) -> int:
    """Return places behind the point that show so many significant digits of a number; none for 0."""
    if not number:
        return 0
    return min(_MOST_DECIMALS, max(0, digits - 1 - math.floor(math.log10(abs(number)))))


def _signatures(report: Report) -> list[str]:
    """Return each different one once, systems and comparisons alike, as code."""
    scores = [score.signature for metrics in report.systems.values() for score in metrics.values()]
    tests = [found.signature for _, _, _, found in report.comparisons]
    return [f"`{_one_line(signed)}`" for signed in dict.fromkeys([*scores, *tests])]


def _one_line(text: str) -> str:
    """Without line breaks and control characters."""
    return " ".join("".join(" " if unicodedata.category(letter) in _BREAKS else letter for letter in text).split())


def _format_markdown(rows: _Rows) -> str:
    """Return a table in Markdown; the first row is its head."""
    lines = ["| " + " | ".join(map(_escape, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _escape(text: str) -> str:
    """Return it on one line, with the signs that Markdown would read as its own marked."""
    return re.sub(r"([\\|*<`])", r"\\\1", _one_line(text))


def _align(rows: _Rows) -> str:
    cells = [[_one_line(cell) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join((cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True))).rstrip()
        for row in cells
    )


def _width(text: str) -> int:
    """Return columns in a terminal: two for wide characters, none for marks that join the one before."""
    return sum(
        0 if unicodedata.category(letter) in {"Mn", "Me", "Cf"} else (2 if unicodedata.east_asian_width(letter) in "WF" else 1)
        for letter in text
    )
