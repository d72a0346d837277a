"""Opinions on replies: the newest replies are remembered, so that an opinion needs no more than an id."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from emogen.dialogue.feedback import FeedbackStore, Opinion, Verdict
from emogen.emotions.labels import Emotion, LabelSet
from emogen.errors import DataError, EmogenError, log_failure
from emogen.server.emotion import emotion_from
from emogen.server.errors import ApiError, name_field
from emogen.server.record import Record
from emogen.server.schemas import FeedbackRequest

_LOG = logging.getLogger("emogen.server")
BUSY_SECONDS = 2.0
STORE_SECONDS = 4.0


@dataclass(frozen=True)
class Reply:
    """What an opinion is about.

    Attributes:
        context: utterances before it, oldest first.
        text: of it.
        emotion: that was asked for.
        user: who asked, as the request named him; empty where it did not.
    """

    context: tuple[str, ...]
    text: str
    emotion: Emotion
    user: str = ""


class Opinions:
    """The newest replies by their ids, and the store of what is thought of them. Without a store it remembers nothing."""

    def __init__(self, store: FeedbackStore | None, model: str, labels: LabelSet, most: int) -> None:
        """Of a model with these labels; the newest `most` replies are remembered."""
        self._store, self._model, self._labels, self._most = store, model, labels, most
        self._replies: OrderedDict[str, Reply] = OrderedDict()
        # A thread of its own: who waits for the store keeps nobody else waiting.
        self._thread = ThreadPoolExecutor(1, "emogen-store")

    def remember(self, name: str, reply: Reply) -> None:
        """Remember a reply that is written; it is forgotten once as many newer ones are remembered as may be."""
        if self._store is None:
            return
        self._replies[name] = reply
        if len(self._replies) > self._most:
            self._replies.popitem(last=False)

    async def rate(self, request: FeedbackRequest, record: Record) -> list[str]:
        """Store what a request says; give the ids of the replies, once it will survive a kill.

        Raises:
            ApiError: 400, 404 for a reply that is not known, 501 without a store, 503 where it does not take it.
        """
        if self._store is None:
            raise ApiError(501, "this server stores no opinions; it is started with --feedback FILE to do so", "no_feedback")
        with name_field("id"):
            opinions = self._opinions(request)
        await self._store_in_turn(self._store, opinions)
        record.verdicts = tuple(opinion.verdict for opinion in opinions)
        return [opinion.reply for opinion in opinions]

    async def _store_in_turn(self, store: FeedbackStore, opinions: Sequence[Opinion]) -> None:
        """Store in turn; what its turn does not come for in time is not begun."""
        storing = asyncio.get_running_loop().run_in_executor(self._thread, _store, store, opinions)
        try:
            async with asyncio.timeout(STORE_SECONDS):
                await storing
        except (TimeoutError, EmogenError) as error:
            log_failure(_LOG, "an opinion was not stored", error)
            raise ApiError(503, "the opinion could not be stored; send it again later", "not_stored", None, 2) from None

    def _opinions(self, request: FeedbackRequest) -> list[Opinion]:
        if request.id and request.verdict and not (request.better or request.worse):
            reply = self._replies.get(request.id) or self._brought(request, request.id)
            return [self._opinion(request.id, reply, request.verdict, request.user)]
        if request.better and request.worse and not (request.id or request.verdict):
            good, bad = self._find_reply(request.better), self._find_reply(request.worse)
            if (good.context, good.emotion) != (bad.context, bad.emotion):
                raise DataError(
                    "better and worse are replies to the same messages with the same emotion; rate these one by one"
                )
            return [
                self._opinion(request.better, good, "good", request.user),
                self._opinion(request.worse, bad, "bad", request.user),
            ]
        raise DataError("an opinion is an id with verdict good or bad, or the ids better and worse; send one of these")

    def _opinion(self, name: str, reply: Reply, verdict: Verdict, user: str | None) -> Opinion:
        session = reply.user if user is None else user
        return Opinion(name, reply.context, reply.text, reply.emotion, verdict, self._model, session)

    def _find_reply(self, name: str) -> Reply:
        if name not in self._replies:
            raise ApiError(
                404,
                f"no reply {name!r:.80} is remembered; rate it with verdict, and with its context, reply and emotion",
                "reply_not_found",
                "id",
            )
        return self._replies[name]

    def _brought(self, request: FeedbackRequest, name: str) -> Reply:
        """Return the reply that a request holds itself."""
        if request.context is None or request.reply is None or request.emotion is None:
            return self._find_reply(name)
        emotion = emotion_from(request.emotion, request.strength, self._labels)
        return Reply(tuple(request.context), request.reply, emotion)


def _store(store: FeedbackStore, opinions: Sequence[Opinion]) -> None:
    for opinion in opinions:
        store.rate(opinion)
