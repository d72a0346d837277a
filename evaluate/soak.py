"""`emogen serve` under ordinary load and under attack at the same time: what must hold at each moment, for as long as you like.

    python evaluate/soak.py --minutes 20

A group of sessions talks and rates each reply; each reply is held against what the model says alone. A prober asks
`/health` and then for a reply, again and again, and compares the two. Meanwhile come clients that leave in mid-stream, send
nonsense, open connections and keep still, send half a head or half a body, read nothing, guess keys, and one that asks for
streams of eight replies; and somebody locks the store for some seconds of each minute. Then the server is killed `--kills`
times amid conversations. Before all that stand the seconds of one caller's reply alone, and beside each kind of hostile client.

`wrong` counts replies that were not equal, opinions that were acknowledged and lost or stored twice, health that was not true,
and answers with status 500; the exit status is 1 where it is not 0. Memory is compared between the second minute and the last,
descriptors before the first and after the last client.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sqlite3
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import click
from load_client import CHAT, KEY, BrokenError, line, request
from load_rude import leave, misbehave, talk_nonsense
from load_server import Server, Tally, converse, counts, deaths, free_port
from load_talks import Answered, Talk, alone, talks

from emogen.checkpoint.finding import shipped_folder
from emogen.checkpoint.model import load
from emogen.cli import run
from emogen.dialogue.feedback import FeedbackStore
from emogen.errors import EmogenError
from emogen.evaluate.report import command_of, read_json, write_result
from emogen.recognition.recognizer import load_recognizer

RESULT = Path("evaluate/results/soak.json")
PARTS = ("hostile", "load", "kills")
PROBE, HOG = "probe-key", "hog-key"
_SAID = {"model": "emogen", "messages": [{"role": "user", "content": "I lost my job."}], "emotion": "sadness", "max_tokens": 24}
_HALF_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: load\r\n"
_HALF_BODY = request(CHAT, b"{", length=900_000)
_UNREAD = b"GET /metrics HTTP/1.1\r\nHost: load\r\nAuthorization: Bearer %b\r\n\r\n" % KEY.encode()
_PAUSE = 0.5
_LOCK_EVERY, _LOCKED = 60.0, 5.0
_MEASURE_EVERY = 5.0


@dataclass
class Seen:
    """What a soak has seen.

    Attributes:
        talks: of the ordinary sessions.
        answers: to clients that misbehave, by kind.
        probes: seconds of the prober's replies.
        untrue: what health said and what came, where the two did not agree.
        megabytes: of memory, by seconds since the beginning.
    """

    talks: Tally = field(default_factory=Tally)
    answers: Counter[str] = field(default_factory=Counter)
    probes: list[float] = field(default_factory=list)
    untrue: list[str] = field(default_factory=list)
    megabytes: list[tuple[float, float]] = field(default_factory=list)


@click.command()
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), default=shipped_folder("default"), show_default="the small model"
)
@click.option(
    "--minutes", type=click.FloatRange(min=0.05), default=20.0, show_default=True, help="Of load and attack together."
)
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Alone; the others' rows stay.  [default: all]")
@click.option("--sessions", type=click.IntRange(min=1), default=16, show_default=True, help="That talk at once.")
@click.option("--kills", type=click.IntRange(min=0), default=25, show_default=True, help="How often the server is killed.")
@click.option("--replies", type=click.IntRange(min=1), default=15, show_default=True, help="Timed beside hostile clients.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
@click.pass_context
def main(
    context: click.Context,
    checkpoint: Path,
    minutes: float,
    parts: tuple[str, ...],
    sessions: int,
    kills: int,
    replies: int,
    seed: int,
    out: Path,
) -> None:
    """Attack a server while it serves, and count what went wrong."""
    model, recognizer = load(checkpoint), load_recognizer()
    planned = talks(model, sessions, 4, seed)
    expected = [alone(model, recognizer, talk) for talk in planned]
    with tempfile.TemporaryDirectory(prefix="emogen-soak-") as folder:
        server = Server(checkpoint, Path(folder), free_port(), (KEY, PROBE, HOG))
        try:
            rows = asyncio.run(_soaked(server, planned, expected, parts or PARTS, minutes, kills, replies, seed))
        finally:
            server.kill()
    if parts and out.exists():
        rows = [row for row in read_json(out)["rows"] if row["part"] not in parts] + rows
    write_result(out, command_of("soak", context), [checkpoint, shipped_folder("recognizer")], rows)
    wrong = sum(int(str(row.get("wrong", 0))) for row in rows)
    if wrong:
        raise EmogenError(f"{wrong} wrong, see {out}")


async def _soaked(
    server: Server,
    planned: Sequence[Talk],
    expected: Sequence[list[Answered]],
    parts: Sequence[str],
    minutes: float,
    kills: int,
    replies: int,
    seed: int,
) -> list[dict[str, object]]:
    await server.start()
    rows: list[dict[str, object]] = []
    if "hostile" in parts:
        rows += await _beside_hostile_clients(server, replies, seed)
    if "load" in parts:
        rows.append(await _everything_at_once(server, planned, expected, minutes, seed))
        click.echo(rows[-1], err=True)
    if "kills" in parts:
        killed = await deaths(server, planned, expected, kills, seed)
        wrong = int(str(killed["not_equal"])) + int(str(killed["acknowledged_and_lost"]))
        status = await server.stop(signal.SIGTERM)
        rows += [
            {"part": "kills", **killed, "wrong": wrong},
            {"part": "kills", "system": "stopped by SIGTERM", "seed": seed, "exit_status": status, "wrong": int(status != 0)},
        ]
        click.echo(rows[-2], err=True)
    return rows


# ---- one caller's reply beside hostile clients


async def _beside_hostile_clients(server: Server, replies: int, seed: int) -> list[dict[str, object]]:
    """Return seconds of a caller's reply, undisturbed and beside each kind of hostile clients."""
    kinds: dict[str, Callable[[Server], AsyncIterator[None]]] = {
        "nobody": lambda _: _nobody(),
        "12 that read nothing": lambda here: _unreading(here, 12),
        "330 half bodies": lambda here: _half_sent(here, _HALF_BODY, 330),
        "330 half heads": lambda here: _half_sent(here, _HALF_HEAD, 330),
        "one with 40 streams of 8 replies": lambda here: _hogging(here, 40),
    }
    rows: list[dict[str, object]] = []
    for name, hostile in kinds.items():
        async with asynccontextmanager(hostile)(server):
            seconds = [await _reply_seconds(server) for _ in range(replies)]
        first = rows[0]["seconds"] if rows else statistics.median(seconds)
        ratio = statistics.median(seconds) / float(str(first))
        rows.append(
            {
                "part": "hostile",
                "system": name,
                "seed": seed,
                "seconds": statistics.median(seconds),
                "slowest": max(seconds),
                "ratio": ratio,
            }
        )
        click.echo(rows[-1], err=True)
        await server.rest()
    return rows


