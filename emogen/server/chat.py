"""`POST /v1/chat/completions`: from a request to replies that are being written, and from these to what is answered."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from emogen.checkpoint.model import EmotionModel
from emogen.decoding.control import parse_control
from emogen.decoding.params import SamplingParams
from emogen.decoding.postprocessing import PostProcessing, parse_postprocessing
from emogen.dialogue.engine import Engine
from emogen.dialogue.language import WrittenScripts
from emogen.dialogue.session import leaves_to_policy, seed_of
from emogen.dialogue.state import EmotionState
from emogen.emotions.labels import Emotion
from emogen.errors import SettingsError
from emogen.server.choices import Choice, StopSequences, merge_choices
from emogen.server.emotion import EmotionService, emotion_from
from emogen.server.errors import ApiError, as_api_error, log_place, name_field
from emogen.server.feedback import Opinions, Reply
from emogen.server.limits import Holding
from emogen.server.record import Record
from emogen.server.schemas import ChatRequest, Message
from emogen.server.settings import ServerSettings

_LOG = logging.getLogger("emogen.server")
ANY_MODEL = "emogen"
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")
_SPOKEN = ("user", "assistant")
_SYSTEM_UNREAD = (
    "the messages of the roles system and developer were not read: this model does not follow instructions; name an emotion, "
    "a policy or decoding options instead"
)
_FILES = "block"


@dataclass(frozen=True)
class Answer:
    """The replies to one request, while they are written.

    Attributes:
        id: of the answer, and of its first reply.
        model: that writes.
        context: utterances that are replied to.
        emotion: of the replies.
        state: what the user feels; None where nobody looked.
        seed: of the first reply.
        prompt_tokens: that the model reads.
        choices: the replies.
        post: steps that each text goes through.
        created: Unix time.
        warnings: what was asked for and is not done, or will not go well; a sentence each.
    """

    id: str
    model: str
    context: tuple[str, ...]
    emotion: Emotion
    state: EmotionState | None
    seed: int
    prompt_tokens: int
    choices: tuple[Choice, ...]
    post: PostProcessing
    created: int
    warnings: tuple[str, ...] = ()

    @property
    def usage(self) -> dict[str, int]:
        """Return tokens by now, as the OpenAI API counts them."""
        written = sum(choice.writing.tokens for choice in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self.prompt_tokens + written,
        }

    def as_object(self, kind: str, choices: Sequence[object]) -> dict[str, object]:
        """Return what an answer and each event of a stream have in common."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": list(choices)}

    @property
    def about(self) -> dict[str, object]:
        """Return what the OpenAI API does not have."""
        return {
            "emotion": self.emotion.shown,
            "strength": round(self.emotion.strength, 6),
            "state": self.state.as_object() if self.state else None,
            "seed": self.seed,
            "ids": [choice.id for choice in self.choices],
            "warnings": list(self.warnings),
        }

    def cancel(self) -> None:
        """End what is still being written."""
        for choice in self.choices:
            choice.writing.cancel()


