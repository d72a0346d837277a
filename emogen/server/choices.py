"""The replies to one request while they are written: cut where they are asked to stop, and several read as one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from emogen.dialogue.stream import ReplyStream
from emogen.server.errors import ApiError

Finish = Literal["stop", "length"]


class StopSequences:
    """The text of a reply up to the first of some texts in it, without blanks at its ends; shown as soon as that is known.

    Pieces, joined, are the same whether they are read as they come or at the end.

    Attributes:
        is_over: whether one of the texts has come.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Of a reply that ends before any of `stops`, none of them empty."""
        self.is_over = False
        self._stops = tuple(stops)
        self._written = self._shown = ""

    def take(self, piece: str) -> str:
        """Return what can be shown of the reply, further than before, once `piece` is written."""
        self._written += piece
        ends = [at for stop in self._stops if (at := self._written.find(stop)) >= 0]
        self.is_over = bool(ends)
        return self._show(min(ends) if ends else len(self._written) - self._count_held())

    def rest(self) -> str:
        """Return what is left to be shown once nothing more comes."""
        return "" if self.is_over else self._show(len(self._written))

    def _count_held(self) -> int:
        """Return how many characters at the end may be the beginning of a stop."""
        lengths = (length for stop in self._stops for length in range(1, len(stop)) if self._written.endswith(stop[:length]))
        return max(lengths, default=0)

    def _show(self, upto: int) -> str:
        visible = self._written[:upto].strip()
        piece, self._shown = visible[len(self._shown) :], visible
        return piece


@dataclass(frozen=True)
class Choice:
    """One of the replies to a request.

    Attributes:
        index: among them.
        id: by which an opinion names it.
        writing: of it.
        cut: of its text; read once.
    """

    index: int
    id: str
    writing: ReplyStream
    cut: StopSequences

    @property
    def finish(self) -> Finish:
        """Say why it ended."""
        return "length" if self.writing.ended == "limit" else "stop"

    async def pieces(self) -> AsyncIterator[str]:
        """Yield its text, as it can be shown."""
        async for piece in self.writing:
            if shown := self.cut.take(piece):
                yield shown
            if self.cut.is_over:
                self.writing.cancel()
                return
        if shown := self.cut.rest():
            yield shown


async def merge_choices(choices: Sequence[Choice], deadline: float) -> AsyncGenerator[tuple[Choice, str | None], None]:
    """Return the pieces of all replies as they come.

    None behind the last of each. What is not written when it is closed is cancelled.

    Args:
        choices: the replies.
        deadline: by the event loop's clock.

    Raises:
        ApiError: 503 at the deadline.
        EmogenError: a reply failed.
    """
    arrived: asyncio.Queue[tuple[Choice, str | Exception | None]] = asyncio.Queue()
    readers = [asyncio.create_task(_read(choice, arrived)) for choice in choices]
    left = len(choices)
    try:
        while left:
            choice, piece = await _before(deadline, arrived)
            if isinstance(piece, Exception):
                raise piece
            left -= piece is None
            yield choice, piece
    finally:
        for choice in choices:
            choice.writing.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def _read(choice: Choice, arrived: asyncio.Queue[tuple[Choice, str | Exception | None]]) -> None:
    try:
        async for piece in choice.pieces():
            arrived.put_nowait((choice, piece))
        arrived.put_nowait((choice, None))
    except Exception as error:
        arrived.put_nowait((choice, error))


async def _before(
    deadline: float, arrived: asyncio.Queue[tuple[Choice, str | Exception | None]]
) -> tuple[Choice, str | Exception | None]:
    with suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            return await arrived.get()
    raise ApiError(503, "the reply was not written in time; ask for a shorter one, or again later", "timeout")
