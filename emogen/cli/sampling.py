"""`emogen sample` and `emogen reply`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emogen.cli.printing import print_text
from emogen.decoding.control import parse_control
from emogen.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

    from emogen.checkpoint import Checkpoint
    from emogen.decoding.sampling import Sampling
    from emogen.decoding.texts import Guide
    from emogen.emotions import Emotion

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
        "--control",
        default=None,
        help="Controllers and weights: guidance:2,head:1.5; none.  [default: guidance:2, of a pretrained backbone guidance:3]",
    ),
    click.option(
        "--guide",
        type=click.Path(path_type=Path),
        default=None,
        help="Classifier for control rerank: its folder  [default: the recogniser that ships]",
    ),
    click.option(
        "--post", default="", help="Steps that each text goes through, in order: detokenise,case,sentence,personal ..."
    ),
    click.option("--max-tokens", type=int, default=None, help="Cut a text after so many."),
    click.option("--seed", type=int, default=None, help="The same seed gives the same texts  [default: another one each time]"),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto."),
    click.option("--stream", is_flag=True, help="Print each text as it is written."),
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
    control: str | None
    guide: Path | None
    post: str
    max_tokens: int | None
    seed: int | None
    device: str
    stream: bool
    as_json: bool
    near: str | None = None
    spread: float = 1.0


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command("sample")
@click.option("--context", "contexts", multiple=True, help="What is replied to; given several times: a dialogue, oldest first.")
@click.option("--near", default=None, help="A text around whose latent is written (a VAE's checkpoint).")
@click.option("--spread", type=float, default=1.0, show_default=True, help="How far around it; 0 for its latent itself.")
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

    model = load(asked.checkpoint, asked.device, whole=asked.near is not None)
    if not asked.checkpoint:
        better = better_than(model.folder)
        click.echo(f"emogen: written by {model.folder.name}" + (f"; for better texts: {better}" if better else ""), err=True)
    return model


def _write(model: Checkpoint, contexts: Sequence[str], emotions: Sequence[str | None], asked: _Asked) -> None:
    import secrets

    from emogen.decoding.postprocessing import parse_postprocessing

    if any(not context.strip() for context in contexts):
        raise SettingsError("the context is empty; leave it out to write without one")
    options, guide = _sampling(model, asked), None
    if options.control.rerank > 1:
        guide = _guide(model, asked)
    wanted = [model.emotion(text, asked.strength) for text in emotions]
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    if asked.stream:
        _stream(model, contexts, wanted, options, asked, seed)
        return
    post = parse_postprocessing(asked.post)
    latent = None if asked.near is None else _near(model, asked.near, asked, seed)
    for emotion in wanted:
        for found in model.replies([contexts], [emotion], asked.count, options, seed, guide, latent):
            text = post(found.text)
            if asked.as_json:
                print_text(json.dumps({**dataclasses.asdict(found), "text": text, "seed": seed}, ensure_ascii=False))
            else:
                text = " ".join(text.split())
                print_text(text if len(wanted) == 1 else f"{found.emotion}\t{text}")


def _sampling(model: Checkpoint, asked: _Asked) -> Sampling:
    """The model's own options with those that were given."""
    names = ("temperature", "top_k", "top_p", "min_p", "max_tokens")
    given: dict[str, Any] = {name: getattr(asked, name) for name in names if getattr(asked, name) is not None}
    if asked.control is not None:
        given["control"] = parse_control(asked.control)
    return dataclasses.replace(model.default_sampling, **given)


def _near(model: Checkpoint, text: str, asked: _Asked, seed: int) -> Tensor:
    """Latents around that of a text, one for each text to be written."""
    from emogen.decoding.latent import latent_space, near

    space = latent_space(model.model, model.tokenizer, model.labels, model.description.limits, str(model.folder))
    return near(space, text, asked.count, asked.spread, seed)


def _guide(model: Checkpoint, asked: _Asked) -> Guide:
    from emogen.checkpoint import shipped
    from emogen.judges.recognizer import load_recognizer

    return load_recognizer(asked.guide or shipped("recognizer"), asked.device).over(model.labels)


def _stream(
    model: Checkpoint, contexts: Sequence[str], emotions: Sequence[Emotion], options: Sampling, asked: _Asked, seed: int
) -> None:
    """Prints texts piece by piece, one after another."""
    if asked.as_json or asked.post or asked.count != 1 or asked.near is not None:
        raise SettingsError(
            "--stream prints a text as it is written: leave out --json, --post, --near and -n, which need it whole"
        )
    for emotion in emotions:
        whole, shown = "", ""
        for piece in chain(model.stream(contexts, emotion, options, seed), [""]):
            whole += piece
            line = (f"{emotion}\t" if len(emotions) > 1 else "") + " ".join(whole.split())
            print_text(line[len(shown) :], nl=False)
            shown = line
        click.echo()
