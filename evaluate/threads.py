"""What waiting and the number of threads cost on a CPU, with free cores and with one that another program keeps busy.

python evaluate/threads.py

Whole processes: OpenMP's threads spin while they wait, as without emogen's setting (spinning), or sleep, as with
it (sleeping), or there is one thread. Then decoding alone, on one thread and on all of them, by the number of texts at once.
Settings are run in turn, so that what else the machine does falls on all of them.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

import emogen
from emogen.checkpoint.finding import shipped_folder
from emogen.checkpoint.model import EmotionModel
from emogen.cli import run
from emogen.evaluate.report import command_of, write_result
from emogen.files import sha256

RESULT = Path("evaluate/results/threads.json")
SAID = "I lost my job today."
SETTINGS = {
    # What OpenMP of GCC does where nothing is set.
    "spinning": {"GOMP_SPINCOUNT": "300000"},
    "sleeping": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
LOADS = {"free": 0, "one busy": 1}
ROWS = (1, 7, 64, 256)

Row = Mapping[str, object]


@click.command()
@click.option("--runs", default=5, show_default=True, help="Counted runs of each setting, after one that is not.")
@click.option("--steps", default=100, show_default=True, help="Training steps of the preset tiny.")
@click.option(
    "--checkpoint", default=str(shipped_folder("default")), help="Model that replies.  [default: the small one that ships]"
)
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
@click.pass_context
def main(context: click.Context, runs: int, steps: int, checkpoint: str, out: Path) -> None:
    """Time a reply, a short training and decoding under each setting."""
    rows: list[Row] = []
    for cores, spinners in LOADS.items():
        with busy(spinners):
            rows += [report_row({**row, "cores": cores}) for row in whole_processes(checkpoint, steps, runs)]
            rows += [report_row({**row, "cores": cores}) for row in decoding(emogen.load(checkpoint), runs)]
    write_result(out, command_of("threads", context), [Path(checkpoint)], rows)


@contextmanager
def busy(spinners: int) -> Iterator[None]:
    """Keep as many cores busy while the block runs."""
    spin = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(spin) for _ in range(spinners)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def whole_processes(checkpoint: str, steps: int, runs: int) -> Iterator[Row]:
    """Yield seconds of each command under each setting, medians; trained weights must not depend on how threads wait."""
    reply = ("reply", SAID, "--checkpoint", checkpoint, "--seed", "1")
    training = ("train-lm", "--preset", "tiny", "--steps", str(steps), "--seed", "1")
    for case, arguments in {"first reply": reply, f"{steps} steps": training}.items():
        found: dict[str, list[tuple[float, str]]] = {name: [] for name in SETTINGS}
        for _ in range(runs + 1):
            for name, variables in SETTINGS.items():
                found[name].append(timed(arguments, variables))
        spinning, sleeping = ({made for _, made in found[name]} for name in ("spinning", "sleeping"))
        if spinning != sleeping:
            raise click.ClickException(f"{case}: results depend on how threads wait: {spinning} and {sleeping}")
        for name, times in found.items():
            seconds = statistics.median(seconds for seconds, _ in times[1:])
            yield {"system": case, "setting": name, "seed": 1, "runs": runs, "seconds": seconds, "sha256": times[0][1]}


def timed(arguments: Sequence[str], variables: Mapping[str, str]) -> tuple[float, str]:
    """Return seconds of a whole command, and what it made.

    Its standard output, or the SHA-256 of the weights that it trained.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model"
        more = ("--out", str(out)) if arguments[0].startswith("train") else ()
        command = [sys.executable, "-m", "emogen", *arguments, *more]
        began = time.perf_counter()
        done = subprocess.run(command, env={**kept, **variables}, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise click.ClickException(f"emogen {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
        return seconds, sha256(out / "model.safetensors") if more else done.stdout


def decoding(model: EmotionModel, runs: int) -> Iterator[Row]:
    """Yield seconds of texts that are written at once, by the number of threads.

    The shortest, which a busy machine spoils least.
    """
    # After emogen, which has set how threads wait.
    import torch

    threads = torch.get_num_threads()
    settings = {"one thread": 1, "all threads": threads}
    try:
        for rows in ROWS:
            found: dict[str, list[float]] = {name: [] for name in settings}
            for _ in range(runs + 1):
                for name, count in settings.items():
                    torch.set_num_threads(count)
                    began = time.perf_counter()
                    model.sample("joy", n=rows, context=[SAID], seed=1)
                    found[name].append(time.perf_counter() - began)
            for name, times in found.items():
                seconds = min(times[1:])
                yield {"system": f"decoding, {rows} at once", "setting": name, "seed": 1, "runs": runs, "seconds": seconds}
    finally:
        torch.set_num_threads(threads)


def report_row(row: Row) -> Row:
    """Return the row, shown as it comes."""
    click.echo(row, err=True)
    return row


if __name__ == "__main__":
    run(main, "threads.py")
