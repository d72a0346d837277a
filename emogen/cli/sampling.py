"""`emogen sample` and `emogen reply`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from emogen.errors import SettingsError

if TYPE_CHECKING:
    from emogen.checkpoint import Checkpoint

_OPTIONS = (
    click.option(
        "--emotion", "emotions", multiple=True, help="joy, or a mixture joy=0.7,surprise=0.3; may be given several times."
    ),
    click.option(
        "-n", "count", type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="Texts for each emotion."
    ),
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
        "--guidance",
        type=float,
        default=None,
        help="Above 1 the emotion is plainer; 1 is twice as fast.  [default: 2, of a pretrained backbone 3]",
    ),
    click.option("--max-tokens", type=int, default=None, help="Cut a text after so many."),
    click.option("--seed", type=int, default=None, help="The same seed gives the same texts  [default: another one each time]"),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object a line."),
)


@dataclass(frozen=True)
class _Asked:
    """What both commands are asked for, besides the context."""

    emotions: tuple[str, ...]
    count: int
    checkpoint: str | None
    strength: float
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    guidance: float | None
    max_tokens: int | None
    seed: int | None
    device: str
    as_json: bool


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command("sample")
@click.option("--context", "contexts", multiple=True, help="What is replied to; given several times: a dialogue, oldest first.")
@_with_options
def sample(contexts: tuple[str, ...], **options: Any) -> None:
    """Write texts with the emotion you ask for, one a line; without --emotion, one for each emotion the model knows."""
    asked = _Asked(**options)
    model = _loaded(asked)
    _write(model, contexts, asked.emotions or model.labels.names, asked)


@click.command("reply")
@click.argument("utterances", nargs=-1, required=True)
@_with_options
def reply(utterances: tuple[str, ...], **options: Any) -> None:
    """Reply to what was said, UTTERANCES of a dialogue from the oldest on; without --emotion, with whichever comes."""
    asked = _Asked(**options)
    _write(_loaded(asked), utterances, asked.emotions or (None,), asked)


def _loaded(asked: _Asked) -> Checkpoint:
    """The model; which one is said where nobody named it."""
    from emogen.checkpoint import better_than, load

    model = load(asked.checkpoint, asked.device)
    if not asked.checkpoint:
        better = better_than(model.folder)
        click.echo(f"emogen: written by {model.folder.name}" + (f"; for better texts: {better}" if better else ""), err=True)
    return model


def _write(model: Checkpoint, contexts: Sequence[str], emotions: Sequence[str | None], asked: _Asked) -> None:
    import secrets

    if any(not context.strip() for context in contexts):
        raise SettingsError("the context is empty; leave it out to write without one")
    names = ("temperature", "top_k", "top_p", "min_p", "guidance", "max_tokens")
    given = {name: getattr(asked, name) for name in names if getattr(asked, name) is not None}
    options = dataclasses.replace(model.default_sampling, **given)
    wanted = [model.emotion(text, asked.strength) for text in emotions]
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    for emotion in wanted:
        for found in model.sample(emotion, asked.count, contexts, options, seed):
            if asked.as_json:
                _print(json.dumps({**dataclasses.asdict(found), "seed": seed}, ensure_ascii=False))
            else:
                text = " ".join(found.text.split())
                _print(text if len(wanted) == 1 else f"{found.emotion}\t{text}")


def _print(line: str) -> None:
    # Bytes, because these texts are UTF-8 whatever the terminal's locale.
    click.echo(line.encode("utf-8", errors="backslashreplace"))
