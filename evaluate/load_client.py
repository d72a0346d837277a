"""A small HTTP client for `load.py`: it costs the server's processor little, and can misbehave."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"
KEY = "load"
_SECONDS = 300.0


class BrokenError(Exception):
    """The connection broke, or what came is no answer."""


@dataclass(frozen=True)
class Heard:
    """What came of a streamed reply.

    Attributes:
        status: of the answer.
        text: of the reply.
        tokens: as the server counts them.
        first: seconds to the first text; 0 where there was none.
        seconds: to its end.
        id: of the reply.
        error: that the server told.
    """

    status: int
    text: str = ""
    tokens: int = 0
    first: float = 0.0
    seconds: float = 0.0
    id: str = ""
    error: str = ""


@dataclass
class Line:
    """A connection that is kept open from request to request."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, body: Mapping[str, object], most_events: int = 0) -> Heard:
        """Ask for a streamed reply; `most_events` of its events are read, 0 for all.

        Raises:
            BrokenError: the connection broke.
        """
        began = time.perf_counter()
        self.writer.write(
            request(CHAT, json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode())
        )
        status, headers = await self._head()
        if status != 200:
            refusal = json.loads(await self._read(int(headers["content-length"])))
            return Heard(status, error=refusal["error"]["message"])
        text, tokens, first, name, error = "", 0, 0.0, "", ""
        async for number, event in _numbered(self._events()):
            name = event.get("id", name)
            error = event.get("error", {}).get("message", error)
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            piece = "".join(choice["delta"].get("content", "") for choice in event.get("choices", ()))
            first = first or (time.perf_counter() - began if piece else 0.0)
            text += piece
            if number == most_events:
                break
        return Heard(status, text, tokens, first, time.perf_counter() - began, name, error)

    async def post(self, path: str, body: object) -> tuple[int, Any]:
        """Return status and JSON of an answer that is not streamed."""
        return await self.send(request(path, json.dumps(body).encode()))

    async def get(self, path: str) -> tuple[int, Any]:
        """Return likewise."""
        return await self.send(f"GET {path} HTTP/1.1\r\nHost: load\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())

    async def send(self, raw: bytes) -> tuple[int, Any]:
        """Likewise, for bytes that need be no request."""
        with suppress(ConnectionError):
            self.writer.write(raw)
            await self.writer.drain()
        status, headers = await self._head()
        content = await self._read(int(headers.get("content-length", 0)))
        is_json = headers.get("content-type", "").startswith("application/json")
        return status, json.loads(content) if is_json else content.decode()

    async def _head(self) -> tuple[int, dict[str, str]]:
        try:
            async with asyncio.timeout(_SECONDS):
                head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = (line.partition(":") for line in head[1:] if line)
            return int(head[0].split()[1]), {name.lower(): value.strip() for name, _, value in pairs}
        except (OSError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError) as error:
            raise BrokenError(f"no answer ({type(error).__name__})") from None

    async def _read(self, size: int) -> bytes:
        try:
            async with asyncio.timeout(_SECONDS):
                return await self.reader.readexactly(size)
        except (OSError, EOFError) as error:
            raise BrokenError(f"half an answer ({type(error).__name__})") from None

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the data of server-sent events; the body comes in chunks."""
        waiting, is_whole = b"", False
        while True:
            size = int((await self._line()).strip(), 16)
            chunk = await self._read(size + 2)
            if not size:
                break
            waiting += chunk[:size]
            *events, waiting = waiting.split(b"\n\n")
            for event in events:
                data = event.removeprefix(b"data: ")
                is_whole |= data == b"[DONE]" or b'"error"' in data
                if data != b"[DONE]":
                    yield json.loads(data)
        if not is_whole:
            raise BrokenError("a stream without its end")

    async def _line(self) -> bytes:
        try:
            async with asyncio.timeout(_SECONDS):
                return await self.reader.readuntil(b"\r\n")
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            raise BrokenError(f"half an answer ({type(error).__name__})") from None


async def _numbered(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[tuple[int, dict[str, Any]]]:
    number = 0
    async for event in events:
        number += 1
        yield number, event


@asynccontextmanager
async def line(port: int) -> AsyncIterator[Line]:
    """Return a connection to the server on that port of this machine.

    Raises:
        BrokenError: nobody listens.
    """
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        raise BrokenError(f"nobody listens ({type(error).__name__})") from None
    try:
        yield Line(reader, writer)
    finally:
        # At once: whoever leaves in mid-stream does not wait either.
        writer.transport.abort()


def request(path: str, body: bytes, key: str = KEY, length: int | None = None) -> bytes:
    """Return the bytes of a POST; `length` where its header is to tell another one than the body's."""
    size = len(body) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nHost: load\r\nContent-Type: application/json\r\nAuthorization: Bearer {key}\r\n"
    return f"{head}Content-Length: {size}\r\n\r\n".encode() + body
