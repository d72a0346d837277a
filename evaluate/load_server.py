"""`emogen serve` in a process of its own, and conversations with it that are held against what the model says alone."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import click
from load_client import KEY, BrokenError, Heard, line
from load_talks import Answered, Talk, Turn

from emogen.dialogue.feedback import FeedbackStore

_READY_SECONDS = 120.0


@dataclass
class Server:
    """`emogen serve` in a process of its own, on one port as often as it is started."""

    checkpoint: Path
    folder: Path
    port: int
    keys: tuple[str, ...] = (KEY,)
    options: tuple[str, ...] = ()
    process: asyncio.subprocess.Process | None = None

    @property
    def store(self) -> Path:
        """Tell where it stores opinions."""
        return self.folder / "opinions.db"

    async def start(self) -> None:
        """Begin and wait until it answers."""
        arguments = ["serve", "--port", str(self.port), "--checkpoint", str(self.checkpoint), "--feedback", str(self.store)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "emogen", *arguments, "--policy", "soothe", "--body-seconds", "3", *self.options),
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, "EMOGEN_API_KEY": ",".join(self.keys)},
            )
        async with asyncio.timeout(_READY_SECONDS):
            while not await self.is_ready():
                if self.process.returncode is not None:
                    raise click.ClickException((self.folder / "server.log").read_text(encoding="utf-8")[-2000:])
                await asyncio.sleep(0.1)

    async def rest(self) -> None:
        """Wait until it writes nothing more."""
        async with asyncio.timeout(_READY_SECONDS):
            while not await self.is_ready():
                await asyncio.sleep(0.1)

    async def is_ready(self) -> bool:
        """Tell whether it answers, with nothing to write."""
        with suppress(BrokenError):
            async with line(self.port) as target:
                _, health = await target.get("/health")
                return bool(health["status"] == "ready" and not health["running"] + health["waiting"])
        return False

    async def stop(self, number: int) -> int:
        """End it by a signal; return its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return await self.process.wait()

    def kill(self) -> None:
        """End it, where it still runs, without waiting."""
        with suppress(ProcessLookupError):
            if self.process and self.process.returncode is None:
                os.kill(self.process.pid, signal.SIGKILL)

    @property
    def megabytes(self) -> float:
        """Of memory that it holds."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    @property
    def descriptors(self) -> int:
        """Return how many files and connections it has open."""
        assert self.process is not None
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


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


async def converse(
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
            async with line(server.port) as target:
                heard = await target.ask(turn.body(context))
                if rate:
                    status, answer = await target.post("/v1/feedback", {"id": heard.id, "verdict": "good"})
                    tally.rated += answer["stored"] if status == 200 else []
                return heard
        except BrokenError:
            if revived is None:
                raise
            tally.asked_again += 1
            await revived()


async def deaths(
    server: Server, planned: Sequence[Talk], expected: Sequence[list[Answered]], kills: int, seed: int
) -> dict[str, object]:
    """Return all conversations, rating each reply, while the server is killed and started again."""
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

    killing = asyncio.create_task(kill())

    async def talk_on(talk: Talk, known: Sequence[Answered]) -> None:
        await converse(server, talk, known, tally, True, revived)
        while not killing.done():
            await converse(server, talk, known, tally, True, revived)

    await asyncio.gather(killing, *(talk_on(talk, known) for talk, known in zip(planned, expected, strict=True)))
    with FeedbackStore(server.store) as store:
        stored = {opinion.reply for opinion in store.opinions()}
    row = {"system": f"{len(planned)} sessions, server killed {kills} times", "seed": seed, **counts(tally)}
    kept = {"acknowledged": len(tally.rated), "acknowledged_and_lost": len(set(tally.rated) - stored)}
    return {**row, "requests_asked_again": tally.asked_again, **kept}


def counts(tally: Tally) -> dict[str, object]:
    """Return how many replies were equal; the first that were not are told."""
    for found, expected in tally.others[:5]:
        click.echo(f"not equal: {found!r} where alone it is {expected!r}", err=True)
    for conditioning in tally.refused[:5]:
        click.echo(f"refused: {conditioning}", err=True)
    replies = tally.equal + len(tally.others) + len(tally.refused)
    return {"replies": replies, "equal": tally.equal, "not_equal": len(tally.others), "refused": len(tally.refused)}


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
