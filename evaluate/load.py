"""Conversations with `emogen serve` on the loopback address: many at once, clients that misbehave, a server that dies.

python evaluate/load.py
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import click
import numpy as np
from load_client import CHAT, BrokenError, Heard, line, request
from load_talks import Answered, Talk, Turn, alone, talks

from emogen.checkpoint import load, shipped
from emogen.cli import run
from emogen.dialogue.feedback import FeedbackStore
from emogen.errors import SettingsError
from emogen.evaluate.report import command_of, write_result
from emogen.evaluate.resampling import RESAMPLES, percentile_interval
from emogen.evaluate.score import Score, signature
from emogen.judges.recognizer import load_recognizer

RESULT = Path("evaluate/results/load.json")
CONTROLS = ("none", "guidance:2")
_LOADS = (1, 8, 64)
_READY_SECONDS = 120.0
_HOSTILE = 12
_TURNS, _REPLIES = 3, 24
_TEN_MEGABYTES = 10_000_000


@dataclass
class Server:
    """`emogen serve` in a process of its own, on one port as often as it is started."""

    checkpoint: Path
    folder: Path
    port: int
    process: asyncio.subprocess.Process | None = None

    @property
    def store(self) -> Path:
        """Where it stores opinions."""
        return self.folder / "opinions.db"

    async def start(self) -> None:
        """Begins, and waits until it answers."""
        arguments = ["serve", "--port", str(self.port), "--checkpoint", str(self.checkpoint), "--feedback", str(self.store)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "emogen", *arguments, "--policy", "soothe", "--body-seconds", "3"),
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, "EMOGEN_API_KEY": "load"},
            )
        async with asyncio.timeout(_READY_SECONDS):
            while not await self.is_ready():
                if self.process.returncode is not None:
                    raise click.ClickException((self.folder / "server.log").read_text(encoding="utf-8")[-2000:])
                await asyncio.sleep(0.1)

    async def rest(self) -> None:
        """Waits until it writes nothing more."""
        async with asyncio.timeout(_READY_SECONDS):
            while not await self.is_ready():
                await asyncio.sleep(0.1)

    async def is_ready(self) -> bool:
        """Whether it answers, with nothing to write."""
        with suppress(BrokenError):
            async with line(self.port) as asked:
                _, health = await asked.get("/health")
                return bool(health["status"] == "ready" and not health["running"] + health["waiting"])
        return False

    async def stop(self, number: int) -> int:
        """Ends it by a signal; gives its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return await self.process.wait()

    def kill(self) -> None:
        """Ends it, where it still runs, without waiting."""
        with suppress(ProcessLookupError):
            if self.process and self.process.returncode is None:
                os.kill(self.process.pid, signal.SIGKILL)

    @property
    def megabytes(self) -> float:
        """Of memory that it holds."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@dataclass
class Tally:
    """What conversations came to.

    Attributes:
        equal: replies that were what the model gives alone.
        others: those that were not, with what was expected.
        tokens: written.
        first: seconds to the first text, of each reply.
        asked_again: requests that were sent once more, since the server had died.
        refused: answers with an error.
        rated: ids of replies whose opinion was acknowledged.
    """

    equal: int = 0
    others: list[tuple[str, str]] = field(default_factory=list)
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    asked_again: int = 0
    refused: list[str] = field(default_factory=list)
    rated: list[str] = field(default_factory=list)

    def add(self, heard: Heard, expected: Answered) -> None:
        """One reply."""
        if heard.status != 200 or heard.error:
            self.refused.append(f"{heard.status} {heard.error}")
            return
        if (heard.text, heard.tokens) == (expected.text, expected.tokens):
            self.equal += 1
        else:
            self.others.append((heard.text, expected.text))
        self.tokens += heard.tokens
        self.first += [heard.first] if heard.first else []


@click.command()
@click.option("--checkpoint", type=click.Path(path_type=Path), default=shipped("default"), show_default="the small model")
@click.option("--loads", default=",".join(map(str, _LOADS)), show_default=True, help="How many sessions at once.")
@click.option("--turns", type=click.IntRange(min=1), default=4, show_default=True, help="Of each conversation.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=15,
    show_default=True,
    help="Of each control, for the time to the first token.",
)
@click.option("--kills", type=click.IntRange(min=0), default=3, show_default=True, help="How often the server is killed.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
@click.pass_context
def main(
    context: click.Context, checkpoint: Path, loads: str, turns: int, rounds: int, kills: int, seed: int, out: Path
) -> None:
    """Measure equality, first token, throughput, misbehaving clients, and killed servers."""
    sessions = _sessions(loads)
    model, recognizer = load(checkpoint), load_recognizer()
    planned = talks(model, max(sessions), turns, seed)
    expected = [alone(model, recognizer, talk) for talk in planned]
    click.echo(f"{sum(map(len, expected))} replies are known", err=True)
    with tempfile.TemporaryDirectory(prefix="emogen-load-") as folder:
        server = Server(checkpoint, Path(folder), _free_port())
        try:
            rows = asyncio.run(_measured(server, planned, expected, sessions, rounds, kills, seed))
        finally:
            server.kill()
    extra = {"load_average_before": round(os.getloadavg()[2], 2)}
    write_result(out, command_of("load", context), [checkpoint, shipped("recognizer")], rows, extra)


def _sessions(loads: str) -> list[int]:
    """The numbers of sessions in a list with commas."""
    parts = [part.strip() for part in loads.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise SettingsError(f"--loads {loads}: allowed are whole numbers of at least 1 with commas between, such as 1,8,64")
    return [int(part) for part in parts]


async def _measured(
    server: Server,
    planned: Sequence[Talk],
    expected: Sequence[list[Answered]],
    sessions: Sequence[int],
    rounds: int,
    kills: int,
    seed: int,
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    await server.start()
    for number in sessions:
        rows.append(await _equality(server, planned[:number], expected[:number], seed))
        _tell(rows[-1])
    for number in sessions:
        rows += await _first_token(server, number, rounds, seed)
        _tell(rows[-1])
    rows.append(await _crowd(server, planned, expected, seed))
    _tell(rows[-1])
    rows.append(await _deaths(server, planned, expected, kills, seed))
    _tell(rows[-1])
    status = await server.stop(signal.SIGTERM)
    return [*rows, {"system": "stopped by SIGTERM", "seed": seed, "exit_status": status}]


async def _equality(
    server: Server, planned: Sequence[Talk], expected: Sequence[list[Answered]], seed: int
) -> dict[str, object]:
    """All conversations at once, each reply against the model's own."""
    tally, began = Tally(), time.perf_counter()
    await asyncio.gather(*(_talk(server, talk, known, tally) for talk, known in zip(planned, expected, strict=True)))
    seconds = time.perf_counter() - began
    row = {"system": f"{len(planned)} sessions", "seed": seed, **_counts(tally), "tokens_per_second": tally.tokens / seconds}
    return {**row, "seconds_to_first_token": statistics.median(tally.first)}


