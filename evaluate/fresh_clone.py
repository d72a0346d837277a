"""How long a newcomer waits: a fresh clone, nothing installed, `make demo` and `make test`, installation included.

python evaluate/fresh_clone.py
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

import click

from emogen.cli import run
from emogen.evaluate.report import write_result

RESULT = Path("evaluate/results/fresh_clone.json")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(out: Path) -> None:
    """Clone what is committed into an empty folder and time the two commands there, one after the other in the same clone."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "emogen"
        subprocess.run(["git", "clone", "--quiet", ".", str(clone)], check=True)
        for target in ("demo", "test"):
            began = time.perf_counter()
            ended = subprocess.run(["make", target], cwd=clone, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            rows.append(
                {"system": f"make {target}", "seed": 0, "seconds": time.perf_counter() - began, "exit": ended.returncode}
            )
            click.echo(rows[-1], err=True)
    write_result(out, "python evaluate/fresh_clone.py", [Path("constraints.txt")], rows)


if __name__ == "__main__":
    run(main, "fresh_clone.py")
