"""How well replies fit a context: by a generator's likelihoods, or by an encoder's vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emogen.checkpoint.model import EmotionModel
from emogen.dialogue.match import Fit
from emogen.emotions.labels import no_emotion
from emogen.models.likelihood import reply_nll
from emogen.recognition.encoder import TextEncoder
from emogen.text.tokenizer import EOS, PAD
from emogen.train.loops.mle import with_no_latent

_AT_ONCE = 32
_TOKENS_AT_ONCE = 2048
_PLACES = 1024
_MOST_TOKENS = 256
_MOST_CHARACTERS = 4096
_SHOWN = 4096


def mutual_information(model: EmotionModel, context: Sequence[str]) -> Fit:
    """Return pointwise mutual information of a reply and the context, log p(reply | context) - log p(reply), in nats.

    Replies that would fit anywhere gain nothing by it. Both likelihoods are of the reply with its end, under no emotion; of a
    reply the first 256 tokens count, of the context those that the model keeps.

    Source: Li et al. 2016, A diversity-promoting objective function for neural conversation models (eq. 3).

    Args:
        model: a generator, or a VAE, whose latent is then its prior's mean.
        context: utterances, oldest first, the newest the user's.
    """
    most = model.description.limits.context_tokens
    prefixes = [model.tokenizer.prefix(turns, most) for turns in (list(context), [])]

    def fit(texts: Sequence[str]) -> NDArray[np.float64]:
        replies = [model.tokenizer.encode(text[:_MOST_CHARACTERS])[:_MOST_TOKENS] for text in texts]
        given, alone = (_nll(model, prefix, replies) for prefix in prefixes)
        return alone - given

    return fit


def cosine(encoder: TextEncoder, context: Sequence[str]) -> Fit:
    """Return the cosine, -1 to 1, of a reply's vector and that of the context's utterances in one text."""

    def fit(texts: Sequence[str]) -> NDArray[np.float64]:
        # What is cut is the beginning, since the newest utterance says what is replied to.
        said = encoder.sentences(["\n".join(context)[-_SHOWN:]])[0]
        return np.asarray(encoder.sentences([text[:_SHOWN] for text in texts]) @ said)

    return fit


@torch.inference_mode()
def _nll(model: EmotionModel, prefix: Sequence[int], replies: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Return nats of each reply and its end behind `prefix`, [replies]."""
    generator = model.generator.eval()
    device = generator.bias.device
    condition = torch.tensor([no_emotion(model.labels).condition], device=device)
    nats = np.zeros(len(replies))
    for places in _places(replies, len(prefix)):
        rows = [torch.tensor([*prefix, *replies[place], EOS]) for place in places]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD).to(device)
        starts = torch.full((len(rows),), len(prefix), device=device)
        emotion = with_no_latent(generator, condition.expand(len(rows), -1))
        found, _ = reply_nll(generator, tokens, starts, emotion, _PLACES)
        nats[places] = found.double().sum(1).cpu().numpy()
    return nats


def _places(replies: Sequence[Sequence[int]], before: int) -> Iterator[list[int]]:
    """Yield replies of similar length together, so many that their tokens fit."""
    waiting = sorted(range(len(replies)), key=lambda place: len(replies[place]))
    while waiting:
        longest = before + len(replies[waiting[min(_AT_ONCE, len(waiting)) - 1]]) + 1
        size = max(1, min(_AT_ONCE, _TOKENS_AT_ONCE // longest))
        yield waiting[:size]
        waiting = waiting[size:]