class Chat:
    """Answers to requests for replies, all written by one engine."""

    def __init__(self, engine: Engine, ears: EmotionService, opinions: Opinions, settings: ServerSettings) -> None:
        """Of a server."""
        self._engine, self._ears, self._opinions, self._settings = engine, ears, opinions, settings
        self.model = engine.model.folder.resolve().name
        self._scripts = WrittenScripts(engine.model.tokenizer)
        self._logged: set[str] = set()

    async def begin(self, request: ChatRequest, record: Record, holding: Holding) -> Answer:
        """Ask the engine for the replies.

        Args:
            request: what is asked for.
            record: of the request.
            holding: its places; widened to the number of replies.

        Raises:
            ApiError: a request that cannot be served, or that asks for more replies than there is room for.
            BusyError: as many replies wait as may.
        """
        self._refuse(request)
        holding.widen(request.n or 1)
        context = _context(request.messages, self._settings)
        post = _post(request)
        emotion, state = await self._emotion(request)
        with self._hide_paths():
            own = self._engine.model.sampling_for(emotion.strength > 0, streamed=True)
            given: dict[str, Any] = {name: value for name in _SAMPLING if (value := getattr(request, name)) is not None}
            if request.top_p == 0:
                # No probability mass but that of the likeliest token.
                given |= {"temperature": 0.0, "top_p": 1.0}
            if request.control is not None:
                with name_field("control"):
                    given["control"] = parse_control(request.control)
            wanted = request.max_completion_tokens or request.max_tokens or own.max_tokens
            sampling = replace(own, **given, max_tokens=min(wanted, self._most_tokens))
        seed = secrets.randbelow(2**31) if request.seed is None else request.seed
        name = f"chatcmpl-{uuid.uuid4().hex}"
        with self._hide_paths():
            choices = tuple(self._choices(name, context, emotion, sampling, seed, request, holding.caller))
        is_instructed = any(message.role not in _SPOKEN and message.content.strip() for message in request.messages)
        found = (_SYSTEM_UNREAD if is_instructed else "", self._scripts.describe_mismatch(context[-1]))
        warnings = tuple(filter(None, found))
        for warning in warnings:
            if warning not in self._logged:
                self._logged.add(warning)
                _LOG.warning("%s (logged once)", warning)
        answer = Answer(
            name,
            self.model,
            context,
            emotion,
            state,
            seed,
            self._read(context),
            choices,
            post,
            int(time.time()),
            warnings,
        )
        record.emotion, record.prompt_tokens, record.said = emotion.shown, answer.prompt_tokens, context
        return answer

    async def whole(self, answer: Answer, request: ChatRequest, record: Record) -> dict[str, object]:
        """Return the answer, once it is written; errors as for `merge_choices`."""
        texts = dict.fromkeys(range(len(answer.choices)), "")
        async with aclosing(self._pieces(answer, request, record)) as pieces:
            async for choice, piece in pieces:
                texts[choice.index] += piece or ""
        choices = [
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": answer.post(texts[choice.index]), "refusal": None},
                "logprobs": None,
                "finish_reason": choice.finish,
            }
            for choice in answer.choices
        ]
        return {**answer.as_object("chat.completion", choices), "usage": answer.usage, "emogen": answer.about}

    async def events(self, answer: Answer, request: ChatRequest, record: Record) -> AsyncIterator[str]:
        """Yield the answer as server-sent events while it is written; an error is the last of them."""
        kind = "chat.completion.chunk"
        with_usage = bool(request.stream_options and request.stream_options.include_usage)
        # Every event but the last names the usage then, as null.
        usage: dict[str, object] = {"usage": None} if with_usage else {}
        opening = [_delta(choice, {"role": "assistant", "content": ""}) for choice in answer.choices]
        yield _event({**answer.as_object(kind, opening), **usage, "emogen": answer.about})
        try:
            async with aclosing(self._pieces(answer, request, record)) as pieces:
                async for choice, piece in pieces:
                    change = _delta(choice, {}, choice.finish) if piece is None else _delta(choice, {"content": piece})
                    yield _event({**answer.as_object(kind, [change]), **usage})
        except Exception as error:
            refusal = as_api_error(error, record.id)
            record.error = refusal.code or "refused"
            log_place(error, record.id)
            yield _event(refusal.as_object())
            return
        if with_usage:
            yield _event({**answer.as_object(kind, []), "usage": answer.usage})
        yield "data: [DONE]\n\n"

    async def _pieces(
        self, answer: Answer, request: ChatRequest, record: Record
    ) -> AsyncGenerator[tuple[Choice, str | None], None]:
        """Merge as `merge_choices` does; replies are remembered once they are whole, and counted whatever happens."""
        deadline = asyncio.get_running_loop().time() + self._settings.reply_timeout
        texts = dict.fromkeys(answer.choices, "")
        try:
            async with aclosing(merge_choices(answer.choices, deadline)) as pieces:
                async for choice, piece in pieces:
                    record.note_first()
                    texts[choice] += piece or ""
                    if piece is None:
                        reply = Reply(answer.context, answer.post(texts[choice]), answer.emotion, request.user or "")
                        self._opinions.remember(choice.id, reply)
                    yield choice, piece
        finally:
            record.tokens, record.replies = answer.usage["completion_tokens"], tuple(texts.values())

    def _refuse(self, request: ChatRequest) -> None:
        """Raise ApiError for another model, and for what is not to be had."""
        if request.model not in (None, self.model, ANY_MODEL):
            raise ApiError(404, f"model {request.model!r:.80} is not here; there is {self.model}", "model_not_found", "model")
        for name in request.refused:
            raise ApiError(400, f"{name}: this server cannot do that; leave it out", "unsupported", name)
        if request.stream and request.post:
            raise ApiError(400, "post changes a text that is whole; leave out stream, or post", "unsupported", "post")
        if (request.n or 1) > self._settings.most_choices:
            raise ApiError(400, f"n {request.n}: allowed is 1 to {self._settings.most_choices}", param="n")

    @property
    def _most_tokens(self) -> int:
        """Return how many tokens a reply may have.

        As many as may be asked for, and as the model reads behind the longest context.
        """
        model = self._engine.model
        room = model.generator.backbone.longest - model.description.limits.context_tokens - 1
        return min(self._settings.most_tokens, max(1, room))

    async def _emotion(self, request: ChatRequest) -> tuple[Emotion, EmotionState | None]:
        labels = self._engine.model.labels
        if isinstance(request.emotion, dict) or not leaves_to_policy(request.emotion, labels):
            assert request.emotion is not None
            return emotion_from(request.emotion, request.strength, labels), None
        said = [message.content for message in request.messages if message.role == "user" and message.content.strip()]
        state = await self._ears.state(said, request.decay)
        return self._ears.answer(state, request.policy, request.strength), state

    def _choices(
        self,
        name: str,
        context: Sequence[str],
        emotion: Emotion,
        sampling: SamplingParams,
        seed: int,
        request: ChatRequest,
        caller: str,
    ) -> Iterator[Choice]:
        """Yield the replies; where the engine refuses one, those before it are cancelled."""
        begun: list[Choice] = []
        try:
            for index in range(request.n or 1):
                # Seeds here are not below 0, those of the OpenAI API may be.
                first = seed % 2**63
                own = seed_of(first, index) if index else first
                writing = self._engine.write(context, emotion, sampling, own, caller)
                begun.append(Choice(index, f"{name}-{index}" if index else name, writing, StopSequences(request.stop)))
        except Exception:
            for choice in begun:
                choice.writing.cancel()
            raise
        yield from begun

    @contextmanager
    def _hide_paths(self) -> Iterator[None]:
        """Keep the server's paths out of what a mistake in here says."""
        try:
            yield
        except SettingsError as error:
            raise ApiError(400, str(error).replace(str(self._engine.model.folder), self.model)) from None

    def _read(self, context: Sequence[str]) -> int:
        """Return how many tokens of a context the model reads."""
        model: EmotionModel = self._engine.model
        return len(model.tokenizer.prefix(context, model.description.limits.context_tokens))


