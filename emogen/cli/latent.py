"""`emogen transfer` and `emogen interpolate`: what a VAE's latent space is good for."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emogen.cli.printing import print_text
from emogen.cli.reading import piped_lines
from emogen.decoding.transfer_options import TransferOptions
from emogen.emotions.labels import LabelSet, parse_emotion
from emogen.errors import CheckpointError, DataError, SettingsError
from emogen.files import read_json, read_text

if TYPE_CHECKING:
    from emogen.checkpoint.model import EmotionModel
    from emogen.decoding.latent import LatentSpace
    from emogen.decoding.texts import Guide

_OWN = "own"
_LATEST = Path("checkpoints/latest")
_WAY_OUT = "make a VAE with emogen train-vae FILES, then pass --checkpoint FOLDER"
_SEEDS = click.IntRange(0, (1 << 32) - 1)
_OPTIONS = (
    click.option("--checkpoint", default=None, help="Folder of a VAE  [default: $EMOGEN_CHECKPOINT, checkpoints/latest]"),
    click.option("--strength", type=float, default=1.0, show_default=True, help="Strength of the emotion, 0 to 1."),
    click.option("--seed", type=_SEEDS, default=0, show_default=True, help="The same seed gives the same texts."),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object a line."),
)


@dataclass(frozen=True)
class _Model:
    """A loaded VAE."""

    checkpoint: EmotionModel
    space: LatentSpace


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command("transfer")
@click.argument("source", metavar="[FILE|-]", default="-")
@click.option("--emotion", required=True, help="Emotion of what is written: joy, or a mixture joy=0.7,surprise=0.3.")
@click.option("--samples", default=TransferOptions.samples, show_default=True, help="Candidates from the line's latent.")
@click.option(
    "--sentences",
    default=TransferOptions.sentences,
    show_default=True,
    help="Number of sentences of the target emotion to try as templates.",
)
@click.option("--rounds", default=TransferOptions.rounds, show_default=True, help="Rounds of edits of the best candidates.")
@click.option("--keep", default=TransferOptions.keep, show_default=True, help="Weight of the words that are kept.")
@click.option(
    "--guide",
    default=None,
    help="Classifier that chooses: its folder; own: the model itself.  [default: the recogniser that ships]",
)
@_with_options
def transfer(
    source: str,
    emotion: str,
    samples: int,
    sentences: int,
    rounds: int,
    keep: float,
    guide: str | None,
    checkpoint: str | None,
    strength: float,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Give each line of FILE, or of a pipe, another emotion, and keep what it says; one line for each line, in order."""
    options = TransferOptions(samples=samples, sentences=sentences, rounds=rounds, keep=keep, seed=seed)
    _refuse_at_once(checkpoint, emotion, strength)
    if source != "-" and not Path(source).is_file():
        raise DataError(f"{source}: no such file; name a file with a text a line, or pass lines through a pipe")
    if guide not in (None, _OWN) and not (Path(guide or "") / "config.json").is_file():
        raise CheckpointError(f"{guide}: no classifier there (no config.json); train one, or name another folder")
    from emogen.decoding.transfer import transfer as transferred

    model = _load_vae(checkpoint, device)
    target = model.checkpoint.emotion(emotion, strength)
    chooses = _guide(model, guide, device)
    for found in transferred(model.space, _lines(source), target, options, chooses):
        _print(found.text, {**dataclasses.asdict(found), "seed": seed} if as_json else None)


@click.command("interpolate")
@click.argument("first")
@click.argument("second")
@click.option("--steps", type=click.IntRange(2, 1000), default=7, show_default=True, help="Texts, both ends among them.")
@click.option("--emotion", default=None, help="Emotion of all of them: joy, or a mixture.  [default: none]")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 takes the likeliest token.")
@_with_options
def interpolate(
    first: str,
    second: str,
    steps: int,
    emotion: str | None,
    temperature: float,
    checkpoint: str | None,
    strength: float,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Write the texts on the way from the text FIRST to the text SECOND; the ends as the model gives them back."""
    _refuse_at_once(checkpoint, emotion, strength)
    from emogen.decoding.latent import interpolate as between
    from emogen.decoding.params import SamplingParams

    model = _load_vae(checkpoint, device)
    target = model.checkpoint.emotion(emotion, strength)
    options = SamplingParams(temperature=temperature, max_tokens=model.space.limits.reply_tokens + 1, seed=seed)
    for number, found in enumerate(between(model.space, first, second, steps, target, options)):
        content = {"share": number / (steps - 1), **dataclasses.asdict(found), "seed": seed}
        _print(found.text, content if as_json else None)


def _refuse_at_once(checkpoint: str | None, emotion: str | None, strength: float) -> None:
    """Refuse what config.json alone shows, before PyTorch and the weights are loaded: no VAE, or an emotion it does not know.

    A folder that cannot be told from here, for example one without a readable config.json, is left to the loader.

    Raises:
        CheckpointError: the model is no VAE.
        SettingsError: the emotion or its strength is impossible.
    """
    named = checkpoint or os.environ.get("EMOGEN_CHECKPOINT") or str(_LATEST)
    folder = Path(named)
    try:
        if folder.name == _LATEST.name and folder.is_file():
            folder = folder.parent / read_text(folder).strip()
        content = read_json(folder / "config.json")
        kind, labels = content["kind"], LabelSet(tuple(content["labels"]))
    except (OSError, ValueError, KeyError, TypeError, SettingsError):
        if checkpoint is None and named == str(_LATEST) and not _LATEST.exists():
            raise CheckpointError(f"no VAE is named, and the models that ship are language models; {_WAY_OUT}") from None
        if checkpoint and not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder}: no checkpoint there (no config.json); {_WAY_OUT}") from None
        return
    if kind != "vae":
        what = "a classifier" if kind == "classifier" else "a language model"
        raise CheckpointError(f"{folder}: is {what}, which finds no latent of a text; {_WAY_OUT}")
    if emotion is not None:
        parse_emotion(emotion, labels, strength)


def _load_vae(checkpoint: str | None, device: str) -> _Model:
    """Return the VAE; raise CheckpointError where another kind of model stands there."""
    from emogen.checkpoint.model import load
    from emogen.decoding.latent import latent_space

    found = load(checkpoint, device, whole=True)
    space = latent_space(found.model, found.tokenizer, found.labels, found.description.limits, str(found.folder))
    return _Model(found, space)


def _guide(model: _Model, named: str | None, device: str) -> Guide | None:
    """Return what chooses among candidates; None for the model itself."""
    if named == _OWN:
        return None
    from emogen.checkpoint.finding import shipped_folder
    from emogen.recognition.recognizer import load_recognizer

    recognizer = load_recognizer(named or shipped_folder("recognizer"), device)
    if named or recognizer.names == model.space.labels:
        return recognizer.over(model.space.labels)
    return None


def _lines(source: str) -> Iterator[str]:
    """Yield the lines of a file or of standard input, none of them left out."""
    if source == "-":
        yield from piped_lines()
        return
    from emogen.data.outputs import Texts, open_source

    with tempfile.TemporaryDirectory(prefix="emogen-") as folder:
        yield from Texts((open_source(source, "txt", Path(folder)),), "text|reply")


def _print(text: str, content: dict[str, Any] | None) -> None:
    line = json.dumps(content, ensure_ascii=False) if content else " ".join(text.split())
    print_text(line)
