"""The emotion that a request asks for: named by it, or the answer of a policy to what the user feels."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from emogen.dialogue.policy import BUILT_IN, NO_POLICY, Policy, find_policy
from emogen.dialogue.state import DECAY, EmotionState, felt
from emogen.emotions.labels import Emotion, LabelSet, mixture, no_emotion, parse_emotion
from emogen.errors import SettingsError
from emogen.recognition.recognizer import Recognition, Recognizer
from emogen.server.errors import ApiError, name_field


def emotion_from(given: str | Mapping[str, float], strength: float, labels: LabelSet) -> Emotion:
    """Return the emotion of a field `emotion`: `joy`, `joy=0.7,fear=0.3`, an object of names and shares, or `none`.

    Raises:
        ApiError: 400, with the labels.
    """
    with name_field("emotion"):
        if isinstance(given, Mapping):
            return mixture(given, labels, strength)
        return parse_emotion(given, labels, strength)


class EmotionService:
    """What users feel, and the policies that answer it. One text after the other is recognised, beside the event loop."""

    def __init__(self, recognizer: Recognizer | None, labels: LabelSet, policy: str) -> None:
        """Of a server.

        Args:
            recognizer: of what users feel; None for none.
            labels: of the model that replies.
            policy: the server's own, a name, a file, or none. A request names one of those with a name, and no file.

        Raises:
            SettingsError: the server's own policy does not fit the labels of recogniser and model.
            DataError: it is a file that holds no policy.
        """
        self._recognizer, self._labels = recognizer, labels
        self._one_at_a_time = asyncio.Lock()
        self._own = find_policy(policy, recognizer.names, labels) if recognizer and policy != NO_POLICY else None

    @property
    def heard(self) -> LabelSet:
        """Return the labels of what is recognised; raise ApiError 501 where there is no recogniser."""
        return self._required.names

    @property
    def _required(self) -> Recognizer:
        if self._recognizer is None:
            message = "this server has no recogniser; it is started without --recognizer none to have one"
            raise ApiError(501, message, "no_recognizer")
        return self._recognizer

    async def recognise(self, texts: Sequence[str]) -> list[Recognition]:
        """Return what each text expresses; raise ApiError 501 where there is no recogniser."""
        recognizer = self._required
        async with self._one_at_a_time:
            return await asyncio.to_thread(recognizer.recognize, texts)

    async def state(self, texts: Sequence[str], decay: float | None) -> EmotionState | None:
        """Return what a user feels after these, oldest first; None where there is no recogniser."""
        recognizer = self._recognizer
        if recognizer is None:
            return None
        async with self._one_at_a_time:
            return await asyncio.to_thread(felt, recognizer, texts, DECAY if decay is None else decay)

    def answer(self, state: EmotionState | None, policy: str | None, strength: float) -> Emotion:
        """Return the emotion that a policy answers to a state, the server's own where none is named; none without either.

        Raises:
            ApiError: 400, a policy that has no such name, or does not fit the labels.
        """
        if state is None:
            return no_emotion(self._labels)
        with name_field("policy"):
            found = self._policy(policy, state.labels)
        if found is None:
            return no_emotion(self._labels)
        answer = found.answer(state.emotion)
        return replace(answer, strength=answer.strength * strength)

    def _policy(self, name: str | None, heard: LabelSet) -> Policy | None:
        if name is None:
            return self._own
        if name == NO_POLICY:
            return None
        if name not in BUILT_IN:
            raise SettingsError(f"policy {name!r:.80} is not one of {', '.join(BUILT_IN)}, {NO_POLICY}")
        return find_policy(name, heard, self._labels)
