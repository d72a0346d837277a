"""Make the package's files of Septet from its sources: one exchange a reply, with its group, domain and split.

python corpus/septet/build.py
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import click

from emogen.cli import run
from emogen.data.check import split_of
from emogen.files import parse_json, read_text, replace_file

HERE = Path(__file__).parent
DATA = HERE.parent.parent / "emogen" / "data"
# Nobody trains on these domains: what a model writes there shows what it has understood.
TEST_DOMAINS = {"en": ("game", "news"), "zh": ("home", "sport")}
SHARES = (0.85, 0.1, 0.05)
STRENGTHS = {"mild": 0.35, "clear": 0.7, "strong": 1.0}


@click.command()
def main() -> None:
    """Write septet-en.jsonl.gz, septet-zh.jsonl.gz, and both as septet.jsonl.gz."""
    rows = {language: list(exchanges(language)) for language in ("en", "zh")}
    for name, found in {"septet-en": rows["en"], "septet-zh": rows["zh"], "septet": [*rows["en"], *rows["zh"]]}.items():
        write(DATA / f"{name}.jsonl.gz", found)
        click.echo(f"{name}: {len(found):,} exchanges of {len({row['group'] for row in found}):,} groups")


def exchanges(language: str) -> Iterator[dict[str, object]]:
    """Yield the rows of all sources of a language, file by file."""
    for path in sorted((HERE / language).glob("*.jsonl")):
        if path.stem.startswith("listeners"):
            # A manner of listening is no emotion of a reply.
            continue
        for line in read_text(path).splitlines():
            group = parse_json(line)
            about = {key: group[key] for key in ("language", "domain")} | {"split": split(group)}
            for number, row in enumerate(rows_of(group)):
                yield {"id": f"{group['id']}-{number}", "group": group["id"], **about, **row}


def rows_of(group: dict[str, object]) -> Iterator[dict[str, object]]:
    """Yield context, reply, emotion and, where it is known, the speaker's and the intensity: of one group of whatever kind."""
    if "turns" in group:
        yield from _turns(group)
        return
    said = {"context": group["context"], "speaker_emotion": group["speaker_emotion"]}
    replies = group["replies"]
    if isinstance(replies, list):
        for reply in replies:
            yield {"kind": "blend", **said, "reply": reply["text"], "emotion": reply["emotion"]}
    elif isinstance(replies, dict):
        for emotion, reply in replies.items():
            if isinstance(reply, str):
                yield {"kind": "reply", **said, "reply": reply, "emotion": emotion}
                continue
            for intensity, text in reply.items():
                strength = STRENGTHS[intensity]
                yield {
                    "kind": "intensity",
                    **said,
                    "reply": text,
                    "emotion": emotion,
                    "strength": strength,
                    "intensity": intensity,
                }


def _turns(group: dict[str, object]) -> Iterator[dict[str, object]]:
    """Yield each turn but the first as a reply to those before."""
    turns = group["turns"]
    assert isinstance(turns, list)
    for place in range(1, len(turns)):
        context = [turn["text"] for turn in turns[:place]]
        row = {"kind": "turn", "context": context, "speaker_emotion": turns[place - 1]["emotion"]}
        yield {**row, "reply": turns[place]["text"], "emotion": turns[place]["emotion"]}


def split(group: dict[str, object]) -> str:
    """Return all of a group in one split; of a domain for tests in the test."""
    if group["domain"] in TEST_DOMAINS[str(group["language"])]:
        return "test"
    return split_of(str(group["id"]), SHARES, 0)


def write(path: Path, rows: list[dict[str, object]]) -> None:
    """Write the same bytes for the same rows, whenever it is done."""
    with replace_file(path) as beside, beside.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode())


if __name__ == "__main__":
    run(main, "build.py")
