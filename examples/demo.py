"""The main job from end to end: from the model that ships to a VAE and an adversarially trained generator, measured.

Training begins as the default model and goes on with the English rows of the starter corpus. All that it makes lands in one
folder, runs/demo, where no other command looks for a model: a page, demo.html, with its picture, and the two models.
"""

from __future__ import annotations

import html
import io
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Any

import click

import emogen
from emogen.atomic import write_text
from emogen.checkpoint import Checkpoint, shipped
from emogen.cli import cli, run
from emogen.data.corpora import locate
from emogen.data.exchange import Exchange, read_exchanges, write_exchanges
from emogen.decoding.control import Control
from emogen.emotions import EKMAN
from emogen.errors import EmogenError
from emogen.evaluate import Score, bleu, distinct, emotion_accuracy, judged_labels, self_bleu
from emogen.judges.recognizer import Recognizer, load_recognizer
from emogen.words import language_of

START, VAE, GAN = "start", "VAE", "adversarial"
COLUMNS = ("emotion accuracy", "distinct-2", "self-BLEU-4", "BLEU")
TEMPERATURES = (0.3, 0.6, 0.9, 1.2)
TABLE_TEMPERATURE = 0.6
CHANCE = 1 / len(EKMAN)
PAGE = Template("""<!doctype html><meta charset="utf-8"><title>emogen demo</title>
<style>
body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%} th,td{text-align:left;padding:.4rem .8rem;border-bottom:1px solid #ddd}
svg{width:100%;height:auto} pre{overflow-x:auto;background:#f6f6f6;padding:1rem;font-size:13px}
</style>
<h1>emogen demo</h1>
<p>The default model, and what became of it: a text VAE, then adversarial training, on English rows of the starter corpus.</p>
$picture
<h2>Seven lines, not picked</h2>
<table><tr><th></th><th>before</th><th>after</th></tr>$rows</table>
<h2>Replies to the test contexts</h2>
<pre>$table</pre>
""")


