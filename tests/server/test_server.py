"""The server's routes, against what the toolkit gives without a server."""

import asyncio
import json
import logging
import sqlite3
import threading
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from starlette.testclient import TestClient

from emogen.checkpoint.model import load
from emogen.decoding.control import Control
from emogen.dialogue.engine import Engine
from emogen.dialogue.feedback import FeedbackStore
from emogen.dialogue.language import WrittenScripts
from emogen.dialogue.policy import find_policy
from emogen.dialogue.session import seed_of
from emogen.dialogue.state import felt
from emogen.dialogue.stream import ReplyStream
from emogen.emotions.labels import EKMAN
from emogen.errors import BusyError, CheckpointError, EmogenError, SettingsError
from emogen.recognition.recognizer import Recognition
from emogen.server.app import build_app
from emogen.server.schemas import ChatRequest, FeedbackRequest, RecognizeRequest
from emogen.server.settings import ServerSettings

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
SECRET = "My secret is Rumpelstilzchen."


class Sad:
    """A recogniser that finds sadness in whatever is said, joy in "hurray"."""

    names = EKMAN

    def recognize(self, texts):
        return [self._one("joy" if text == "hurray" else "sadness") for text in texts]

    def _one(self, label):
        return Recognition(label, (label,), {name: 0.7 if name == label else 0.05 for name in EKMAN.names}, 0.95)


class Scripted:
    """An engine whose replies a test writes itself."""

    def __init__(self, model):
        self.model, self.unfinished, self.writings, self.left = model, 0, [], []
        self.is_open, self.is_suspect = True, False

    def write(self, context, emotion=None, sampling=None, seed=0, caller=""):
        writing = ReplyStream(lambda: self.left.append(writing))
        self.writings.append(writing)
        return writing


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load(tiny_checkpoint)


@pytest.fixture(scope="module")
def engine(model):
    with Engine(model) as engine:
        yield engine


@pytest.fixture
def serve(engine):
    """Makes a client of a server with some settings; its engine, recogniser and store may be others."""

    def client(engine=engine, recognizer=None, store=None, clock=lambda: 0.0, **settings):
        return TestClient(build_app(ServerSettings(**settings), engine, recognizer, store, clock), "http://127.0.0.1")

    return client


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(tmp_path / "opinions.db") as store:
        yield store


def said(*texts):
    """A body with these utterances, the user's first and last."""
    return {"messages": [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]}


