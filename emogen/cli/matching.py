"""`emogen match`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emogen.cli.printing import as_cells, print_text
from emogen.cli.recognition import recognizer_option
from emogen.data.outputs import FORMATS, TEXT_COLUMN, OutputColumns, open_source, read_outputs
from emogen.errors import DataError, SettingsError

if TYPE_CHECKING:
    from emogen.dialogue.match import Aim, Match
    from emogen.emotions.labels import Emotion

_CONTEXT_WEIGHT = 1.0
_COSINE_WEIGHT = 10.0


@dataclass(frozen=True)
class _Asked:
    """The command's arguments and options, by their names."""

    source: str
    context: tuple[str, ...]
    emotion: str | None
    strength: float
    policy: str | None
    decay: float
    count: int
    emotion_weight: float
    context_weight: float | None
    checkpoint: str | None
    encoder: str | None
    recognizer: Path | None
    text_column: str
    format: str | None
    device: str
    as_json: bool


@click.command("match")
@click.argument("source", metavar="CANDIDATES")
@click.option("--context", multiple=True, help="What is replied to; given several times: a dialogue, oldest first.")
@click.option("--emotion", help="Emotion of the reply: joy, or a mixture joy=0.7,surprise=0.3.")
@click.option("--strength", type=float, default=1.0, show_default=True, help="Strength of --emotion, 0 to 1.")
@click.option("--policy", metavar="NAME|FILE", help="Finds the reply's emotion: mirror, soothe, cheer, neutral, or a file.")
@click.option(
    "--decay", type=float, default=0.5, show_default=True, help="Share of earlier turns' emotion that stays, with --policy."
)
@click.option("-n", "--n", "count", type=click.IntRange(min=1), default=3, show_default=True, help="How many replies.")
@click.option("--emotion-weight", type=float, default=1.0, show_default=True, help="Weight of the fit to the emotion.")
@click.option(
    "--context-weight",
    type=float,
    help=f"Of the fit to the context.  [default: {_CONTEXT_WEIGHT:g}, with --encoder {_COSINE_WEIGHT:g}]",
)
@click.option(
    "--checkpoint",
    help="Folder of the generator that knows what fits a context  [default: $EMOGEN_CHECKPOINT, checkpoints/latest, the "
    "best that ships and can be loaded]",
)
@click.option("--encoder", metavar="hf:NAME", help="Fit to the context by this encoder's cosine instead.")
@recognizer_option
@click.option("--text-column", metavar="NAME", default=TEXT_COLUMN, show_default=True, help="a|b takes the first there is.")
@click.option("--format", type=click.Choice(FORMATS), help="Where the name does not say.  [default for -: txt]")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def match(**given: Any) -> None:
    """Print the replies in CANDIDATES that fit context and emotion best, best first, each behind its fit.

    The other columns of its row follow; with --json they stand under row.

    CANDIDATES is a file of lines (.txt), JSON lines, CSV or TSV, each may be gzipped; "-" is standard input.
    """
    from emogen.dialogue.match import candidates, rank

    target = _Asked(**given)
    if target.emotion is not None and target.policy is not None:
        raise SettingsError("--emotion and --policy both say what the reply shows; give one of them")
    if any(not turn.strip() for turn in target.context):
        raise SettingsError("the context is empty; leave it out to go by the emotion alone")
    if target.policy is not None and not target.context:
        raise SettingsError("--policy answers what somebody said; give --context")
    if target.emotion is None and target.policy is None and not target.context:
        raise SettingsError("nothing to fit: give --context, --emotion or both")
    if target.encoder and target.checkpoint:
        raise SettingsError("--encoder and --checkpoint both judge the context; give one of them")
    with tempfile.TemporaryDirectory(prefix="emogen-") as folder:
        source = open_source(target.source, target.format or "", Path(folder))
        outputs = read_outputs(source, OutputColumns(target.text_column))
        kept = {output.line: output for output in outputs}
    wanted, aim = _emotion_aim(target)
    try:
        rows = candidates((line, output.text) for line, output in kept.items())
        found = rank(rows, aim, _context_aim(target), target.count)
    except DataError as error:
        raise DataError(f"{target.source}: {error}") from None
    for each in found:
        others = kept[each.line].others
        line = "\t".join([f"{each.fit:.3f}", each.text, *as_cells(others)])
        print_text(_as_json(each, wanted, others) if target.as_json else line)


def _emotion_aim(target: _Asked) -> tuple[Emotion | None, Aim | None]:
    """Return the emotion that the reply is to show, and the fit to it."""
    from emogen.dialogue.match import Aim, emotion_fit
    from emogen.emotions.labels import parse_emotion
    from emogen.recognition.recognizer import load_recognizer

    if target.emotion is None and target.policy is None:
        return None, None
    recognizer = load_recognizer(target.recognizer, target.device)
    if target.emotion is not None:
        wanted = parse_emotion(target.emotion, recognizer.names, target.strength)
        if not wanted.strength and not target.context:
            raise SettingsError("nothing to fit: no emotion is asked for; name one, or give --context")
    else:
        from emogen.dialogue.policy import find_policy
        from emogen.dialogue.state import felt

        chosen = find_policy((target.policy or ""), recognizer.names, recognizer.names)
        wanted = chosen.answer(felt(recognizer, target.context[::-1][::2][::-1], target.decay).emotion)
    return wanted, Aim(emotion_fit(recognizer.probabilities, wanted), target.emotion_weight)


def _context_aim(target: _Asked) -> Aim | None:
    from emogen.dialogue.match import Aim

    if not target.context:
        return None
    from emogen.dialogue.context_fit import cosine, mutual_information

    if target.encoder:
        from emogen.recognition.encoder import load_text_encoder

        weight = _COSINE_WEIGHT if target.context_weight is None else target.context_weight
        return Aim(cosine(load_text_encoder(target.encoder, target.device), target.context), weight)
    from emogen.checkpoint.model import load

    weight = _CONTEXT_WEIGHT if target.context_weight is None else target.context_weight
    return Aim(mutual_information(load(target.checkpoint, target.device), target.context), weight)


def _as_json(found: Match, wanted: Emotion | None, others: Mapping[str, object]) -> str:
    target = None if wanted is None else {"emotion": wanted.shown, "strength": round(wanted.strength, 6)}
    content = {**found.as_object(), "asked": target}
    return json.dumps({**content, "row": others} if others else content, ensure_ascii=False)
