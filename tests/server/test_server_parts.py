"""What the server is made of: keys, rates, bodies, cut texts, settings."""

import asyncio
import re
import socket
import subprocess
import sys
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emogen.dialogue.stream import ReplyStream
from emogen.errors import SettingsError
from emogen.server.body import ClientLeftError, discard_body, read_body, replay_body
from emogen.server.choices import Choice, StopSequences, merge_choices
from emogen.server.errors import ApiError
from emogen.server.gate import host_of
from emogen.server.limits import Holding, Keys, Knocks, Rate, Shares
from emogen.server.settings import ServerSettings, keys_of


@given(st.text("ab \n", max_size=30), st.text("ab \n", min_size=1, max_size=3), st.data())
def test_a_cut_text_is_the_same_in_whatever_pieces_it_comes(text, stop, data):
    cut, shown, left = StopSequences([stop]), [], text
    while left and not cut.is_over:
        size = data.draw(st.integers(1, len(left)))
        shown.append(cut.take(left[:size]))
        left = left[size:]
    shown.append(cut.rest())
    assert "".join(shown) == text.partition(stop)[0].strip()
    assert cut.is_over == (stop in text)


def test_what_cannot_be_a_stop_is_shown_at_once():
    cut = StopSequences(["END", "\n\n"])
    assert [cut.take(piece) for piece in (" one", " E", "Nd", " two\n", "three", " E", "ND four")] == [
        "one", "", " ENd", " two", "\nthree", "", "",
    ]  # fmt: skip
    assert (cut.is_over, cut.rest()) == (True, "")


def test_the_stop_that_is_whole_first_cuts():
    cut = StopSequences(["abc", "b"])
    assert cut.take("a") + cut.take("b") == "a"
    assert cut.is_over


def written(pieces, ended="end"):
    writing = ReplyStream(lambda: None)
    for number, piece in enumerate(pieces, 1):
        writing.add(piece, number)
    writing.end(ended)
    return writing


def test_replies_are_read_as_one_stream():
    choices = [
        Choice(index, str(index), written(pieces), StopSequences([])) for index, pieces in enumerate((["a", "b"], [], ["c"]))
    ]

    async def read():
        return [(choice.index, piece) async for choice, piece in merge_choices(choices, asyncio.get_running_loop().time() + 9)]

    found = asyncio.run(read())
    assert [piece for index, piece in found if index == 0] == ["a", "b", None]
    assert [piece for index, piece in found if index == 1] == [None]
    assert [piece for index, piece in found if index == 2] == ["c", None]


@given(st.lists(st.floats(0, 100), max_size=40), st.integers(1, 5))
def test_never_more_in_a_minute_than_twice_the_rate(steps, most):
    """A full bucket and what it gets meanwhile; and one request is let in once a minute has passed."""
    now, passed = [0.0], []
    rate = Rate(most, lambda: now[0])
    for step in steps:
        now[0] += step
        try:
            rate.take("a")
        except ApiError as error:
            now[0] += int(error.headers["retry-after"])
            rate.take("a")
        passed.append(now[0])
    for begin in passed:
        assert sum(begin <= time < begin + 60 for time in passed) <= 2 * most


def test_callers_beyond_ten_thousand_are_forgotten():
    rate = Rate(1, lambda: 0.0)
    rate.take("first")
    with pytest.raises(ApiError):
        rate.take("first")
    for number in range(10_000):
        rate.take(str(number))
    rate.take("first")


def test_callers_are_told_apart_without_their_keys():
    keys = Keys(["one", "two"])
    names = [keys.caller(b"Bearer one", "a"), keys.caller(b"bearer  one ", "b"), keys.caller(b"Bearer two", "a")]
    assert names[0] == names[1] != names[2]
    assert not {"one", "two", "a"} & set(names)
    assert Keys([]).caller(None, "10.0.0.1") == "10.0.0.1"
    for sent in (None, b"", b"Bearer", b"Bearer ", b"Bearer onetwo", b"one", b"Bearer \xff"):
        with pytest.raises(ApiError) as refused:
            keys.caller(sent, "a")
        assert refused.value.status == 401


def pieces_of(*pieces, leaves=False):
    """A `receive` of a body in pieces; behind them the client leaves, or sends nothing more."""
    waiting = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if not leaves and waiting:
        waiting[-1]["more_body"] = False

    async def receive():
        if waiting:
            return waiting.pop(0)
        if leaves:
            return {"type": "http.disconnect"}
        await asyncio.Event().wait()

    return receive


