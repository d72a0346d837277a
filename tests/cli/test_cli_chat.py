"""`emogen chat`: turns of a pipe and of a terminal, commands, cancelling, opinions, and what is kept."""

import builtins
import io
import json
import stat
import sys
from dataclasses import replace

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emogen.checkpoint.model import load
from emogen.cli import chat as chat_module
from emogen.cli.decoding import on_one_line
from emogen.dialogue.engine import Engine
from emogen.dialogue.feedback import FeedbackStore
from emogen.dialogue.session import Session, SessionConfig
from emogen.dialogue.stream import ReplyStream
from emogen.emotions.labels import EKMAN, GOEMOTIONS, parse_emotion
from emogen.errors import EmogenError
from emogen.recognition.recognizer import load_recognizer


@pytest.fixture
def talk(emogen, tiny_checkpoint, monkeypatch):
    """Pipes lines into a chat; gives its replies and its notes, line by line."""

    def call(*lines, options=()):
        piped = io.TextIOWrapper(io.BytesIO("".join(f"{line}\n" for line in lines).encode()))
        monkeypatch.setattr(sys, "stdin", piped)
        given = ["--checkpoint", tiny_checkpoint, "--max-tokens", "8", "--seed", "1", *options]
        status, out, err = emogen("chat", *given)
        assert status == 0, err
        return out.splitlines(), err.splitlines()

    return call


@pytest.fixture
def records(talk):
    """Pipes lines into a chat that answers with JSON."""
    return lambda *lines: [json.loads(line) for line in talk(*lines, options=["--json"])[0]]


@pytest.fixture
def held(monkeypatch):
    """Replies that stay at what they are given, until somebody cancels them."""
    written = []

    def write(*_, **__):
        written.append(ReplyStream(lambda: None))
        written[-1].add("Half a", 2)
        return written[-1]

    monkeypatch.setattr(Engine, "write", write)
    return written


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_each_line_of_a_pipe_is_a_turn_of_a_session(talk, tiny_checkpoint):
    said = ["I cried all day.", "今天我很开心", "We won the match!"]
    replies, notes = talk("", said[0], "   ", *said[1:])
    # One note at the start, and above each reply what is asked for: none on blank lines.
    assert len(notes) == 1 + len(said)
    model = load(tiny_checkpoint)
    sampling = model.sampling_for(with_emotion=False, streamed=True)
    with Engine(model) as engine:
        manner = SessionConfig(sampling=replace(sampling, max_tokens=8), seed=1)
        session = Session(engine, load_recognizer(), manner)
        assert replies == [" ".join(session.reply(text).split()) for text in said]
    assert talk(*said)[0] == replies
    assert talk(*said, options=["--seed", "2"])[0] != replies


def test_commands_change_how_the_next_replies_are_asked_for(records):
    found = records(
        *("/emotion joy=0.75,sadness=0.25", "Hello.", "/strength 0.5", "Hello.", "/emotion none", "Hello."),
        *("/strength 1", "/policy mirror", "I feel so sad.", "/policy neutral", "I feel so sad.", "/emotion auto", "Sad."),
    )
    assert [(each["emotion"], each["strength"]) for each in found[:3]] == [
        ("joy=0.75,sadness=0.25", 1.0),
        ("joy=0.75,sadness=0.25", 0.5),
        ("none", 0.0),
    ]
    mirrored, neutral, again = found[3:]
    assert max(mirrored["felt"]["emotion"], key=mirrored["felt"]["emotion"].get) == "sadness"
    heaviest = max(mirrored["emotion"].split(","), key=lambda part: float(part.partition("=")[2]))
    assert heaviest.startswith("sadness=")
    assert neutral["emotion"] == again["emotion"] == "neutral"
    assert [each["turn"] for each in found] == [1, 2, 3, 4, 5, 6]


