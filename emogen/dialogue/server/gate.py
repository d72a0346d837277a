"""What every request passes before a route sees it: key, rate, room, size; and what is kept of it when it is over."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from emogen.dialogue.server.body import ClientLeftError, Message, Receive, discard_body, read_body, replayed
from emogen.dialogue.server.errors import ApiError, as_api_error, log_place
from emogen.dialogue.server.limits import Keys, Rate
from emogen.dialogue.server.record import UNKNOWN_ROUTE, Record, begun
from emogen.dialogue.server.settings import is_loopback

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOG = logging.getLogger("emogen.server")
_OPEN = ("/health",)


@dataclass(frozen=True)
class Door:
    """Who and what is let in.

    Attributes:
        keys: who.
        rate: how often.
        most_requests: that write, recognise or rate at one time.
        most_bytes: of a body.
        body_seconds: that a body may take to arrive.
        log_text: whether the log shows what users say.
        local: whether requests that name another host than this machine are refused. So no web page whose name is made to stand
            for this machine comes in where there are no keys.
    """

    keys: Keys
    rate: Rate
    most_requests: int
    most_bytes: int
    body_seconds: float
    log_text: bool = False
    local: bool = False


class Gate:
    """An ASGI application around another. Whatever happens in there, an answer of the right shape is given, and a line logged.

    The line, and what an unforeseen error leaves in the log, hold no text of a user and no key.
    """

    def __init__(self, app: App, door: Door, count: Callable[[Record], None]) -> None:
        """Around `app`; `count` takes the record of each request that is over."""
        self._app, self._door, self._count = app, door, count
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = begun(scope)
        answer = _Answer(send, record)
        try:
            await self._let_in(scope, receive, answer)
        except ClientLeftError:
            record.is_cancelled = True
        except Exception as error:
            await self._refuse(as_api_error(error), answer, record)
            log_place(error, record.id)
        finally:
            self._close(scope, record)

    async def _let_in(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        if scope["path"] in _OPEN:
            await self._app(scope, receive, answer)
            return
        try:
            self._admit(scope)
        except ApiError:
            await discard_body(receive, self._door.body_seconds)
            raise
        if scope["method"] != "POST":
            await self._app(scope, receive, answer)
            return
        self._inside += 1
        try:
            announced = int(_header(scope, b"content-length") or 0)
            body = await read_body(receive, announced, self._door.most_bytes, self._door.body_seconds)
            await self._app(scope, replayed(body, receive), answer)
        finally:
            self._inside -= 1

    def _admit(self, scope: Scope) -> None:
        """Raises ApiError 401, 403, 429 or 503."""
        if self._door.local and not is_loopback(_host(scope)):
            raise ApiError(
                403, "without keys this server answers to localhost and 127.0.0.1 alone; see --api-key, --open", "wrong_host"
            )
        address = scope["client"][0] if scope.get("client") else ""
        caller = self._door.keys.caller(_header(scope, b"authorization"), address)
        if scope["path"] != "/metrics":
            self._door.rate.take(caller)
        if scope["method"] == "POST" and self._inside >= self._door.most_requests:
            raise ApiError(
                503, f"{self._inside} requests are being answered, which is all that may; ask again later", "busy", None, 1
            )

    async def _refuse(self, error: ApiError, answer: _Answer, record: Record) -> None:
        record.error = error.code or "refused"
        # An answer that has begun cannot be changed; the server closes its connection.
        if not record.status:
            with suppress(OSError):
                await answer.send_error(error)

    def _close(self, scope: Scope, record: Record) -> None:
        record.route = getattr(scope.get("route"), "path", UNKNOWN_ROUTE)
        record.seconds = record.elapsed
        self._count(record)
        _LOG.info("%s", record.as_line(self._door.log_text))


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
        """The whole of it."""
        body = error.as_json()
        given = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
        headers = [(name.encode(), value.encode()) for name, value in given.items()]
        await self({"type": "http.response.start", "status": error.status, "headers": headers})
        await self({"type": "http.response.body", "body": body, "more_body": False})


def _host(scope: Scope) -> str:
    """What a request calls this machine, without the port."""
    host = (_header(scope, b"host") or b"localhost").decode("latin-1")
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _header(scope: Scope, wanted: bytes) -> bytes | None:
    return next((value for name, value in scope["headers"] if name == wanted), None)
