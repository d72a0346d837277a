"""Rows of EmpatheticDialogues for a classifier of what the speaker feels: all that he said so far, and his feeling.

    python evaluate/reply_speakers.py speakers.jsonl.gz
    emogen train-classifier speakers.jsonl.gz --labels empathetic --backbone hf:all-MiniLM-L6-v2 --epochs 2 --balance 0

One row for each of the listener's replies, in the corpus's own parts; `empathetic_replies.py` reads contexts in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
from empathetic_replies import said

from emogen.cli import run
from emogen.data.corpora import resolve
from emogen.data.exchange import Exchange, Reading, read_exchanges, write_exchanges
from emogen.emotions.labels import EMPATHETIC


@click.command()
@click.option("--corpus", default="empatheticdialogues", show_default=True)
@click.argument("out", type=click.Path(path_type=Path))
def main(corpus: str, out: Path) -> None:
    """Write the rows to OUT."""
    path, reading = resolve(corpus, Reading(labels=EMPATHETIC))
    write_exchanges(out, speakers(path, reading))


def speakers(path: str, reading: Reading) -> Iterator[Exchange]:
    """Yield the speaker's words in place of each reply."""
    for row in read_exchanges(path, reading):
        if row.context:
            yield replace(row, context=(), reply=said(row.context))


if __name__ == "__main__":
    run(main, "reply_speakers.py")
