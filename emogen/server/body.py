"""A request's body: read whole within a limit of size and of time, before anything else looks at it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from emogen.server.errors import ApiError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

_DRAINED = 32 << 20


class ClientLeftError(Exception):
    """The client closed the connection before its request was whole."""


async def read_body(receive: Receive, announced: int, most: int, seconds: float) -> bytes:
    """Return the body of a request.

    Args:
        receive: of ASGI.
        announced: bytes, as its header tells; 0 where it does not.
        most: bytes.
        seconds: that it may take.

    Raises:
        ApiError: 413 or 408. One that is too large is read on to some tens of megabytes, since a client that still sends when
            the connection is closed does not see the answer.
        ClientLeftError: the connection was closed.
    """
    too_large = ApiError(413, f"the body is larger than {most} bytes", "body_too_large")
    if announced > max(most, _DRAINED):
        raise too_large
    try:
        async with asyncio.timeout(seconds):
            body, is_whole = await _pieces(receive, most)
            if len(body) > most:
                await _drain(receive, is_whole)
                raise too_large
            return body
    except TimeoutError:
        raise ApiError(408, f"the body took longer than {seconds:g} s to arrive", "body_timeout") from None


async def discard_body(receive: Receive, seconds: float) -> None:
    """Read a body for nobody, so that a refusal is seen; within limits."""
    try:
        async with asyncio.timeout(seconds):
            await _drain(receive, False)
    except (TimeoutError, ClientLeftError):
        return


def replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read, then what comes next."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def _pieces(receive: Receive, most: int) -> tuple[bytes, bool]:
    """Return the body up to the piece that makes it too large, and whether that is all of it."""
    pieces, size = [], 0
    while True:
        piece, is_last = await _piece(receive)
        pieces.append(piece)
        size += len(piece)
        if is_last or size > most:
            return b"".join(pieces), is_last


async def _drain(receive: Receive, is_over: bool) -> None:
    size = 0
    while not is_over and size < _DRAINED:
        piece, is_over = await _piece(receive)
        size += len(piece)


async def _piece(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientLeftError
    return message.get("body", b""), not message.get("more_body", False)
