"""The application: routes, and the answers to what goes wrong in them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sized
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from emogen.dialogue.engine import Engine
from emogen.dialogue.feedback import FeedbackStore
from emogen.dialogue.state import DECAY, at_rest
from emogen.errors import EmogenError
from emogen.recognition.recognizer import Recognizer
from emogen.server.body import ClientLeftError
from emogen.server.chat import Chat
from emogen.server.emotion import EmotionService
from emogen.server.errors import ApiError, as_api_error, log_place, of_validation
from emogen.server.feedback import Opinions
from emogen.server.gate import HOLDING, AccessMiddleware, AccessPolicy
from emogen.server.limits import Keys, Knocks, Rate, Shares
from emogen.server.metrics import Metrics
from emogen.server.record import KEY, Record
from emogen.server.schemas import ChatRequest, FeedbackRequest, RecognizeRequest
from emogen.server.settings import ServerSettings, keys_of

T = TypeVar("T")

_DIGITS = 6
_PROBE_SECONDS = 1.0
# The server itself leaves the body out of an answer to HEAD.
_READING = ["GET", "HEAD"]
_SHOWN_HEADERS = ("x-request-id", "retry-after")


def build_app(
    settings: ServerSettings,
    engine: Engine,
    recognizer: Recognizer | None = None,
    store: FeedbackStore | None = None,
    clock: Callable[[], float] = time.monotonic,
    connections: Sized = (),
) -> FastAPI:
    """Return an ASGI application that answers by these parts; who made them closes them.

    Args:
        settings: limits, keys and the policy; host, port, checkpoint and the like are not looked at but for `keys_of`.
        engine: writes the replies.
        recognizer: of what users feel; without one, replies to requests that name no emotion have none.
        store: of opinions; without one they are refused.
        clock: of the limit of requests a minute, in seconds.
        connections: those that are open, whose number is shown.

    Raises:
        SettingsError: keys that are none, or a policy that does not fit recogniser and model.
        DataError: a policy's file that holds none.
    """
    shares = Shares(settings.max_batch_size + settings.max_queue)
    metrics = Metrics(engine, settings.max_batch_size, clock)
    ears = EmotionService(recognizer, engine.model.labels, settings.policy)
    opinions = Opinions(store, engine.model.folder.resolve().name, engine.model.labels, settings.most_remembered)
    app = FastAPI(title="emogen", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    _add_chat(app, Chat(engine, ears, opinions, settings), engine)
    _add_recognition(app, ears, settings)
    _add_feedback(app, opinions, settings)
    _add_watching(app, engine, settings, metrics, shares, connections)
    _add_errors(app)
    keys = keys_of(settings)
    door = AccessPolicy(
        Keys(keys),
        Rate(settings.requests_a_minute, clock),
        shares,
        Knocks(clock),
        settings.most_bytes,
        settings.body_seconds,
        settings.log_text,
        local=not keys and not settings.allow_unauthenticated,
    )
    app.add_middleware(AccessMiddleware, door=door, count=metrics.count)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=_SHOWN_HEADERS,
        )
    return app


def _add_chat(app: FastAPI, chat: Chat, engine: Engine) -> None:
    shown = {"id": chat.model, "object": "model", "created": int(time.time()), "owned_by": "emogen"}
    shown |= {"labels": list(engine.model.labels.names)}

    @app.post("/v1/chat/completions", response_model=None)
    async def complete(body: ChatRequest, request: Request) -> Response:
        record = _record(request)
        answer = await _unless_left(request, chat.begin(body, record, request.scope[HOLDING]))
        if body.stream:
            return _Events(chat.events(answer, body, record), answer.cancel, record)
        return JSONResponse(await _unless_left(request, chat.whole(answer, body, record)))

    @app.api_route("/v1/models", methods=_READING, response_model=None)
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [shown]})

    @app.api_route("/v1/models/{name}", methods=_READING, response_model=None)
    async def model(name: str) -> Response:
        if name != chat.model:
            raise ApiError(404, f"model {name!r:.80} is not here; there is {chat.model}", "model_not_found", "model")
        return JSONResponse(shown)


def _add_recognition(app: FastAPI, ears: EmotionService, settings: ServerSettings) -> None:
    @app.post("/v1/recognize", response_model=None)
    async def recognize(body: RecognizeRequest, request: Request) -> Response:
        _require_few(body.texts, settings, "texts")
        found = await _unless_left(request, ears.recognise(body.texts))
        decay = DECAY if body.decay is None else body.decay
        state = at_rest(ears.heard)
        for each in found:
            state = state.after(each, decay)
        data = [
            {
                "label": each.label,
                "labels": list(each.labels),
                "strength": round(each.strength, _DIGITS),
                "probabilities": {name: round(share, _DIGITS) for name, share in each.probabilities.items()},
            }
            for each in found
        ]
        return JSONResponse({"object": "list", "data": data, "state": state.as_object()})


def _add_feedback(app: FastAPI, opinions: Opinions, settings: ServerSettings) -> None:
    @app.post("/v1/feedback", response_model=None)
    async def feedback(body: FeedbackRequest, request: Request) -> Response:
        _require_few([*(body.context or ()), body.reply or ""], settings, "context")
        return JSONResponse({"object": "feedback", "stored": await opinions.rate(body, _record(request))})


def _add_watching(
    app: FastAPI, engine: Engine, settings: ServerSettings, metrics: Metrics, shares: Shares, connections: Sized
) -> None:
    @app.api_route("/health", methods=_READING, response_model=None)
    @app.api_route("/readyz", methods=_READING, response_model=None)
    async def health(request: Request) -> Response:
        unfinished = engine.unfinished
        is_full = shares.is_full or unfinished >= settings.max_batch_size + settings.max_queue
        status = "failed" if not await _writes(engine) else "busy" if is_full else "ready"
        running = min(unfinished, settings.max_batch_size)
        figures = {
            "status": status,
            "running": running,
            "waiting": unfinished - running,
            "places": shares.held,
            "callers": shares.callers,
            "arriving": shares.arriving,
            "connections": len(connections),
        }
        # Ready is who can take the next request; health stays 200 while all places are taken, which is no illness.
        is_fine = status == "ready" or (status == "busy" and request.url.path == "/health")
        return JSONResponse(figures, 200 if is_fine else 503)

    @app.api_route("/livez", methods=_READING, response_model=None)
    async def live() -> Response:
        is_live = await _writes(engine)
        return JSONResponse({"status": "live" if is_live else "failed"}, 200 if is_live else 503)

    @app.api_route("/metrics", methods=_READING, response_model=None)
    async def figures() -> Response:
        return Response(metrics.as_text(), media_type=CONTENT_TYPE_LATEST)


async def _writes(engine: Engine) -> bool:
    """Tell whether the engine writes; where that is in doubt, by having it write a token."""
    if not engine.is_open or not engine.is_suspect:
        return engine.is_open
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            async for _ in engine.write((), sampling=replace(engine.model.default_sampling, max_tokens=1)):
                pass
    except (EmogenError, TimeoutError):
        return False
    return True


def _add_errors(app: FastAPI) -> None:
    """Answer every error in one shape."""

    async def refuse(request: Request, error: Exception) -> Response:
        record = _record(request)
        refusal = as_api_error(error, record.id)
        log_place(error, record.id)
        record.error = refusal.code or "refused"
        return Response(refusal.as_json(), refusal.status, dict(refusal.headers), "application/json")

    async def refuse_shape(request: Request, error: Exception) -> Response:
        return await refuse(request, of_validation(cast("RequestValidationError", error).errors()))

    async def refuse_route(request: Request, error: Exception) -> Response:
        return await refuse(request, _of_http(cast("HTTPException", error), request))

    app.add_exception_handler(EmogenError, refuse)
    app.add_exception_handler(RequestValidationError, refuse_shape)
    app.add_exception_handler(HTTPException, refuse_route)


def _of_http(error: HTTPException, request: Request) -> ApiError:
    if error.status_code == 404:
        return ApiError(404, "there is no such route here; docs/server.md lists those that there are", "route_not_found")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message = f"{request.method} is not what this route takes; it takes {allowed}"
        return ApiError(405, message, "method_not_allowed", headers={"allow": allowed})
    return ApiError(400, "the body is no JSON that can be read: not UTF-8, or nested too deeply", "invalid_json")


def _require_few(texts: list[str], settings: ServerSettings, param: str) -> None:
    length = sum(map(len, texts))
    if len(texts) > settings.most_messages:
        raise ApiError(400, f"{len(texts)} texts: allowed are {settings.most_messages}", "context_length_exceeded", param)
    if length > settings.most_characters:
        message = f"texts of {length} characters: allowed are {settings.most_characters}"
        raise ApiError(400, message, "context_length_exceeded", param)


def _record(request: Request) -> Record:
    return cast("Record", request.scope[KEY])


async def _unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` gives, which is cancelled where the client closes its connection; raise ClientLeftError then."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_begin_leaving(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeftError
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _begin_leaving(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Events(StreamingResponse):
    """Server-sent events, whose end is told however they end."""

    def __init__(self, events: AsyncIterator[str], on_end: Callable[[], None], record: Record) -> None:
        super().__init__(
            events, media_type="text/event-stream", headers={"cache-control": "no-store", "x-accel-buffering": "no"}
        )
        self._on_end, self._record, self._is_whole = on_end, record, False

    async def stream_response(self, send: Send) -> None:
        await super().stream_response(send)
        self._is_whole = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(OSError, ClientDisconnect):
                await super().__call__(scope, receive, send)
        finally:
            self._on_end()
            self._record.is_cancelled = not self._is_whole
