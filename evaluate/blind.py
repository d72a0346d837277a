"""How what the models write reads to people who do not know the systems: sheets to be rated blind, and their ratings scored.

python evaluate/blind.py sheet contexts.jsonl SYSTEM=replies.jsonl ... --folder runs/blind
python evaluate/blind.py score runs/blind READER.jsonl ...

The first writes sheet.jsonl, in which origins are hidden and their order is shuffled, and key.json, which no reader may see. A
reader writes one line for each reply: {"item": "0a", "fit": 1 to 5, ...}, in whatever scales the sheet is read for. Texts that
were asked for with an emotion (`emotion` beside `text`) may be read for it: {"item": "0a", "emotion": "joy", "sense": 4}.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from emogen.cli import run
from emogen.errors import DataError, SettingsError
from emogen.evaluate.report import command_of, write_result
from emogen.evaluate.resampling import mean_tally
from emogen.files import write_text

RESULT = Path("evaluate/results/blind.json")
SHEET, KEY = "sheet.jsonl", "key.json"
LOWEST, HIGHEST = 1, 5
_BEFORE_MARK = re.compile(r"\s+([.,!?;:')])")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@click.group()
def main() -> None:
    """Have texts read by people who do not know who wrote them."""


@main.command()
@click.argument("contexts", type=click.Path(path_type=Path))
@click.argument("systems", nargs=-1, required=True, metavar="SYSTEM=FILE ...")
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="Where sheet and key are written.")
@click.option("--seed", default=0, show_default=True, help="Of the order of the systems, item by item.")
def sheet(contexts: Path, systems: tuple[str, ...], folder: Path, seed: int) -> None:
    """Shuffle the replies of several systems to the same contexts (JSON lines with `context`; with `text` for a reply)."""
    target = [row["context"] for row in read_lines(contexts)]
    written = {name: read_lines(Path(file)) for name, file in map(named, systems)}
    for name, rows in written.items():
        if len(rows) != len(target):
            raise DataError(f"{name}: {len(rows)} replies to {len(target)} contexts; give one for each, in their order")
    order = random.Random(seed)
    items, key = [], {}
    for number, context in enumerate(target):
        shuffled = order.sample(sorted(written), len(written))
        replies = {}
        for letter, name in zip(_LETTERS, shuffled, strict=False):
            row = written[name][number]
            replies[letter] = even(str(row["text"]))
            key[f"{number}{letter}"] = {"system": name, "emotion": row.get("emotion")}
        items.append({"id": number, "context": context, "replies": replies})
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / SHEET, "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items))
    write_text(folder / KEY, json.dumps(key) + "\n")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("ratings", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
@click.pass_context
def score(context: click.Context, folder: Path, ratings: tuple[Path, ...], out: Path) -> None:
    """Write each system's mean rating, with a bootstrap interval over contexts, and all ratings without the texts."""
    key: dict[str, dict[str, str]] = json.loads((folder / KEY).read_text(encoding="utf-8"))
    found = [rating for reader, path in enumerate(ratings) for rating in read_ratings(path, reader, key)]
    systems = sorted({origin["system"] for origin in key.values()})
    rows = [{"system": system, "seed": 0, **scores_of(found, system)} for system in systems]
    command = command_of("blind", context).replace("blind.py", "blind.py score", 1)
    write_result(out, command, [folder / SHEET, *ratings], rows, {"ratings": found})
    for row in rows:
        click.echo(json.dumps({name: getattr(value, "value", value) for name, value in row.items()}))


def scores_of(ratings: Sequence[dict[str, object]], system: str) -> dict[str, object]:
    """Average one system's ratings, readers first, then contexts: one item of the bootstrap is one context."""
    scales: dict[str, dict[object, list[float]]] = defaultdict(lambda: defaultdict(list))
    for rating in ratings:
        if rating["system"] == system:
            for scale, value in rating.items():
                if scale not in ("system", "context", "reader"):
                    scales[scale][rating["context"]].append(float(str(value)))
    means = {scale: [sum(values) / len(values) for values in by.values()] for scale, by in scales.items()}
    return {scale: mean_tally(values, f"mean of readers|n:{len(values)}").score() for scale, values in means.items()}


def read_ratings(path: Path, reader: int, key: dict[str, dict[str, str]]) -> Iterator[dict[str, object]]:
    """Read one reader's ratings under the systems' names; an emotion that was read becomes 1 where it was asked for, else 0.

    Raises:
        DataError: an item or a rating that there is not.
    """
    for number, row in enumerate(read_lines(path), 1):
        item = str(row.pop("item", ""))
        if item not in key:
            raise DataError(f"{path}:{number}: item {item!r} is not on the sheet")
        read = row.pop("emotion", None)
        for scale, value in row.items():
            if not isinstance(value, int | float) or not LOWEST <= value <= HIGHEST:
                raise DataError(f"{path}:{number}: {scale} {value!r} is not a number from {LOWEST} to {HIGHEST}")
        found = {} if read is None else {"emotion_read": float(read == key[item]["emotion"])}
        yield {"system": key[item]["system"], "context": int(item[:-1]), "reader": reader, **found, **row}


def read_lines(path: Path) -> list[dict[str, object]]:
    """Read JSON objects, one a line; raise DataError where there are none."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON lines ({error})") from None


def named(system: str) -> tuple[str, str]:
    """Split SYSTEM=FILE; raise SettingsError where that is not its form."""
    name, found, file = system.partition("=")
    if not (found and name and file):
        raise SettingsError(f"{system}: write SYSTEM=FILE")
    return name, file


def even(text: str) -> str:
    """Give all systems one surface: lower case, single blanks, no blank before a mark, so that casing betrays none."""
    return _BEFORE_MARK.sub(r"\1", " ".join(text.lower().replace(" n't", "n't").split()))


if __name__ == "__main__":
    run(main, "blind.py")
