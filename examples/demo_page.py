"""The page of the demo: texts, table and picture in one HTML file, and the picture as a PNG beside it."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from emogen.errors import SettingsError
from emogen.evaluate import Score
from emogen.files import replace_file, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SYSTEMS = ("start", "VAE", "adversarial")
NAMES = {"start": "before: the model that ships", "VAE": "VAE", "adversarial": "adversarial"}
# Okabe & Ito 2008, for colour-blind readers.
COLOURS = {"start": "#767676", "VAE": "#0072B2", "adversarial": "#D55E00"}
MARKERS = {"start": "s", "VAE": "o", "adversarial": "D"}
INK, FAINT = "#1f2933", "#8a94a0"
STYLE = {
    "font.size": 11,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "svg.hashsalt": "emogen",
}


@dataclass(frozen=True)
class Point:
    """One system at one temperature.

    Attributes:
        system: one of SYSTEMS.
        temperature: of sampling.
        scores: of its replies to the test contexts, by the names of the table's columns.
    """

    system: str
    temperature: float
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class Line:
    """The texts of every system, by its name, for one emotion."""

    emotion: str
    texts: Mapping[str, str]


@dataclass(frozen=True)
class Curves:
    """What the two runs logged.

    Attributes:
        nats: (update, nats a held-out reply); after update 0 an upper bound of the VAE.
        told_apart: (update, share of pairs in which the discriminator tells the person's reply from the generator's).
        first_update: number of discriminator updates before the generator's first.
    """

    nats: Sequence[tuple[int, float]]
    told_apart: Sequence[tuple[int, float]]
    first_update: int


@dataclass(frozen=True)
class Findings:
    """All that the demo found.

    Attributes:
        message: what the lines reply to.
        lines: one an emotion.
        contexts: number of test contexts.
        people: scores of the persons' own replies.
        points: of every system at every temperature.
        at: temperature of the lines and of the table.
        curves: of the two runs.
        chance: emotion accuracy by chance.
        seconds: how long each part took.
    """

    message: str
    lines: Sequence[Line]
    contexts: int
    people: Mapping[str, Score]
    points: Sequence[Point]
    at: float
    curves: Curves
    chance: float
    seconds: Mapping[str, float]

    def measured(self) -> list[Point]:
        """Return each system's point at the table's temperature."""
        return [point for point in self.points if point.temperature == self.at]

    def table(self) -> dict[str, dict[str, str]]:
        """Return the cells of the table by row and column."""
        rows = {"people": self.people, **{point.system: point.scores for point in self.measured()}}
        columns = self.measured()[0].scores
        return {name: {column: as_cell(scores.get(column)) for column in columns} for name, scores in rows.items()}

    def note(self) -> str:
        """Return what keeps a reader from taking the people's low accuracy for a defect of people."""
        return (
            f"The judge finds the emotion in {self.people['emotion accuracy'].value:.0%} of the people's replies, which show "
            "a feeling and seldom name it; the models write plainer. High accuracy is control, not quality."
        )


def as_cell(score: Score | None) -> str:
    """Write a score with its interval; a dash where there is none."""
    return "–" if score is None else f"{score.value:.2f} ({score.low:.2f} to {score.high:.2f})"


def require_matplotlib() -> None:
    """Raise SettingsError where matplotlib is not installed, before a user has waited for what it is to draw."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SettingsError('the picture needs matplotlib: run pip install -e ".[demo]" in the toolkit\'s folder') from None


def write_page(found: Findings, out: Path) -> Path:
    """Write demo.html, whole by itself, and demo.png into the folder `out`; return the page's path."""
    from matplotlib import style

    with style.context(["default", STYLE]):
        figure = draw(found)
        with replace_file(out / "demo.png") as beside:
            figure.savefig(beside, format="png", dpi=160)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    svg = drawn.getvalue()
    write_text(out / "demo.html", as_html(found, svg[svg.index("<svg") :]))
    return out / "demo.html"


