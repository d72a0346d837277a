"""What people replied in similar conversations of the training rows: more candidates and references for minimum Bayes risk.

Similar are conversations whose speakers said alike things and probably feel alike. The cosine of tf-idf vectors says the first,
a classifier's probability of the other's feeling the second. An opening utterance is compared with openings only, since it is
answered otherwise than what comes later. Some conversations are near to very many: as candidates they count less by half of
their cosine to their own neighbours (after CSLS, Conneau et al. 2018), or the same reply would go out again and again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emogen.errors import DataError
from emogen.text.words import words

CANDIDATES = 40
REFERENCES = 300
SPREAD = 100
FEELING = 0.1
CROWDING = 0.5
_SAMPLE = 4_000
_NEIGHBOURS = 10

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Turn:
    """What a listener replied to.

    Attributes:
        said: all that the speaker said so far.
        opens: whether that is one utterance.
        reply: the listener's.
        feeling: the speaker's, its number.
    """

    said: str
    opens: bool
    reply: str
    feeling: int


@dataclass(frozen=True)
class Memory:
    """Training turns by their words.

    Attributes:
        turns: all of them.
        postings: by word, the places of the turns that hold it and its weights there; vectors have length 1.
        rarity: by word, log of turns by those that hold it, smoothed.
        opens: [turns].
        feelings: [turns].
        crowding: [turns], mean cosine to the nearest of a sample of the same kind.
    """

    turns: Sequence[Turn]
    postings: dict[str, tuple[NDArray[np.int64], Numbers]]
    rarity: dict[str, float]
    opens: NDArray[np.bool_]
    feelings: NDArray[np.int64]
    crowding: Numbers


@dataclass(frozen=True)
class Remembered:
    """Replies to similar conversations, the nearest first.

    Attributes:
        candidates: for the reply.
        references: for its utility.
        weights: of the references: those of a normal distribution over their ranks, with a tail in place of an edge.
    """

    candidates: Sequence[str]
    references: Sequence[str]
    weights: Sequence[float]


def remember(turns: Sequence[Turn]) -> Memory:
    """Return the training turns, indexed; crowding is measured against an even sample of them."""
    counts = [Counter(words(turn.said)) for turn in turns]
    held = Counter(word for count in counts for word in count)
    rarity = {word: float(np.log((1 + len(turns)) / (1 + number)) + 1) for word, number in held.items()}
    places: dict[str, list[int]] = {word: [] for word in held}
    weights: dict[str, list[float]] = {word: [] for word in held}
    for place, count in enumerate(counts):
        for word, weight in vector(count, rarity).items():
            places[word].append(place)
            weights[word].append(weight)
    postings = {word: (np.array(places[word]), np.array(weights[word])) for word in held}
    opens, feelings = np.array([turn.opens for turn in turns]), np.array([turn.feeling for turn in turns])
    memory = Memory(turns, postings, rarity, opens, feelings, np.zeros(len(turns)))
    return Memory(turns, postings, rarity, opens, feelings, crowding(memory))


def vector(count: Counter[str], rarity: dict[str, float]) -> dict[str, float]:
    """Return a text's weights by word, of length 1: (1 + log count) * rarity; words that no turn holds are left out."""
    weights = {word: (1 + float(np.log(number))) * rarity[word] for word, number in count.items() if word in rarity}
    length = sum(weight**2 for weight in weights.values()) ** 0.5
    return {word: weight / length for word, weight in weights.items()} if length else {}


def cosines(memory: Memory, said: str) -> Numbers:
    """Of what a speaker said with each turn, [turns]."""
    found = np.zeros(len(memory.turns))
    for word, weight in vector(Counter(words(said)), memory.rarity).items():
        places, weights = memory.postings[word]
        found[places] += weight * weights
    return found


def crowding(memory: Memory) -> Numbers:
    """Return the mean cosine of each turn with its nearest of a sample of its kind, itself and its copies left out, [turns]."""
    found = np.zeros(len(memory.turns))
    for kind in (True, False):
        own = np.flatnonzero(memory.opens == kind)
        nearest = np.zeros((_NEIGHBOURS, len(own)))
        for place in own[:: max(1, len(own) // _SAMPLE)]:
            near = cosines(memory, memory.turns[place].said)[own]
            near[near > 1 - 1e-9] = 0.0
            least = nearest.argmin(0)
            columns = np.arange(len(own))
            nearest[least, columns] = np.maximum(nearest[least, columns], near)
        found[own] = nearest.mean(0)
    return found


def remembered(memory: Memory, said: str, opens: bool, feelings: Numbers) -> Remembered:
    """Return what was replied in similar conversations.

    Args:
        memory: of the training turns.
        said: by the speaker.
        opens: whether that is one utterance.
        feelings: [labels], probabilities of what the speaker feels.

    Raises:
        DataError: there is nothing of its kind.
    """
    if opens not in memory.opens:
        raise DataError(
            f"no training conversation is as long as one that begins {said[:40]!r}: the corpus needs openings and later turns"
        )
    near = cosines(memory, said) + FEELING * feelings[memory.feelings]
    near[memory.opens != opens] = -np.inf
    references = best(near, REFERENCES)
    candidates = best(near - CROWDING * memory.crowding, CANDIDATES)
    weights = np.exp(-((np.arange(len(references)) / SPREAD) ** 2)).tolist()
    turns = memory.turns
    return Remembered([turns[at].reply for at in candidates], [turns[at].reply for at in references], weights)


def best(values: Numbers, number: int) -> NDArray[np.int64]:
    """Return the places of the highest finite values, the highest first."""
    number = min(number, int(np.isfinite(values).sum()))
    some = np.argpartition(-values, number - 1)[:number] if number else np.zeros(0, np.int64)
    return some[np.argsort(-values[some], kind="stable")]
