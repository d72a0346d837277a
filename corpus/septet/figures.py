"""Count Septet for its datasheet, and write the counts into `docs/septet.md` between `<!-- figures -->` and `<!-- end -->`.

python corpus/septet/figures.py
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from check import NAMING

from emogen.cli import run
from emogen.data.corpora import locate
from emogen.data.exchange import read_exchanges
from emogen.data.rows import Row, read_rows
from emogen.emotions.labels import EKMAN
from emogen.evaluate.diversity import distinct_corrected
from emogen.files import read_text, write_text
from emogen.text.words import language_of, words

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "septet.md"
LANGUAGES = ("en", "zh")
KINDS = {"reply": "septets", "blend": "blends", "intensity": "intensities", "turn": "conversations"}
VOCABULARY = 4000
SHE = r"\b(?:she|her|hers|mum|mother|woman|girl|wife|daughter)\b|她|妈|奶奶|女儿|姐|妹"
HE = r"\b(?:he|him|his|dad|father|man|boy|husband|son)\b|他|爸|爷爷|儿子|哥|弟"

Fields = dict[str, Any]


@click.command()
def main() -> None:
    """Write the tables."""
    rows = [row.fields for row in read_rows(locate("septet")) if isinstance(row, Row)]
    by_language = {language: [row for row in rows if row["language"] == language] for language in LANGUAGES}
    tables = [counts(by_language), domains(by_language), qualities(by_language), people(by_language)]
    page = read_text(PAGE)
    begin, end = page.index("<!-- figures -->"), page.index("<!-- end -->")
    write_text(PAGE, f"{page[:begin]}<!-- figures -->\n" + "\n\n".join(tables) + f"\n{page[end:]}")


def table(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """Return a table of Markdown."""
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def counts(by_language: dict[str, list[Fields]]) -> str:
    """Return groups and rows by kind and split."""
    lines = []
    for kind, name in KINDS.items():
        own = [[row for row in rows if row["kind"] == kind] for rows in by_language.values()]
        lines.append([name, *(f"{len({row['group'] for row in found}):,} ({len(found):,})" for found in own)])
    heard = [sum(len(read_text(path).splitlines()) for path in (HERE / each).glob("listeners*.jsonl")) for each in LANGUAGES]
    lines.append(["listeners' messages (replies)", *(f"{number:,} ({2 * number:,})" for number in heard)])
    for split in ("train", "valid", "test"):
        lines.append(
            [f"rows of {split}", *(f"{sum(row['split'] == split for row in rows):,}" for rows in by_language.values())]
        )
    return table(["groups (rows)", "English", "Chinese"], lines)


def domains(by_language: dict[str, list[Fields]]) -> str:
    """Return groups by domain."""
    found = {each: {(row["domain"], row["group"]) for row in rows} for each, rows in by_language.items()}
    numbers = {each: Counter(domain for domain, _ in pairs) for each, pairs in found.items()}
    names = sorted(set().union(*numbers.values()))
    return table(
        ["groups by domain", "English", "Chinese"], [[name, *(numbers[each][name] for each in LANGUAGES)] for name in names]
    )


def qualities(by_language: dict[str, list[Fields]]) -> str:
    """Return lengths, openings, vocabulary, diversity beside the starter corpus, and replies that name their emotion."""
    starter = list(read_exchanges(locate("starter")))
    lines: dict[str, list[str]] = defaultdict(list)
    for language, rows in by_language.items():
        replies = [row["reply"] for row in rows]
        lengths = sorted(len(spoken(reply)) for reply in replies)
        shown = (str(lengths[int(share * (len(lengths) - 1))]) for share in (0.05, 0.5, 0.9, 1))
        lines["words of a reply: 5%, median, 90%, most"].append(", ".join(shown))
        opening, number = Counter(" ".join(words(reply)[:3]) for reply in replies).most_common(1)[0]
        lines["commonest opening, share of replies"].append(f"{opening!r} {number / len(replies):.2%}")
        found = Counter(word for reply in replies for word in spoken(reply.lower()))
        share = sum(number for _, number in found.most_common(VOCABULARY)) / found.total()
        lines[f"share of the {VOCABULARY:,} commonest words (of all)"].append(f"{share:.3f} ({len(found):,})")
        theirs = [row.reply for row in starter if language_of([*row.context, row.reply]) == language]
        spread = replies[:: max(1, len(replies) // len(theirs))][: len(theirs)]
        both = (distinct_corrected(texts, 2).value for texts in (spread, theirs))
        lines["corrected distinct-2, and the starter corpus'"].append(", ".join(f"{value:.3f}" for value in both))
        emotional = [row for row in rows if row["kind"] == "reply" and row["emotion"] in NAMING]
        lines["emotional replies that name their emotion"].append(f"{sum(map(names_emotion, emotional)) / len(emotional):.2%}")
    return table(["", "English", "Chinese"], [[name, *values] for name, values in lines.items()])


def spoken(text: str) -> list[str]:
    """Return its words without marks."""
    return [word for word in words(text) if any(map(str.isalnum, word))]


def names_emotion(row: Fields) -> bool:
    """Tell whether a reply holds a word for its emotion."""
    return re.search(rf"(?<![a-z])(?:{NAMING[row['emotion']]})(?![a-z])", row["reply"].lower()) is not None


def people(by_language: dict[str, list[Fields]]) -> str:
    """By emotion, the share of replies with words for women and for men: a bias that a model can learn."""
    lines = []
    for name in EKMAN.names:
        own = [[row["reply"].lower() for row in rows if row["emotion"] == name] for rows in by_language.values()]
        shares = (
            sum(bool(re.search(kind, reply)) for reply in replies) / len(replies) for replies in own for kind in (SHE, HE)
        )
        lines.append([name, *(f"{share:.1%}" for share in shares)])
    return table(["replies that speak of", "women, English", "men, English", "women, Chinese", "men, Chinese"], lines)


if __name__ == "__main__":
    run(main, "figures.py")
