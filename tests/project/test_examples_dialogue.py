"""The examples of own data, dialogue and evaluation run, with tiny models and without a network."""

import asyncio
import io
import re
import shlex
import sys
from itertools import pairwise

import pytest
from click.testing import CliRunner
from test_examples import EXAMPLES, example

from emogen.checkpoint.model import load
from emogen.decoding.params import SamplingParams
from emogen.dialogue.engine import Engine
from emogen.errors import SettingsError
from emogen.recognition.recognizer import load_recognizer

PAGE = (EXAMPLES.parent / "docs" / "chat.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def engine(tiny_checkpoint):
    with Engine(load(tiny_checkpoint)) as started:
        yield started


@pytest.fixture(scope="module")
def recognizer():
    return load_recognizer()


@pytest.fixture
def held(engine, monkeypatch):
    """What the examples ask the engine for, and the replies that it then writes."""
    target = []
    write = engine.write

    def held_write(context, emotion=None, sampling=None, seed=0):
        target.append((list(context), emotion, seed, write(context, emotion, SamplingParams(max_tokens=12), seed)))
        return target[-1][-1]

    monkeypatch.setattr(engine, "write", held_write)
    return target


def test_own_data_is_trained_on_sampled_and_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "data"))
    example("own_data").main([str(EXAMPLES / "own_data.csv"), "2"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    model = load()
    assert model.folder.resolve().parent == (tmp_path / "checkpoints").resolve()
    assert [line.partition(": ")[0] for line in lines[:-2]] == list(model.labels.names)
    accuracy, distinct = (float(line.split()[0]) for line in lines[-2:])
    # Of seven emotions one in seven comes by chance.
    assert 2 / 7 < accuracy <= 1
    assert 0 < distinct <= 1


async def built(module, engine, recognizer):
    """Outside of an event loop Gradio makes some of its own and leaves them open."""
    return module.interface(engine, recognizer)


def test_the_page_streams_what_the_policy_or_the_visitor_asks_for(engine, recognizer, held):
    pytest.importorskip("gradio")
    module = example("gradio_chat")
    page = asyncio.run(built(module, engine, recognizer))
    choices = [value for _, value in page.additional_inputs[0].choices]
    assert {"soothe", "cheer", "joy", "sadness", "none"} <= set(choices)
    assert len(set(choices)) == len(choices)
    assert not page.analytics_enabled
    history = [
        {"role": "user", "content": "I cried all day."},
        {"role": "assistant", "content": [{"type": "text", "text": "Oh no."}]},
    ]
    shown = list(page.fn("I feel so sad.", history, "mirror", 0.5))
    context, emotion, _, writing = held[0]
    assert context == ["I cried all day.", "Oh no.", "I feel so sad."]
    assert (emotion.name, round(emotion.strength, 6)) == ("sadness", 0.5)
    assert shown[-1] == writing.text
    assert all(later.startswith(earlier) for earlier, later in pairwise(shown))
    list(page.fn("I feel so sad.", [], "joy", 1.0))
    assert str(held[1][1]) == "joy"
    list(page.fn("I feel so sad.", [], "none", 1.0))
    assert held[2][1].strength == 0


def test_a_visitor_who_leaves_cancels_his_reply(engine, recognizer, monkeypatch):
    pytest.importorskip("gradio")
    from emogen.dialogue.stream import ReplyStream

    writing = ReplyStream(lambda: None)
    writing.add("Half", 1)
    monkeypatch.setattr(engine, "write", lambda *_, **__: writing)
    shown = example("gradio_chat").replies(engine, recognizer)("Hello", [], "joy", 1.0)
    assert next(shown) == "Half"
    shown.close()
    assert writing.ended == "cancelled"


def test_langchain_writes_streams_and_passes_the_emotion_on(engine, held):
    pytest.importorskip("langchain_core")
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
    from langchain_core.output_parsers import StrOutputParser

    model = example("langchain_model").EmogenChat(engine=engine, emotion="joy", seed=3)
    talk = [SystemMessage("Be brief."), HumanMessage("We won!"), AIMessage("Well done."), HumanMessage("Thanks!")]
    answer = model.invoke(talk).content
    context, emotion, seed, writing = held[0]
    assert (context, str(emotion), seed) == (["We won!", "Well done.", "Thanks!"], "joy", 3)
    assert answer.strip() == writing.text
    assert "".join(chunk.content for chunk in model.stream(talk)) == answer
    assert (model.bind(emotion="sadness", strength=0.5) | StrOutputParser()).invoke("Hello") is not None
    assert (str(held[-1][1]), held[-1][1].strength) == ("sadness", 0.5)

    async def streamed():
        return "".join([chunk.content async for chunk in model.astream(talk)])

    assert asyncio.run(streamed()) == answer
    assert model.batch([talk, talk])[1].content == answer
    with pytest.raises(SettingsError, match="stop"):
        model.invoke("Hello", stop=["."])


@pytest.mark.parametrize("how", [[], ["--choose"]])
def test_a_customer_is_answered_and_his_course_drawn(how, tiny_checkpoint, tmp_path):
    module = example("customer_service")
    picture = tmp_path / "course.png"
    arguments = ["--checkpoint", str(tiny_checkpoint), "--plot", str(picture), *how]
    result = CliRunner().invoke(module.main, arguments, catch_exceptions=False)
    lines = result.output.splitlines()
    replies = [line.removeprefix("we: ") for line in lines if line.startswith("we: ")]
    assert len(replies) == len(module.CUSTOMER)
    assert (set(replies) <= set(module.APPROVED)) == bool(how)
    assert len(set(replies)) == len(replies) or not how
    table = [line.split()[:2] for line in lines if line[:4].strip().isdigit()]
    assert [int(turn) for turn, _ in table] == [1, 2, 3, 4, 5, 6]
    # What the made-up customer says is plain enough for the recogniser: angry, then sad, happy in the end.
    assert [table[place][1] for place in (1, 2, 5)] == ["anger", "sadness", "joy"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_another_model_is_scored_and_compared(tiny_base, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    module = example("evaluate_another_model")
    result = CliRunner().invoke(module.main, ["--model", f"hf:{tiny_base}", "--rows", "4"], catch_exceptions=False)
    assert result.exit_code == 0
    rows = {tuple(line.split()[:3]) for line in result.output.splitlines()}
    assert {("emogen", "4"), ("theirs", "4")} <= {row[:2] for row in rows}
    assert ("emotion_accuracy", "emogen", "theirs") in rows
    people = tmp_path / "people.txt"
    people.write_text("".join(f"{row.reply}\n" for row in module.english_rows("test")[:4]), encoding="utf-8")
    result = CliRunner().invoke(module.main, ["--texts", str(people), "--rows", "4"], catch_exceptions=False)
    head, theirs = (
        next(line for line in result.output.splitlines() if line.split()[:1] == [word]) for word in ("texts", "theirs")
    )
    # The references themselves.
    assert theirs[head.index("bleu") :].startswith("100 [100, 100]")
    assert "paired bootstrap" in result.output
    assert CliRunner().invoke(module.main, []).exit_code == 2


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
def test_the_guides_code_runs(code, tiny_checkpoint, monkeypatch, capsys):
    monkeypatch.setenv("EMOGEN_CHECKPOINT", str(tiny_checkpoint))
    exec(code, {})
    assert capsys.readouterr().out


@pytest.mark.parametrize("command", re.findall(r"^\$ (.*)$", PAGE, flags=re.MULTILINE))
def test_the_guides_commands_run(command, tiny_checkpoint, monkeypatch, emogen):
    monkeypatch.setenv("EMOGEN_CHECKPOINT", str(tiny_checkpoint))
    said, _, target = command.rpartition(" | ")
    lines = said.removeprefix("printf '").removesuffix("'").replace("\\n", "\n") or "Hello.\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    arguments = shlex.split(target.partition(" > ")[0].replace("checkpoints/mine", str(tiny_checkpoint)))
    status, out, err = emogen(*arguments[1:])
    assert status == 0, err
    assert len(out.splitlines()) == sum(not line.startswith("/") for line in lines.splitlines())