def draw(found: Findings) -> Figure:
    """Draw the frontier, large, and the two learning curves beside it."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(11, 5.4), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    grid = figure.add_gridspec(2, 2, width_ratios=(1.55, 1))
    draw_frontier(figure.add_subplot(grid[:, 0]), found)
    draw_likelihood(figure.add_subplot(grid[0, 1]), found.curves)
    draw_discriminator(figure.add_subplot(grid[1, 1]), found.curves)
    return figure


def draw_frontier(axes: Axes, found: Findings) -> None:
    """Draw judged emotion against variety of words, a curve a system through its temperatures, with 95% intervals."""
    for name in SYSTEMS:
        points = sorted((point for point in found.points if point.system == name), key=lambda point: point.temperature)
        across = [point.scores["distinct-2"] for point in points]
        along = [point.scores["emotion accuracy"] for point in points]
        x, y = [score.value for score in across], [score.value for score in along]
        axes.errorbar(
            x,
            y,
            xerr=[[s.value - s.low for s in across], [s.high - s.value for s in across]],
            yerr=[[s.value - s.low for s in along], [s.high - s.value for s in along]],
            color=COLOURS[name],
            marker=MARKERS[name],
            markersize=7,
            linewidth=2,
            elinewidth=0.8,
            label=NAMES[name],
        )
    # The last system's curve alone bears its temperatures: those of the others are the same, from left to right.
    for point, place_x, place_y in zip(points, x, y, strict=True):
        axes.annotate(
            f"{point.temperature:g}", (place_x, place_y), (7, -14), textcoords="offset points", fontsize=10, color=COLOURS[name]
        )
    own = (found.people["distinct-2"].value, found.people["emotion accuracy"].value)
    axes.plot(*own, marker="*", markersize=13, color=INK, linestyle="none", label="people")
    axes.axhline(found.chance, color=FAINT, linestyle=":", linewidth=1.5)
    axes.text(0.01, found.chance + 0.015, "chance", color=FAINT, transform=axes.get_yaxis_transform(), fontsize=10)
    axes.set(ylim=(0, 1.02), xlabel="variety: distinct-2", ylabel="control: judged emotion accuracy")
    axes.set_title("Control and variety, from cool to warm sampling")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 0.2))


def draw_likelihood(axes: Axes, curves: Curves) -> None:
    """Draw the held-out likelihood of the VAE, from that of the model that it began as."""
    steps, nats = zip(*curves.nats, strict=True)
    axes.plot(steps, nats, color=COLOURS["VAE"], marker=MARKERS["VAE"], linewidth=2)
    axes.plot(steps[0], nats[0], color=COLOURS["start"], marker=MARKERS["start"], markersize=7)
    for place, value in ((0, nats[0]), (-1, nats[-1])):
        axes.annotate(f"{value:.1f}", (steps[place], nats[place]), (0, 8), textcoords="offset points", ha="center", fontsize=10)
    axes.margins(x=0.08, y=0.35)
    axes.set(xlabel="updates", ylabel="nats a reply")
    axes.set_title("VAE: likelihood of held-out replies")


def draw_discriminator(axes: Axes, curves: Curves) -> None:
    """Draw how often the discriminator tells the generator's reply from the person's."""
    if curves.told_apart:
        steps, shares = zip(*curves.told_apart, strict=True)
        axes.plot(steps, shares, color=COLOURS["adversarial"], marker=MARKERS["adversarial"], linewidth=2)
    axes.axhline(0.5, color=FAINT, linestyle=":", linewidth=1.5)
    if curves.first_update > 0:
        axes.axvspan(0, curves.first_update, color=FAINT, alpha=0.15, linewidth=0)
        axes.text(curves.first_update / 2, 0.86, "discriminator\nalone", ha="center", va="top", fontsize=9, color=INK)
    axes.set(xlim=(0, None), ylim=(0.4, 0.9), xlabel="adversarial updates", ylabel="pairs told apart")
    axes.set_title("Adversarial: the discriminator")


PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>emogen: the demo</title>
<style>
body { font: 16px/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: $ink; background: #fff; max-width: 66rem;
  margin: 2.5rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.9rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; }
p { max-width: 46rem; margin: .4rem 0; } .faint { color: #5b6672; font-size: .92rem; }
table { border-collapse: collapse; width: 100%; margin-top: .8rem; }
th, td { text-align: left; vertical-align: top; padding: .5rem .9rem .5rem 0; border-bottom: 1px solid #e4e8ec; }
th { font-weight: 600; } thead th { border-bottom: 2px solid #c9d0d6; }
td.figure { font-variant-numeric: tabular-nums; white-space: nowrap; } td.figure span { color: #5b6672; font-size: .88rem; }
.scroll { overflow-x: auto; } svg { width: 100%; height: auto; }
code { background: #f2f4f6; padding: .1rem .35rem; border-radius: 3px; }
$colours
</style></head><body>
<h1>Two models, a few minutes</h1>
<p>A text VAE and an adversarial generator began as the small model that ships with emogen and learnt the English rows of the
starter corpus. Nobody picked the texts; the judge has seen none of the rows.</p>
<h2>Replies to “$message”</h2>
<div class="scroll"><table><thead><tr><th>emotion</th>$heads</tr></thead><tbody>
$lines
</tbody></table></div>
<p class="faint">The same seed and temperature ($at) for all.</p>
<h2>Control, variety, and how the two learnt</h2>
$svg
<p class="faint">Left: up is control, right is variety; the numbers are temperatures, the same for the three curves; bars are
95% intervals. $note Right: in the first third of its run the VAE may store much in its latent, which costs likelihood.</p>
<h2>Replies to $contexts test contexts, temperature $at</h2>
<div class="scroll"><table><thead><tr><th></th>$columns</tr></thead><tbody>
$figures
</tbody></table></div>
<p class="faint">In brackets 95% intervals. Emotion accuracy by chance: $chance. Distinct-2: more is more varied.
Self-BLEU-4: less is more varied. BLEU (0 to 100) is against the person's reply, whose words few other replies share.</p>
<h2>Next</h2>
<p><code>emogen reply "I lost my keys." --emotion joy</code> writes with the model that ships, as before the demo.</p>
<p class="faint">How long it took: $seconds.</p>
<p class="faint">The data of the model that ships forbid commercial use, of these two models as well
(CC BY-NC-SA 4.0).</p>
</body></html>
""")


