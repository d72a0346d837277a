"""`emogen sample` and `emogen reply`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emogen.cli.decoding import Decoding, decoding_options, in_turn, on_one_line, show_progress
from emogen.cli.printing import print_text
from emogen.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

    from emogen.checkpoint.model import EmotionModel
    from emogen.decoding.texts import Guide
    from emogen.emotions.labels import Emotion

_OPTIONS = (
    click.option(
        "--emotion", "emotions", multiple=True, help="joy, or a mixture joy=0.7,surprise=0.3; may be given several times."
    ),
    click.option(
        "-n", "count", type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="Texts for each emotion."
    ),
    decoding_options,
    click.option(
        "--guide",
        type=click.Path(path_type=Path),
        default=None,
        help="Classifier for control rerank: its folder  [default: the recogniser that ships]",
    ),
    click.option(
        "--post", default="", help="Steps that each text goes through, in order: detokenise,case,sentence,personal ..."
    ),
    click.option(
        "--stream/--no-stream",
        default=None,
        help="Print texts while they are written  [default: on a terminal, where texts are printed as they are]",
    ),
    click.option("--json", "as_json", is_flag=True, help="One JSON object a line."),
)


@dataclass(frozen=True)
class _Asked:
    """What both commands are asked for, besides the context."""

    emotions: tuple[str, ...]
    count: int
    decoding: Decoding
    guide: Path | None
    post: str
    stream: bool | None
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
    target = _Asked(**options)
    _require_context(contexts)
    model = target.decoding.model(whole=target.near is not None)
    _write(model, contexts, target.emotions or model.labels.names, target)


@click.command("reply")
@click.argument("utterances", nargs=-1, required=True)
@_with_options
def reply(utterances: tuple[str, ...], **options: Any) -> None:
    """Reply to what was said, UTTERANCES of a dialogue from the oldest on; without --emotion, as fits what was said."""
    target = _Asked(**options)
    _require_context(utterances)
    _write(target.decoding.model(), utterances, target.emotions or (None,), target)


def _require_context(contexts: Sequence[str]) -> None:
    """Refuse blank utterances before a model is loaded."""
    if any(not context.strip() for context in contexts):
        raise SettingsError("the context is empty; leave it out to write without one")


def _write(model: EmotionModel, contexts: Sequence[str], emotions: Sequence[str | None], target: _Asked) -> None:
    from emogen.dialogue.language import WrittenScripts

    if contexts and (mismatch := WrittenScripts(model.tokenizer).describe_mismatch(contexts[-1])):
        click.echo(f"emogen: {mismatch}", err=True)
    wanted = [model.emotion(text, target.decoding.strength) for text in emotions]
    if _streams(model, wanted, target):
        _stream(model, contexts, wanted, target)
    else:
        _write_whole(model, contexts, wanted, target)


def _write_whole(model: EmotionModel, contexts: Sequence[str], emotions: Sequence[Emotion], target: _Asked) -> None:
    """Print texts once they are whole, all of them written in one batch or as few as hold them."""
    from emogen.decoding.postprocessing import parse_postprocessing

    post, seed = parse_postprocessing(target.post), target.decoding.seed
    options = target.decoding.sampling(model, _any_asked(emotions))
    guide = _guide(model, target) if options.control.rerank > 1 else None
    latent = None if target.near is None else _near(model, target.near, target).repeat(len(emotions), 1)
    # Each emotion has the seed to itself: its texts are those that are written when it is asked for alone.
    seeds = [seed] * len(emotions)
    written = model.iter_replies([contexts] * len(emotions), emotions, target.count, options, seeds, guide, latent)
    for found in show_progress(written, target.count * len(emotions), model):
        text = post(found.text)
        if target.as_json:
            print_text(json.dumps({**dataclasses.asdict(found), "text": text, "seed": seed}, ensure_ascii=False))
        else:
            text = " ".join(text.split())
            print_text(text if len(emotions) == 1 else f"{found.emotion}\t{text}")


def _near(model: EmotionModel, text: str, target: _Asked) -> Tensor:
    """Return latents around that of a text, one for each text to be written."""
    from emogen.decoding.latent import latent_space, near

    space = latent_space(model.model, model.tokenizer, model.labels, model.description.limits, str(model.folder))
    return near(space, text, target.count, target.spread, target.decoding.seed)


def _guide(model: EmotionModel, target: _Asked) -> Guide:
    from emogen.checkpoint.finding import shipped_folder
    from emogen.recognition.recognizer import load_recognizer

    return load_recognizer(target.guide or shipped_folder("recognizer"), target.decoding.device).over(model.labels)


def stdout_is_terminal() -> bool:
    """Tell whether a person reads what is printed."""
    return sys.stdout is not None and sys.stdout.isatty()


def _any_asked(emotions: Sequence[Emotion]) -> bool:
    return any(emotion.strength for emotion in emotions)


def _streams(model: EmotionModel, emotions: Sequence[Emotion], target: _Asked) -> bool:
    """Decide whether texts are printed while they are written: as told, else on a terminal where no text is needed whole."""
    needs_whole = target.as_json or bool(target.post) or target.count != 1 or target.near is not None
    if target.stream and needs_whole:
        raise SettingsError(
            "--stream prints a text as it is written: leave out --json, --post, --near and -n, which need it whole"
        )
    if target.stream is not None:
        return target.stream
    chooses = target.decoding.sampling(model, _any_asked(emotions)).control.choice
    return stdout_is_terminal() and not (needs_whole or chooses)


def _stream(model: EmotionModel, contexts: Sequence[str], emotions: Sequence[Emotion], target: _Asked) -> None:
    """Print texts piece by piece, in order; all are written in one batch, and those behind the first wait for their turn."""
    options = target.decoding.sampling(model, _any_asked(emotions), streamed=True)
    pieces = model.stream_replies([contexts] * len(emotions), emotions, options, [target.decoding.seed] * len(emotions))
    for place, text in enumerate(in_turn(pieces, len(emotions))):
        mark = f"{emotions[place]}\t" if len(emotions) > 1 else ""
        # The mark comes with the first piece: where nothing can be written, nothing is printed.
        for piece in on_one_line(text):
            print_text(mark + piece, nl=False)
            mark = ""
        print_text(mark)