async def _reply_seconds(server: Server) -> float:
    """Return seconds to a whole reply of the prober's; one that is refused counts as the time until one is not."""
    began = time.perf_counter()
    async with line(server.port) as target:
        while True:
            status, _ = await target.send(request(CHAT, json.dumps({**_SAID, "seed": 5}).encode(), PROBE))
            if status == 200:
                return time.perf_counter() - began
            await asyncio.sleep(0.05)


async def _nobody() -> AsyncIterator[None]:
    yield


async def _half_sent(server: Server, begin: bytes, number: int) -> AsyncIterator[None]:
    """Yield connections on which a request is begun, again and again where they are closed."""

    async def hold() -> None:
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                try:
                    writer.write(begin)
                    await reader.read()
                finally:
                    writer.transport.abort()

    async with _running(hold, number):
        yield


async def _unreading(server: Server, number: int) -> AsyncIterator[None]:
    """Yield connections that send requests and read no answer."""

    async def feed() -> None:
        while True:
            with socket.socket() as client, suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256)
                client.setblocking(False)
                await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", server.port))
                for _ in range(600):
                    await asyncio.get_running_loop().sock_sendall(client, _UNREAD)
            await asyncio.sleep(5)

    async with _running(feed, number):
        yield


async def _hogging(server: Server, number: int) -> AsyncIterator[None]:
    """Yield one caller with many streams of eight long replies."""
    body = json.dumps({**_SAID, "n": 8, "stream": True, "max_tokens": 256, "temperature": 2}).encode()

    async def ask() -> None:
        while True:
            with suppress(BrokenError):
                async with line(server.port) as target:
                    status, _ = await target.send(request(CHAT, body.replace(b'"stream": true, ', b""), HOG))
                    if status != 200:
                        await asyncio.sleep(0.2)

    async with _running(ask, number):
        yield


@asynccontextmanager
async def _running(client: Callable[[], Awaitable[None]], number: int) -> AsyncIterator[None]:
    """So many clients at once, which have begun and are ended behind."""
    clients = [asyncio.ensure_future(client()) for _ in range(number)]
    await asyncio.sleep(1)
    try:
        yield
    finally:
        for each in clients:
            each.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


# ---- everything at once