async def _talk(
    server: Server,
    talk: Talk,
    known: Sequence[Answered],
    tally: Tally,
    rate: bool = False,
    revived: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """One conversation; where the server dies, it goes on with the turn that was broken off once `revived` returns."""
    context: list[str] = []
    for turn, expected in zip(talk, known, strict=True):
        heard = await _until_heard(server, turn, context, tally, rate, revived)
        tally.add(heard, expected)
        context += [turn.said, heard.text]


async def _until_heard(
    server: Server,
    turn: Turn,
    context: list[str],
    tally: Tally,
    rate: bool,
    revived: Callable[[], Awaitable[None]] | None,
) -> Heard:
    while True:
        try:
            async with line(server.port) as asked:
                heard = await asked.ask(turn.body(context))
                if rate:
                    status, answer = await asked.post("/v1/feedback", {"id": heard.id, "verdict": "good"})
                    tally.rated += answer["stored"] if status == 200 else []
                return heard
        except BrokenError:
            if revived is None:
                raise
            tally.asked_again += 1
            await revived()


async def _first_token(server: Server, sessions: int, rounds: int, seed: int) -> list[dict[str, object]]:
    """Seconds to the first text of replies with and without guidance, in rounds that take turns; the first pair warms up."""
    found: dict[str, list[float]] = {control: [] for control in CONTROLS}
    rates: dict[str, list[float]] = {control: [] for control in CONTROLS}
    for number in range(rounds + 1):
        for control in CONTROLS[:: 1 if number % 2 else -1]:
            firsts, rate = await _round(server, sessions, control, seed * 1000 + number)
            if number:
                found[control].append(statistics.median(firsts))
                rates[control].append(rate)
    ratios = np.array(found["guidance:2"]) / np.array(found["none"])
    how = {"sessions": sessions, "rounds": rounds, "value": "median of rounds' medians"}
    rows: list[dict[str, object]] = []
    for control in CONTROLS:
        row = {"system": f"{sessions} sessions, control {control}", "seed": seed, "sessions": sessions, "control": control}
        first = _median(np.array(found[control]), signature("seconds_to_first_token", how), seed)
        rows.append({**row, "seconds_to_first_token": first, "tokens_per_second": statistics.median(rates[control])})
    ratio = _median(ratios, signature("first_token_ratio", how), seed)
    return [*rows, {"system": f"{sessions} sessions, guided to unguided", "seed": seed, "sessions": sessions, "ratio": ratio}]


async def _round(server: Server, sessions: int, control: str, seed: int) -> tuple[list[float], float]:
    """Seconds to the first text of each of some turns of all sessions, and tokens a second."""
    turns = max(_TURNS, _REPLIES // sessions)
    began, heard = time.perf_counter(), list[Heard]()

    async def ask(number: int) -> None:
        async with line(server.port) as asked:
            for turn in range(turns):
                said = Turn("I lost my job this morning.", "sadness", 1.0, control, 0.85, seed * 10_000 + number * turns + turn)
                heard.append(await asked.ask(said.body([])))

    await asyncio.gather(*map(ask, range(sessions)))
    seconds = time.perf_counter() - began
    return [each.first for each in heard if each.first], sum(each.tokens for each in heard) / seconds


def _median(values: np.ndarray, how: str, seed: int) -> Score:
    """The median with its 95% percentile bootstrap interval."""
    random = np.random.default_rng(seed)
    draws = np.median(random.choice(values, (RESAMPLES, len(values))), axis=1)
    return Score(float(np.median(values)), *percentile_interval(draws), f"{how}|bs:{RESAMPLES}|seed:{seed}")


async def _crowd(server: Server, planned: Sequence[Talk], expected: Sequence[list[Answered]], seed: int) -> dict[str, object]:
    """All conversations, among clients that leave in mid-stream and clients that send nonsense."""
    tally, answers, before = Tally(), Counter[str](), server.megabytes
    over = asyncio.Event()
    rude = [
        asyncio.create_task(_rude(server, kind, answers, over, Random(f"{seed} {number}")))
        for number in range(_HOSTILE)
        for kind in (_leaver, _nonsense)
    ]
    await asyncio.gather(*(_talk(server, talk, known, tally) for talk, known in zip(planned, expected, strict=True)))
    over.set()
    await asyncio.gather(*rude)
    began = time.perf_counter()
    await server.rest()
    idle = time.perf_counter() - began
    row = {"system": f"{len(planned)} sessions among {len(rude)} clients that misbehave", "seed": seed, **_counts(tally)}
    grown = round(server.megabytes - before, 1)
    return {**row, "answers_to_the_others": dict(sorted(answers.items())), "megabytes_grown": grown, "seconds_until_idle": idle}


Rude = Callable[[Server, Random], Awaitable[str]]


async def _rude(server: Server, kind: Rude, answers: Counter[str], over: asyncio.Event, random: Random) -> None:
    while not over.is_set():
        try:
            answers[await kind(server, random)] += 1
        except BrokenError:
            answers["connection closed"] += 1
        await asyncio.sleep(random.random() / 4)


async def _leaver(server: Server, random: Random) -> str:
    turn = Turn("Tell me more about it.", "joy", 1.0, random.choice(CONTROLS), 1.0, random.randrange(1000))
    async with line(server.port) as asked:
        await asked.ask(turn.body([]), random.randint(1, 6))
    return "left in mid-stream"


async def _nonsense(server: Server, random: Random) -> str:
    name, raw = random.choice(_NONSENSE)
    async with line(server.port) as asked:
        status, _ = await asked.send(raw)
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


async def _deaths(
    server: Server, planned: Sequence[Talk], expected: Sequence[list[Answered]], kills: int, seed: int
) -> dict[str, object]:
    """All conversations, rating each reply, while the server is killed and started again."""
    tally, alive, random = Tally(), asyncio.Event(), Random(seed)
    alive.set()

    async def revived() -> None:
        # Those that notice before the kill is known here would knock at a closed door.
        await asyncio.sleep(0.05)
        await alive.wait()

    async def kill() -> None:
        for _ in range(kills):
            known = tally.equal
            while tally.equal < known + max(1, len(planned) * len(planned[0]) // (kills + 2)):
                await asyncio.sleep(0.01)
            await asyncio.sleep(random.random() / 5)
            alive.clear()
            await server.stop(signal.SIGKILL)
            await server.start()
            alive.set()

    await asyncio.gather(
        kill(), *(_talk(server, talk, known, tally, True, revived) for talk, known in zip(planned, expected, strict=True))
    )
    with FeedbackStore(server.store) as store:
        stored = {opinion.reply for opinion in store.opinions()}
    row = {"system": f"{len(planned)} sessions, server killed {kills} times", "seed": seed, **_counts(tally)}
    kept = {"acknowledged": len(tally.rated), "acknowledged_and_lost": len(set(tally.rated) - stored)}
    return {**row, "requests_asked_again": tally.asked_again, **kept}


def _counts(tally: Tally) -> dict[str, object]:
    for found, expected in tally.others[:5]:
        click.echo(f"not equal: {found!r} where alone it is {expected!r}", err=True)
    for told in tally.refused[:5]:
        click.echo(f"refused: {told}", err=True)
    replies = tally.equal + len(tally.others) + len(tally.refused)
    return {"replies": replies, "equal": tally.equal, "not_equal": len(tally.others), "refused": len(tally.refused)}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _tell(row: dict[str, object]) -> None:
    click.echo(row, err=True)


if __name__ == "__main__":
    run(main, "load.py")
