"""The open connections of a server: fewer than a process may have files, and none held open by a client that keeps still."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from emogen.server.errors import ApiError

try:
    import resource
except ImportError:
    # Windows knows no such limit.
    resource = None  # type: ignore[assignment]

_LOG = logging.getLogger("emogen.server")
# Files beside the connections: the program's own, those of a database, and as many connections as are accepted at one go.
BACKLOG = 128
_OTHER_FILES = 64
_SECONDS_BETWEEN_LINES = 60.0


class Connections:
    """All open connections, and the limits of what a client may leave undone.

    Which of them waits for its client, and since when, is looked at by `sweep`; no connection has timers of its own.
    """

    def __init__(self, most: int, head_seconds: float, send_seconds: float, clock: Callable[[], float]) -> None:
        """None yet.

        Args:
            most: that may be open.
            head_seconds: that a client may take to send a request up to its body, from the connection's begin or the end of
                the answer before.
            send_seconds: that a client may leave an answer unread, once the buffers between are full.
            clock: in seconds, never backwards.
        """
        self._most, self._head_seconds, self._send_seconds, self._clock = most, head_seconds, send_seconds, clock
        self._open: dict[Connection, float] = {}
        self._conditioning = -_SECONDS_BETWEEN_LINES
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._open)

    def protocol(self) -> Callable[..., asyncio.Protocol]:
        """Return what uvicorn makes a connection with."""
        return partial(Connection, self)

    def add(self, newcomer: Connection) -> bool:
        """Take in a connection; False where there is no room for it.

        Beyond the limit one goes that waits for its client: the one that does so longest, of the address that has most of them.
        """
        if len(self._open) >= self._most:
            self._dropped += 1
            self._tell()
            idle = [one for one in self._open if one.waits_for_client]
            if not idle:
                return False
            address, _ = Counter(one.address for one in idle).most_common(1)[0]
            victim = min((one for one in idle if one.address == address), key=self._open.__getitem__)
            self.drop(victim)
        self._open[newcomer] = self._clock()
        return True

    def note(self, connection: Connection) -> None:
        """Note that a client has done something."""
        if connection in self._open:
            self._open[connection] = self._clock()

    def drop(self, connection: Connection) -> None:
        """Close a connection at once, whatever has not been sent yet."""
        self.discard(connection)
        connection.transport.abort()

    def discard(self, connection: Connection) -> None:
        """Forget one that is closed."""
        self._open.pop(connection, None)

    def sweep(self) -> None:
        """Close those whose clients have kept still for too long."""
        now = self._clock()
        for connection, since in tuple(self._open.items()):
            if connection.is_stuck:
                is_late = now - since > self._send_seconds
            else:
                is_late = connection.waits_for_head and now - since > self._head_seconds
            if is_late:
                self.drop(connection)

    def drop_unasked(self) -> None:
        """Close those that hold no whole request, when the server stops."""
        for connection in tuple(self._open):
            if connection.waits_for_client and not connection.is_stuck:
                self.drop(connection)

    def _tell(self) -> None:
        if self._clock() - self._conditioning < _SECONDS_BETWEEN_LINES:
            return
        _LOG.warning(
            "%d connections are open, which is all that may; idle ones make room (%d by now; told once a minute)",
            self._most,
            self._dropped,
        )
        self._conditioning = self._clock()


class Connection(H11Protocol):
    """A connection of uvicorn's that tells whether it waits for its client."""

    def __init__(self, connections: Connections, **parts: Any) -> None:
        super().__init__(**parts)
        self._connections = connections

    @property
    def address(self) -> str:
        """Tell where the client is."""
        return self.client[0] if self.client else ""

    @property
    def waits_for_head(self) -> bool:
        """Tell whether no request is being answered, and none is whole up to its body."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_stuck(self) -> bool:
        """Tell whether the client reads nothing of what waits to be sent.

        Be it that the connection is to be closed behind it.
        """
        return self.flow is not None and (self.flow.write_paused or self.transport.is_closing())

    @property
    def waits_for_client(self) -> bool:
        """Tell whether it is the client's turn: to send a request or the rest of one, or to read."""
        return self.waits_for_head or self.is_stuck or bool(self.cycle.more_body)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        if not self._connections.add(self):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._connections.discard(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """See asyncio."""
        self._connections.note(self)
        super().pause_writing()

    def send_400_response(self, msg: str) -> None:
        """See uvicorn; in the shape that all errors here have, and at once."""
        body = ApiError(400, "this is no HTTP request that can be read", "invalid_request").as_json()
        headers = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
        self.transport.write(f"HTTP/1.1 400 Bad Request\r\n{headers}\r\n\r\n".encode("ascii") + body)
        self.transport.close()

    def on_response_complete(self) -> None:
        """See uvicorn. A client that has sent the next request before it had the answer to this one is not served any more.

        So nobody has a queue of requests of his own here, whose answers he need not even read (RFC 9112, section 9.3.2 lets a
        server close).
        """
        self._connections.note(self)
        waiting, _ = self.conn.trailing_data
        super().on_response_complete() if not waiting else self.transport.close()


def most_connections(wanted: int) -> int:
    """Return how many connections may be open: as many as wanted, and fewer than the process may have files."""
    if resource is None:
        return wanted
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, soft - BACKLOG - _OTHER_FILES))


class OnceAMinute(logging.Filter):
    """Lets a message of other libraries pass once a minute, however often it comes: attackers write no logs full."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._passed: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging."""
        key, now = (record.name, str(record.msg)), self._clock()
        if now - self._passed.get(key, -_SECONDS_BETWEEN_LINES) < _SECONDS_BETWEEN_LINES:
            return False
        self._passed[key] = now
        return True
