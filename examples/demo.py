"""Train a VAE and an adversarial generator from the model that ships, and show what became of its texts.

    make demo                      # or: python examples/demo.py

Both models begin as the default model and learn the English rows of the starter corpus. The texts before and after, the table
and the picture land in runs/demo, where nothing else looks for a model: `emogen reply` and `emogen.load()` write as before.
"""

from __future__ import annotations

import json
import shutil
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
from demo_page import SYSTEMS, Curves, Findings, Line, Point, require_matplotlib, write_page

import emogen
from emogen.checkpoint.finding import shipped_folder
from emogen.checkpoint.model import EmotionModel
from emogen.cli import cli, run
from emogen.data.corpora import locate
from emogen.data.exchange import Exchange, Reading, read_exchanges, write_exchanges
from emogen.decoding.control import Control
from emogen.decoding.params import SamplingParams
from emogen.emotions.labels import EKMAN
from emogen.errors import CheckpointError, EmogenError
from emogen.evaluate import Score, bleu, distinct, emotion_accuracy, judged_labels, self_bleu
from emogen.recognition.leak import refuse_leaks
from emogen.recognition.recognizer import Recognizer, load_recognizer
from emogen.text.words import language_of
from emogen.train.corpus import held_out_batches
from emogen.train.fit import prepared_for
from emogen.train.loops.mle import held_out_nll

