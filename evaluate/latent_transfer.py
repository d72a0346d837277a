"""Emotion transfer by a VAE, against copies and phrases."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emogen.data.exchange import Exchange
from emogen.decoding.latent import LatentSpace
from emogen.decoding.transfer import transfer
from emogen.decoding.transfer_options import TransferOptions
from emogen.emotions.labels import mixture
from emogen.evaluate.emotion import judged_labels
from emogen.evaluate.overlap import sentence_chrf
from emogen.evaluate.resampling import mean_tally
from emogen.evaluate.score import signature
from emogen.files import write_text
from emogen.recognition.encoder import load_text_encoder
from emogen.recognition.recognizer import Recognizer
from emogen.text.words import words
from emogen.train.language_model import LanguageModel

CHRF = "chrf"


# By corpus, for each of its labels; in the first person, since most of the texts are.
PHRASES = {
    "goemotions": {
        "anger": "I am so angry. {}",
        "disgust": "That is disgusting. {}",
        "fear": "I am so scared. {}",
        "joy": "I am so happy. {}",
        "neutral": "Just so you know. {}",
        "sadness": "I am so sad. {}",
        "surprise": "I am so surprised. {}",
    },
    "smp2020_ewect": {
        "angry": "我很生气。{}",
        "fear": "我很害怕。{}",
        "happy": "我很开心。{}",
        "neutral": "跟你说一下。{}",
        "sad": "我很难过。{}",
        "surprise": "我很惊讶。{}",
    },
}


@dataclass(frozen=True)
class Similarity:
    """How like each other texts are, pair by pair: 1 where they are the same; `name` is for signatures."""

    name: str
    of: Callable[[Sequence[str], Sequence[str]], NDArray[np.float64]]


@dataclass(frozen=True)
class Judging:
    """What outputs are measured with.

    Attributes:
        judge: finds emotions; has seen no row of the guide or the VAE.
        similarity: of source and output.
        language: of fluency.
    """

    judge: Recognizer
    similarity: Similarity
    language: LanguageModel


@dataclass(frozen=True)
class Trial:
    """A text and the emotion that it is to be given."""

    source: str
    emotion: str


def trials(rows: Sequence[Exchange], labels: Sequence[str]) -> list[Trial]:
    """Return each text with one of the emotions that it does not have; those of a label's texts take turns."""
    found, seen = [], dict.fromkeys(labels, 0)
    for row in rows:
        own = row.emotion.name
        others = [name for name in labels if name != own]
        found.append(Trial(row.reply, others[seen[own] % len(others)]))
        seen[own] += 1
    return found


def similarity_by(name: str) -> Similarity:
    """ChrF of the second text with the first for its reference, or the cosine of an encoder's vectors."""
    if name == CHRF:
        return Similarity(CHRF, lambda first, second: sentence_chrf(second, [[text] for text in first]) / 100)
    encoder = load_text_encoder(name)

    def cosine(first: Sequence[str], second: Sequence[str]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = (encoder.sentences(first) * encoder.sentences(second)).sum(1)
        return found

    return Similarity(encoder.name, cosine)


def transfer_rows(
    space: LatentSpace,
    rows: Sequence[Exchange],
    guide: Recognizer,
    judging: Judging,
    phrases: Mapping[str, str],
    options: TransferOptions,
    kept: Path,
) -> Iterator[dict[str, object]]:
    """Yield figures of the transfer and of both baselines; the texts are written into a file beside the models."""
    # What the VAE cannot read, nobody is asked for.
    readable = [row for row in rows if 0 < len(space.tokenizer.encode(row.reply)) <= space.limits.reply_tokens]
    target = trials(readable, space.labels.names)
    sources, emotions = [trial.source for trial in target], [trial.emotion for trial in target]
    wanted = [mixture({name: 1.0}, space.labels) for name in emotions]
    found = transfer(space, sources, wanted, options, guide.over(space.labels))
    texts = {
        "copy": sources,
        "phrase": [phrases.get(trial.emotion, f"I feel {trial.emotion}. {{}}").format(trial.source) for trial in target],
        "transfer": [each.text for each in found],
    }
    write_text(kept.with_suffix(".json"), json.dumps({"asked": emotions, **texts}, ensure_ascii=False, indent=1) + "\n")
    products: dict[str, NDArray[np.float64]] = {}
    for system, written in texts.items():
        figures = per_text(sources, written, emotions, judging)
        products[system] = figures["product"]
        beyond = {
            f"beyond_{baseline}": products["transfer"] - products[baseline]
            for baseline in texts
            if system == "transfer" != baseline
        }
        about = {
            "judge": judging.judge.folder.name,
            "similarity": judging.similarity.name,
            "language_model": judging.language.name,
        }
        scores = {
            name: mean_tally(values.tolist(), signature(f"transfer_{name}", {"texts": len(target), **about})).score()
            for name, values in (figures | beyond).items()
        }
        yield {"system": system, "n": len(target), **scores}


def per_text(
    sources: Sequence[str], texts: Sequence[str], emotions: Sequence[str], judging: Judging
) -> dict[str, NDArray[np.float64]]:
    """Accuracy, similarity, fluency and their product, [texts] each."""
    judged = judged_labels(judging.judge.probabilities(texts), judging.judge.names.names)
    accuracy = np.array([float(one == other) for one, other in zip(judged, emotions, strict=True)])
    similarity = np.clip(judging.similarity.of(sources, texts), 0.0, 1.0)
    fluency = np.exp(np.minimum(0.0, nats_a_word(sources, judging.language) - nats_a_word(texts, judging.language)))
    return {
        "emotion_accuracy": accuracy,
        "similarity": similarity,
        "fluency": fluency,
        "product": accuracy * similarity * fluency,
    }


def nats_a_word(texts: Sequence[str], language: LanguageModel) -> NDArray[np.float64]:
    """Return negative log-likelihood of each text by its words and its end, [texts], as in `emogen.evaluate.perplexity`."""
    nats: NDArray[np.float64] = language.nll(texts) / np.array([len(words(text)) + 1 for text in texts])
    return nats
