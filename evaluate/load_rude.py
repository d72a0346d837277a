"""Clients that misbehave."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

from load_client import CHAT, BrokenError, line, request
from load_server import Server
from load_talks import Turn

CONTROLS = ("none", "guidance:2")
_TEN_MEGABYTES = 10_000_000

Rude = Callable[[Server, Random], Awaitable[str]]


async def misbehave(server: Server, kind: Rude, answers: Counter[str], over: asyncio.Event, random: Random) -> None:
    """Go on with one kind until it is over; what came of it is counted."""
    while not over.is_set():
        try:
            answers[await kind(server, random)] += 1
        except BrokenError:
            answers["connection closed"] += 1
        await asyncio.sleep(random.random() / 4)


async def leave(server: Server, random: Random) -> str:
    """Ask for a stream, and leave in the middle of it."""
    turn = Turn("Tell me more about it.", "joy", 1.0, random.choice(CONTROLS), 1.0, random.randrange(1000))
    async with line(server.port) as target:
        await target.ask(turn.body([]), random.randint(1, 6))
    return "left in mid-stream"


async def talk_nonsense(server: Server, random: Random) -> str:
    name, raw = random.choice(_NONSENSE)
    async with line(server.port) as target:
        status, _ = await target.send(raw)
    return f"{name}: {status}"


def _body(**change: object) -> bytes:
    plain = {"model": "emogen", "messages": [{"role": "user", "content": "hello"}], "emotion": "joy"}
    return json.dumps({**plain, **change}).encode()


_NONSENSE = (
    ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n"),
    ("no JSON", request(CHAT, b'{"messages": [')),
    ("not UTF-8", request(CHAT, b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}')),
    ("deep JSON", request(CHAT, b"[" * 500_000)),
    ("wrong types", request(CHAT, _body(messages=7, seed="x"))),
    ("unknown emotion", request(CHAT, _body(emotion="hunger"))),
    ("unknown model", request(CHAT, _body(model="other"))),
    ("long context", request(CHAT, _body(messages=[{"role": "user", "content": "a" * 50_000}]))),
    ("NUL and control characters", request(CHAT, _body(messages=[{"role": "user", "content": "\0\x01\x1b[2J\u202e"}]))),
    ("half a surrogate pair", request(CHAT, _body(messages=[{"role": "user", "content": "\ud800"}]))),
    ("ten megabytes", request(CHAT, b" " * _TEN_MEGABYTES)),
    ("a body that does not come", request(CHAT, b'{"mess', length=1000)),
    ("a terabyte announced", request(CHAT, b"x", length=10**12)),
    ("wrong key", request(CHAT, _body(), key="guess")),
    ("unknown route", request("/v1/../../etc/passwd", b"{}")),
    ("unknown reply rated", request("/v1/feedback", b'{"id": "x", "verdict": "good"}')),
)
