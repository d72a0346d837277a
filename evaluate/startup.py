"""How long a user waits for the models that ship, each case a whole process. Medians of 5; the adapter's base must be pulled.

python evaluate/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

from emogen.checkpoint.finding import shipped_folder
from emogen.cli import run
from emogen.evaluate.report import write_result

RESULT = Path("evaluate/results/startup.json")
EMOGEN = (sys.executable, "-m", "emogen")
SMALL = ("--checkpoint", str(shipped_folder("default")), "--seed", "1")
ADAPTER = ("--checkpoint", str(shipped_folder("smollm2-emotion")), "--seed", "1")
SAID = "My sister is getting married next week!"
CASES = {
    "help": ("--help",),
    "default: first line": ("sample", *SMALL, "--emotion", "joy"),
    "default: one line for each of seven emotions": ("sample", *SMALL),
    "default: 1,000 samples": ("sample", *SMALL, "--emotion", "joy", "-n", "1000"),
    "adapter: first line": ("reply", SAID, *ADAPTER, "--emotion", "joy"),
    "adapter: best of eight replies": ("reply", SAID, *ADAPTER),
    "adapter: one line for each of seven emotions": ("sample", *ADAPTER),
}


@click.command()
@click.option(
    "--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Counted runs of each case, after one that is not."
)
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(runs: int, out: Path) -> None:
    """Time each case from process start to its first line of output and to its end."""
    rows = []
    for system, arguments in CASES.items():
        times = [timed(arguments) for _ in range(runs + 1)][1:]
        first, whole = (statistics.median(column) for column in zip(*times, strict=True))
        rows.append({"system": system, "seed": 1, "seconds_to_first_line": first, "seconds": whole, "runs": runs})
        click.echo(rows[-1], err=True)
    write_result(out, "python evaluate/startup.py", [shipped_folder("default"), shipped_folder("smollm2-emotion")], rows)


def timed(arguments: tuple[str, ...]) -> tuple[float, float]:
    """Return seconds to the first line on standard output, and to the end."""
    began = time.perf_counter()
    with subprocess.Popen([*EMOGEN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        first = time.perf_counter() - began
        process.stdout.read()
    if process.returncode:
        raise click.ClickException(f"emogen {' '.join(arguments)} ended with {process.returncode}")
    return first, time.perf_counter() - began


if __name__ == "__main__":
    run(main, "startup.py")
