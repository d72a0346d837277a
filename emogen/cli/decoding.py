"""Which model writes and how it decodes: the options that say so, the same for every command that writes with a model."""

from __future__ import annotations

import dataclasses
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from emogen.decoding.control import parse_control

if TYPE_CHECKING:
    from emogen.checkpoint.model import EmotionModel
    from emogen.decoding.params import SamplingParams
    from emogen.decoding.texts import Sample

_LONG_SECONDS = 20.0
Command = Callable[..., Any]


@dataclass(frozen=True)
class Decoding:
    """What a command was told about the model that writes; None leaves an option to the model.

    Attributes:
        checkpoint: its folder.
        strength: of the emotion, 0 to 1.
        temperature, top_k, top_p, min_p, max_tokens: as in `SamplingParams`.
        control: controllers and their weights.
        seed: of the random numbers; one drawn anew where none was given.
        device: cpu, cuda or auto.
    """

    checkpoint: str | None
    strength: float
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    control: str | None
    max_tokens: int | None
    seed: int
    device: str

    def model(self, whole: bool = False) -> EmotionModel:
        """Return the model; which one is said on standard error where nobody named it. `whole` and errors as for `load`."""
        from emogen.checkpoint.finding import find_checkpoint, notice_of
        from emogen.checkpoint.model import load

        folder = find_checkpoint(self.checkpoint)
        if not self.checkpoint:
            click.echo(f"emogen: {notice_of(folder)}", err=True)
        return load(folder, self.device, whole=whole)

    def sampling(self, model: EmotionModel, with_emotion: bool, streamed: bool = False) -> SamplingParams:
        """Return the model's own options with those that were given; arguments as for `EmotionModel.sampling_for`."""
        names = ("temperature", "top_k", "top_p", "min_p", "max_tokens")
        given: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.control is not None:
            given["control"] = parse_control(self.control)
        return dataclasses.replace(model.sampling_for(with_emotion, streamed), **given)


_OPTIONS = (
    click.option(
        "--checkpoint",
        default=None,
        help="Folder of a model  [default: $EMOGEN_CHECKPOINT, checkpoints/latest, the best that ships and can be loaded]",
    ),
    click.option("--strength", type=float, default=1.0, show_default=True, help="Strength of the emotion, 0 to 1."),
    click.option(
        "--temperature",
        type=float,
        default=None,
        help="0 takes the likeliest token.  [default: 0.6; streamed without an emotion 0.4]",
    ),
    click.option("--top-k", type=int, default=None, help="Only the k likeliest tokens."),
    click.option(
        "--top-p", type=float, default=None, help="Only the likeliest tokens of this total probability.  [default: 0.95]"
    ),
    click.option("--min-p", type=float, default=None, help="Only tokens at least this share as likely as the likeliest."),
    click.option(
        "--control",
        default=None,
        help="Controllers and weights: guidance:2,head:1.5; none.  [default: guidance:1.5 with an emotion; mbr:8 without]",
    ),
    click.option("--max-tokens", type=int, default=None, help="Cut a text after so many."),
    click.option("--seed", type=int, default=None, help="The same seed gives the same texts  [default: another one each time]"),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto."),
)


def decoding_options(command: Command) -> Command:
    """Add the options to a click command, which gets what they say as `decoding`."""

    @wraps(command)
    def with_decoding(**options: Any) -> Any:
        given = {field.name: options.pop(field.name) for field in dataclasses.fields(Decoding)}
        if given["seed"] is None:
            given["seed"] = secrets.randbelow(2**31)
        return command(decoding=Decoding(**given), **options)

    for option in reversed(_OPTIONS):
        with_decoding = option(with_decoding)
    return with_decoding


def show_progress(written: Iterable[Sample], total: int, model: EmotionModel) -> Iterator[Sample]:
    """Pass texts on; after two seconds show on a terminal how far they are, and say it where a faster model would be better."""
    from emogen.checkpoint.model import faster_than

    began, conditioning = time.monotonic(), False
    with tqdm(total=total, unit=" texts", delay=2, disable=None, leave=False, file=sys.stderr) as bar:
        for number, found in enumerate(written, 1):
            bar.update()
            left = (time.monotonic() - began) * (total - number) / number
            if not conditioning and left > _LONG_SECONDS and (faster := faster_than(model)):
                bar.clear()
                click.echo(f"emogen: {total:,} texts by {model.folder.name} take {left:.0f} s more; faster: {faster}", err=True)
                conditioning = True
            yield found


def in_turn(steps: Iterator[tuple[int, str, bool]], count: int) -> Iterator[Iterator[str]]:
    """Sort the pieces of `count` texts that are written at once: yield the pieces of one text after another.

    Args:
        steps: (number of a text, its next piece, whether that ends it), the texts interleaved.
        count: how many texts there are. Those of each must be read before the next text is asked for.
    """
    early: list[list[str]] = [[] for _ in range(count)]
    ended = [False] * count

    def pieces_of(turn: int) -> Iterator[str]:
        yield from early[turn]
        while not ended[turn]:
            place, piece, ended[place] = next(steps)
            if place == turn:
                yield piece
            else:
                early[place].append(piece)

    return (pieces_of(turn) for turn in range(count))


def on_one_line(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the pieces of a text that has no line breaks, no blanks at its ends and one blank between its words."""
    whole = shown = ""
    for piece in pieces:
        whole += piece
        line = " ".join(whole.split())
        yield line[len(shown) :]
        shown = line
