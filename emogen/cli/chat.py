"""`emogen chat`: a conversation in the terminal."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

import click

from emogen.cli.decoding import Decoding, decoding_options, on_one_line
from emogen.cli.feedback import store_option
from emogen.cli.printing import print_text
from emogen.cli.reading import piped_lines
from emogen.cli.recognition import recognizer_option
from emogen.emotions.labels import TO_EKMAN, Emotion
from emogen.errors import EmogenError, SettingsError

if TYPE_CHECKING:
    from emogen.dialogue.engine import Engine
    from emogen.dialogue.feedback import FeedbackStore
    from emogen.dialogue.session import Session, SessionConfig, Turn
    from emogen.dialogue.state import EmotionState
    from emogen.dialogue.stream import ReplyStream
    from emogen.recognition.recognizer import Recognizer

_COLOURS: Mapping[str, str] = {
    "anger": "red",
    "disgust": "green",
    "fear": "magenta",
    "joy": "yellow",
    "neutral": "bright_black",
    "sadness": "blue",
    "surprise": "cyan",
}
_BAR, _MOST_BARS = 24, 7
_COMMANDS = (
    ("/emotion", "joy=0.7,fear=0.3 | auto | none", "of the replies; auto is what the policy answers"),
    ("/strength", "0.5", "of that emotion, 0 to 1"),
    ("/policy", "mirror | soothe | cheer | neutral | none | FILE", "which emotion answers yours"),
    ("/control", "guidance:2 | none", "what steers the replies, and how much"),
    ("/state", "", "what you seem to feel, and how it went"),
    ("/again", "", "another reply to what you said last"),
    ("/good", "", "stores that the last reply is good"),
    ("/bad", "", "stores that it is bad"),
    ("/forget", "", "begins anew"),
    ("/help", "", "this list"),
    ("/quit", "", "ends; so do Ctrl-D and Ctrl-C, which cancels a reply while one is written"),
)
_TAKE_A_VALUE = frozenset(name for name, value, _ in _COMMANDS if value)
_WITHOUT_A_VALUE = frozenset(name for name, value, _ in _COMMANDS if not value)


@click.command("chat")
@click.option(
    "--emotion",
    help="Emotion of the replies: joy, a mixture joy=0.7,fear=0.3, none, or auto: what the policy answers.  [default: auto]",
)
@click.option(
    "--policy",
    metavar="NAME|FILE",
    default=None,
    help="Which emotion answers the user's: mirror, soothe, cheer, neutral, a file, or none.  [default: none]",
)
@click.option("--decay", type=float, default=0.5, show_default=True, help="What a turn counts one turn later, 0 to 1.")
@recognizer_option
@decoding_options
@store_option("Where /good and /bad are stored: an SQLite file, or an address as SQLAlchemy writes it.")
@click.option(
    "--transcript",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Append every reply to this file, as JSON lines; without it nothing that is said is kept.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a reply, once it is written.")
def chat(
    decoding: Decoding,
    emotion: str | None,
    policy: str | None,
    decay: float,
    recognizer: Path | None,
    address: str,
    transcript: Path | None,
    as_json: bool,
) -> None:
    """Talk with a model that feels how you feel; /help lists what can be changed on the way.

    A line is a turn, and so is a line of a pipe. Replies go to standard output, all else to standard error.
    """
    from emogen.dialogue.engine import Engine
    from emogen.dialogue.session import SessionConfig
    from emogen.recognition.recognizer import load_recognizer

    model = decoding.model()
    manner = SessionConfig(emotion, decoding.strength, _name_or_none(policy), decay, seed=decoding.seed)
    with ExitStack() as open_things:
        kept = open_things.enter_context(_open_transcript(transcript)) if transcript else None
        engine = open_things.enter_context(Engine(model))
        opinions = open_things.enter_context(contextlib.closing(_Opinions(address, str(model.folder))))
        talk = _Talk(engine, load_recognizer(recognizer, decoding.device), manner, decoding, opinions, kept, as_json)
        _note(f"seed {decoding.seed}; /help lists the commands")
        for line in _lines():
            if line.strip() == "/quit":
                break
            talk.take(line)


class _Talk:
    """A session with its user at a terminal or a pipe."""

    def __init__(
        self,
        engine: Engine,
        recognizer: Recognizer,
        manner: SessionConfig,
        decoding: Decoding,
        opinions: _Opinions,
        kept: TextIO | None,
        as_json: bool,
    ) -> None:
        from emogen.dialogue.language import WrittenScripts
        from emogen.dialogue.session import Session

        self._engine, self._recognizer, self._opinions = engine, recognizer, opinions
        self._decoding = decoding
        self._session = Session(engine, recognizer, self._refuse_unserved_options(manner, decoding))
        self._kept, self._as_json = kept, as_json
        self._scripts = WrittenScripts(engine.model.tokenizer)
        self._notes: set[str] = set()

    def take(self, line: str) -> None:
        """Answer a line or do what it commands; what is wrong with it is said, and the conversation goes on."""
        try:
            if line.startswith("/"):
                name, _, value = line.strip().partition(" ")
                self._do(name, value.strip())
            elif line.strip():
                unread = "" if self._recognizer.reads(line) else self._recognizer.unread_note(line)
                for note in {self._scripts.describe_mismatch(line), unread} - self._notes - {""}:
                    self._notes.add(note)
                    _note(note)
                self._show(self._session.say(line))
        except EmogenError as error:
            _note(str(error))
        except KeyboardInterrupt:
            _note("cancelled")

    def _do(self, name: str, value: str) -> None:
        if name not in _TAKE_A_VALUE | _WITHOUT_A_VALUE:
            raise SettingsError(f"{name} is not one of {', '.join(known for known, _, _ in _COMMANDS)}")
        if value and name in _WITHOUT_A_VALUE:
            raise SettingsError(f"{name} takes no value, found {value!r}")
        if not value and name in _TAKE_A_VALUE:
            (values,) = (values for known, values, _ in _COMMANDS if known == name)
            raise SettingsError(f"{name} takes a value: {values}")
        match name:
            case "/emotion":
                self._adopt(replace(self._session.manner, emotion=value))
            case "/strength":
                self._adopt(replace(self._session.manner, strength=_number(value)))
            case "/policy":
                self._adopt(replace(self._session.manner, policy=_name_or_none(value), emotion=None))
            case "/control":
                decoding = replace(self._decoding, control=value)
                self._adopt(self._session.manner, decoding)
                self._decoding = decoding
            case "/state":
                state = self._session.state
                if state is None or not self._session.turns:
                    raise SettingsError("nothing was said yet; what you feel is found in what you say")
                click.echo("\n".join(_bars(state)), err=True)
                click.echo(self._session.course.as_text(), err=True)
            case "/again":
                self._show(self._session.again())
            case "/good":
                self._opinions.store(self._session, "good")
            case "/bad":
                self._opinions.store(self._session, "bad")
            case "/forget":
                self._session.forget()
                _note("forgotten; the conversation begins anew")
            case "/help":
                width = max(len(f"{name} {value}") for name, value, _ in _COMMANDS)
                for name, value, purpose in _COMMANDS:
                    click.echo(f"{f'{name} {value}':<{width}}  {purpose}", err=True)

    def _adopt(self, manner: SessionConfig, decoding: Decoding | None = None) -> None:
        from emogen.dialogue.session import leaves_to_policy

        self._session.manner = served = self._refuse_unserved_options(manner, decoding or self._decoding)
        is_left = leaves_to_policy(served.emotion, self._engine.model.labels)
        emotion = f"policy {served.policy or 'none'}" if is_left else f"emotion {served.emotion}"
        _note(f"{emotion}, strength {served.strength:g}, control {served.sampling.control if served.sampling else 'none'}")

    def _refuse_unserved_options(self, manner: SessionConfig, decoding: Decoding) -> SessionConfig:
        """Add the options of decoding; raise SettingsError for what model or recogniser cannot serve, so that no turn fails."""
        from emogen.dialogue.session import emotion_for, leaves_to_policy
        from emogen.dialogue.state import at_rest

        model = self._engine.model
        target = emotion_for(manner, at_rest(self._recognizer.names).after(None, manner.decay), self._engine)
        has_policy = manner.policy is not None and leaves_to_policy(manner.emotion, model.labels)
        sampling = decoding.sampling(model, target.strength > 0 or has_policy, streamed=True)
        self._engine.prepare(emotion=target, sampling=sampling)
        return replace(manner, sampling=sampling)

    def _show(self, writing: ReplyStream) -> None:
        """Print a reply while it is written; an interruption ends the reply alone."""
        from emogen.dialogue.policy import describe_emotion

        turn = self._session.turns[-1]
        click.echo(_paint(f"[{describe_emotion(turn.target)}]", turn.target, sys.stderr), err=True)
        try:
            if self._as_json:
                writing.wait()
            else:
                try:
                    for piece in on_one_line(writing):
                        print_text(_paint(piece, turn.target, sys.stdout), nl=False)
                finally:
                    click.echo()
        finally:
            writing.cancel()
            if writing.ended != "failed":
                record = _record(turn, len(self._session.turns), self._opinions.session)
                line = json.dumps(record, ensure_ascii=False)
                if self._as_json:
                    print_text(line)
                if self._kept:
                    self._kept.write(f"{line}\n")


class _Opinions:
    """Where /good and /bad go; nothing is opened before the first of them."""

    def __init__(self, address: str, model: str) -> None:
        self.session = uuid.uuid4().hex
        self._address, self._model = address, model
        self._store: FeedbackStore | None = None

    def store(self, session: Session, verdict: Literal["good", "bad"]) -> None:
        """Rates the last reply; the first time it says where that is stored."""
        from emogen.dialogue.feedback import Opinion

        if not session.turns or session.turns[-1].writing.ended not in ("end", "limit"):
            raise SettingsError("there is no whole reply to rate; say something first, or /again")
        turn = session.turns[-1]
        opinion = Opinion(turn.name, turn.replied_to, turn.writing.text, turn.target, verdict, self._model, self.session)
        from emogen.dialogue.feedback import FeedbackStore

        if not self._store:
            self._store = FeedbackStore(self._address)
            _note(f"opinions, and what was said before, are stored in {self._store.name} as session {self.session}")
        self._store.rate(opinion)
        _note(f"stored as {verdict}")

    def close(self) -> None:
        """Let the store go, where it was opened."""
        if self._store:
            self._store.close()


def _name_or_none(policy: str | None) -> str | None:
    """Return it as `SessionConfig` takes it."""
    from emogen.dialogue.policy import NO_POLICY

    return None if policy == NO_POLICY else policy


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SettingsError(f"{text!r} is not a number; write 0.5") from None


def _lines() -> Iterator[str]:
    """Yield what the user says, a line at a time: of a pipe, or typed in answer to a prompt until he ends it."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield from piped_lines()
        return
    with contextlib.suppress(ImportError):
        # Arrow keys and earlier lines, where the system has them.
        import readline  # noqa: F401
    while True:
        try:
            # Bytes that are no UTF-8 must not reach the model.
            yield _read_line().encode("utf-8", "replace").decode("utf-8")
        except (EOFError, KeyboardInterrupt):
            click.echo(err=True)
            return


