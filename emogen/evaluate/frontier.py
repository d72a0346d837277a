"""Quality against diversity over sampling temperatures: systems are compared by their frontiers, not by single points.

Source: Caccia et al. 2020, Language GANs falling short.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emogen.errors import DataError, SettingsError
from emogen.evaluate.score import Score, require_items
from emogen.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

LOWER_IS_BETTER = frozenset(
    {
        "ter",
        "self_bleu",
        "commonest",
        "copied",
        "perplexity",
        "reverse_perplexity",
        "nats",
        "nll",
        "frechet",
        "calibration_error",
    }
)
"""By name, without an order at its end (`self_bleu` for `self_bleu4`); of `nll_heldout` and the like the first part counts."""

# Okabe & Ito 2008, for colour-blind readers, without the yellow, which is too faint for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LINES = ("-", "--", "-.", ":")
_STYLE = {"svg.hashsalt": "emogen", "svg.fonttype": "none", "text.parse_math": False}
_BAR = 0.6
# The first ones that are installed draw the Chinese letters that matplotlib's own font lacks.
_CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "PingFang SC",
    "Microsoft YaHei",
)
_INCHES = (6.4, 4.8)
_DOTS_PER_INCH = 200


@dataclass(frozen=True)
class Point:
    """One system at one temperature.

    Attributes:
        system: its name; points of one name make one curve.
        temperature: of sampling, 0 for greedy decoding.
        quality: any metric, the same one for all points compared.
        diversity: likewise.
    """

    system: str
    temperature: float
    quality: Score
    diversity: Score


@dataclass(frozen=True)
class Axis:
    """What is measured along one axis of the plane.

    Attributes:
        name: of the metric.
        lower_is_better: whether a lower value is the better one.
    """

    name: str
    lower_is_better: bool = False

    @property
    def sign(self) -> int:
        """Return what to multiply values by so that more is better."""
        return -1 if self.lower_is_better else 1

    @property
    def label(self) -> str:
        """Return the name and which way is better."""
        return f"{self.name} ({'lower is better, axis reversed' if self.lower_is_better else 'higher is better'})"


def axis(name: str) -> Axis:
    """Return the axis of a metric of this package, by its name; for any other metric make an `Axis`.

    >>> axis("self_bleu4").lower_is_better, axis("distinct2").lower_is_better
    (True, False)
    """
    stem = re.sub(r"\d+$", "", name)
    return Axis(name, stem in LOWER_IS_BETTER or stem.split("_")[0] in {"nll", "nats", "perplexity"})


def pareto(points: Sequence[Point], quality: Axis, diversity: Axis) -> list[Point]:
    """Return the points that no other beats: none is as good on both axes and better on one.

    Args:
        points: of one system or several.
        quality: the axis of `Point.quality`.
        diversity: the axis of `Point.diversity`.

    Returns:
        Those points, in the order given; equal ones are all kept. Intervals play no part.

    Raises:
        DataError: if there is no point, or a number in one is not finite.
    """
    _check(points)
    places = [_orient(point, quality, diversity) for point in points]
    best: list[Point] = []
    for point, (good, diverse) in zip(points, places, strict=True):
        beaten = any(other != (good, diverse) and other[0] >= good and other[1] >= diverse for other in places)
        if not beaten:
            best.append(point)
    return best


def hypervolume(points: Sequence[Point], reference: tuple[float, float], quality: Axis, diversity: Axis) -> float:
    """Return the area of the plane where some point is at least as good on both axes: one number for a whole frontier.

    Areas compare only for the same reference and metrics, and for as many temperatures over as wide a range.

    Args:
        points: of one system; dominated points add nothing.
        reference: quality and diversity of the worst corner, as measured. Points worse than it on an axis add nothing.
        quality: the axis of `Point.quality`.
        diversity: the axis of `Point.diversity`.

    Returns:
        The area between the reference and the points, in units of quality times diversity; 0 if no point is better than the
        reference on both.

    Raises:
        DataError: if there is no point, or a number in one or in the reference is not finite.

    Source: Zitzler & Thiele 1998, Multiobjective optimization using evolutionary algorithms.
    """
    _check(points)
    if not all(map(math.isfinite, reference)):
        raise DataError(f"the reference {reference} is not finite: pass the worst quality and diversity that count")
    worst = (quality.sign * reference[0], diversity.sign * reference[1])
    return dominated_volume([_orient(point, quality, diversity) for point in points], worst)


def dominated_volume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Return the volume of all places that some point equals or beats on every axis and that beat the reference.

    Any number of axes.

    Args:
        points: each with one number an axis, more being better on all; dominated ones add nothing, nor do those that are not
            better than the reference on every axis.
        reference: the worst corner.

    Returns:
        In the product of the axes' units; 0 without points.

    Raises:
        DataError: if a point has another number of axes than the reference, there is none, or a number is not finite.

    Source: Zitzler & Thiele 1998, Multiobjective optimization using evolutionary algorithms; by slices along one axis after
    another, as While et al. 2006, A faster algorithm for calculating hypervolume.

    >>> dominated_volume([(2, 1, 1), (1, 3, 1)], (0, 0, 0))
    4.0
    """
    for place in (reference, *points):
        if len(place) != len(reference) or not len(place) or not all(map(math.isfinite, place)):
            raise DataError(f"{tuple(place)} against the reference {tuple(reference)}: pass as many numbers each, all finite")
    better = [tuple(point) for point in points if all(own > worst for own, worst in zip(point, reference, strict=True))]
    return float(_slice_volume(better, tuple(reference)))