def as_html(found: Findings, svg: str) -> str:
    """Write the page around the picture."""
    table = found.table()
    return PAGE.substitute(
        ink=INK,
        colours="\n".join(f".{name} {{ color: {colour}; }}" for name, colour in COLOURS.items()),
        message=html.escape(found.message),
        heads="".join(f'<th class="{name}" style="width: 30%">{html.escape(NAMES[name])}</th>' for name in SYSTEMS),
        lines="\n".join(
            f"<tr><th>{html.escape(line.emotion)}</th>"
            + "".join(f"<td>{html.escape(line.texts[name])}</td>" for name in SYSTEMS)
            + "</tr>"
            for line in found.lines
        ),
        svg=svg,
        note=html.escape(found.note()),
        contexts=found.contexts,
        at=f"{found.at:g}",
        columns="".join(f"<th>{column}</th>" for column in table["people"]),
        figures="\n".join(
            f'<tr><th class="{name}">{html.escape(NAMES.get(name, name))}</th>'
            + "".join(figure_cell(cell) for cell in cells.values())
            + "</tr>"
            for name, cells in table.items()
        ),
        chance=f"{found.chance:.2f}",
        seconds="; ".join(f"{part}: {taken:.0f} s" for part, taken in found.seconds.items()),
    )


def figure_cell(cell: str) -> str:
    """Write a cell with its interval in small print."""
    value, bracket, interval = cell.partition(" (")
    return f'<td class="figure">{value}<span>{bracket}{interval}</span></td>'