def content(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def events(answer):
    """The data of all events but the last, which is the end."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    *found, end = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert end == "[DONE]"
    return [json.loads(each) for each in found]


def streamed(answer, index=0):
    choices = [choice for event in events(answer) for choice in event["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def refused(answer, status):
    """The error of an answer, which is one sentence."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return error


def test_a_reply_is_that_of_the_model(serve, model):
    client, talk = serve(), ("How was day 3?", "Day 3 was great.", "And day 4?")
    body = {**said(*talk), "model": client.get("/v1/models").json()["data"][0]["id"]}
    for seed, emotion, control in ((1, "joy", "none"), (2, "joy=0.7,sadness=0.3", "guidance:3"), (3, "none", "bayes:1")):
        target = {**body, "seed": seed, "emotion": emotion, "control": control, "temperature": 0.7, "max_tokens": 9}
        options = {"temperature": 0.7, "max_tokens": 9}
        sampling = _sampling(model, control, **options)
        expected = model.reply(talk, None if emotion == "none" else emotion, sampling, seed)
        answer = client.post(CHAT, json=target)
        assert content(answer) == expected.text
        assert answer.json()["usage"]["completion_tokens"] == expected.tokens
        assert answer.json()["usage"]["prompt_tokens"] == len(model.tokenizer.prefix(talk, 32))
        assert answer.json()["choices"][0]["finish_reason"] == ("stop" if expected.finished else "length")
        assert streamed(client.post(CHAT, json={**target, "stream": True})) == expected.text


def _sampling(model, control, **options):
    from emogen.decoding.control import parse_control

    return replace(model.default_sampling, control=parse_control(control), **options)


def test_strength_and_shares_reach_the_model(serve, model):
    target = {**said("How was day 3?"), "emotion": {"joy": 0.25, "sadness": 0.75}, "strength": 0.5, "seed": 4}
    expected = model.reply("How was day 3?", model.emotion("joy=0.25,sadness=0.75", 0.5), seed=4).text
    answer = serve().post(CHAT, json=target)
    assert content(answer) == expected
    assert answer.json()["emogen"]["emotion"] == "joy=0.25,sadness=0.75"
    assert answer.json()["emogen"]["strength"] == 0.5


def test_several_choices_whole_and_streamed(serve, model):
    target = {**said("How was day 3?"), "emotion": "joy", "seed": 5, "n": 3}
    expected = [model.reply("How was day 3?", "joy", seed=seed).text for seed in (5, seed_of(5, 1), seed_of(5, 2))]
    client = serve()
    whole = client.post(CHAT, json=target).json()
    assert [choice["message"]["content"] for choice in whole["choices"]] == expected
    assert len(set(whole["emogen"]["ids"])) == 3
    answer = client.post(CHAT, json={**target, "stream": True, "stream_options": {"include_usage": True}})
    assert [streamed(answer, index) for index in range(3)] == expected
    assert events(answer)[-1]["usage"] == whole["usage"]


def test_without_a_seed_replies_differ(serve):
    client, body = serve(), {**said("How was day 3?"), "temperature": 2.0, "top_p": 1.0}
    answers = [client.post(CHAT, json=body) for _ in range(4)]
    assert len({content(answer) for answer in answers}) > 1
    again = client.post(CHAT, json={**body, "seed": answers[0].json()["emogen"]["seed"]})
    assert content(again) == content(answers[0])


def test_a_stop_cuts_whole_and_streamed(serve, model):
    target = {**said("How was day 3?"), "emotion": "joy", "seed": 6, "max_tokens": 30}
    text = model.reply("How was day 3?", "joy", _sampling(model, "guidance:1.5", max_tokens=30), 6).text
    stop = text[len(text) // 2 :][:2]
    for stops in (stop, [stop, "never there"]):
        answer = serve().post(CHAT, json={**target, "stop": stops})
        assert content(answer) == text[: text.index(stop)].strip()
        assert answer.json()["choices"][0]["finish_reason"] == "stop"
        assert streamed(serve().post(CHAT, json={**target, "stop": stops, "stream": True})) == content(answer)


def test_more_tokens_than_allowed_are_as_many_as_allowed(serve):
    answer = serve(most_tokens=3).post(CHAT, json={**said("How was day 3?"), "max_tokens": 5000, "temperature": 2.0, "seed": 1})
    assert answer.json()["usage"]["completion_tokens"] == 3
    assert answer.json()["choices"][0]["finish_reason"] == "length"


def test_the_policy_answers_what_the_user_feels(serve, model):
    client, talk = serve(recognizer=Sad(), policy="cheer"), ("hurray", "What is it?", "I lost my job.")
    state = felt(Sad(), ["hurray", "I lost my job."], 0.25)
    for policy, name in (("cheer", None), ("mirror", "mirror")):
        expected = find_policy(policy, EKMAN, model.labels).answer(state.emotion)
        about = client.post(CHAT, json={**said(*talk), "policy": name, "decay": 0.25}).json()["emogen"]
        assert about["emotion"] == str(expected)
        assert about["strength"] == pytest.approx(expected.strength, abs=1e-6)
        assert about["state"] == state.as_object()
    assert client.post(CHAT, json={**said(*talk), "emotion": "none"}).json()["emogen"]["emotion"] == "none"
    assert serve().post(CHAT, json=said(*talk)).json()["emogen"]["emotion"] == "none"


def test_a_request_names_no_file(serve, tmp_path):
    client, file = serve(recognizer=Sad()), tmp_path / "words.toml"
    file.write_text("secret")
    error = refused(client.post(CHAT, json={**said("hello"), "policy": str(file)}), 400)
    assert error["message"].endswith("is not one of mirror, soothe, cheer, neutral, none")
    for post in (f"block:{file}", f"case, block:{file}"):
        assert refused(client.post(CHAT, json={**said("hello"), "post": post}), 400)["param"] == "post"


def test_a_refusal_tells_no_path(serve, model):
    error = refused(serve().post(CHAT, json={**said("hello"), "emotion": "joy", "control": "head:1"}), 400)
    assert "no emotion head" in error["message"]
    assert str(model.folder.parent) not in error["message"]


def test_post_changes_the_text(serve, model):
    target = {**said("How was day 3?"), "emotion": "joy", "seed": 8, "temperature": 2.0}
    plain = content(serve().post(CHAT, json=target))
    from emogen.decoding.postprocessing import parse_postprocessing

    assert content(serve().post(CHAT, json={**target, "post": "spacing,case"})) == parse_postprocessing("spacing,case")(plain)
    assert refused(serve().post(CHAT, json={**target, "post": "case", "stream": True}), 400)["param"] == "post"


def test_a_system_message_is_not_read_and_text_parts_are_one_text(serve, model):
    parts = [{"type": "text", "text": "How was "}, {"type": "text", "text": "day 3?"}]
    messages = [{"role": "system", "content": "You are a pirate."}, {"role": "user", "content": parts}]
    answer = serve().post(CHAT, json={"messages": messages, "emotion": "joy", "seed": 1})
    assert content(answer) == model.reply("How was day 3?", "joy", seed=1).text


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"emotion": "hunger"}, "emotion", ", ".join(EKMAN.names)),
        ({"emotion": "joy=0.7"}, "emotion", "sum to 0.7"),
        ({"emotion": 3}, "emotion", "write"),
        ({"emotion": {"joy": "much"}}, "emotion", "numbers"),
        ({"emotion": "joy", "strength": 1.5}, "strength", "less than or equal to 1"),
        ({"control": "gravity:2"}, "control", "guidance"),
        ({"control": "guidance:much"}, "control", "number"),
        ({"control": "rerank:4"}, None, "stream"),
        ({"control": "mbr:4"}, None, "stream"),
        ({"control": "head:2"}, None, "head"),
        ({"policy": "revenge"}, "policy", "mirror"),
        ({"temperature": "hot"}, "temperature", "number"),
        ({"temperature": 9}, "temperature", "2"),
        ({"temperature": True}, "temperature", "number"),
        ({"top_p": -0.1}, "top_p", "greater than or equal to 0"),
        ({"n": 0}, "n", "1"),
        ({"n": 100}, "n", "1 to 8"),
        ({"max_tokens": 0}, "max_tokens", "1"),
        ({"seed": 2**63}, "seed", "less than"),
        ({"seed": -(2**63) - 1}, "seed", "greater than"),
        ({"stop": ["a"] * 5}, "stop", "4"),
        ({"stop": ""}, "stop", "1"),
        ({"messages": []}, "messages", "1"),
        ({"messages": "hello"}, "messages", "list"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "user"),
        ({"messages": [{"role": "user", "content": None}]}, "messages", "text"),
        ({"messages": [{"role": "user"}]}, "messages", "text"),
        ({"messages": [{"role": "system"}, {"role": "user", "content": "x"}]}, "messages", "text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "text"),
        ({"messages": [{"role": "user", "content": [{"type": "refusal", "refusal": "No."}]}]}, "messages", "text"),
        ({"messages": [{"role": "assistant", "content": [{"type": "text", "refusal": "No."}]}]}, "messages", "refusal"),
        ({"messages": [{"role": "assistant", "content": [["text"]]}]}, "messages", "refusal"),
        ({"messages": [{"role": "assistant", "refusal": 3}]}, "messages", "refusal"),
        ({"messages": None}, "messages", "list"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "messages", "blank"),
        ({"messages": [{"role": "assistant", "content": "hello"}]}, "messages", "last message"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages", "surrogate"),
        ({"post": "shorten"}, "post", "detokenise"),
        ({"tools": [{"type": "function"}]}, "tools", "cannot"),
        ({"logprobs": True}, "logprobs", "cannot"),
        ({"response_format": {"type": "json_object"}}, "response_format", "cannot"),
        ({"presence_penalty": 0.5}, "presence_penalty", "cannot"),
        ({"moderation": {"model": "m"}}, "moderation", "cannot"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(serve, change, param, words):
    # As ASCII, since a client refuses half of a surrogate pair itself.
    body = json.dumps({**said("hello"), **change})
    error = refused(serve(recognizer=Sad()).post(CHAT, content=body, headers=JSON), 400)
    assert error["param"] == param
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"


def test_what_changes_nothing_is_let_be(serve):
    plain = {"tools": [], "logprobs": False, "response_format": {"type": "text"}, "presence_penalty": 0, "tool_choice": "none"}
    assert serve().post(CHAT, json={**said("hello"), **plain, "metadata": {"a": "b"}, "store": False}).status_code == 200


class Quick(Scripted):
    """An engine whose replies are there at once, whatever they are asked for with."""

    def write(self, context, emotion=None, sampling=None, seed=0, caller=""):
        writing = super().write(context, emotion, sampling, seed)
        self.context, self.sampling = context, sampling
        writing.add("Well.", 1)
        writing.end("end")
        return writing


def optional_fields(body):
    """Paths of all fields of a request, and of the shapes in it, that need not be there."""
    for name, field in body.model_fields.items():
        inner = [each for each in (*get_args(field.annotation), field.annotation) if hasattr(each, "model_fields")]
        yield from ((name, *path) for shape in inner for path in optional_fields(shape))
        if not field.is_required():
            yield (name,)


@pytest.mark.parametrize(
    ("route", "path"),
    [
        *((CHAT, path) for path in optional_fields(ChatRequest)),
        *((CHAT, (name,)) for name in CompletionCreateParamsBase.__annotations__ if name not in ("messages", "stream")),
        *(("/v1/feedback", path) for path in optional_fields(FeedbackRequest) if path != ("id",) and path != ("verdict",)),
        *(("/v1/recognize", path) for path in optional_fields(RecognizeRequest)),
    ],
    ids=str,
)
def test_null_is_as_good_as_nothing(model, store, route, path):
    brought = {"id": "a", "verdict": "good", "context": ["Hello."], "reply": "Well.", "emotion": "joy"}
    plain = {CHAT: {**said("hello"), "stream": True}, "/v1/feedback": brought, "/v1/recognize": {"texts": ["a"]}}[route]
    null = None
    for name in reversed(path):
        null = {name: null}
    client = TestClient(build_app(ServerSettings(), Quick(model), Sad(), store), "http://127.0.0.1")
    client.post(CHAT, json=said("hello"))
    if route == "/v1/feedback" and path[0] in brought:
        # The reply is known then, and need not be brought.
        brought["id"] = client.post(CHAT, json=said("hello")).json()["id"]
    assert client.post(route, json={**plain, **null}).status_code == 200


@pytest.mark.parametrize(
    ("answered", "read"),
    [
        ({"content": "Fine."}, ("Fine.",)),
        ({"content": None}, ()),
        ({}, ()),
        ({"content": ""}, ()),
        ({"content": []}, ()),
        ({"content": None, "refusal": "I had rather not."}, ("I had rather not.",)),
        ({"refusal": "I had rather not."}, ("I had rather not.",)),
        ({"content": "", "refusal": "I had rather not."}, ("I had rather not.",)),
        ({"content": "Fine.", "refusal": None, "audio": None, "tool_calls": None}, ("Fine.",)),
        (
            {"content": [{"type": "refusal", "refusal": "I had "}, {"type": "text", "text": "rather not."}]},
            ("I had rather not.",),
        ),
    ],
)
def test_whatever_an_assistant_may_have_said(serve, model, answered, read):
    """Messages as the API gives them, sent back as they are; silence is left out."""
    engine = Quick(model)
    messages = [*said("How was day 3?")["messages"], {"role": "assistant", **answered}, *said("And day 4?")["messages"]]
    assert serve(engine=engine).post(CHAT, json={"messages": messages, "emotion": "joy"}).status_code == 200
    assert engine.context == ("How was day 3?", *read, "And day 4?")


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63 - 1])
def test_seeds_are_those_of_the_api(serve, model, seed):
    target = {**said("How was day 3?"), "emotion": "joy", "seed": seed, "n": 2}
    client = serve()
    first, second = client.post(CHAT, json=target).json(), client.post(CHAT, json=target).json()
    assert first["choices"] == second["choices"]
    assert first["emogen"]["seed"] == seed
    assert content(client.post(CHAT, json=target)) == model.reply("How was day 3?", "joy", seed=seed % 2**63).text


def test_no_probability_mass_is_the_likeliest_token(serve, model):
    target = {**said("How was day 3?"), "emotion": "joy", "seed": 5}
    greedy = model.reply("How was day 3?", "joy", replace(model.default_sampling, temperature=0.0)).text
    assert content(serve().post(CHAT, json={**target, "top_p": 0})) == greedy
    assert content(serve().post(CHAT, json={**target, "top_p": 0.0, "temperature": 2})) == greedy


def test_usage_is_null_until_it_is_known(serve):
    target = {**said("hello"), "emotion": "joy", "stream": True, "max_tokens": 3}
    *before, last = events(serve().post(CHAT, json={**target, "stream_options": {"include_usage": True}}))
    assert len(before) > 2
    assert all(event["usage"] is None and event["choices"] for event in before)
    assert last["usage"]["completion_tokens"] > 0
    assert last["choices"] == []
    for options in (None, {}, {"include_usage": False}, {"include_usage": None}):
        assert not any("usage" in event for event in events(serve().post(CHAT, json={**target, "stream_options": options})))


@pytest.mark.parametrize("route", ["/health", "/metrics", "/v1/models", "/v1/models/lm"])
def test_head_is_get_without_the_body(serve, route):
    client = serve()
    head, got = client.head(route), client.get(route)
    assert (head.status_code, head.headers["content-type"]) == (got.status_code, got.headers["content-type"]) != (404, "")


@pytest.mark.parametrize(
    ("method", "route", "allowed"),
    [
        ("PUT", "/v1/models", {"GET", "HEAD"}),
        ("DELETE", "/v1/models/lm", {"GET", "HEAD"}),
        ("POST", "/health", {"GET", "HEAD"}),
        ("OPTIONS", "/metrics", {"GET", "HEAD"}),
        ("HEAD", CHAT, {"POST"}),
        ("GET", "/v1/feedback", {"POST"}),
        ("PATCH", "/v1/recognize", {"POST"}),
    ],
)
def test_a_refused_method_comes_with_those_that_are_allowed(serve, method, route, allowed):
    answer = serve().request(method, route)
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == allowed
    assert method == "HEAD" or answer.json()["error"]["code"] == "method_not_allowed"


def test_an_engine_that_failed_is_told(serve, model):
    engine = Scripted(model)
    assert serve(engine=engine).get("/health").status_code == 200
    engine.is_open = False
    answer = serve(engine=engine).get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "failed")