def _slice_volume(points: Sequence[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    """Return the volume of points that all beat the reference.

    Slabs along the first axis, each as wide as the points beyond it.
    """
    if len(reference) == 1:
        return max((point[0] - reference[0] for point in points), default=0.0)
    ordered = sorted(points, reverse=True)
    floors = [*(point[0] for point in ordered[1:]), reference[0]]
    return math.fsum(
        (point[0] - floor) * _slice_volume([other[1:] for other in ordered[: number + 1]], reference[1:])
        for number, (point, floor) in enumerate(zip(ordered, floors, strict=False))
        if point[0] > floor
    )


def draw(points: Sequence[Point], path: str | Path, quality: Axis, diversity: Axis) -> tuple[Path, Path]:
    """Draw one curve a system through its temperatures, with 95% intervals, as PNG and SVG.

    The upper right is always the better corner: an axis whose metric is better low runs backwards and says so. Each point bears
    its temperature. Systems differ in colour (fit for colour-blind readers), marker and line. The same points give the same
    bytes with the same matplotlib and fonts. The SVG keeps its text as text; in the PNG, letters that no installed font has
    are boxes.

    Args:
        points: of all systems; a system has each temperature once.
        path: where to write, without suffix; `.png` or `.svg` at its end is dropped.
        quality: the axis of `Point.quality`, upwards.
        diversity: the axis of `Point.diversity`, to the right.

    Returns:
        The PNG's and the SVG's path. Both files are written whole or not at all.

    Raises:
        DataError: if there is no point, a number in one is not finite, or a system has a temperature twice.
        SettingsError: if matplotlib is not installed.
        EmogenError: if a file cannot be written.
    """
    path = Path(path)
    _check(points)
    curves = _curves(points)
    try:
        from matplotlib import font_manager, style
    except ImportError as error:
        raise SettingsError('drawing needs matplotlib: run pip install -e ".[plots]" in the toolkit\'s folder') from error
    installed = font_manager.fontManager.get_font_names()
    fonts = ["DejaVu Sans", *(name for name in _CHINESE_FONTS if name in installed)]
    with style.context(["default", {**_STYLE, "font.family": fonts}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure = _figure(curves, quality, diversity)
        stem = path.name.removesuffix(".png").removesuffix(".svg")
        png, svg = path.with_name(f"{stem}.png"), path.with_name(f"{stem}.svg")
        with replace_file(png) as png_beside, replace_file(svg) as svg_beside:
            figure.savefig(png_beside, format="png", dpi=_DOTS_PER_INCH)
            figure.savefig(svg_beside, format="svg", metadata={"Date": None})
        return png, svg


def _check(points: Sequence[Point]) -> None:
    require_items(points, "points")
    for point in points:
        for name, score in (("quality", point.quality), ("diversity", point.diversity)):
            if not all(map(math.isfinite, (point.temperature, score.value, score.low, score.high))):
                raise DataError(
                    f"{point.system} at temperature {point.temperature}: {name} is {score.value} "
                    f"({score.low} to {score.high}); every number must be finite, so leave the point out and say so"
                )


def _orient(point: Point, quality: Axis, diversity: Axis) -> tuple[float, float]:
    """Quality and diversity so that more is better."""
    return quality.sign * point.quality.value, diversity.sign * point.diversity.value


def _curves(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Return each system's points in the order of their temperatures."""
    curves: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda point: point.temperature):
        curve = curves.setdefault(point.system, [])
        if curve and curve[-1].temperature == point.temperature:
            raise DataError(
                f"{point.system} has two points at temperature {point.temperature:g}: "
                "average its seeds, or give each seed a name of its own"
            )
        curve.append(point)
    return {system: curves[system] for system in dict.fromkeys(point.system for point in points)}


def _figure(curves: dict[str, list[Point]], quality: Axis, diversity: Axis) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.add_subplot()
    lines = [_draw_curve(axes, curve, number) for number, curve in enumerate(curves.values())]
    axes.set_xlabel(f"diversity: {diversity.label}")
    axes.set_ylabel(f"quality: {quality.label}")
    axes.xaxis.set_inverted(diversity.lower_is_better)
    axes.yaxis.set_inverted(quality.lower_is_better)
    axes.grid(alpha=0.3, linewidth=0.5)
    # The names are set afterwards, since matplotlib leaves out labels that begin with an underscore.
    legend = axes.legend(lines, ["system"] * len(lines))
    for text, system in zip(legend.get_texts(), curves, strict=True):
        text.set_text(system)
    return figure


def _draw_curve(axes: Axes, curve: Sequence[Point], number: int) -> Line2D:
    colour = _COLOURS[number % len(_COLOURS)]
    diverse, good = [point.diversity.value for point in curve], [point.quality.value for point in curve]
    marker, line = _MARKERS[number % len(_MARKERS)], _LINES[number % len(_LINES)]
    (drawn,) = axes.plot(diverse, good, color=colour, marker=marker, linestyle=line, markersize=5, linewidth=1.2)
    across, along = [point.diversity for point in curve], [point.quality for point in curve]
    axes.hlines(good, [score.low for score in across], [score.high for score in across], colour, linewidths=_BAR)
    axes.vlines(diverse, [score.low for score in along], [score.high for score in along], colour, linewidths=_BAR)
    for point in curve:
        place = (point.diversity.value, point.quality.value)
        axes.annotate(f"{point.temperature:g}", place, xytext=(4, 4), textcoords="offset points", fontsize=7)
    return drawn
