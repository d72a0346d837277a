"""Starting and stopping the server."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import threading
from contextlib import ExitStack
from types import FrameType

import uvicorn

from emogen.checkpoint import load
from emogen.dialogue.engine import Engine
from emogen.dialogue.feedback import FeedbackStore
from emogen.dialogue.server.app import build_app
from emogen.dialogue.server.settings import NO_RECOGNIZER, ServerSettings, keys_of
from emogen.errors import EmogenError, Interrupted
from emogen.judges.recognizer import Recognizer, load_recognizer
from emogen.train.memory import keep_freed_memory

_LOG = logging.getLogger("emogen.server")
_LAST_WORDS_SECONDS = 5


def run(settings: ServerSettings) -> None:
    """Serves until it is stopped by a signal; then running replies are finished, or end with an error.

    Raises:
        SettingsError: settings that do not go together.
        CheckpointError: a model that cannot be loaded.
        EmogenError: an address that cannot be listened on.
        Interrupted: by SIGTERM.
        KeyboardInterrupt: by SIGINT.
    """
    keys_of(settings)
    keep_freed_memory()
    with ExitStack() as parts:
        parts.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _stop))
        place = parts.enter_context(_socket(settings.host, settings.port))
        model = load(settings.checkpoint or None, settings.device, full_precision=settings.full_precision)
        recognizer = _recognizer(settings)
        store = parts.enter_context(FeedbackStore(settings.feedback)) if settings.feedback else None
        engine = parts.enter_context(Engine(model, settings.most_rows, settings.most_waiting))
        config = uvicorn.Config(
            build_app(settings, engine, recognizer, store),
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=round(settings.grace_seconds) + _LAST_WORDS_SECONDS,
        )
        _log_to_stderr()
        host, port = place.getsockname()[:2]
        _LOG.info("serving %s at http://%s:%d", model.folder.resolve().name, f"[{host}]" if ":" in host else host, port)
        _Server(config, engine, settings.grace_seconds).run(sockets=[place])


class _Server(uvicorn.Server):
    """Once it is stopped, replies have some seconds to be finished; those that are not end with an error."""

    def __init__(self, config: uvicorn.Config, engine: Engine, grace_seconds: float) -> None:
        super().__init__(config)
        self._engine, self._grace_seconds = engine, grace_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        closing = threading.Thread(target=self._engine.close, daemon=True)
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


def _log_to_stderr() -> None:
    """The server's own lines as they are, and warnings of others."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    _LOG.setLevel(logging.INFO)