def test_what_is_not_done_is_told_in_the_reply_and_once_in_the_log(serve, caplog, monkeypatch):
    monkeypatch.setattr(WrittenScripts, "names", ("LATIN",))
    caplog.set_level(logging.WARNING, "emogen.server")
    client = serve()
    plain, blank = said("How was day 3?"), {"role": "developer", "content": " "}
    assert client.post(CHAT, json=plain).json()["emogen"]["warnings"] == []
    assert client.post(CHAT, json={"messages": [blank, *plain["messages"]]}).json()["emogen"]["warnings"] == []
    for role in ("system", "developer"):
        instructed = {"messages": [{"role": role, "content": SECRET}, *plain["messages"]]}
        (warning,) = client.post(CHAT, json=instructed).json()["emogen"]["warnings"]
        assert "system and developer were not read" in warning
    (foreign,) = events(client.post(CHAT, json={**said("Привет, как дела?"), "stream": True}))[0]["emogen"]["warnings"]
    assert "Cyrillic letters" in foreign
    assert "Latin letters alone" in foreign
    assert [record.getMessage() for record in caplog.records] == [f"{each} (logged once)" for each in (warning, foreign)]


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
_PLAUSIBLE = st.sampled_from(("joy", "none", "guidance:2", "mirror", "case", "joy=1", 0, 1, 0.5, "user", [], {"joy": 1.0}))