async def _everything_at_once(
    server: Server, planned: Sequence[Talk], expected: Sequence[list[Answered]], minutes: float, seed: int
) -> dict[str, object]:
    seen, over, before = Seen(), asyncio.Event(), server.descriptors
    hostile = [
        _half_sent(server, b"", 20),
        _half_sent(server, _HALF_HEAD, 20),
        _half_sent(server, _HALF_BODY, 20),
        _unreading(server, 4),
        _hogging(server, 6),
    ]
    async with _all_of(hostile):
        working = [
            asyncio.create_task(_talk_on(server, talk, known, seen.talks, over))
            for talk, known in zip(planned, expected, strict=True)
        ]
        working += [
            asyncio.create_task(misbehave(server, kind, seen.answers, over, Random(f"{seed} {number}")))
            for number in range(6)
            for kind in (leave, talk_nonsense)
        ]
        working += [asyncio.create_task(work(server, seen, over)) for work in (_probe, _measure, _lock)]
        await asyncio.sleep(60 * minutes)
        over.set()
        await asyncio.gather(*working)
    await server.rest()
    await asyncio.sleep(2)
    return _as_row(server, seen, minutes, before, seed)


@asynccontextmanager
async def _all_of(clients: Sequence[AsyncIterator[None]]) -> AsyncIterator[None]:
    for each in clients:
        await anext(each)
    try:
        yield
    finally:
        for each in clients:
            with suppress(StopAsyncIteration):
                await anext(each)


async def _talk_on(server: Server, talk: Talk, known: Sequence[Answered], tally: Tally, over: asyncio.Event) -> None:
    while not over.is_set():
        await converse(server, talk, known, tally, rate=True)
        await asyncio.sleep(_PAUSE)


async def _probe(server: Server, seen: Seen, over: asyncio.Event) -> None:
    """Compare what health says with whether a reply comes."""
    while not over.is_set():
        async with line(server.port) as target:
            _, health = await target.get("/health")
            began = time.perf_counter()
            status, _ = await target.send(request(CHAT, json.dumps({**_SAID, "seed": 7}).encode(), PROBE))
        if status == 200:
            seen.probes.append(time.perf_counter() - began)
        # Where all places are taken a reply may come or not; else health promises one.
        if (status == 200) != (health["status"] == "ready") and health["status"] != "busy":
            seen.untrue.append(f"{health} and then {status}")
        await asyncio.sleep(_PAUSE)


async def _measure(server: Server, seen: Seen, over: asyncio.Event) -> None:
    began = time.monotonic()
    while not over.is_set():
        seen.megabytes.append((time.monotonic() - began, server.megabytes))
        await asyncio.sleep(_MEASURE_EVERY)


async def _lock(server: Server, _: Seen, over: asyncio.Event) -> None:
    """Lock the store from outside, for some seconds of each minute."""
    while not over.is_set():
        with ExitStack() as parts:
            connection = sqlite3.connect(server.store, isolation_level=None, timeout=30)
            parts.callback(connection.close)
            connection.execute("begin immediate")
            await asyncio.sleep(_LOCKED)
            connection.execute("rollback")
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOCK_EVERY - _LOCKED):
                await over.wait()


def _as_row(server: Server, seen: Seen, minutes: float, descriptors: int, seed: int) -> dict[str, object]:
    with FeedbackStore(server.store) as store:
        stored = Counter(opinion.reply for opinion in store.opinions())
    rated = set(seen.talks.rated)
    lost, twice = len(rated - set(stored)), sum(number > 1 for number in stored.values())
    failed = sum(number for name, number in seen.answers.items() if name.endswith(": 500"))
    early = [size for seconds, size in seen.megabytes if seconds <= 120] or [server.megabytes]
    late = [size for _, size in seen.megabytes[-12:]]
    for conditioning in seen.untrue[:5]:
        click.echo(f"not true: {conditioning}", err=True)
    tally = counts(seen.talks)
    return {
        "part": "load",
        "system": f"everything at once, {minutes:g} minutes",
        "seed": seed,
        **tally,
        "acknowledged": len(rated),
        "acknowledged_and_lost": lost,
        "stored_twice": twice,
        "probes": len(seen.probes),
        "probe_seconds": statistics.median(seen.probes),
        "probe_slowest": max(seen.probes),
        "health_untrue": len(seen.untrue),
        "answers_to_the_others": dict(sorted(seen.answers.items())),
        "megabytes_second_minute": round(statistics.mean(early[-12:]), 1),
        "megabytes_last_minute": round(statistics.mean(late), 1),
        "memory_growth": round(statistics.mean(late) / statistics.mean(early[-12:]) - 1, 4),
        "descriptors_before": descriptors,
        "descriptors_after": server.descriptors,
        "wrong": int(str(tally["not_equal"])) + lost + twice + len(seen.untrue) + failed,
    }


if __name__ == "__main__":
    run(main, "soak.py")