CORPUS = "english.jsonl"
MESSAGE = "My sister is moving in with us."
# Cooler and guided less than for other texts: so small a model stammers the name of an emotion that is pressed.
READING = SamplingParams(temperature=0.5, top_p=0.9, control=Control(guidance=1.3), max_tokens=41)
TEMPERATURES = (0.3, READING.temperature, 0.7, 1.0)
START, VAE, ADVERSARIAL = SYSTEMS
CHANCE = 1 / len(EKMAN)
# Small steps, chosen by reading: at three times this rate, likelihood gains more and the sentences fall apart.
VAE_OPTIONS = (
    *("--learning-rate", "1e-4", "--batch-size", "16", "--validate-every", "70", "--save-every", "1000"),
    *("--latent", "16", "--encoder-layers", "1", "--target-rate", "4", "--autoencoder-share", "0.1"),
)
GAN_OPTIONS = (
    *("--estimator", "dense", "--learning-rate", "2e-4", "--mle-weight", "0.5", "--kl-weight", "0.02"),
    *("--batch-size", "16", "--samples", "4", "--max-tokens", "20", "--validate-every", "1000", "--save-every", "1000"),
    *("--discriminator-rate", "1e-3", "--discriminator-width", "64", "--discriminator-layers", "1"),
)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True, help="Folder.")
@click.option("--init", "start", type=click.Path(path_type=Path), help="Model to begin with.  [default: the one that ships]")
@click.option("--vae-steps", default=210, show_default=True, help="Updates of the VAE.")
@click.option("--vae-minutes", default=1.7, show_default=True, help="Time limit of the VAE.")
@click.option("--gan-steps", default=60, show_default=True, help="Adversarial updates; a third train the discriminator alone.")
@click.option("--gan-minutes", default=0.9, show_default=True, help="Time limit of the adversarial part.")
@click.option("--contexts", default=224, show_default=True, help="Test contexts that every model replies to.")
@click.option(
    "--split", type=click.Choice(["test", "valid"]), default="test", help="Of the contexts: valid to choose settings."
)
def main(
    out: Path,
    start: Path | None,
    vae_steps: int,
    vae_minutes: float,
    gan_steps: int,
    gan_minutes: float,
    contexts: int,
    split: str,
) -> None:
    """Train, write and measure; the page, the picture and the models land in --out."""
    require_matplotlib()
    begin_folder(out)
    seconds: dict[str, float] = {}
    start, vae, gan = start or shipped_folder("default"), out / "vae", out / "gan"
    held_out = english_rows(split)[:contexts]
    with timed("training the VAE", seconds):
        run_command("train-vae", out / CORPUS, "--init", start, "--out", vae, *limits(vae_steps, vae_minutes), *VAE_OPTIONS)
    with timed("adversarial training", seconds):
        warmup = ("--warmup-steps", gan_steps // 3)
        run_command(
            *("train-gan", out / CORPUS, "--init", vae, "--out", gan, *limits(gan_steps, gan_minutes), *warmup, *GAN_OPTIONS)
        )
    judge = load_recognizer(shipped_folder("judge"))
    refuse_leaks(judge.folder, [vae, gan])
    models = {START: emogen.load(start), VAE: emogen.load(vae), ADVERSARIAL: emogen.load(gan)}
    with timed("writing and measuring", seconds):
        points = [point for name, model in models.items() for point in frontier(name, model, held_out, judge)]
        found = Findings(
            message=MESSAGE,
            lines=seven_lines(models),
            contexts=len(held_out),
            people=measure([row.reply for row in held_out], held_out, judge),
            points=points,
            at=READING.temperature,
            curves=learning_curves(models[START], out),
            chance=CHANCE,
            seconds=seconds,
        )
    click.echo(as_text(found))
    page = write_page(found, out)
    click.echo(f"\nThe page with curves and frontier: {page}")
    click.echo(f"Write more with it: emogen reply 'I lost my keys.' --emotion joy --checkpoint {gan}")
    click.echo(
        "Nothing else has changed: without --checkpoint the model that ships writes, as before. Its data forbid commercial\n"
        "use, of these two models as well: CC BY-NC-SA 4.0, see checkpoints/default/README.md."
    )
    require_above_chance(found)


def begin_folder(out: Path) -> None:
    """Make `out` with the corpus in it; what an earlier demo left there goes, and a folder that is not a demo's is refused."""
    if out.exists() and any(out.iterdir()) and not (out / CORPUS).exists():
        raise CheckpointError(f"{out}: holds something else than an earlier demo; name an empty or new folder with --out")
    for folder in (out / "vae", out / "gan"):
        shutil.rmtree(folder, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    rows = english_rows()
    write_exchanges(out / CORPUS, rows)
    trained = sum(row.split == "train" for row in rows)
    click.echo(f"{trained:,} English exchanges of the starter corpus to learn from: {out / CORPUS}")
    click.echo("Two short trainings, then texts and measures: about four minutes on two cores.")


def english_rows(*splits: str) -> list[Exchange]:
    """Read the starter corpus, or its splits, without the Chinese rows, which the default model and the judge cannot read."""
    rows = [row for row in read_exchanges(locate("starter")) if language_of([*row.context, row.reply]) == "en"]
    return [row for row in rows if row.split in splits or not splits]


def limits(steps: int, minutes: float) -> tuple[str, ...]:
    """Return the options that end a training: by steps, or by minutes on a machine that is slower."""
    return "--steps", str(steps), "--minutes", str(minutes)


def run_command(*arguments: object) -> None:
    """Run an `emogen` command as a user would, and show it."""
    words = [str(argument) for argument in arguments]
    click.echo("\n" + textwrap.fill(f"$ emogen {' '.join(words)}", 118, subsequent_indent="    ", break_on_hyphens=False))
    cli.main(args=words, prog_name="emogen", standalone_mode=False)


@contextmanager
def timed(part: str, seconds: dict[str, float]) -> Iterator[None]:
    """Note how long a part takes, and say it."""
    began = time.monotonic()
    yield
    seconds[part] = time.monotonic() - began
    click.echo(f"{part[0].upper()}{part[1:]} took {seconds[part]:.0f} s.")


def seven_lines(models: Mapping[str, EmotionModel]) -> list[Line]:
    """Write one reply for each emotion by each model, with the same seed."""
    written = {
        name: model.replies([MESSAGE] * len(EKMAN), EKMAN.names, sampling=READING, seed=1) for name, model in models.items()
    }
    return [
        Line(emotion, {name: texts[place].text for name, texts in written.items()}) for place, emotion in enumerate(EKMAN.names)
    ]


def frontier(name: str, model: EmotionModel, held_out: Sequence[Exchange], judge: Recognizer) -> Iterator[Point]:
    """Measure a model's replies to the test contexts, each with the emotion of the person's reply, over temperatures."""
    contexts, emotions = [row.context for row in held_out], [row.emotion for row in held_out]
    for temperature in TEMPERATURES:
        replies = model.replies(contexts, emotions, sampling=replace(READING, temperature=temperature), seed=1)
        click.echo(f"  {name}: {len(held_out)} replies at temperature {temperature}")
        yield Point(name, temperature, measure([reply.text for reply in replies], held_out, judge))


def measure(texts: Sequence[str], held_out: Sequence[Exchange], judge: Recognizer) -> dict[str, Score]:
    """Score texts, the table's columns by name; people are not measured against themselves."""
    judged = judged_labels(judge.probabilities(texts), judge.names.names)
    references = [[row.reply] for row in held_out]
    scores = {
        "emotion accuracy": emotion_accuracy([row.emotion.name for row in held_out], judged),
        "distinct-2": distinct(texts, 2),
        "self-BLEU-4": self_bleu(texts),
    }
    return scores if [[text] for text in texts] == references else scores | {"BLEU": bleu(texts, references, language="en")}


def learning_curves(start: EmotionModel, out: Path) -> Curves:
    """Read the logs of the two runs; the VAE's curve begins with the likelihood of the model that it began as."""
    valid = held_out_batches(prepared_for(start, [str(out / CORPUS)], Reading(), seed=0).arrays)
    vae, gan = (
        [json.loads(line) for line in (out / name / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("vae", "gan")
    )
    looks = [(row["step"], row["held_out"]["iw_nll"]) for row in vae if "held_out" in row]
    return Curves(
        nats=[(0, held_out_nll(start.generator, valid)["nll_reply"]), *looks],
        told_apart=[(row["step"], row["accuracy"]) for row in gan if "accuracy" in row],
        first_update=next((row["step"] - 10 for row in gan if "kl" in row), 0),
    )


def as_text(found: Findings) -> str:
    """Write the lines and the table for a terminal."""
    rows = ["", f'Replies to "{found.message}", not picked:']
    for line in found.lines:
        for name, text in line.texts.items():
            rows.append(f"  {line.emotion if name == START else '':10}{name:13}{text}")
    rows += ["", f"Replies to {found.contexts} test contexts at temperature {found.at}; the judge has seen none of the rows:"]
    table = found.table()
    rows.append("".join([f"{'':14}", *(f"{column:>22}" for column in table["people"])]))
    rows += ["".join([f"{name:14}", *(f"{cell:>22}" for cell in cells.values())]) for name, cells in table.items()]
    rows.append(f"95% intervals. Emotion accuracy by chance: {found.chance:.2f}. {found.note()}")
    return "\n".join(rows)


def require_above_chance(found: Findings) -> None:
    """Raise EmogenError where a trained model's emotion accuracy may be chance."""
    for point in found.measured():
        score = point.scores["emotion accuracy"]
        if point.system != START and score.low <= found.chance:
            raise EmogenError(
                f"{point.system}: emotion accuracy {score.value:.2f} ({score.low:.2f} to {score.high:.2f}) is no better than "
                f"chance ({found.chance:.2f}), so that these texts show nothing; begin with a model that knows the emotions "
                "(--init), or train for longer (--vae-minutes, --gan-minutes)"
            )


if __name__ == "__main__":
    run(main, "demo.py")
