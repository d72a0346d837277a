"""The conversations of `load.py`: what is said and asked for in each, and what the model answers alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from emogen.checkpoint.model import EmotionModel
from emogen.decoding.control import parse_control
from emogen.decoding.params import SamplingParams
from emogen.dialogue.policy import find_policy
from emogen.dialogue.session import seed_of
from emogen.dialogue.state import felt
from emogen.emotions.labels import Emotion
from emogen.recognition.recognizer import Recognizer

_SAID = (
    "I lost my job this morning.",
    "We are going to have a baby!",
    "My sister has not called for a month.",
    "The neighbours were loud all night again.",
    "I passed the exam, can you believe it?",
    "There is a strange noise in the cellar.",
    "I do not know what to cook tonight.",
    "They gave me the wrong soup, and it was cold.",
    "What would you do in my place?",
    "My old dog died on Sunday.",
    "I found a letter from my grandfather.",
    "我今天很开心。",
    "Nobody came to my party.",
    "So I told him that I was leaving.",
    "Thank you for listening to me.",
    "The train is late, as always.",
)
_CONTROLS = ("none", "guidance:2", "guidance:3", "expert:1", "bayes:1", "guidance:1.5,bayes:0.5")
_HEAD = ("head:1", "guidance:2,head:1")


@dataclass(frozen=True)
class Turn:
    """What is asked for at one turn.

    Attributes:
        said: by the user.
        emotion: of the reply; None leaves it to the policy, "none" asks for none.
        strength: of it.
        control: of the reply.
        temperature: of the reply.
        seed: of the reply.
    """

    said: str
    emotion: str | None
    strength: float
    control: str
    temperature: float
    seed: int

    def body(self, context: list[str]) -> dict[str, object]:
        """Return the request, behind the utterances of earlier turns."""
        roles = ("user", "assistant")
        messages = [{"role": roles[at % 2], "content": text or "..."} for at, text in enumerate([*context, self.said])]
        target = {"control": self.control, "temperature": self.temperature, "seed": self.seed, "strength": self.strength}
        return {"model": "emogen", "messages": messages, **target, **({"emotion": self.emotion} if self.emotion else {})}


@dataclass(frozen=True)
class Answered:
    """A turn's reply, as the model gives it alone."""

    text: str
    tokens: int


Talk = tuple[Turn, ...]


def talks(model: EmotionModel, sessions: int, turns: int, seed: int) -> list[Talk]:
    """Return conversations with emotions, mixtures, strengths, controls, temperatures and seeds of all kinds."""
    controls = (*_CONTROLS, *_HEAD) if model.head else _CONTROLS
    return [tuple(_turns(model, controls, number, turns, seed)) for number in range(sessions)]


def _turns(model: EmotionModel, controls: tuple[str, ...], number: int, turns: int, seed: int) -> Iterator[Turn]:
    random, names = Random(f"{seed} {number}"), model.labels.names
    for turn in range(turns):
        first, second = random.sample(names, 2)
        emotion = random.choice((first, second, f"{first}=0.75,{second}=0.25", "none", None))
        strength = random.choice((1.0, 1.0, 0.5))
        temperature = random.choice((0.0, 0.7, 0.85, 1.0))
        own = seed_of(seed * 100_000 + number, turn)
        yield Turn(random.choice(_SAID), emotion, strength, random.choice(controls), temperature, own)


def alone(model: EmotionModel, recognizer: Recognizer, talk: Talk) -> list[Answered]:
    """Return the replies of a conversation that nothing else is written beside."""
    context: list[str] = []
    found = []
    for turn in talk:
        users = [*context[::2], turn.said]
        context.append(turn.said)
        reply = model.reply(
            [text or "..." for text in context], _emotion(model, recognizer, turn, users), _options(model, turn), turn.seed
        )
        found.append(Answered(reply.text, reply.tokens))
        context.append(reply.text)
    return found


def _options(model: EmotionModel, turn: Turn) -> SamplingParams:
    return replace(model.default_sampling, control=parse_control(turn.control), temperature=turn.temperature)


def _emotion(model: EmotionModel, recognizer: Recognizer, turn: Turn, users: list[str]) -> Emotion:
    """As the server finds it: by the policy `soothe`, where the turn does not say."""
    if turn.emotion == "none":
        return model.emotion(None)
    if turn.emotion:
        return model.emotion(turn.emotion, turn.strength)
    answer = find_policy("soothe", recognizer.names, model.labels).answer(felt(recognizer, users).emotion)
    return replace(answer, strength=answer.strength * turn.strength)