@given(
    st.sampled_from([CHAT, "/v1/recognize", "/v1/feedback"]),
    st.dictionaries(
        st.sampled_from([*ChatRequest.model_fields, *FeedbackRequest.model_fields, "texts"]), _VALUES | _PLAUSIBLE, max_size=4
    ),
    st.booleans(),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_sent_is_served_or_refused(model, store, route, change, is_whole):
    """Never a failure of the server, and one shape of refusal."""
    client = TestClient(build_app(ServerSettings(), Quick(model), Sad(), store), "http://127.0.0.1")
    body = {**said("hello"), "texts": ["a"], **change} if is_whole else change
    answer = client.post(route, content=json.dumps(body), headers=JSON)
    assert answer.status_code in (200, 400, 404)
    if answer.status_code != 200:
        refused(answer, answer.status_code)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"seed": 1e400}',
        b'{"seed": ' + b"9" * 10_000 + b"}",
        b"\0",
    ],
)
def test_no_json_is_a_mistake(serve, body):
    refused(serve().post(CHAT, content=body, headers=JSON), 400)


def test_signs_of_all_kinds_are_answered(serve, model):
    text = "\0 \x01\x7f \u202e \U0001f600 ▁ <turn> </s> 我很开心"
    answer = serve().post(CHAT, json={**said(text), "emotion": "joy", "seed": 2})
    assert content(answer) == model.reply(text, "joy", seed=2).text


