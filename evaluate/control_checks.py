"""What must hold, as a table of figure, wanted and got, from the rows of a result file of `control.py`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from control_calibration import CALIBRATED
from control_speed import MANY, ONE

NOT_CONTROLLERS = ("real", "plain", "prompt")
NEAR_REAL = 0.02
ABOVE_REAL = 0.10
COSTLIER = 1.25
LEAST_RATIO = {"head": 0.85, "guidance": 0.45, "bayes": 0.2}
LEAST_RATIO_OF_MANY = 0.95
LEAST_SPEARMAN = 0.9
MOST_SHARE_ERROR = 0.12
SENTIGAN = 0.885

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """One line of the table; `holds` is None where nothing was measured."""

    figure: str
    wanted: str
    got: str
    holds: bool | None


def checks(rows: Sequence[Row], labels: int) -> list[Check]:
    """Return all that can be said from the rows that are there; two labels have a table of their own for the texts."""
    texts = of_part(rows, "texts")
    found = two_class_checks(texts) if labels == 2 else text_checks(texts)
    found += strength_checks(of_part(rows, "strength"))
    found += mixture_checks(of_part(rows, "mixtures"))
    return [*found, *speed_checks(of_part(rows, "speed"))]


def of_part(rows: Sequence[Row], part: str) -> list[Row]:
    """Return the rows of one part."""
    return [row for row in rows if row["part"] == part]


def at_operating(rows: Sequence[Row], system: str, metric: str) -> float | None:
    """Return the mean over the seeds of a system's chosen setting; of `real` the one row."""
    own = [row[metric] for row in rows if row["system"] == system and metric in row and row.get("is_operating", True)]
    return statistics.mean(own) if own else None


def controllers(rows: Sequence[Row]) -> list[str]:
    """Return the systems that are measured against plain."""
    return list(dict.fromkeys(row["system"] for row in rows if row["system"] not in NOT_CONTROLLERS))


def text_checks(rows: Sequence[Row]) -> list[Check]:
    """Plain beside people, and each controller at its operating point beside both."""
    if not rows:
        return [Check("texts", "measured", "", None)]
    found = []
    for metric in ("emotion_accuracy", "emotion_accuracy_second"):
        real, plain = (at_operating(rows, system, metric) for system in ("real", "plain"))
        if real is not None and plain is not None:
            found.append(at_least(f"plain, {metric}", plain, real - NEAR_REAL, f"real {real:.3f} less .02"))
    fine = {name: beside_both(rows, name) for name in controllers(rows)}
    found += [check for own in fine.values() for check in own]
    passing = [name for name, own in fine.items() if own and all(check.holds for check in own)]
    best = "best controller: .10 above real, as various as plain, perplexity at most 1.25 times"
    return [*found, Check(best, "one or more", ", ".join(passing) or "none", bool(passing)) if fine else not_measured(best)]


def beside_both(rows: Sequence[Row], name: str) -> list[Check]:
    """Return the three conditions of one controller."""
    values = {
        (system, metric): at_operating(rows, system, metric)
        for system in ("real", "plain", name)
        for metric in ("emotion_accuracy", "distinct2_corrected", "perplexity")
    }

    def checked(metric: str, other: str, decide: Callable[[float, float], Check]) -> Check:
        own, theirs = values[name, metric], values[other, metric]
        return not_measured(f"{name}, {metric}") if own is None or theirs is None else decide(own, theirs)

    return [
        checked(
            "emotion_accuracy",
            "real",
            lambda own, real: at_least(f"{name}, emotion_accuracy", own, real + ABOVE_REAL, f"real {real:.3f} and .10"),
        ),
        checked(
            "distinct2_corrected",
            "plain",
            lambda own, plain: at_least(f"{name}, distinct2_corrected", own, plain, "that of plain"),
        ),
        checked(
            "perplexity",
            "plain",
            lambda own, plain: at_most(f"{name}, perplexity", own, COSTLIER * plain, f"1.25 times {plain:.1f}"),
        ),
    ]


def two_class_checks(rows: Sequence[Row]) -> list[Check]:
    """Return SentiGAN's protocol: more accurate than it, and not less various than people."""
    found = []
    for name in controllers(rows):
        accuracy, distinct = (at_operating(rows, name, metric) for metric in ("emotion_accuracy", "distinct2_corrected"))
        real = at_operating(rows, "real", "distinct2_corrected")
        if accuracy is not None:
            found.append(at_least(f"{name}, emotion_accuracy", accuracy, SENTIGAN, "SentiGAN's"))
        if distinct is not None and real is not None:
            found.append(at_least(f"{name}, distinct2_corrected", distinct, real, "that of real"))
    return found or [not_measured("two classes")]


def strength_checks(rows: Sequence[Row]) -> list[Check]:
    """Return the rank correlation of each emotion, the mean over the seeds."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["system"] == CALIBRATED and "spearman" in row:
            values.setdefault(row["case"], []).append(row["spearman"])
    named = {name: statistics.mean(own) for name, own in values.items()}
    found = [at_least(f"strength, {name}: Spearman", value, LEAST_SPEARMAN, "") for name, value in named.items()]
    return found or [not_measured("strength")]


def mixture_checks(rows: Sequence[Row]) -> list[Check]:
    """Return the mean error of the judged shares, the mean over the seeds."""
    errors = [row["share_error"] for row in rows if row["system"] == CALIBRATED and "share_error" in row]
    if not errors:
        return [not_measured("mixtures")]
    return [at_most("mixtures of two, mean absolute error of judged share", statistics.mean(errors), MOST_SHARE_ERROR, "")]


def speed_checks(rows: Sequence[Row]) -> list[Check]:
    """Return tokens a second of each controller beside plain, and of many targets beside one."""
    ratios = {(row["system"], row["case"]): row["ratio"] for row in rows}
    found = []
    for name, least in LEAST_RATIO.items():
        got = ratios.get((name, ONE))
        figure = f"{name}, tokens a second of plain's"
        found.append(not_measured(figure) if got is None else at_least(figure, got, least, ""))
    for (name, case), got in ratios.items():
        if case == MANY and name in ("plain", "head", "guidance", "bayes", "expert"):
            found.append(at_least(f"{name}, {MANY} beside one", got, LEAST_RATIO_OF_MANY, ""))
    return found


def not_measured(figure: str) -> Check:
    """Return a line without a figure."""
    return Check(figure, "", "not measured", None)


def at_least(figure: str, got: float, least: float, why: str) -> Check:
    """Return a line for a floor."""
    return Check(figure, f">= {least:.3f}" + f" ({why})" * bool(why), f"{got:.3f}", got >= least)


def at_most(figure: str, got: float, most: float, why: str) -> Check:
    """Return a line for a ceiling."""
    return Check(figure, f"<= {most:.3f}" + f" ({why})" * bool(why), f"{got:.3f}", got <= most)


def table(found: Sequence[Check]) -> str:
    """Return the lines for a terminal.

    >>> print(table([Check("a", ">= 1", "2", True), Check("b", "", "not measured", None)]))
    figure  wanted  got           holds
    a       >= 1    2             yes
    b               not measured  -
    """
    marks = {True: "yes", False: "NO", None: "-"}
    lines = [("figure", "wanted", "got", "holds"), *((c.figure, c.wanted, c.got, marks[c.holds]) for c in found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines)


def as_rows(found: Sequence[Check]) -> list[dict[str, object]]:
    """Return the lines for the result file."""
    return [asdict(check) for check in found]