def _context(messages: Sequence[Message], settings: ServerSettings) -> tuple[str, ...]:
    """Return what was said, oldest first; a system's messages are counted, and not read."""
    if len(messages) > settings.most_messages:
        message = f"{len(messages)} messages: allowed are {settings.most_messages}; leave out the oldest"
        raise ApiError(400, message, "context_length_exceeded", "messages")
    length = sum(len(message.content) for message in messages)
    if length > settings.most_characters:
        message = f"messages of {length} characters: allowed are {settings.most_characters}; leave out the oldest"
        raise ApiError(400, message, "context_length_exceeded", "messages")
    spoken = [message for message in messages if message.role in _SPOKEN]
    if not spoken or spoken[-1].role != "user" or not spoken[-1].content.strip():
        raise ApiError(400, "the last message is the user's, and not blank: it is what is replied to", param="messages")
    return tuple(message.content for message in spoken if message.content.strip())


def _post(request: ChatRequest) -> PostProcessing:
    """Return the steps; none that reads a file of the server."""
    with name_field("post"):
        steps = request.post or ""
        if any(step.strip().startswith(_FILES) for step in steps.split(",")):
            raise ApiError(400, "post: block reads a file, which a request cannot name; leave it out", "unsupported", "post")
        return parse_postprocessing(steps)


def _delta(choice: Choice, change: dict[str, str], finish: str | None = None) -> dict[str, object]:
    return {"index": choice.index, "delta": change, "logprobs": None, "finish_reason": finish}


def _event(content: object) -> str:
    """Return one server-sent event. As ASCII it holds no line end that some reader takes for one."""
    return f"data: {json.dumps(content)}\n\n"
