"""`emogen recognize`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from emogen.cli.printing import as_cells
from emogen.cli.reading import piped_lines
from emogen.data.outputs import open_source, text_rows
from emogen.errors import DataError

if TYPE_CHECKING:
    from emogen.evaluate.attribution import Attribution
    from emogen.recognition.recognizer import Recognition, Recognizer

_AT_ONCE = 256
_TEXT_COLUMNS = "text|reply"
_FILE_ENDINGS = (".txt", ".jsonl", ".csv", ".tsv", ".gz", ".json", ".ndjson")


recognizer_option = click.option(
    "--recognizer",
    type=click.Path(path_type=Path),
    help="Folder of a classifier  [default: $EMOGEN_CLASSIFIER, the one that ships]",
)


@click.command("recognize")
@click.argument("source", metavar="TEXT|FILE|-")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Folder of a classifier  [default: $EMOGEN_CLASSIFIER, the one that ships]",
)
@click.option("--explain", is_flag=True, help="Say what each word adds to the label's log odds (Shapley values).")
@click.option(
    "--text-column", default=_TEXT_COLUMNS, show_default=True, help="Column of a JSONL, CSV or TSV file that holds the text."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the word orders of --explain.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with all probabilities.")
def recognize(
    source: str, checkpoint: Path | None, explain: bool, text_column: str, seed: int, device: str, as_json: bool
) -> None:
    """Say which emotion TEXT, each line of a FILE (JSONL, CSV and TSV by --text-column), or each line of a pipe expresses.

    Prints label, strength (0 to 1), text and the other columns of its row, with tabs between; with --json these are under row.
    """
    from emogen.recognition.recognizer import load_recognizer

    recognizer = load_recognizer(checkpoint, device)
    rows = iter(tqdm(_rows(source, text_column), unit="text", delay=2, disable=None))
    conditioning = False
    while batch := list(islice(rows, 1 if explain else _AT_ONCE)):
        for (text, others), found in zip(batch, recognizer.recognize([text for text, _ in batch]), strict=True):
            if not found.is_read and not conditioning:
                click.echo(f"emogen: note: {recognizer.unread_note(text)}", err=True)
                conditioning = True
            words = _explain(recognizer, text, found, seed) if explain and found.is_read else None
            line = _as_json(text, found, words, others) if as_json else _as_line(text, found, words, others)
            # Bytes, because texts are UTF-8 whatever the terminal's locale.
            click.echo(line.encode("utf-8"))


def _rows(source: str, column: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the text itself.

    Or the lines of a file or of standard input, blank ones too, so that output lines stay beside them.

    The rows of a file come with their other columns.
    """
    path = Path(source)
    if source == "-":
        yield from ((line, {}) for line in piped_lines())
    elif _is_there(path):
        with tempfile.TemporaryDirectory(prefix="emogen-") as folder:
            yield from text_rows(open_source(source, "txt", Path(folder)), column)
    elif not source.strip().count(" ") and path.suffix in _FILE_ENDINGS:
        raise DataError(f"{source}: no such file; a text would have blanks in it")
    else:
        # Bytes of an argument that are not UTF-8 arrive as halves of surrogate pairs.
        yield source.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), {}


def _is_there(path: Path) -> bool:
    """Tell whether a file or pipe has that name; a folder's may be a word that is to be judged."""
    try:
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):
        # A long text is no file name.
        return False


def _explain(recognizer: Recognizer, text: str, found: Recognition, seed: int) -> Attribution | None:
    """Return what each word adds; None for a text without words."""
    from emogen.evaluate.attribution import log_odds, shapley_words

    value = log_odds(recognizer.probabilities, recognizer.names.names, found.label)
    return shapley_words(text, value, seed=seed) if text.strip() else None


def _as_line(text: str, found: Recognition, words: Attribution | None, others: Mapping[str, object]) -> str:
    shown = ",".join(found.labels) or f"({found.label})"
    body = " ".join(f"{word.text}[{word.weight:+.2f}]" for word in words.words) if words else " ".join(text.split())
    return "\t".join([shown, f"{found.strength:.2f}", body, *as_cells(others)])


def _as_json(text: str, found: Recognition, words: Attribution | None, others: Mapping[str, object]) -> str:
    content: dict[str, object] = {
        "text": text,
        "label": found.label,
        "labels": list(found.labels),
        "is_read": found.is_read,
        "strength": round(found.strength, 6),
        "probabilities": {name: round(value, 6) for name, value in found.probabilities.items()},
    }
    if words:
        content["words"] = [{"text": word.text, "start": word.start, "weight": round(word.weight, 6)} for word in words.words]
    if others:
        content["row"] = others
    return json.dumps(content, ensure_ascii=False)
