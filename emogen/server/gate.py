"""What every request passes before a route sees it: key, rate, room, size; and what is kept of it when it is over."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from emogen.server.body import ClientLeftError, Message, Receive, discard_body, read_body, replay_body
from emogen.server.errors import ApiError, as_api_error, log_place
from emogen.server.limits import Holding, Keys, Knocks, Rate, Shares
from emogen.server.record import UNKNOWN_ROUTE, Record, open_record
from emogen.server.settings import is_loopback

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOG = logging.getLogger("emogen.server")
OPEN_ROUTES = ("/health", "/livez", "/readyz")
HOLDING = "emogen.holding"
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)\]|(?P<name>[0-9A-Za-z.-]+))(?::(?P<port>[0-9]{0,5}))?")
_LAST_PORT = 65_535


@dataclass(frozen=True)
class AccessPolicy:
    """Who and what is let in.

    Attributes:
        keys: who.
        rate: how often.
        shares: places of requests that write, recognise or rate at one time, a reply a place.
        knocks: how answers to wrong keys are paced.
        most_bytes: of a body.
        body_seconds: that a body may take to arrive.
        log_text: whether the log shows what users say.
        local: whether requests that name another host than this machine are refused. So no web page whose name is made to stand
            for this machine comes in where there are no keys.
    """

    keys: Keys
    rate: Rate
    shares: Shares
    knocks: Knocks
    most_bytes: int
    body_seconds: float
    log_text: bool = False
    local: bool = False


class AccessMiddleware:
    """An ASGI application around another. Whatever happens in there, an answer of the right shape is given, and a line logged.

    The line, and what an unforeseen error leaves in the log, hold no text of a user and no key.
    """

    def __init__(self, app: App, door: AccessPolicy, count: Callable[[Record], None]) -> None:
        """Around `app`; `count` takes the record of each request that is over."""
        self._app, self._door, self._count = app, door, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = open_record(scope)
        answer = _Answer(send, record)
        try:
            await self._let_in(scope, receive, answer)
        except ClientLeftError:
            record.is_cancelled = True
        except asyncio.CancelledError:
            # The server stops, and waits no longer.
            await self._refuse(ApiError(503, "the server is stopping; ask again", "stopping", None, 1), answer, record)
        except Exception as error:
            await self._refuse(as_api_error(error, record.id), answer, record)
            log_place(error, record.id)
        finally:
            record.route = getattr(scope.get("route"), "path", UNKNOWN_ROUTE)
            record.seconds = record.elapsed
            self._count(record)
            _LOG.info("%s", record.as_line(self._door.log_text))

    async def _let_in(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        if scope["path"] in OPEN_ROUTES:
            await self._app(scope, receive, answer)
            return
        try:
            caller = await self._admit(scope)
        except ApiError:
            await discard_body(receive, self._door.body_seconds)
            raise
        if scope["method"] != "POST":
            await self._app(scope, receive, answer)
            return
        self._door.shares.arriving += 1
        try:
            announced = int(_header(scope, b"content-length") or 0)
            body = await read_body(receive, announced, self._door.most_bytes, self._door.body_seconds)
        finally:
            self._door.shares.arriving -= 1
        # A place is taken by what can be served, not by who sends slowly.
        holding = scope[HOLDING] = Holding(self._door.shares, caller)
        try:
            await self._app(scope, replay_body(body, receive), answer)
        finally:
            holding.release()

    async def _admit(self, scope: Scope) -> str:
        """Return who calls; raise ApiError 401, 403, 415 or 429."""
        if self._door.local and not is_loopback(host_of(_header(scope, b"host") or b"localhost")):
            raise ApiError(
                403,
                "without keys this server answers to localhost and 127.0.0.1 alone; see --api-key, --allow-unauthenticated",
                "wrong_host",
            )
        address = scope["client"][0] if scope.get("client") else ""
        caller = await self._caller(_header(scope, b"authorization"), address)
        if scope["path"] != "/metrics":
            self._door.rate.take(caller)
        if scope["method"] == "POST" and not (
            (_header(scope, b"content-type") or b"").partition(b";")[0].strip().lower() == b"application/json"
        ):
            # Web pages of other origins can send any other kind without being asked for leave.
            raise ApiError(415, "the body must be JSON; send it with Content-Type: application/json", "unsupported_media_type")
        return caller

    async def _caller(self, authorization: bytes | None, address: str) -> str:
        """Return who calls; raise ApiError 401, or 429 for many wrong keys, each in its turn."""
        keys, knocks = self._door.keys, self._door.knocks
        try:
            caller = keys.caller(authorization, address)
        except ApiError:
            await asyncio.sleep(knocks.wait_of(address, None))
            raise
        if keys.are_needed:
            await asyncio.sleep(knocks.wait_of(address, caller))
        return caller

    async def _refuse(self, error: ApiError, answer: _Answer, record: Record) -> None:
        record.error = error.code or "refused"
        # An answer that has begun cannot be changed; the server closes its connection.
        if not record.status:
            with suppress(OSError):
                await answer.send_error(error)


class _Answer:
    """The `send` of a request; it notes the status, and gives the answer the request's id."""

    def __init__(self, send: Send, record: Record) -> None:
        self._send, self._record = send, record

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._record.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self._record.id.encode())]
            message = {**message, "headers": headers}
        await self._send(message)

    async def send_error(self, error: ApiError) -> None:
        """Send the whole of it."""
        body = error.as_json()
        given = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
        headers = [(name.encode(), value.encode()) for name, value in given.items()]
        await self({"type": "http.response.start", "status": error.status, "headers": headers})
        await self({"type": "http.response.body", "body": body, "more_body": False})


def host_of(header: bytes) -> str:
    """Parse a request's header Host: the name or address without brackets and port, lower case; empty where it is neither.

    >>> host_of(b"[::1]:8000"), host_of(b"LOCALHOST"), host_of(b"[127.0.0.1].evil.example"), host_of(b"localhost:evil")
    ('::1', 'localhost', '', '')
    """
    found = _HOST.fullmatch(header.decode("latin-1"))
    if not found or int(found["port"] or 0) > _LAST_PORT:
        return ""
    return (found["six"] or found["name"]).lower()


def _header(scope: Scope, wanted: bytes) -> bytes | None:
    return next((value for name, value in scope["headers"] if name == wanted), None)
