"""Starting and stopping the server."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack, suppress
from types import FrameType
from typing import cast

import uvicorn

from emogen.checkpoint.model import load
from emogen.dialogue.engine import Engine
from emogen.dialogue.feedback import FeedbackStore
from emogen.errors import EmogenError, Interrupted
from emogen.recognition.recognizer import Recognizer, load_recognizer
from emogen.server.app import build_app
from emogen.server.connections import BACKLOG, Connections, OnceAMinute, most_connections
from emogen.server.feedback import BUSY_SECONDS
from emogen.server.settings import NO_RECOGNIZER, ServerSettings, keys_of
from emogen.train.run.memory import keep_freed_memory

_LOG = logging.getLogger("emogen.server")
_LAST_WORDS_SECONDS = 5
_TICKS_A_SECOND = 10


def run(settings: ServerSettings) -> None:
    """Serve until it is stopped by a signal; then running replies are finished, or end with an error.

    Raises:
        SettingsError: settings that do not go together.
        CheckpointError: a model that cannot be loaded.
        EmogenError: an address that cannot be listened on.
        KeyboardInterrupt: by SIGINT.
    """
    # By SIGTERM, which is how a server is stopped, it ends well.
    with suppress(Interrupted):
        _serve(settings)


def _serve(settings: ServerSettings) -> None:
    keys_of(settings)
    keep_freed_memory()
    with ExitStack() as parts:
        parts.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _stop))
        place = parts.enter_context(_socket(settings.host, settings.port))
        model = load(settings.checkpoint or None, settings.device, full_precision=settings.full_precision)
        recognizer = _recognizer(settings)
        store = parts.enter_context(_store(settings.feedback)) if settings.feedback else None
        connections = Connections(
            most_connections(settings.most_connections), settings.body_seconds, settings.body_seconds, time.monotonic
        )
        engine = parts.enter_context(Engine(model, settings.max_batch_size, settings.max_queue))
        config = uvicorn.Config(
            build_app(settings, engine, recognizer, store, connections=connections),
            http=cast("type[asyncio.Protocol]", connections.protocol()),
            ws="none",
            loop="asyncio",
            lifespan="off",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=round(settings.shutdown_timeout) + _LAST_WORDS_SECONDS,
        )
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.basicConfig(level=logging.WARNING, handlers=[handler])
        # Filters of a logger do not see what its children log, so that they stand at each of those that an attacker can
        # make speak.
        for name in ("asyncio", "uvicorn.error"):
            logging.getLogger(name).addFilter(OnceAMinute(time.monotonic))
        logging.getLogger("emogen").setLevel(logging.DEBUG if settings.debug else logging.INFO)
        _Server(config, engine, connections, settings.shutdown_timeout).run(sockets=[place])
        if not engine.is_open:
            raise EmogenError("the engine failed twice, so that the server ends; its log says where, start it again")


class _Server(uvicorn.Server):
    """Once it is stopped, replies have some seconds to be finished; those that are not end with an error.

    It stops by itself, some seconds after the engine has failed for good: meanwhile it says so to those who look.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine, connections: Connections, shutdown_timeout: float) -> None:
        super().__init__(config)
        self._engine, self._connections, self._grace_seconds = engine, connections, shutdown_timeout
        self._failed_at: float | None = None

    async def on_tick(self, counter: int) -> bool:
        """See uvicorn: ten times a second."""
        if counter % _TICKS_A_SECOND == 0:
            self._connections.sweep()
        if not self._engine.is_open and self._failed_at is None:
            self._failed_at = time.monotonic()
        is_over = self._failed_at is not None and time.monotonic() - self._failed_at > self._grace_seconds
        return await super().on_tick(counter) or is_over

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn; said is where it listens once it does."""
        await super().startup(sockets)
        for place in sockets or ():
            host, port = place.getsockname()[:2]
            name = self._engine.model.folder.resolve().name
            _LOG.info("serving %s at http://%s:%d", name, f"[{host}]" if ":" in host else host, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        closing = threading.Thread(target=self._engine.close, daemon=True)
        self._connections.drop_unasked()
        later = asyncio.get_running_loop().call_later(self._grace_seconds, closing.start)
        try:
            await super().shutdown(sockets)
        finally:
            later.cancel()


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Interrupted("stopped", number)


def _socket(host: str, port: int) -> socket.socket:
    """Bound, and not listening yet, so that nobody is let in before the model is loaded."""
    found = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        return found
    except OSError as error:
        if found:
            found.close()
        raise EmogenError(f"{host}:{port}: cannot be listened on ({error.strerror}); choose another --host or --port") from None


def _recognizer(settings: ServerSettings) -> Recognizer | None:
    return None if settings.recognizer == NO_RECOGNIZER else load_recognizer(settings.recognizer or None, settings.device)


def _store(address: str) -> FeedbackStore:
    """Open the store, found whole; nobody waits long for others that write into it."""
    store = FeedbackStore(address, busy_seconds=BUSY_SECONDS)
    try:
        store.check()
    except EmogenError:
        store.close()
        raise
    return store
