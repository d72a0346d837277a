"""The main job from end to end on the starter corpus: train a VAE, train it on against a discriminator, sample, measure.

Takes about five minutes on two cores. What the figures of so small a run can show is that every part works; the README has
the figures of a real one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import click

import emogen
from emogen.checkpoint import Checkpoint, shipped
from emogen.cli import cli
from emogen.data.corpora import locate
from emogen.data.exchange import Exchange, read_exchanges
from emogen.decoding.sampling import Sampling
from emogen.emotions import EKMAN
from emogen.evaluate import Score, bleu, distinct, emotion_accuracy, judged_labels, self_bleu
from emogen.judges.recognizer import load_recognizer

FOLDER = Path("checkpoints")
VAE, GAN = FOLDER / "demo-vae", FOLDER / "demo-gan"
COLUMNS = ("emotion accuracy", "distinct-2", "self-BLEU-4", "BLEU")
MEASURED = Sampling(max_tokens=41)


@click.command()
@click.option("--vae-minutes", default=2.5, show_default=True, help="Time limit of the VAE.")
@click.option("--gan-minutes", default=1.5, show_default=True, help="Time limit of the adversarial part.")
def main(vae_minutes: float, gan_minutes: float) -> None:
    """Train, sample and measure on the starter corpus; what is trained lands in checkpoints/."""
    began = time.monotonic()
    for folder in (VAE, GAN):
        shutil.rmtree(folder, ignore_errors=True)
    emogen_command("data", "stats", "starter")
    emogen_command("train-vae", "starter", "--preset", "tiny", "--minutes", str(vae_minutes), "--out", str(VAE))
    emogen_command(
        "train-gan", "starter", "--preset", "tiny", "--minutes", str(gan_minutes), "--init", str(VAE), "--out", str(GAN)
    )
    emogen_command("sample", "--checkpoint", str(GAN), "-n", "2", "--seed", "1", "--temperature", "0.7")
    held_out = english_test_rows()
    click.echo(
        f"\nReplies to the {len(held_out)} English test contexts at temperature 1; the judge has seen neither corpus nor model."
    )
    rows = {
        "people": [exchange.reply for exchange in held_out],
        "MLE (VAE)": replies(emogen.load(VAE), held_out),
        "adversarial": replies(emogen.load(GAN), held_out),
    }
    click.echo(table({system: measured(texts, held_out) for system, texts in rows.items()}))
    click.echo(f"\nDone in {time.monotonic() - began:.0f} s. More from it: emogen sample --checkpoint {GAN} --emotion joy")
    click.echo("The model that ships was trained on 100,000 replies: emogen sample --emotion joy -n 5")


def emogen_command(*arguments: str) -> None:
    """Runs an `emogen` command as a user would, and shows it."""
    click.echo(f"\n$ emogen {' '.join(arguments)}")
    cli.main(args=list(arguments), prog_name="emogen", standalone_mode=False)


def english_test_rows() -> list[Exchange]:
    """Test rows of the starter corpus without Chinese, since the judge reads English."""
    rows = read_exchanges(locate("starter"))
    return [row for row in rows if row.split == "test" and all(ord(sign) < 0x2E80 for sign in row.reply)]


def replies(model: Checkpoint, held_out: Sequence[Exchange]) -> list[str]:
    """One reply to each context with the emotion that the person's reply had."""
    found = model.replies([row.context for row in held_out], [row.emotion for row in held_out], sampling=MEASURED)
    return [reply.text for reply in found]


def measured(texts: Sequence[str], held_out: Sequence[Exchange]) -> tuple[Score | None, ...]:
    """The table's figures for one system; people are not measured against themselves."""
    judge = load_recognizer(shipped("judge"))
    judged = judged_labels(judge.probabilities(texts), judge.names.names)
    references = [[row.reply] for row in held_out]
    overlap = None if [[text] for text in texts] == references else bleu(texts, references, language="en")
    asked = [row.emotion.name for row in held_out]
    return emotion_accuracy(asked, judged), distinct(texts, 2), self_bleu(texts), overlap


def table(rows: dict[str, tuple[Score | None, ...]]) -> str:
    """Aligned text; chance for emotion accuracy is one in seven."""
    lines = ["".join([f"{'':14}", *(f"{name:>24}" for name in COLUMNS)])]
    for system, scores in rows.items():
        lines.append("".join([f"{system:14}", *(f"{shown(score):>24}" for score in scores)]))
    return "\n".join([*lines, f"(95% intervals; accuracy by chance: {1 / len(EKMAN):.2f})"])


def shown(score: Score | None) -> str:
    """Value and interval."""
    return "-" if score is None else f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"


if __name__ == "__main__":
    main()