def test_a_body_is_read_within_its_limits():
    assert asyncio.run(read_body(pieces_of(b"ab", b"c", b""), 0, 3, 9)) == b"abc"
    receive = pieces_of(b"ab", b"cd", b"ef")
    with pytest.raises(ApiError) as refused:
        asyncio.run(read_body(receive, 0, 3, 9))
    assert refused.value.status == 413
    with pytest.raises(ApiError) as refused:
        asyncio.run(read_body(pieces_of(), 0, 3, 0.001))
    assert refused.value.status == 408
    with pytest.raises(ApiError) as refused:
        asyncio.run(read_body(pieces_of(), 10**12, 3, 9))
    assert refused.value.status == 413
    with pytest.raises(ClientLeftError):
        asyncio.run(read_body(pieces_of(b"ab", leaves=True), 0, 3, 9))


def test_what_is_refused_is_read_for_nobody():
    async def discarded(receive):
        await discard_body(receive, 0.001)

    for receive in (pieces_of(b"ab", b"cd"), pieces_of(), pieces_of(b"ab", leaves=True)):
        asyncio.run(discarded(receive))


def test_a_body_is_given_again():
    async def read():
        receive = replay_body(b"abc", pieces_of(leaves=True))
        return [await receive(), await receive()]

    first, second = asyncio.run(read())
    assert first == {"type": "http.request", "body": b"abc", "more_body": False}
    assert second["type"] == "http.disconnect"


def test_keys_come_from_option_and_file(tmp_path):
    file = tmp_path / "keys"
    file.write_text("three\n\n  four\n")
    assert keys_of(ServerSettings(api_key="one, two,", api_key_file=str(file))) == ("one", "two", "three", "four")
    assert "my-key" not in repr(ServerSettings(api_key="my-key"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_alone_needs_no_key(host):
    assert keys_of(ServerSettings(host=host)) == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.2", "example.org"])
def test_other_machines_need_one(host):
    with pytest.raises(SettingsError, match="EMOGEN_API_KEY"):
        keys_of(ServerSettings(host=host))
    assert keys_of(ServerSettings(host=host, allow_unauthenticated=True)) == ()
    assert keys_of(ServerSettings(host=host, api_key="one")) == ("one",)


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("localhost", "localhost"),
        ("LOCALHOST:8000", "localhost"),
        ("127.0.0.1:", "127.0.0.1"),
        ("[::1]:8000", "::1"),
        ("evil.example:80", "evil.example"),
        ("[127.0.0.1].evil.example", ""),
        ("[127.0.0.1]", ""),
        ("[::1", ""),
        ("[::1]evil", ""),
        ("localhost:evil.example", ""),
        ("localhost:99999", ""),
        ("user@localhost", ""),
        ("localhost, evil.example", ""),
        ("", ""),
    ],
)
def test_a_host_is_parsed(header, host):
    assert host_of(header.encode("latin-1")) == host


def take_all(shares, caller):
    while True:
        shares.take(caller)


def test_places_are_shared():
    """One caller gets four in five; a second one then four in five of what is left, and nobody more than all."""
    shares = Shares(320)
    for caller, held in (("hog", 256), ("second", 308), ("third", 318)):
        with pytest.raises(ApiError) as refused:
            take_all(shares, caller)
        assert (refused.value.status, refused.value.code) == (429, "share_exceeded")
        assert shares.held == held
    assert shares.callers == 3
    shares.give_back("hog", 256)
    shares.take("fourth", 8)
    with pytest.raises(ApiError) as refused:
        shares.take("fifth", 300)
    assert (refused.value.status, refused.value.headers["retry-after"]) == (503, "1")
    assert shares.callers == 3


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9), st.booleans()), max_size=60), st.integers(1, 40))
def test_places_are_never_more_than_there_are(moves, places):
    """And what is given back is free again; a first caller always finds one."""
    shares, held = Shares(places), {}
    for caller, count, gives in moves:
        if gives and held.get(caller):
            shares.give_back(caller, held.pop(caller))
        else:
            with suppress(ApiError):
                shares.take(caller, count)
                held[caller] = held.get(caller, 0) + count
        assert shares.held == sum(held.values()) <= places
        assert shares.callers == sum(map(bool, held.values()))


def test_a_request_holds_a_place_for_each_reply():
    shares = Shares(100)
    holding = Holding(shares, "one")
    holding.widen(1)
    assert shares.held == 1
    holding.widen(8)
    assert shares.held == 8
    holding.release()
    assert (shares.held, shares.callers) == (0, 0)


def test_wrong_keys_wait_for_their_turn():
    """Ten at once, then two a second; where it is too long 429, for right and wrong ones alike; who is known comes in."""
    now = [100.0]
    knocks = Knocks(lambda: now[0])
    assert knocks.wait_of("1.2.3.4", "known") == 0
    waits = [knocks.wait_of("1.2.3.4", None) for _ in range(31)]
    assert waits == [0.0] * 11 + [number / 2 for number in range(1, 21)]
    for caller in (None, "new"):
        with pytest.raises(ApiError) as refused:
            knocks.wait_of("1.2.3.4", caller)
        assert (refused.value.status, refused.value.headers["retry-after"]) == (429, "11")
    assert knocks.wait_of("1.2.3.4", "known") == 0
    assert knocks.wait_of("5.6.7.8", None) == 0
    now[0] += 10
    assert knocks.wait_of("1.2.3.4", "new") == 0.5


