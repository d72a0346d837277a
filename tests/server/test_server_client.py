"""A server in a process of its own, on a loopback port, driven by the OpenAI client as it is published."""

import asyncio
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from emogen.checkpoint.model import load

openai = pytest.importorskip("openai")

PAGE = Path(__file__).parents[2] / "docs" / "server.md"
TALK = [{"role": "user", "content": "How was day 3?"}]


def start(folder, *options):
    """The process and its address, once it listens."""
    arguments = ["serve", "--port", "0", "--checkpoint", str(folder), "--recognizer", "none", "--api-key", "secret", *options]
    process = subprocess.Popen([sys.executable, "-m", "emogen", *arguments], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if " at http://" in line:
            return process, line.split()[-1]
    raise AssertionError(f"the server did not start: {process.wait()}")


@pytest.fixture(scope="module")
def address(tiny_checkpoint):
    process, address = start(tiny_checkpoint)
    yield address
    process.terminate()
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in log


@pytest.fixture(scope="module")
def expected(tiny_checkpoint):
    model = load(tiny_checkpoint)
    return lambda seed: model.reply("How was day 3?", "joy", seed=seed)


@pytest.fixture
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0) as client:
        yield client


def test_a_reply(client, expected):
    (model,) = client.models.list().data
    found = client.chat.completions.create(model=model.id, messages=TALK, seed=1, extra_body={"emotion": "joy"})
    assert found.choices[0].message.content == expected(1).text
    assert found.usage.completion_tokens == expected(1).tokens
    assert found.emogen["emotion"] == "joy"


def test_a_streamed_reply(client, expected):
    stream = client.chat.completions.create(
        model="emogen",
        messages=TALK,
        seed=2,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"emotion": "joy"},
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == expected(2).text
    assert len(texts) > 3
    assert chunks[-1].usage.completion_tokens == expected(2).tokens
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] in ("stop", "length")


def test_many_at_once(address, expected):
    async def ask(client, seed):
        more = {"model": "emogen", "messages": TALK, "seed": seed, "extra_body": {"emotion": "joy"}}
        if seed % 2:
            return (await client.chat.completions.create(**more)).choices[0].message.content
        stream = await client.chat.completions.create(**more, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, seed) for seed in range(12)))

    assert asyncio.run(all_of_them()) == [expected(seed).text for seed in range(12)]


def test_a_stream_that_is_left_disturbs_nobody(client, expected):
    more = {"model": "emogen", "messages": TALK, "seed": 3, "extra_body": {"emotion": "joy"}}
    with client.chat.completions.create(**more, stream=True) as left:
        next(iter(left))
    assert client.chat.completions.create(**more).choices[0].message.content == expected(3).text


def test_errors_are_those_of_the_client(client, address):
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="emogen", messages=TALK, extra_body={"emotion": "hunger"})
    assert (bad.value.param, "joy" in bad.value.message) == ("emotion", True)
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt", messages=TALK)
    assert missing.value.code == "model_not_found"
    with openai.OpenAI(base_url=f"{address}/v1", api_key="wrong") as stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL))
def test_the_examples_of_the_page_run(code, address, capsys):
    exec(code.replace("http://127.0.0.1:8000", address).replace("my-key", "secret"), {})
    assert capsys.readouterr().out.strip()


def test_a_server_that_is_stopped_finishes_its_replies(tiny_checkpoint):
    process, address = start(tiny_checkpoint)
    model = load(tiny_checkpoint)
    sampling = replace(model.default_sampling, temperature=2.0, max_tokens=250)
    with openai.OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0) as client:
        more = {"temperature": 2.0, "max_tokens": 250, "seed": 5, "extra_body": {"emotion": "joy"}}
        stream = client.chat.completions.create(model="emogen", messages=TALK, stream=True, **more)
        text = next(stream).choices[0].delta.content
        process.terminate()
        text += "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == model.reply("How was day 3?", "joy", sampling, 5).text
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_what_cannot_be_finished_in_time_ends_with_an_error(tiny_checkpoint):
    process, address = start(tiny_checkpoint, "--shutdown-timeout", "0.01", "--most-tokens", "4000")
    with openai.OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0) as client:
        more = {"temperature": 2.0, "max_tokens": 4000, "n": 8, "seed": 5, "extra_body": {"emotion": "joy", "control": "none"}}
        stream = client.chat.completions.create(model="emogen", messages=TALK, stream=True, **more)
        next(stream)
        process.terminate()
        with pytest.raises(openai.APIError, match="closed before"):
            list(stream)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_body_of_ten_megabytes_is_refused_and_survived(client, expected):
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model="emogen", messages=[{"role": "user", "content": "a" * 10_000_000}])
    assert refused.value.status_code == 413
    more = {"model": "emogen", "messages": TALK, "seed": 4, "extra_body": {"emotion": "joy"}}
    assert client.chat.completions.create(**more).choices[0].message.content == expected(4).text