def test_another_type_of_content_is_refused(serve):
    body = json.dumps(said("hello"))
    error = refused(serve().post(CHAT, content=body, headers={"content-type": "text/plain"}), 415)
    assert "application/json" in error["message"]


def test_limits_of_a_request(serve):
    client = serve(most_messages=3, most_characters=100, most_bytes=1000)
    assert client.post(CHAT, json=said("a" * 100)).status_code == 200
    for talk in (("a" * 101,), ("a", "b", "c", "d", "e"), ("a" * 40, "b" * 40, "c" * 40)):
        assert refused(client.post(CHAT, json=said(*talk)), 400)["code"] == "context_length_exceeded"
    system = {"messages": [{"role": "system", "content": "s" * 100}, *said("a")["messages"]]}
    assert refused(client.post(CHAT, json=system), 400)["code"] == "context_length_exceeded"
    assert refused(client.post(CHAT, content=b" " * 1001, headers=JSON), 413)["code"] == "body_too_large"
    assert refused(client.post("/v1/recognize", json={"texts": ["a"] * 4}), 400)["code"] == "context_length_exceeded"


def test_models_and_routes_that_are_not_there(serve):
    client = serve()
    (only,) = client.get("/v1/models").json()["data"]
    assert only["labels"] == list(EKMAN.names)
    assert client.get(f"/v1/models/{only['id']}").json() == only
    assert refused(client.get("/v1/models/gpt"), 404)["code"] == "model_not_found"
    assert refused(client.post(CHAT, json={**said("hello"), "model": "gpt"}), 404)["code"] == "model_not_found"
    assert refused(client.get("/v1/nothing"), 404)["code"] == "route_not_found"
    assert refused(client.get(CHAT), 405)["code"] == "method_not_allowed"
    assert refused(client.get("/docs"), 404)["code"] == "route_not_found"


def test_keys(serve):
    client = serve(api_key="first,second")
    for headers in ({}, {"authorization": "Bearer third"}, {"authorization": "first"}, {"authorization": "Basic first"}):
        for answer in (client.get("/v1/models", headers=headers), client.get("/metrics", headers=headers)):
            assert refused(answer, 401)["type"] == "authentication_error"
            assert answer.headers["www-authenticate"] == "Bearer"
        refused(client.post(CHAT, json=said("hello"), headers=headers), 401)
    for key in ("first", "second"):
        assert client.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200
    assert client.get("/health").json()["status"] == "ready"


def test_without_keys_a_web_page_of_another_name_is_refused(serve):
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "[2001:db8::1]:80", "127.0.0.1@evil.example"):
        assert refused(serve().get("/v1/models", headers={"host": host}), 403)["code"] == "wrong_host"
        assert serve(allow_unauthenticated=True).get("/v1/models", headers={"host": host}).status_code == 200
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert serve().get("/v1/models", headers={"host": host}).status_code == 200
    headers = {"host": "api.example", "authorization": "Bearer a"}
    assert serve(api_key="a").get("/v1/models", headers=headers).status_code == 200


def test_too_many_requests_a_minute(serve):
    now = [0.0]
    client = serve(api_key="a,b", requests_a_minute=2, clock=lambda: now[0])
    ask = lambda key: client.get("/v1/models", headers={"authorization": f"Bearer {key}"})  # noqa: E731
    assert [ask("a").status_code for _ in range(2)] == [200, 200]
    late = ask("a")
    assert refused(late, 429)["code"] == "rate_limit_exceeded"
    assert late.headers["retry-after"] == "30"
    assert ask("b").status_code == 200
    now[0] = 30.0
    assert [ask("a").status_code for _ in range(2)] == [200, 429]


def test_recognition(serve):
    found = serve(recognizer=Sad()).post("/v1/recognize", json={"texts": ["hurray", "oh"], "decay": 0.1}).json()
    assert [each["label"] for each in found["data"]] == ["joy", "sadness"]
    assert found["data"][1]["probabilities"]["sadness"] == 0.7
    assert found["state"] == felt(Sad(), ["hurray", "oh"], 0.1).as_object()
    for texts in ([], ["\ud800"], "hurray", [3]):
        refused(serve(recognizer=Sad()).post("/v1/recognize", content=json.dumps({"texts": texts}), headers=JSON), 400)
    refused(serve().post("/v1/recognize", json={"texts": ["oh"]}), 501)


def test_an_opinion_on_a_reply_is_stored(serve, store, model):
    client = serve(store=store)
    body = {**said("How was day 3?"), "emotion": "joy", "seed": 1, "user": "u7"}
    whole = client.post(CHAT, json=body)
    answer = client.post("/v1/feedback", json={"id": whole.json()["id"], "verdict": "good"})
    assert answer.json()["stored"] == [whole.json()["id"]]
    shown = events(client.post(CHAT, json={**body, "stream": True, "seed": 2}))[0]
    client.post("/v1/feedback", json={"id": shown["id"], "verdict": "bad"})
    good, bad = store.opinions()
    assert (good.context, good.text, good.verdict) == (("How was day 3?",), content(whole), "good")
    assert (good.emotion, good.session) == (model.emotion("joy"), "u7")
    assert (bad.text, bad.verdict) == (model.reply("How was day 3?", "joy", seed=2).text, "bad")


