"""`emogen policy`: show reply policies, and learn one from dialogues."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from tqdm import tqdm

from emogen.cli.reading import reading_options
from emogen.cli.recognition import recognizer_option
from emogen.data.corpora import resolve
from emogen.data.exchange import Exchange, Reading, infer_labels, read_exchanges
from emogen.emotions.labels import EKMAN, Emotion, LabelSet, named_label_set
from emogen.errors import SettingsError

if TYPE_CHECKING:
    from emogen.recognition.recognizer import Recognizer

_AT_ONCE = 256
Side = Literal["nobody", "reply", "user"]


@click.group()
def policy() -> None:
    """Reply policies: which emotion answers what the user feels."""


@policy.command("show")
@click.argument("name", metavar="NAME|FILE", required=False)
@click.option("--user", metavar="NAMES", default="ekman", show_default=True, help="Labels of what the user feels.")
@click.option("--reply", metavar="NAMES", default="ekman", show_default=True, help="Labels of the replies.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a policy, as its file holds it.")
def show(name: str | None, user: str, reply: str, as_json: bool) -> None:
    """Print policy NAME (mirror, soothe, cheer, neutral; all of them without NAME), or that of a FILE as it stands there."""
    from emogen.dialogue.policy import BUILT_IN, built_in, read_policy

    if name and name.lower().endswith((".json", ".toml")):
        found = [read_policy(Path(name))]
    else:
        found = [built_in(each, named_label_set(user), named_label_set(reply)) for each in ([name] if name else BUILT_IN)]
    for each in found:
        text = json.dumps(each.as_object(), ensure_ascii=False) if as_json else each.as_text()
        # Bytes, because names are UTF-8 whatever the terminal's locale.
        click.echo((text if as_json or each is found[-1] else f"{text}\n").encode("utf-8"))


@policy.command("learn")
@click.argument("files", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The policy's file, .json or .toml.")
@click.option("--name", default="learnt", show_default=True, help="Name of the policy.")
@click.option(
    "--emotion-of",
    type=click.Choice(("nobody", "reply", "user")),
    default="nobody",
    show_default=True,
    help="Whose feeling the files' labels are: of the reply (DailyDialog), of the user who is answered (EmpatheticDialogues, "
    "ESConv), or of nobody here. The recogniser labels the rest.",
)
@click.option("--smoothing", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Added to every count.")
@recognizer_option
@click.option("--most", type=click.IntRange(min=1), help="Only so many replies, the first.  [default: all]")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto.")
@reading_options
def learn(
    files: tuple[str, ...],
    out: Path,
    name: str,
    emotion_of: Side,
    smoothing: float,
    recognizer: Path | None,
    most: int | None,
    device: str,
    reading: Reading,
) -> None:
    """Learn from FILES (or names of corpora) which emotions people answer with, and print the file written.

    Each row with a context is a pair: the last utterance of the context and the reply to it. Rows of the splits valid and
    test are left out.
    """
    from emogen.dialogue.policy import learn_policy, write_policy
    from emogen.recognition.recognizer import load_recognizer

    # Before the work: an ending that cannot be written would come to light only after it.
    if out.suffix.lower() not in (".json", ".toml"):
        raise SettingsError(f"{out}: a policy's file ends in .json or .toml; rename it")
    reader = load_recognizer(recognizer, device)
    sources = [resolve(file, reading) for file in files]
    labels = _labels(sources)
    rows = islice(chain.from_iterable(_replies(path, options, labels) for path, options in sources), most)
    pairs = _pairs(iter(tqdm(rows, unit="reply", delay=2, disable=None)), reader, emotion_of)
    user, reply = (labels if emotion_of == side else reader.names for side in ("user", "reply"))
    write_policy(out, learn_policy(pairs, user, reply, smoothing, name))
    click.echo(out)


def _labels(sources: Sequence[tuple[str | Path, Reading]]) -> LabelSet:
    """Return one label set for all files: that of the first where the others have the same."""
    found = [reading.labels or infer_labels(path, reading) for path, reading in sources]
    if any(labels != found[0] for labels in found):
        raise SettingsError(f"the files have different labels; give --labels, such as ekman ({', '.join(EKMAN.names)})")
    return found[0]


def _replies(path: str | Path, reading: Reading, labels: LabelSet) -> Iterator[Exchange]:
    kept = read_exchanges(path, replace(reading, labels=labels))
    return (exchange for exchange in kept if exchange.context and exchange.split in ("train", ""))


def _pairs(rows: Iterator[Exchange], recognizer: Recognizer, emotion_of: Side) -> Iterator[tuple[Emotion, Emotion]]:
    """Yield what was felt and what it was answered with."""
    while batch := list(islice(rows, _AT_ONCE)):
        known = [row.emotion for row in batch]
        felt = known if emotion_of == "user" else recognize_all(recognizer, [row.context[-1] for row in batch])
        answered = known if emotion_of == "reply" else recognize_all(recognizer, [row.reply for row in batch])
        yield from zip(felt, answered, strict=True)


def recognize_all(recognizer: Recognizer, texts: Sequence[str]) -> list[Emotion]:
    """Return each text's emotion over the recogniser's labels."""
    from emogen.dialogue.state import as_emotion

    return [as_emotion(found, recognizer.names) for found in recognizer.recognize(texts)]
