"""How long a newcomer waits: a fresh clone, nothing installed, `make demo` and `make test`, installation included.

python evaluate/fresh_clone.py
python evaluate/fresh_clone.py --plain --target demo      # as on a processor with AVX2 and no more

The first round installs; the second, in the same clone, has everything at hand. `cpu_seconds` are those of all processes that
make started: on a machine that others use they say what the seconds cannot.
"""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import click

from emogen.cli import run
from emogen.errors import EmogenError
from emogen.evaluate.report import write_result

RESULT = Path("evaluate/results/fresh_clone.json")
PLAIN = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
SHOWN = 30


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True, help="Result file.")
@click.option("--target", "targets", multiple=True, default=("demo", "test"), show_default=True, help="What to make, in order.")
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True, help="Times that each is made.")
@click.option("--plain", is_flag=True, help="Compute as on a processor with AVX2 and no instructions for bfloat16.")
def main(out: Path, targets: tuple[str, ...], rounds: int, plain: bool) -> None:
    """Clone what is committed into an empty folder and time the targets there, one after the other in the same clone."""
    environment = {**os.environ, **(PLAIN if plain else {})}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "emogen"
        subprocess.run(["git", "clone", "--quiet", ".", str(clone)], check=True)
        for number in range(rounds):
            for target in targets:
                system = f"make {target}" + (" again" if number else "") + (" (AVX2 alone)" if plain else "")
                rows.append({"system": system, "seed": 0, **timed(target, clone, environment)})
                click.echo(rows[-1], err=True)
    write_result(out, "python evaluate/fresh_clone.py" + f" --plain --rounds {rounds}" * plain, [Path("constraints.txt")], rows)
    if failed := [row["system"] for row in rows if row["exit"]]:
        raise EmogenError(f"{', '.join(map(str, failed))} failed: what was printed last stands above")


def timed(target: str, clone: Path, environment: Mapping[str, str]) -> dict[str, float | int]:
    """Make a target and return its seconds, the processors' seconds and its exit status; show the end of what fails."""
    began, worked = time.perf_counter(), children_seconds()
    ended = subprocess.run(
        ["make", target], cwd=clone, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    if ended.returncode:
        click.echo("\n".join(ended.stdout.splitlines()[-SHOWN:]), err=True)
    seconds = {"seconds": time.perf_counter() - began, "cpu_seconds": children_seconds() - worked}
    return {**seconds, "exit": ended.returncode}


def children_seconds() -> float:
    """Return the processor time, user and system, of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    run(main, "fresh_clone.py")