def test_control_steers_the_next_replies_alone(talk):
    said = ["/emotion joy", "Hello.", "/control {}", "How was day 4?", "How was day 5?"]
    plain, _ = talk(*(line.format("none") for line in said), options=["--control", "none"])
    steered, notes = talk(*(line.format("guidance:9") for line in said), options=["--control", "none"])
    assert steered[0] == plain[0]
    assert steered[1:] != plain[1:]
    assert any("guidance:9" in note for note in notes)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/emotions joy", "/emotions is not one of /emotion, "),
        ("/", "is not one of"),
        ("/emotion", "/emotion takes a value: joy=0.7,fear=0.3 | auto | none"),
        ("/emotion hapiness", "'hapiness' is not one of anger, "),
        ("/emotion joy=0.7,fear=0.7", "sum to 1.4"),
        ("/strength much", "'much' is not a number"),
        ("/strength nan", "between 0 and 1"),
        ("/strength 1.5", "between 0 and 1"),
        ("/policy cheerful", "'cheerful' is not one of mirror, soothe"),
        ("/policy nowhere.json", "nowhere.json"),
        ("/control guide:2", "'guide' is not one of guidance"),
        ("/control rerank:4", "chooses among whole texts"),
        ("/control head:2", "head"),
        ("/again", "nothing was said yet"),
        ("/state", "nothing was said yet"),
        ("/good", "no whole reply"),
        ("/forget it", "/forget takes no value, found 'it'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_changes_nothing(talk, line, said):
    (_, *notes), (_, *before) = talk(line, "Hello.")[1], talk("Hello.")[1]
    assert said in notes[0]
    assert notes[0].startswith("emogen: ")
    assert notes[1:] == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--emotion", "hapiness"], "is not one of"),
        (["--policy", "cheerful"], "is not one of"),
        (["--decay", "2"], "decay 2"),
        (["--strength", "3"], "strength 3"),
        (["--control", "rerank:4"], "rerank"),
        (["--max-tokens", "5000"], "--max-tokens 5000"),
    ],
)
def test_options_that_cannot_serve_are_refused_before_the_first_turn(refusal, tiny_checkpoint, options, said):
    status, line = refusal("chat", "--checkpoint", tiny_checkpoint, *options)
    assert status == 2
    assert said in line


def test_the_state_shows_what_the_user_feels_and_how_it_went(talk):
    replies, notes = talk("I feel so sad, I cried.", "We won, I am so happy!", "/state")
    assert len(replies) == 2
    bars = [line.split() for line in notes if "█" in line]
    assert bars[0][0] == "joy"
    assert [float(bar[-1]) for bar in bars] == sorted((float(bar[-1]) for bar in bars), reverse=True)
    course = [line.split()[:2] for line in notes if line[:4].strip().isdigit()]
    assert course == [["1", "sadness"], ["2", "joy"]]


def test_again_replaces_the_reply_and_forget_begins_anew(records):
    found = records("How was day 4?", "/again", "/again", "And day 5?", "/forget", "How was day 4?")
    assert [each["turn"] for each in found] == [1, 1, 1, 2, 1]
    assert len({each["id"] for each in found}) == len(found)
    assert len({each["reply"] for each in found[:3]}) > 1
    assert found[-1]["reply"] == found[0]["reply"]


def test_opinions_are_stored_where_asked_and_may_be_changed(talk, tmp_path, tiny_checkpoint):
    address = tmp_path / "opinions.db"
    talk("/emotion joy", "How was day 4?", options=["--feedback", address])
    assert not address.exists()
    lines = ("/emotion joy", "How was day 4?", "/good", "And day 5?", "/good", "/bad")
    replies, notes = talk(*lines, options=["--feedback", address])
    assert sum(str(address) in note for note in notes) == 1
    with FeedbackStore(address) as store:
        first, second = store.opinions()
    assert (first.verdict, second.verdict) == ("good", "bad")
    assert first.context == ("How was day 4?",)
    assert second.context == tuple(text for text in ("How was day 4?", first.text, "And day 5?") if text)
    assert [" ".join(each.text.split()) for each in (first, second)] == replies
    assert first.emotion == parse_emotion("joy", EKMAN)
    assert first.session == second.session != ""
    assert first.model == str(tiny_checkpoint)


