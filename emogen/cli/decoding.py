"""Which model writes and how it decodes: the options that say so, the same for every command that writes with a model."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from emogen.decoding.control import parse_control

if TYPE_CHECKING:
    from emogen.checkpoint import Checkpoint
    from emogen.decoding.sampling import Sampling

Command = Callable[..., Any]


@dataclass(frozen=True)
class Decoding:
    """What a command was told about the model that writes; None leaves an option to the model.

    Attributes:
        checkpoint: its folder.
        strength: of the emotion, 0 to 1.
        temperature, top_k, top_p, min_p, max_tokens: as in `Sampling`.
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

    def model(self, whole: bool = False) -> Checkpoint:
        """The model; which one is said on standard error where nobody named it. `whole` and errors as for `load`."""
        from emogen.checkpoint import better_than, load

        model = load(self.checkpoint, self.device, whole=whole)
        if not self.checkpoint:
            better = better_than(model.folder)
            click.echo(
                f"emogen: written by {model.folder.name}" + (f"; for better texts: {better}" if better else ""), err=True
            )
        return model

    def sampling(self, model: Checkpoint) -> Sampling:
        """The model's own options with those that were given."""
        names = ("temperature", "top_k", "top_p", "min_p", "max_tokens")
        given: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.control is not None:
            given["control"] = parse_control(self.control)
        return dataclasses.replace(model.default_sampling, **given)


_OPTIONS = (
    click.option(
        "--checkpoint",
        default=None,
        help="Folder of a model  [default: $EMOGEN_CHECKPOINT, checkpoints/latest, the best that ships and can be loaded]",
    ),
    click.option("--strength", type=float, default=1.0, show_default=True, help="Of the emotion, 0 to 1."),
    click.option(
        "--temperature",
        type=float,
        default=None,
        help="0 takes the likeliest token.  [default: 0.85, of a pretrained backbone 0.9]",
    ),
    click.option("--top-k", type=int, default=None, help="Only the k likeliest tokens."),
    click.option(
        "--top-p", type=float, default=None, help="Only the likeliest tokens of this total probability.  [default: 0.95]"
    ),
    click.option("--min-p", type=float, default=None, help="Only tokens at least this share as likely as the likeliest."),
    click.option(
        "--control",
        default=None,
        help="Controllers and weights: guidance:2,head:1.5; none.  [default: guidance:2, of a pretrained backbone guidance:3]",
    ),
    click.option("--max-tokens", type=int, default=None, help="Cut a text after so many."),
    click.option("--seed", type=int, default=None, help="The same seed gives the same texts  [default: another one each time]"),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto."),
)


def decoding_options(command: Command) -> Command:
    """Adds the options to a click command, which gets what they say as `decoding`."""

    @wraps(command)
    def with_decoding(**options: Any) -> Any:
        return command(decoding=_decoding(options), **options)

    for option in reversed(_OPTIONS):
        with_decoding = option(with_decoding)
    return with_decoding


def on_one_line(pieces: Iterable[str]) -> Iterator[str]:
    """The pieces of a text that has no line breaks, no blanks at its ends and one blank between its words."""
    whole = shown = ""
    for piece in pieces:
        whole += piece
        line = " ".join(whole.split())
        yield line[len(shown) :]
        shown = line


def _decoding(options: dict[str, Any]) -> Decoding:
    """Takes its own options out of `options`."""
    given = {field.name: options.pop(field.name) for field in dataclasses.fields(Decoding)}
    if given["seed"] is None:
        given["seed"] = secrets.randbelow(2**31)
    return Decoding(**given)