def test_the_better_of_two(serve, store):
    client = serve(store=store)
    answer = client.post(CHAT, json={**said("How was day 3?"), "emotion": "joy", "seed": 1, "n": 2, "temperature": 2.0}).json()
    first, second = answer["emogen"]["ids"]
    assert client.post("/v1/feedback", json={"better": second, "worse": first}).json()["stored"] == [second, first]
    (pair,) = store.pairs()
    assert [pair.better, pair.worse] == [choice["message"]["content"] for choice in answer["choices"]][::-1]
    other = client.post(CHAT, json={**said("And day 4?"), "emotion": "joy"}).json()["id"]
    assert "same messages" in refused(client.post("/v1/feedback", json={"better": first, "worse": other}), 400)["message"]


def test_a_reply_that_is_forgotten(serve, store):
    client = serve(store=store, most_remembered=1)
    old, new = (client.post(CHAT, json={**said("hello"), "emotion": "joy"}).json()["id"] for _ in range(2))
    assert client.post("/v1/feedback", json={"id": new, "verdict": "good"}).status_code == 200
    assert refused(client.post("/v1/feedback", json={"id": old, "verdict": "bad"}), 404)["code"] == "reply_not_found"
    brought = {"context": ["hello"], "reply": "hi", "emotion": "sadness", "strength": 0.5}
    assert client.post("/v1/feedback", json={"id": old, "verdict": "bad", **brought}).status_code == 200
    assert [(each.text, each.emotion.strength) for each in store.opinions() if each.reply == old] == [("hi", 0.5)]


@pytest.mark.parametrize(
    "body", [{}, {"id": "a"}, {"id": "a", "verdict": "fine"}, {"better": "a"}, {"id": "a", "verdict": "good", "better": "b"}]
)
def test_no_opinion(serve, store, body):
    refused(serve(store=store).post("/v1/feedback", json=body), 400)
    assert store.opinions() == []


def test_an_opinion_that_is_not_stored_is_not_acknowledged(serve, store, monkeypatch):
    refused(serve().post("/v1/feedback", json={"id": "a", "verdict": "good"}), 501)
    client = serve(store=store)
    name = client.post(CHAT, json={**said("hello"), "emotion": "joy"}).json()["id"]

    def fail(opinion):
        raise EmogenError("the disk is full")

    monkeypatch.setattr(store, "rate", fail)
    assert refused(client.post("/v1/feedback", json={"id": name, "verdict": "good"}), 503)["code"] == "not_stored"


def test_figures(serve, store):
    client = serve(store=store)
    answer = client.post(CHAT, json={**said("hello"), "emotion": "joy"}).json()
    client.post(CHAT, json={**said("hello"), "emotion": "hunger"})
    client.get("/nowhere/at/all")
    client.post("/v1/feedback", json={"id": answer["id"], "verdict": "bad"})
    lines = client.get("/metrics").text.splitlines()
    assert 'emogen_requests_total{method="POST",route="/v1/chat/completions",status="200"} 1.0' in lines
    assert 'emogen_requests_total{method="POST",route="/v1/chat/completions",status="400"} 1.0' in lines
    assert 'emogen_requests_total{method="GET",route="-",status="404"} 1.0' in lines
    assert f'emogen_tokens_total{{kind="completion"}} {answer["usage"]["completion_tokens"]}.0' in lines
    assert 'emogen_feedback_total{verdict="bad"} 1.0' in lines
    assert "emogen_first_token_seconds_count 1.0" in lines
    assert "emogen_reply_seconds_count 1.0" in lines
    assert "emogen_running 0.0" in lines


def test_the_log_holds_no_words_and_no_key(serve, caplog):
    caplog.set_level(logging.DEBUG)
    client = serve(api_key="key-of-keys", recognizer=Sad())
    headers = {"authorization": "Bearer key-of-keys"}
    answers = [
        client.post(CHAT, json={**said(SECRET), **more}, headers=headers)
        for more in ({"seed": 1}, {"stream": True}, {"emotion": SECRET}, {"model": SECRET}, {"user": SECRET}, {"stop": 3})
    ]
    client.post("/v1/recognize", json={"texts": [SECRET, 3]}, headers=headers)
    client.get(f"/{SECRET}?q={SECRET}", headers=headers)
    client.get("/v1/models", headers={"authorization": f"Bearer {SECRET}"})
    logged = [record.getMessage() for record in caplog.records if record.name == "emogen.server"]
    assert len(logged) == len(answers) + 3
    assert json.loads(logged[0])["emotion"] == answers[0].json()["emogen"]["emotion"]
    assert json.loads(logged[0])["tokens"] == answers[0].json()["usage"]["completion_tokens"]
    # The client's own log says what it asked for.
    text = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))
    assert "Rumpel" not in text
    assert "key-of-keys" not in text


def test_the_log_holds_words_where_they_are_asked_for(serve, caplog):
    caplog.set_level(logging.INFO, "emogen.server")
    answer = serve(log_text=True).post(CHAT, json={**said(SECRET), "emotion": "joy"})
    (line,) = [record.getMessage() for record in caplog.records if record.name == "emogen.server"]
    assert json.loads(line)["said"] == [SECRET]
    assert json.loads(line)["replies"] == [content(answer)]
    assert answer.headers["x-request-id"] == json.loads(line)["id"]


def test_an_unforeseen_error_tells_nothing_of_itself(serve, model, caplog):
    class Broken(Scripted):
        def write(self, context, emotion=None, sampling=None, seed=0, caller=""):
            raise ValueError(f"cannot digest {context}")

    error = refused(serve(engine=Broken(model)).post(CHAT, json=said(SECRET)), 500)
    assert error["type"] == "server_error"
    assert "Rumpel" not in error["message"] + caplog.text
    assert "ValueError" in caplog.text