@dataclass(frozen=True)
class Point:
    """One system at one temperature: judged accuracy and variety of its replies to the test contexts."""

    system: str
    temperature: float
    accuracy: Score
    variety: Score


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True, help="Folder; made anew.")
@click.option("--vae-steps", default=120, show_default=True, help="Updates of the VAE.")
@click.option(
    "--gan-steps", default=80, show_default=True, help="Adversarial updates, the first 20 of the discriminator alone."
)
@click.option("--minutes", default=1.5, show_default=True, help="Time limit of each of the two trainings.")
@click.option("--rows", default=224, show_default=True, help="Test rows that are replied to.")
def main(out: Path, vae_steps: int, gan_steps: int, minutes: float, rows: int) -> None:
    """Train from the default model on the starter corpus; show texts before and after, a table and a page."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    corpus = english_rows()
    write_exchanges(out / "starter-en.jsonl", corpus)
    with timed("training"):
        train(out, vae_steps, gan_steps, minutes)
    systems = {START: emogen.load(shipped("default")), VAE: emogen.load(out / "vae"), GAN: emogen.load(out / "gan")}
    lines = {name: seven_lines(systems[name]) for name in (START, GAN)}
    for title, name in (("Before, the default model:", START), ("After, the adversarially trained one:", GAN)):
        click.echo(f"\n{title}")
        click.echo("\n".join(f"{emotion:9} {text}" for emotion, text in lines[name]))
    held_out = english_test_rows()[:rows]
    judge = load_recognizer(shipped("judge"))
    with timed("measuring"):
        replies = {name: write_replies(model, held_out, TABLE_TEMPERATURE) for name, model in systems.items()}
        table = {name: measure(texts, held_out, judge) for name, texts in replies.items()}
        people = measure([row.reply for row in held_out], held_out, judge)
        points = list(frontier(systems, held_out, judge))
    shown = as_table({"people": people, **table})
    click.echo(f"\nReplies to {len(held_out)} test contexts at temperature {TABLE_TEMPERATURE}.\n{shown}")
    write_page(out, lines, shown, points)
    click.echo(f"\nThe page: {out / 'demo.html'}. More: emogen sample --checkpoint {out / 'gan'} --emotion joy")
    click.echo("What the default model learnt from forbids commercial use, also of what is trained from it: see its card.")
    require_above_chance({name: table[name][0] for name in (VAE, GAN)})


def english_rows() -> list[Exchange]:
    """Read the starter corpus without Chinese, which neither the default model nor the judge reads."""
    return [row for row in read_exchanges(locate("starter")) if language_of([*row.context, row.reply]) == "en"]


def english_test_rows() -> list[Exchange]:
    """Read those of them that no model is trained on."""
    return [row for row in english_rows() if row.split == "test"]


def train(out: Path, vae_steps: int, gan_steps: int, minutes: float) -> None:
    """Train both models by the commands that a user would type, and show these."""
    corpus, common = str(out / "starter-en.jsonl"), ("--preset", "tiny", "--minutes", str(minutes))
    run_command(
        *("train-vae", corpus, *common, "--init", str(shipped("default")), "--out", str(out / "vae")),
        *("--steps", str(vae_steps), "--learning-rate", "0.0003", "--validate-every", "40"),
    )
    run_command(
        *("train-gan", corpus, *common, "--init", str(out / "vae"), "--out", str(out / "gan")),
        *("--steps", str(gan_steps), "--estimator", "dense", "--batch-size", "16", "--learning-rate", "0.0003"),
        *("--mle-weight", "0.2", "--emotion-reward", "1", "--guide", str(shipped("recognizer")), "--validate-every", "20"),
    )


def run_command(*arguments: str) -> None:
    """Run an `emogen` command as a user would, and show it."""
    click.echo(f"\n$ emogen {' '.join(arguments)}")
    cli.main(args=list(arguments), prog_name="emogen", standalone_mode=False)


@contextmanager
def timed(part: str) -> Iterator[None]:
    """Tell on standard error how long a part took."""
    began = time.monotonic()
    yield
    click.echo(f"({part}: {time.monotonic() - began:.0f} s)", err=True)


def seven_lines(model: Checkpoint) -> list[tuple[str, str]]:
    """Write one text an emotion: of eight candidates the one that is most like all of them."""
    sampling = replace(model.default_sampling, control=Control(guidance=1.5, mbr=8))
    written = model.replies([()] * len(EKMAN), list(EKMAN.names), sampling=sampling, seed=1)
    return [(sample.emotion, " ".join(sample.text.split())) for sample in written]


def write_replies(model: Checkpoint, held_out: Sequence[Exchange], temperature: float) -> list[str]:
    """Write one reply to each context with the emotion that the person's reply had."""
    sampling = replace(model.default_sampling, temperature=temperature)
    found = model.replies([row.context for row in held_out], [row.emotion for row in held_out], sampling=sampling, seed=1)
    return [reply.text for reply in found]


def measure(texts: Sequence[str], held_out: Sequence[Exchange], judge: Recognizer) -> tuple[Score | None, ...]:
    """Compute the table's figures for one system; people are not measured against themselves."""
    references = [[row.reply] for row in held_out]
    overlap = None if [[text] for text in texts] == references else bleu(texts, references, language="en")
    return judged_accuracy(texts, held_out, judge), distinct(texts, 2), self_bleu(texts), overlap


def judged_accuracy(texts: Sequence[str], held_out: Sequence[Exchange], judge: Recognizer) -> Score:
    """Compute how often the judge, which has seen neither corpus nor models, finds the emotion that was asked for."""
    judged = judged_labels(judge.probabilities(texts), judge.names.names)
    return emotion_accuracy([row.emotion.name for row in held_out], judged)