def test_keys_of_files_that_hold_something_else(tmp_path):
    for content in ("root:$6$abc$def:19000:0:99999:7:::\n", "# my keys\n", "\x7fELF\n"):
        (tmp_path / "other").write_text(content)
        with pytest.raises(SettingsError, match="key 1 is no key"):
            keys_of(ServerSettings(api_key_file=str(tmp_path / "other")))
    with pytest.raises(SettingsError, match="only commas or blanks"):
        keys_of(ServerSettings(api_key=" , ,"))
    with pytest.raises(SettingsError, match=r"--host '': allowed is an address"):
        ServerSettings(host="")


def test_keys_that_are_none(tmp_path):
    empty = tmp_path / "empty"
    empty.write_text("\n\n")
    for settings in (
        ServerSettings(api_key="two words"),
        ServerSettings(api_key="schlüssel"),
        ServerSettings(api_key_file=str(empty)),
        ServerSettings(api_key_file=str(tmp_path / "missing")),
    ):
        with pytest.raises(SettingsError) as refused:
            keys_of(settings)
        assert "schlüssel" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_batch_size", 0), ("max_queue", -1), ("reply_timeout", 0.0), ("port", 70_000), ("cors", "page.example")],
)
def test_settings_that_are_impossible(name, value):
    with pytest.raises(SettingsError, match=f"--{name.replace('_', '-')} {value}: allowed is"):
        ServerSettings(**{name: value})


def test_the_command_refuses_in_one_line(refusal, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.delenv("EMOGEN_API_KEY", raising=False)
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(tiny_checkpoint, bare)
    (bare / "tokenizer.model").unlink()
    for arguments, status, words in (
        (("--host", "0.0.0.0"), 2, "without a key"),
        (("--checkpoint", bare), 1, "tokenizer.model"),
        (("--checkpoint", tmp_path / "none"), 1, "no checkpoint there"),
        (("--checkpoint", tiny_checkpoint, "--recognizer", tmp_path), 1, "no classifier there"),
        (("--checkpoint", tiny_checkpoint, "--policy", "revenge"), 2, "is not one of mirror"),
        (("--max-batch-size", "0"), 2, "--max-batch-size 0"),
        (("--config", tmp_path / "none.toml"), 2, "cannot be read"),
    ):
        found, line = refusal("serve", "--port", "0", *arguments)
        assert (found, words in line) == (status, True), line
    config = tmp_path / "serve.toml"
    config.write_text("[serve]\nport = 0\nhost = '0.0.0.0'\n")
    assert refusal("serve", "--config", config)[0] == 2


def test_variables_that_are_none(refusal, tiny_checkpoint, tmp_path, monkeypatch):
    """Refused at the start: nobody listens where he did not mean to."""
    monkeypatch.delenv("EMOGEN_API_KEY", raising=False)
    (tmp_path / "page.md").write_text("Some words.\n")
    for name, value, words in (
        ("EMOGEN_HOST", "", "EMOGEN_HOST is empty"),
        ("EMOGEN_API_KEY", " ,", "only commas or blanks"),
        ("EMOGEN_API_KEY_FILE", str(tmp_path / "page.md"), "key 1 is no key"),
        ("EMOGEN_CONFIG", str(tmp_path / "page.md"), "cannot be read as TOML"),
    ):
        with monkeypatch.context() as environment:
            environment.setenv(name, value)
            found, line = refusal("serve", "--port", "0", "--checkpoint", tiny_checkpoint)
        assert (found, words in line) == (2, True), line


def test_a_port_that_is_taken(refusal, tiny_checkpoint):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, line = refusal("serve", "--port", port, "--checkpoint", tiny_checkpoint)
    assert (status, bool(re.match(rf"127\.0\.0\.1:{port}: cannot be listened on", line))) == (1, True)


def test_help_is_quick():
    code = (
        "import sys; from emogen.cli import cli\n"
        "try: cli(['serve', '--help'])\n"
        "except SystemExit: print(sorted({'torch', 'fastapi', 'uvicorn', 'pydantic', 'sqlalchemy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--api-key-file" in found
    assert found.endswith("[]\n")


def test_a_missing_extra_is_told(refusal, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("emogen.server.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    status, line = refusal("serve")
    assert (status, 'pip install -e ".[serve]"' in line) == (2, True)