@pytest.mark.parametrize("route", ["/health", "/readyz", "/livez"])
def test_health_is_true_of_an_engine_whose_steps_fail(serve, model, monkeypatch, route):
    """It asks for a token where the last step failed, so that it is right at once, in both directions."""
    with Engine(model) as engine:
        client, step = serve(engine=engine), engine._batch.step
        assert client.get(route).status_code == 200

        def fail():
            raise RuntimeError(SECRET)

        monkeypatch.setattr(engine._batch, "step", fail)
        for _ in range(3):
            refused(client.post(CHAT, json={**said("hello"), "emotion": "joy"}), 500)
            assert client.get(route).json()["status"] == "failed"
        assert client.get(route).status_code == 503
        monkeypatch.setattr(engine._batch, "step", step)
        assert client.get(route).status_code == 200
        assert client.post(CHAT, json=said("hello")).status_code == 200


def test_health_is_true_of_an_engine_that_stands_still(serve, model, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr("emogen.dialogue.engine._SUSPECT_SECONDS", 0.0)
    with Engine(model) as engine:
        step = engine._batch.step
        monkeypatch.setattr(engine._batch, "step", lambda: go_on.wait() and step())
        writing = engine.write("hello", "joy")
        client = serve(engine=engine)
        assert client.get("/health").json()["status"] == "failed"
        go_on.set()
        writing.wait()
        assert client.get("/health").json()["status"] == "ready"


def test_health_tells_who_holds_places(serve, model):
    engine = Scripted(model)
    client = serve(engine=engine, max_batch_size=2, max_queue=2)
    assert client.get("/health").json() == {
        "status": "ready", "running": 0, "waiting": 0, "places": 0, "callers": 0, "arriving": 0, "connections": 0,
    }  # fmt: skip
    engine.unfinished = 4
    assert client.get("/health").status_code == 200
    assert client.get("/readyz").status_code == 503
    assert client.get("/livez").status_code == 200


def test_more_replies_than_a_share_are_refused(serve, model):
    """Eight of ten places are one caller's own, and then no more."""
    client = serve(engine=Scripted(model), max_batch_size=5, max_queue=5, most_choices=20)
    assert refused(client.post(CHAT, json={**said("hello"), "n": 10}), 429)["code"] == "share_exceeded"
    assert refused(client.post(CHAT, json={**said("hello"), "n": 11}), 503)["code"] == "busy"
    assert client.get("/health").json()["places"] == 0


def test_a_body_of_another_type_is_not_stored(serve, store):
    """What a web page of another origin can send without leave: no content type, text, a form."""
    opinion = json.dumps({"id": "x", "verdict": "good", "context": ["a"], "reply": "b", "emotion": "joy"})
    client = serve(store=store)
    for kind in (None, "text/plain", "application/x-www-form-urlencoded", "text/plain; a=application/json", ""):
        headers = {"origin": "https://evil.example"} | ({} if kind is None else {"content-type": kind})
        assert refused(client.post("/v1/feedback", content=opinion, headers=headers), 415)["code"] == "unsupported_media_type"
    assert store.opinions() == []
    for kind in ("application/json", "Application/JSON; charset=utf-8"):
        assert client.post("/v1/feedback", content=opinion, headers={"content-type": kind}).status_code == 200


def test_words_of_errors_stay_inside(serve, model, caplog):
    """A path, a text: neither in the answer nor in the log, which names the places in the code and the answer's id."""

    class Failing(Scripted):
        def write(self, *_, **__):
            raise CheckpointError(f"cannot read /srv/secret/path, text {SECRET!r}")

    answer = serve(engine=Failing(model)).post(CHAT, json=said("hello"))
    error = refused(answer, 500)
    assert error["message"] == f"the server failed; its log says where, under {answer.headers['x-request-id']}"
    assert f"{answer.headers['x-request-id']} failed (CheckpointError)\n" in caplog.text
    assert "test_server.py" in caplog.text
    assert "secret" not in caplog.text.lower()


def test_words_of_errors_under_debug(serve, model, caplog):
    class Failing(Scripted):
        def write(self, *_, **__):
            raise CheckpointError("cannot read /srv/secret/path")

    with caplog.at_level(logging.DEBUG, "emogen"):
        serve(engine=Failing(model)).post(CHAT, json=said("hello"))
    assert "cannot read /srv/secret/path" in caplog.text


def test_a_locked_store_is_told_and_keeps_nobody_waiting(serve, tmp_path):
    """503 in its own form, with Retry-After; a chat is answered meanwhile; once the lock is gone opinions are stored."""
    path = tmp_path / "locked.db"
    opinion = {"verdict": "good", "context": ["a"], "reply": "b", "emotion": "joy"}
    with FeedbackStore(path, busy_seconds=0.05) as store:
        client, other = serve(store=store), sqlite3.connect(path, isolation_level=None)
        other.execute("begin immediate")
        answer = client.post("/v1/feedback", json={"id": "1", **opinion})
        assert refused(answer, 503)["code"] == "not_stored"
        assert answer.headers["retry-after"] == "2"
        assert client.post(CHAT, json=said("hello")).status_code == 200
        other.execute("rollback")
        other.close()
        assert client.post("/v1/feedback", json={"id": "2", **opinion}).status_code == 200
        assert [each.reply for each in store.opinions()] == ["2"]


def test_a_full_queue(serve, model):
    class Full(Scripted):
        def write(self, context, emotion=None, sampling=None, seed=0, caller=""):
            if self.writings:
                raise BusyError("all rows are taken; ask again later")
            return super().write(context, emotion, sampling, seed)

    engine = Full(model)
    answer = serve(engine=engine).post(CHAT, json={**said("hello"), "n": 2})
    assert refused(answer, 503)["code"] == "busy"
    assert answer.headers["retry-after"] == "1"
    assert engine.left == engine.writings
    engine.unfinished = 320
    found = serve(engine=engine).get("/health").json()
    assert (found["status"], found["running"], found["waiting"]) == ("busy", 64, 256)


def call(app, body, leaves):
    """Calls an ASGI application whose client leaves when `leaves` is set; gives what was sent."""
    sent, waiting = [], [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive():
        if waiting:
            return waiting.pop()
        await leaves.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers, "query_string": b"", "client": ("c", 1)}
    return app({**scope, "root_path": "", "scheme": "http", "server": ("s", 1)}, receive, send), sent


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_the_writing(model, stream, caplog):
    caplog.set_level(logging.INFO, "emogen.server")
    engine = Scripted(model)
    app = build_app(ServerSettings(), engine)

    async def leave():
        leaves = asyncio.Event()
        work, sent = call(app, {**said("hello"), "emotion": "joy", "stream": stream}, leaves)
        running = asyncio.create_task(work)
        while not engine.writings:
            await asyncio.sleep(0)
        engine.writings[0].add("Well", 1)
        while stream and not any(b"Well" in message.get("body", b"") for message in sent):
            await asyncio.sleep(0)
        assert engine.writings[0].ended is None
        leaves.set()
        await running

    asyncio.run(leave())
    assert engine.writings[0].ended == "cancelled"
    assert engine.left == engine.writings
    assert json.loads(caplog.records[-1].getMessage())["cancelled"] is True


@pytest.mark.parametrize(
    ("error", "conditioning"),
    [
        (BusyError("the engine was closed"), "the engine was closed"),
        (ValueError(SECRET), "the server failed; its log says where"),
    ],
)
def test_an_error_in_mid_stream_is_an_event(model, error, conditioning, caplog):
    engine = Scripted(model)
    app = build_app(ServerSettings(), engine)

    async def fail():
        work, sent = call(app, {**said("hello"), "emotion": "joy", "stream": True}, asyncio.Event())
        running = asyncio.create_task(work)
        while not engine.writings:
            await asyncio.sleep(0)
        engine.writings[0].add("Well", 1)
        engine.writings[0].end("failed", error)
        await running
        return b"".join(message.get("body", b"") for message in sent).decode()

    *_, text, last = [json.loads(line.removeprefix("data: ")) for line in asyncio.run(fail()).split("\n\n") if line]
    assert text["choices"][0]["delta"]["content"] == "Well"
    assert last["error"]["message"].startswith(conditioning)
    assert ("ValueError" in caplog.text) == isinstance(error, ValueError)
    assert "Rumpel" not in caplog.text


def test_a_reply_that_takes_too_long(serve, model):
    engine = Scripted(model)
    client = serve(engine=engine, reply_timeout=0.01)
    assert refused(client.post(CHAT, json={**said("hello"), "emotion": "joy"}), 503)["code"] == "timeout"
    assert engine.writings[0].ended == "cancelled"


def test_more_requests_at_once_than_may(model):
    engine = Scripted(model)
    app = build_app(ServerSettings(max_batch_size=1, max_queue=0), engine)

    async def crowd():
        first, _ = call(app, {**said("hello"), "emotion": "joy"}, asyncio.Event())
        running = asyncio.create_task(first)
        while not engine.writings:
            await asyncio.sleep(0)
        second, sent = call(app, {**said("hello"), "emotion": "joy"}, asyncio.Event())
        await second
        engine.writings[0].end("end")
        await running
        return sent[0]["status"]

    assert asyncio.run(crowd()) == 503
    assert len(engine.writings) == 1


def test_web_pages_call_where_they_may(serve):
    origin = {"origin": "https://page.example"}
    preflight = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    client = serve(cors="https://page.example", api_key="a")
    assert client.options(CHAT, headers=preflight).status_code == 200
    private = client.options(CHAT, headers={**preflight, "access-control-request-private-network": "true"})
    assert (private.status_code, private.headers["access-control-allow-private-network"]) == (200, "true")
    assert client.options(CHAT, headers={**preflight, "origin": "https://other.example"}).status_code == 400
    allowed = refused_with_header(client.post(CHAT, json=said("hello"), headers=origin))
    assert allowed == "https://page.example"
    assert "access-control-allow-origin" not in serve().get("/health", headers=origin).headers


def refused_with_header(answer):
    refused(answer, 401)
    return answer.headers["access-control-allow-origin"]


def test_a_policy_that_does_not_fit_is_told_at_the_start(engine):
    with pytest.raises(SettingsError, match="is not one of mirror"):
        build_app(ServerSettings(policy="revenge"), engine, Sad())


def test_default_control_is_the_models_own(serve, model):
    assert model.default_sampling.control == Control(guidance=1.5)
    target = {**said("How was day 3?"), "emotion": "joy", "seed": 1}
    assert content(serve().post(CHAT, json=target)) == content(serve().post(CHAT, json={**target, "control": "guidance:1.5"}))