def frontier(systems: dict[str, Checkpoint], held_out: Sequence[Exchange], judge: Recognizer) -> Iterator[Point]:
    """Measure every system over temperatures: one that is better at one of them may only be more timid."""
    for name, model in systems.items():
        for temperature in TEMPERATURES:
            texts = write_replies(model, held_out, temperature)
            yield Point(name, temperature, judged_accuracy(texts, held_out, judge), distinct(texts, 2))


def require_above_chance(accuracies: dict[str, Score | None]) -> None:
    """Raise EmogenError where a trained model's accuracy may be chance: then something is wrong with this installation."""
    for name, score in accuracies.items():
        if score is None or score.low <= CHANCE:
            found = "no figure" if score is None else f"{score.value:.2f} ({score.low:.2f} to {score.high:.2f})"
            raise EmogenError(
                f"{name}: emotion accuracy {found} is not above chance, {CHANCE:.2f}; the models are as good as untrained: "
                "give them more --minutes, and report it if that does not help"
            )


def as_table(rows: dict[str, tuple[Score | None, ...]]) -> str:
    """Align the figures of each system."""
    lines = ["".join([f"{'':14}", *(f"{name:>24}" for name in COLUMNS)])]
    for system, scores in rows.items():
        lines.append("".join([f"{system:14}", *(f"{shown(score):>24}" for score in scores)]))
    return "\n".join([*lines, f"(95% intervals; emotion accuracy by chance: {CHANCE:.2f})"])


def shown(score: Score | None) -> str:
    """Write value and interval."""
    return "-" if score is None else f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"


def write_page(out: Path, lines: dict[str, list[tuple[str, str]]], table: str, points: Sequence[Point]) -> None:
    """Write demo.png, and demo.html, which holds picture, texts and table in one file."""
    picture = draw(out, points)
    rows = "".join(
        f"<tr><th>{emotion}</th><td>{html.escape(before)}</td><td>{html.escape(after)}</td></tr>"
        for (emotion, before), (_, after) in zip(lines[START], lines[GAN], strict=True)
    )
    page = PAGE.substitute(picture=picture, rows=rows, table=html.escape(table))
    write_text(out / "demo.html", page)


def read_looks(run_folder: Path) -> list[dict[str, Any]]:
    """Read from a run's log what its looks at the held-out rows found."""
    lines = (run_folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if "held_out" in entry]


def draw(out: Path, points: Sequence[Point]) -> str:
    """Draw learning curves and frontier; write them as demo.png and return them as SVG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    curves, plane = figure.subplots(1, 2)
    done = 0
    for name, folder, key, colour in ((VAE, "vae", "iw_nll", "tab:blue"), (GAN, "gan", "nll_reply", "tab:red")):
        looks = read_looks(out / folder)
        values = [look["held_out"][key] for look in looks]
        curves.plot([done + look["step"] for look in looks], values, "o-", color=colour, label=name)
        done += looks[-1]["step"]
    curves.set(title="Held-out likelihood", xlabel="updates", ylabel="nats a reply (lower is better)")
    for name, colour in ((START, "tab:gray"), (VAE, "tab:blue"), (GAN, "tab:red")):
        own = [point for point in points if point.system == name]
        plane.plot([p.variety.value for p in own], [p.accuracy.value for p in own], "o-", color=colour, label=name)
        for point in own:
            low, high = point.accuracy.low, point.accuracy.high
            plane.plot([point.variety.value] * 2, [low, high], color=colour, alpha=0.3)
    plane.axhline(CHANCE, color="black", linestyle=":", linewidth=1, label="chance")
    plane.set(title=f"Frontier, temperature {TEMPERATURES[0]} to {TEMPERATURES[-1]}", xlabel="variety (distinct-2)")
    plane.set(ylabel="judged emotion accuracy", ylim=(0, 1))
    for axes in (curves, plane):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(out / "demo.png", dpi=120)
    vector = io.StringIO()
    figure.savefig(vector, format="svg")
    return vector.getvalue()[vector.getvalue().index("<svg") :]


if __name__ == "__main__":
    run(lambda: main(standalone_mode=False), "demo")
