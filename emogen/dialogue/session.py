"""One conversation: what was said, what its user feels by now, and with which emotion he is answered."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from emogen.decoding.params import SamplingParams
from emogen.dialogue.engine import Engine
from emogen.dialogue.policy import Policy, find_policy
from emogen.dialogue.state import DECAY, EmotionState, felt
from emogen.dialogue.stream import ReplyStream
from emogen.emotions.labels import Emotion, LabelSet, is_word
from emogen.emotions.names import AUTO
from emogen.emotions.space import Trajectory, trajectory
from emogen.errors import BusyError, SettingsError
from emogen.recognition.recognizer import Recognizer


@dataclass(frozen=True)
class SessionConfig:
    """How a session answers; it may be another at every turn.

    Attributes:
        emotion: of its replies, `joy` or `joy=0.7,surprise=0.3`; "none" asks for none; None or "auto" leaves it to the policy.
            A label of the model that is called none or auto goes before the word.
        strength: of the emotion, 0 to 1; that of a policy is multiplied by it.
        policy: mirror, soothe, cheer, neutral, or a file: from what the user feels to the emotion of the reply; None asks for
            no emotion, which readers find the most empathetic.
        decay: what a turn of the user counts one turn later, 0 to 1.
        sampling: decoding options, control among them, in place of those of `EmotionModel.sampling_for`.
        seed: the same seed and the same words of the user give the same conversation on a CPU.
    """

    emotion: str | None = None
    strength: float = 1.0
    policy: str | None = None
    decay: float = DECAY
    sampling: SamplingParams | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise SettingsError(f"strength {self.strength:g} is not between 0 and 1")


@dataclass(frozen=True)
class Turn:
    """What the user said, and the reply to it.

    Attributes:
        context: what was said before, oldest first.
        said: by the user.
        state: of his emotion after it, over the recogniser's labels; None without a recogniser.
        target: the emotion of the reply.
        writing: the reply.
        name: of the reply, unlike that of any other: what an opinion about it refers to.
    """

    context: tuple[str, ...]
    said: str
    state: EmotionState | None
    target: Emotion
    writing: ReplyStream
    name: str

    @property
    def replied_to(self) -> tuple[str, ...]:
        """Return the conversation that the reply answers."""
        return (*self.context, self.said)

    @property
    def utterances(self) -> tuple[str, ...]:
        """Return the conversation after it, with the reply as far as it is written."""
        return (*self.replied_to, self.writing.text) if self.writing.text else self.replied_to


class Session:
    """A conversation with a model; any number of them share its engine. One reply is written at a time.

    A reply depends on what was said in this session and on its manner alone: not on what else the engine writes.
    """

    def __init__(self, engine: Engine, recognizer: Recognizer | None = None, manner: SessionConfig | None = None) -> None:
        """Before anything is said.

        Args:
            engine: writes the replies.
            recognizer: of what the user feels; without one the replies have the emotion of the manner, or none.
            manner: how it answers; it may be set anew between turns.
        """
        self.manner = manner or SessionConfig()
        self._engine, self._recognizer = engine, recognizer
        self._turns: tuple[Turn, ...] = ()
        self._tries = 0

    @property
    def manner(self) -> SessionConfig:
        """Return how it answers. The file of its policy is read once, and again when the manner is set anew."""
        return self._manner

    @manner.setter
    def manner(self, manner: SessionConfig) -> None:
        self._manner = manner
        self._find_policy = cache(find_policy)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Return all that was said, oldest first."""
        return self._turns

    @property
    def state(self) -> EmotionState | None:
        """Return what the user feels by now; None without a recogniser."""
        return self._felt(self._turns, [])

    @property
    def course(self) -> Trajectory:
        """Return the course of the user's emotion, a point a turn.

        Raises:
            SettingsError: nothing was said, there is no recogniser, or one of its labels has no point.
        """
        return trajectory([turn.state.emotion for turn in self._turns if turn.state])

    def say(self, text: str) -> ReplyStream:
        """Answer the reply is written while its pieces are read, and belongs to the conversation as far as it was written.

        Raises:
            SettingsError: a blank text, or a manner that the model or the recogniser cannot serve.
            BusyError: the last reply is still written, or the engine has too much to do.
        """
        if not text.strip():
            raise SettingsError("nothing was said; a turn needs a text")
        self._require_rest()
        return self._answer(self._turns, text, 0)

    def again(self) -> ReplyStream:
        """Return another reply to what was said last, in place of the one there is; errors as for `say`."""
        if not self._turns:
            raise SettingsError("nothing was said yet; there is no reply to be written again")
        self._require_rest()
        return self._answer(self._turns[:-1], self._turns[-1].said, self._tries + 1)

    def reply(self, text: str) -> str:
        """Return the whole text of `say`, once it is written; errors as there."""
        return self.say(text).wait()

    def forget(self) -> None:
        """End what is being written, and begin anew."""
        for turn in self._turns[-1:]:
            turn.writing.cancel()
        self._turns = ()

    def _require_rest(self) -> None:
        if self._turns and self._turns[-1].writing.ended is None:
            raise BusyError("the last reply is still being written; read it to its end, or cancel it")

    def _felt(self, turns: Sequence[Turn], further: Sequence[str]) -> EmotionState | None:
        """Return what the user feels after some turns, and some more utterances."""
        before = turns[-1].state if turns else None
        return felt(self._recognizer, further, self.manner.decay, before) if self._recognizer else None

    def _answer(self, earlier: tuple[Turn, ...], text: str, tries: int) -> ReplyStream:
        state = self._felt(earlier, [text])
        target = emotion_for(self.manner, state, self._engine, self._find_policy)
        context = earlier[-1].utterances if earlier else ()
        seed = seed_of(self.manner.seed, len(earlier), tries)
        writing = self._engine.write((*context, text), target, self.manner.sampling, seed)
        self._turns, self._tries = (*earlier, Turn(context, text, state, target, writing, uuid.uuid4().hex)), tries
        return writing


def emotion_for(
    manner: SessionConfig,
    state: EmotionState | None,
    engine: Engine,
    find: Callable[[str, LabelSet, LabelSet], Policy] = find_policy,
) -> Emotion:
    """Return the emotion to answer with, over the labels of the engine's model; `find` gives the policy of a name.

    Raises:
        SettingsError: one that the model does not know, or a policy that does not fit the labels of model and recogniser.
    """
    target = None if leaves_to_policy(manner.emotion, engine.model.labels) else manner.emotion
    if target is not None or state is None or manner.policy is None:
        return engine.model.emotion(target, manner.strength)
    answer = find(manner.policy, state.labels, engine.model.labels).answer(state.emotion)
    return replace(answer, strength=answer.strength * manner.strength)


def leaves_to_policy(emotion: str | None, labels: LabelSet) -> bool:
    """Return whether the emotion of a reply is what a policy answers: none was named, or the word auto."""
    return emotion is None or is_word(emotion, AUTO, labels)


def seed_of(session: int, turn: int, tries: int = 0) -> int:
    """Return the seed of a reply: of the n-th turn (from 0) of a session with that seed, at which it was tried so often before.

    Raises:
        SettingsError: a negative seed.
    """
    if session < 0:
        raise SettingsError(f"seed {session} is below 0")
    return int(np.random.SeedSequence([session, turn, tries]).generate_state(1)[0])