def test_a_transcript_is_kept_only_where_asked_for_and_for_its_owner_alone(talk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    talk("How was day 4?")
    assert not list(tmp_path.iterdir())
    replies = [talk("How was day 4?", options=["--transcript", "talk.jsonl"])[0][0] for _ in range(2)]
    path = tmp_path / "talk.jsonl"
    kept = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [" ".join(each["reply"].split()) for each in kept] == replies
    assert [each["said"] for each in kept] == ["How was day 4?"] * 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_interruption_cancels_the_reply_and_not_the_chat(talk, held, tmp_path, monkeypatch):
    monkeypatch.setattr(chat_module, "print_text", interrupt)
    _, notes = talk("How was day 4?", "/good", "And day 5?", "/forget", options=["--transcript", tmp_path / "kept.jsonl"])
    assert notes.count("emogen: cancelled") == 2
    assert any("no whole reply" in note for note in notes)
    assert "forgotten" in notes[-1]
    assert [writing.ended for writing in held] == ["cancelled", "cancelled"]
    kept = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert [(each["reply"], each["ended"]) for each in kept] == [("Half a", "cancelled")] * 2


def test_a_reply_that_fails_is_told_and_the_chat_goes_on(talk, monkeypatch):
    write = Engine.write
    failed = ReplyStream(lambda: None)
    failed.end("failed", EmogenError("no memory left; ask again"))
    answers = iter([lambda *_, **__: failed, write])
    monkeypatch.setattr(Engine, "write", lambda *args, **options: next(answers)(*args, **options))
    replies, notes = talk("How was day 4?", "And day 5?")
    assert "emogen: no memory left; ask again" in notes
    assert len(replies) == 2


@pytest.mark.parametrize("last", [EOFError, KeyboardInterrupt])
def test_at_a_terminal_lines_are_typed_until_the_prompt_is_left(emogen, tiny_checkpoint, monkeypatch, last):
    typed = iter(["How was day 4?", "/quit" if last is EOFError else last])

    def answer(prompt=""):
        line = next(typed, last)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(builtins, "input", answer)
    status, out, err = emogen("chat", "--checkpoint", tiny_checkpoint, "--max-tokens", "8")
    assert status == 0
    assert len(out.splitlines()) == 1
    assert "> " in err
    assert "interrupted" not in err


def test_replies_have_the_colour_of_their_emotion_where_a_terminal_shows_it(talk, monkeypatch):
    lines = ("/emotion sadness", "How was day 4?")
    (plain,), _ = talk(*lines)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    (coloured,), _ = talk(*lines)
    assert coloured != plain
    assert click.unstyle(coloured) == plain
    assert click.style("x", fg="blue").partition("x")[0] in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert talk(*lines)[0] == [plain]


def test_each_family_of_emotions_has_its_own_colour(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)

    def painted(text, labels, strength=1.0):
        return chat_module._paint("x", parse_emotion(text, labels, strength), terminal)

    assert len({painted(name, EKMAN) for name in EKMAN.names}) == len(EKMAN)
    assert painted("grief", GOEMOTIONS) == painted("sadness=0.6,joy=0.4", EKMAN) == painted("sadness", EKMAN)
    assert painted("joy", EKMAN, 0.0) == "x"


@given(st.lists(st.text(alphabet=st.sampled_from("ab \n\t。")), max_size=9))
def test_a_reply_is_printed_on_one_line_however_it_is_cut(pieces):
    assert "".join(on_one_line(pieces)) == " ".join("".join(pieces).split())


def test_a_user_whose_letters_the_recogniser_does_not_know_is_told_once(talk):
    _, notes = talk("Мне грустно", "Hello.", "Очень грустно")
    assert sum("a text in Cyrillic letters is given no emotion" in note for note in notes) == 1
    assert not any("is given no emotion" in note for note in talk("Hello.", "我很难过")[1])
