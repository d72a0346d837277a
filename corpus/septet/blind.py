"""Read Septet blind: a sheet of replies with their contexts and without their emotions, and what the readers made of it.

    python corpus/septet/blind.py sheet --language en --rows 200 --seed 7 --out sheet.txt --key key.json
    python corpus/septet/blind.py score corpus/septet/ratings/*.tsv

A reader sees a number, what was said, and the reply; he writes number, emotion, plausibility and fit (1 to 5), tabs between.
For the ratings that are kept the id of the row stands in place of the number, and the reply behind it: what has been rewritten
since it was read is counted apart.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

import click
import numpy as np

from emogen.cli import run
from emogen.data.corpora import locate
from emogen.data.rows import Row, read_rows
from emogen.errors import DataError
from emogen.evaluate.resampling import RESAMPLES, percentile_interval
from emogen.files import read_text, write_text


@click.group()
def main() -> None:
    """Make sheets for blind readers, and score what they wrote."""


@main.command()
@click.option("--language", type=click.Choice(["en", "zh"]), required=True)
@click.option("--rows", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--seed", type=int, required=True, help="Of the draw; another one gives other rows.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The sheet.")
@click.option("--key", type=click.Path(path_type=Path), required=True, help="Ids of its rows, not for readers.")
def sheet(language: str, rows: int, seed: int, out: Path, key: Path) -> None:
    """Draw replies of whole septets, and write them as a reader sees them."""
    own = [row for row in corpus() if row["language"] == language and row["kind"] == "reply"]
    drawn = Random(seed).sample(own, rows)
    items = [f"{at}. {'  //  '.join(row['context'])}\n   -> {row['reply']}\n" for at, row in enumerate(drawn, 1)]
    write_text(out, "".join(items))
    write_text(key, json.dumps([row["id"] for row in drawn]))


@main.command()
@click.argument("ratings", nargs=-1, required=True, type=click.Path(path_type=Path))
def score(ratings: tuple[Path, ...]) -> None:
    """Print accuracy, plausibility and fit by language, with 95% bootstrap intervals over rows, and what was taken for what."""
    known = {row["id"]: row for row in corpus()}
    found: dict[str, list[tuple[str, str, float, float]]] = defaultdict(list)
    rewritten = Counter[str]()
    for path in ratings:
        for line in read_text(path).splitlines():
            name, emotion, plausibility, fit, reply = line.split("\t")
            if name not in known:
                raise DataError(f"{path}: row {name} is not in the corpus any more")
            row = known[name]
            found[row["language"]].append((row["emotion"], emotion, float(plausibility), float(fit)))
            rewritten[row["language"]] += row["reply"] != reply
    for language, rated in found.items():
        click.echo(f"{language}: {len(rated)} readings, {rewritten[language]} of them of replies that were rewritten since")
        columns = {
            "emotion recovered": [float(asked == read) for asked, read, *_ in rated],
            "plausibility": [row[2] for row in rated],
            "fit": [row[3] for row in rated],
        }
        for name, values in columns.items():
            draws = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(1)
            low, high = percentile_interval(draws)
            click.echo(f"  {name} {np.mean(values):.3f} [{low:.3f}, {high:.3f}]")
        mistaken = Counter(f"{asked} read as {read}" for asked, read, *_ in rated if asked != read)
        click.echo(f"  {', '.join(f'{name} {count}' for name, count in mistaken.most_common(8))}")


def corpus() -> list[dict[str, str]]:
    """Return rows of the package's file."""
    return [row.fields for row in read_rows(locate("septet")) if isinstance(row, Row)]  # type: ignore[misc]


if __name__ == "__main__":
    run(main, "blind.py")
