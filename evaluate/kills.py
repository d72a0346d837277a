"""Trainings that are killed again and again: are the weights those of a run that nobody disturbed?

    python evaluate/kills.py

Each training of --trainings runs once alone, and once more with --kills SIGKILLs, each after a random share of the time that
the first run took, and `--resume` behind each. `equal` tells whether the SHA-256 of the weights is the same. Feedback is
trained on pairs that are made for this; all else on the starter corpus.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from random import Random

import click

from emogen.checkpoint.finding import shipped_folder
from emogen.cli import run
from emogen.data.corpora import resolve
from emogen.data.exchange import Reading, read_exchanges
from emogen.errors import EmogenError
from emogen.evaluate.report import command_of, write_result
from emogen.files import sha256

RESULT = Path("evaluate/results/kills.json")
_SMALL = ("--preset", "tiny", "--save-every", "5", "--device", "cpu", "--precision", "float32", "--threads", "1")
_PAIRS = 200
TRAININGS = {
    "lm": ("train-lm", "starter", *_SMALL, "--steps", "120", "--validate-every", "20"),
    "vae": ("train-vae", "starter", *_SMALL, "--steps", "120", "--validate-every", "20"),
    "gan": ("train-gan", "starter", *_SMALL, "--steps", "60", "--warmup-steps", "10", "--validate-every", "20"),
    "classifier": ("train-classifier", "starter", *_SMALL, "--backbone", "cnn", "--epochs", "6"),
    "feedback": ("train-feedback", "--texts", "0", "--epochs", "3", "--device", "cpu", "--threads", "1", "--save-every", "5"),
}


@click.command()
@click.option("--trainings", default=",".join(TRAININGS), show_default=True, help="Which of them, with commas between.")
@click.option("--kills", type=click.IntRange(min=1), default=10, show_default=True, help="Of each.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the moments.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
@click.pass_context
def main(context: click.Context, trainings: str, kills: int, seed: int, out: Path) -> None:
    """Kill trainings, resume them, and compare weights."""
    chosen = trainings.split(",")
    with tempfile.TemporaryDirectory(prefix="emogen-kills-") as folder:
        write_pairs(Path(folder) / "pairs.jsonl")
        rows = [row_of(name, Path(folder), kills, seed) for name in chosen]
    write_result(out, command_of("kills", context), [shipped_folder("default"), resolve("starter", Reading())[0]], rows)
    if not all(row["equal"] for row in rows):
        raise EmogenError(f"weights differ, see {out}")


def row_of(name: str, folder: Path, kills: int, seed: int) -> dict[str, object]:
    """Train alone and with kills; what came of it."""
    arguments = [*TRAININGS[name], *start_of(name, folder)]
    began = time.monotonic()
    finish(arguments, folder / f"{name}-alone")
    seconds = time.monotonic() - began
    disturbed, random, killed = folder / f"{name}-killed", Random(seed), 0
    while killed < kills:
        killed += kill_after(arguments, disturbed, seconds * random.uniform(0.1, 0.4))
        if is_finished(disturbed):
            break
    finish(arguments, disturbed)
    weights = [sha256(each / "model.safetensors") for each in (folder / f"{name}-alone", disturbed)]
    row = {"system": name, "seed": seed, "kills": killed, "seconds_alone": seconds, "equal": weights[0] == weights[1]}
    click.echo(row, err=True)
    return row


def start_of(name: str, folder: Path) -> list[str]:
    """Return what a training begins with: the adversarial one with the language model, feedback with pairs."""
    if name == "gan":
        finish(TRAININGS["lm"], folder / "gan-start")
        return ["--init", str(folder / "gan-start")]
    if name == "feedback":
        return ["--feedback", str(folder / "pairs.jsonl"), "--checkpoint", str(shipped_folder("default"))]
    return []


def command(arguments: list[str] | tuple[str, ...], out: Path) -> list[str]:
    """Of a training that begins, or goes on where it has saved a state."""
    more = ["--resume"] if (out / "train_state.pt").exists() else []
    return [sys.executable, "-m", "emogen", *arguments, "--out", str(out), *more]


def finish(arguments: list[str] | tuple[str, ...], out: Path) -> None:
    """Train to the end; raise EmogenError with the training's last line where it fails."""
    found = subprocess.run(command(arguments, out), capture_output=True, text=True, env=environment(), check=False)
    if found.returncode:
        raise EmogenError(found.stderr.strip().splitlines()[-1])


def kill_after(arguments: list[str], out: Path, seconds: float) -> int:
    """Train, and kill it after some seconds; 1 where it still ran, 0 where it had ended."""
    with subprocess.Popen(
        command(arguments, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    ) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return 1
    return 0


def is_finished(out: Path) -> bool:
    """Tell whether the run says that it has ended."""
    path = out / "train.json"
    return path.exists() and bool(json.loads(path.read_text(encoding="utf-8")).get("finished"))


def environment() -> dict[str, str]:
    """Return one thread: on several, sums may be taken in another order."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def write_pairs(path: Path) -> None:
    """Pairs of a corpus' own reply, which is better, and the next row's."""
    rows = [row for row in read_exchanges(*resolve("starter", Reading())) if row.split == "train" and row.context]
    pairs = (
        {"context": list(row.context), "emotion": row.emotion.name, "better": row.reply, "worse": other.reply}
        for row, other in pairwise(rows[:_PAIRS])
    )
    path.write_text("".join(f"{json.dumps(pair, ensure_ascii=False)}\n" for pair in pairs), encoding="utf-8")


if __name__ == "__main__":
    run(main, "kills.py")