def _read_line() -> str:
    """Return a line; readline draws the prompt where both ends are a terminal, else it goes to standard error."""
    if sys.stdout.isatty():
        return input("> ")
    click.echo("> ", err=True, nl=False)
    return input()


def _paint(text: str, target: Emotion, output: TextIO) -> str:
    """Colour a text by its heaviest label, or that label's Ekman family, where `output` is a terminal that may show colours."""
    if not target.strength or not output.isatty() or os.environ.get("NO_COLOR"):
        return text
    return click.style(text, fg=_COLOURS.get(TO_EKMAN.get(target.name, target.name)))


def _bars(state: EmotionState) -> Iterator[str]:
    """Yield a line for each of the strongest feelings."""
    felt = sorted(zip(state.shares, state.labels.names, strict=False), reverse=True)[:_MOST_BARS]
    width = max(len(name) for _, name in felt)
    for share, name in felt:
        yield f"{name:<{width}}  {'█' * round(share * _BAR):<{_BAR}}  {share:.2f}"


def _record(turn: Turn, number: int, session: str) -> dict[str, object]:
    """Return a reply, and what it answers, as JSON holds it; `id` is what an opinion about it refers to."""
    return {
        "session": session,
        "turn": number,
        "id": turn.name,
        "said": turn.said,
        "felt": turn.state.as_object() if turn.state else None,
        "emotion": turn.target.shown,
        "strength": round(turn.target.strength, 6),
        "reply": turn.writing.text,
        "ended": turn.writing.ended,
    }


@contextlib.contextmanager
def _open_transcript(path: Path) -> Iterator[TextIO]:
    """Return a file that its owner alone reads, each line written as it comes."""

    def private(name: str, flags: int) -> int:
        return os.open(name, flags, 0o600)

    with open(path, "a", encoding="utf-8", buffering=1, opener=private) as file:
        yield file


def _note(text: str) -> None:
    click.echo(f"emogen: {' '.join(text.split())}", err=True)
