"""Another emotion for a text whose content is kept: the VAE proposes, a guide chooses.

Candidates come from three sources. Whole texts: the text's latent, drawn from its posterior and moved to the prior of the new
emotion, decoded with that emotion. Sentences: short ones that the decoder often begins a text of that emotion with, before or
behind the source. Edits: a few words of a candidate are replaced, left out or joined by words that the decoder writes at that
place, given latent and emotion; the best candidates are edited again, for some rounds (a search by energy as in Mix and Match,
Mireshghallah et al. 2022, and simulated editing, Liu et al. 2020; ours keeps the best of each round). At a rate of few nats a
latent holds what a text is about and not its words, so that edits keep content which whole texts lose.

What is chosen is highest in

    log p(emotion | text) + keep log kept - fluency max(0, nats - nats of the source)

p by the guide; `kept` is the share of letters in words that both texts have (Dice); nats are the decoder's a word, by
which an invented word, of many likely tokens, is a costly one.
"""

from __future__ import annotations

import math
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emogen.decoding.latent import LatentSpace, move_latents, posterior, refuse_unreadable, written
from emogen.decoding.loop import PromptBatch, generate
from emogen.decoding.params import SamplingParams
from emogen.decoding.random_streams import fold_in, row_normals
from emogen.decoding.sampler import build_sampler
from emogen.decoding.texts import Guide
from emogen.decoding.transfer_options import TransferOptions
from emogen.emotions.labels import Emotion, mixture
from emogen.models.likelihood import reply_nll
from emogen.text.tokenizer import BOS, PAD
from emogen.text.words import word_spans, words

_LEAST = 1e-6
_ROWS = 128
_WORDS = 3
_SENTENCE = 8
_DRAWN = 1024
_PLAIN = 0.6
_LEAST_WORDS = 2
_ENDS = ".!?。！？"
_CLOSING, _OPENING = ",.!?;:…%)]}”’'", "([{“‘"
_TWICE = re.compile(r"\b(\w+)\W+\1\b|(\w{3,})\2", re.IGNORECASE)


@dataclass(frozen=True)
class Transferred:
    """A text with another emotion.

    Attributes:
        text: what was chosen.
        source: what it was made of.
        emotion: that was asked for.
        probability: of that emotion, by the guide; of a mixture the weighted mean of its labels' probabilities.
        kept: share of letters in words that both have, 0 to 1.
        nats: the decoder's, a word.
    """

    text: str
    source: str
    emotion: str
    probability: float
    kept: float
    nats: float


@dataclass(frozen=True)
class _Line:
    """What the search of one line knows.

    Attributes:
        source: the text.
        emotion: asked for.
        condition: [1, emotions + 1 + latent], of the new emotion and the moved latent.
        nats: of the source.
    """

    source: str
    emotion: Emotion
    condition: Tensor
    nats: float


@dataclass(frozen=True)
class _Gap:
    """A place where words are to be written: before, behind, and how many words; none leaves out what stood there."""

    before: str
    behind: str
    words: int


def transfer(
    space: LatentSpace,
    texts: Iterable[str],
    emotion: Emotion | Iterable[Emotion],
    options: TransferOptions | None = None,
    guide: Guide | None = None,
    first: int = 0,
) -> Iterator[Transferred]:
    """Yield each text with the emotion that is asked for, in order, one read after another.

    Args:
        space: of a VAE.
        texts: the sources.
        emotion: one for all, or one for each.
        options: of the search.
        guide: finds emotions; without one the decoder's own likelihoods under each label do (`own_guide`).
        first: number of the first text, for its random numbers and for errors.

    Raises:
        DataError: a text that is blank, or longer than the model reads.
    """
    options, guide = options or TransferOptions(), guide or own_guide(space)
    target = repeat(emotion) if isinstance(emotion, Emotion) else emotion
    sentences: dict[Emotion, list[str]] = {}
    for number, (text, own) in enumerate(zip(texts, target, strict=False), first):
        refuse_unreadable(space, text, f"line {number + 1}")
        if own not in sentences:
            sentences[own] = plain_sentences(space, own, options, guide)
        yield _transfer_line(
            space,
            text,
            own,
            replace(options, seed=random.Random(f"{options.seed}:{number}").getrandbits(62)),
            guide,
            sentences[own],
        )


def plain_sentences(space: LatentSpace, emotion: Emotion, options: TransferOptions, guide: Guide) -> list[str]:
    """Short sentences that the decoder begins its texts of an emotion with, the best first, at most `options.sentences`.

    Best is what has the highest log p(emotion | sentence) + log of how often it was drawn - its nats a word: what is said
    often, in likely words, is plain.
    """
    if not options.sentences:
        return []
    drawn = SamplingParams(temperature=_PLAIN, max_tokens=2 * _SENTENCE, seed=options.seed)
    condition = space.condition(emotion, 1)
    noise = row_normals([fold_in(options.seed, row) for row in range(_DRAWN)], space.generator.config.latent)
    latents = space.generator.prior(condition).sample(noise.to(condition.device))
    texts = [found.text for found in written(space, latents, emotion, drawn)]
    counts = Counter(text[:end].strip() for text in texts if (end := _sentence_end(text)))
    found = [text for text in counts if len(words(text)) > _LEAST_WORDS and not stutters(text)]
    if not found:
        return []
    fit = np.log(np.maximum(guide(found) @ np.asarray(emotion.weights), _LEAST))
    nats = _a_word(space, found, _usual(space, emotion))
    reward = fit + np.log([counts[text] for text in found]) - nats
    return [found[place] for place in np.argsort(-reward, kind="stable")[: options.sentences]]


def own_guide(space: LatentSpace) -> Guide:
    """Return probabilities of the labels from the decoder's likelihoods of a text under each.

    With the prior's mean for a latent.
    """

    def probabilities(texts: Sequence[str]) -> NDArray[np.float64]:
        alone = [mixture({name: 1.0}, space.labels) for name in space.labels.names]
        found = (-torch.stack([_nats(space, texts, _usual(space, each)) for each in alone], 1)).softmax(1)
        return np.asarray(found.double().cpu().numpy())

    return probabilities


def _usual(space: LatentSpace, emotion: Emotion) -> Tensor:
    """Return the condition [1, emotions + 1 + latent] of an emotion with the prior's mean for a latent."""
    conditioning = space.condition(emotion, 1)
    return torch.cat([conditioning, space.generator.prior(conditioning).mean], 1)


def kept(source: str, text: str) -> float:
    """Return the share of letters in words that both texts have: twice those in common, by all there are (Dice).

    0 where there is none.

    >>> kept("I love dogs", "I hate dogs")
    0.5555555555555556
    """
    ours, theirs = Counter(words(source)), Counter(words(text))
    whole = sum(len(word) * count for word, count in (ours + theirs).items())
    return 2 * sum(len(word) * count for word, count in (ours & theirs).items()) / whole if whole else 0.0


def stutters(text: str) -> int:
    """Return how often letters or words come twice in a row, as small decoders like to write them.

    >>> stutters("it is so so very veryvery good")
    2
    """
    return len(_TWICE.findall(text))


@torch.no_grad()
def _transfer_line(
    space: LatentSpace, text: str, emotion: Emotion, options: TransferOptions, guide: Guide, sentences: Sequence[str]
) -> Transferred:
    draw = random.Random(options.seed)
    line, latents = _prepare(space, text, emotion, options)
    sampling = SamplingParams(
        temperature=options.temperature, top_p=0.95, max_tokens=space.limits.reply_tokens + 1, seed=options.seed
    )
    fresh = [found.text for found in written(space, latents, emotion, sampling)] if options.samples else []
    beside = [_join(each, text) for each in sentences] + [_join(text, each) for each in sentences if _is_ended(text)]
    pool = _rank(space, line, [text, *fresh, *beside], options, guide)
    for _ in range(options.rounds):
        # The source too: what is found first need not lie on the way to what is best.
        begin = dict.fromkeys([text, *(found.text for found in pool[: options.best])])
        texts = list(begin)
        gaps = [_gap(text, draw) for text in texts for _ in range(options.edits)]
        begun = [[BOS, *space.tokenizer.encode(gap.before.rstrip())] for gap in gaps]
        lengths = torch.tensor([len(row) for row in begun])
        tokens = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in begun], batch_first=True, padding_value=PAD)
        device = space.generator.bias.device
        most = min(2 * _SENTENCE, space.limits.reply_tokens + 1)
        stream = torch.Generator().manual_seed(draw.getrandbits(62))
        uniforms = torch.rand(len(gaps), most, generator=stream).to(device)
        prefixes = PromptBatch(tokens.to(device), lengths.to(device), line.condition.expand(len(gaps), -1))
        choose = build_sampler(SamplingParams(temperature=options.temperature, top_p=0.95), uniforms)
        rows = generate(space.generator, prefixes, most, choose).tokens.tolist()
        edited = [_fill_gap(space, gap, own, row) for gap, own, row in zip(gaps, begun, rows, strict=True)]
        known = {found.text for found in pool}
        pool = _best(
            [*pool, *_rank(space, line, [each for each in edited if each not in known], options, guide)], line, options
        )
    return pool[0]


def _prepare(space: LatentSpace, text: str, emotion: Emotion, options: TransferOptions) -> tuple[_Line, Tensor]:
    """Return what the search knows, and the latents [samples, latent] of whole texts."""
    found = posterior(space, [text])
    priors = [space.generator.prior(space.condition(own, 1)) for own in (None, emotion)]
    stream = torch.Generator().manual_seed(options.seed)
    noise = torch.randn(options.samples, found.mean.shape[1], generator=stream).to(found.mean.device)
    middle, around = (move_latents(each, *priors) for each in (found.mean, found.sample(options.spread * noise)))
    condition = torch.cat([space.condition(emotion, 1), middle], 1)
    (nats,) = _a_word(space, [text], condition).tolist()
    return _Line(text, emotion, condition, nats), around


def _rank(space: LatentSpace, line: _Line, texts: Sequence[str], options: TransferOptions, guide: Guide) -> list[Transferred]:
    """Return the texts that can be read, the best first."""
    readable = [text for text in dict.fromkeys(texts) if words(text) and stutters(text) <= stutters(line.source)]
    if not readable:
        return []
    found = guide(readable) @ np.asarray(line.emotion.weights)
    nats = _a_word(space, readable, line.condition).tolist()
    judged = [
        Transferred(text, line.source, str(line.emotion), float(probability), kept(line.source, text), each)
        for text, probability, each in zip(readable, found, nats, strict=True)
    ]
    return _best(judged, line, options)


def _best(found: Sequence[Transferred], line: _Line, options: TransferOptions) -> list[Transferred]:
    return sorted(found, key=lambda each: _worth(each, line, options), reverse=True)


def _worth(found: Transferred, line: _Line, options: TransferOptions) -> float:
    fit = math.log(max(found.probability, _LEAST))
    return fit + options.keep * math.log(max(found.kept, _LEAST)) - options.fluency * max(0.0, found.nats - line.nats)


def _nats(space: LatentSpace, texts: Sequence[str], condition: Tensor) -> Tensor:
    """Return negative log-likelihood of each text under one condition [1, ...], [texts]."""
    space.vae.eval()
    tokens = space.rows(texts)
    starts = torch.ones(len(tokens), dtype=torch.long, device=tokens.device)
    pieces = zip(torch.split(tokens, _ROWS), torch.split(starts, _ROWS), strict=True)
    with torch.no_grad():
        return torch.cat(
            [reply_nll(space.generator, rows, begin, condition.expand(len(rows), -1))[0].sum(1) for rows, begin in pieces]
        )


def _a_word(space: LatentSpace, texts: Sequence[str], condition: Tensor) -> NDArray[np.float64]:
    """Return negative log-likelihood of each text by its words and its end, [texts]."""
    nats = np.asarray(_nats(space, texts, condition).double().cpu().numpy())
    lengths = np.array([len(words(text)) + 1 for text in texts])
    return np.asarray(nats / lengths)


# ---- edits


def _gap(text: str, draw: random.Random) -> _Gap:
    """Return a place in a text.

    A sentence in front, one behind where one ends, or up to three words instead of, or between, others.

    Marks at which sentences end are not words, and stay.
    """
    spans = [span for span in word_spans(text) if text[span[0]] not in _ENDS]
    kind = draw.choice(("front", "front", "behind", "behind", "replace", "insert", "leave out"))
    if kind == "behind" and _is_ended(text):
        return _Gap(text, "", _SENTENCE)
    if kind in ("front", "behind") or not spans:
        return _Gap("", text, _SENTENCE)
    begin = draw.randrange(len(spans))
    if kind == "insert":
        return _Gap(text[: spans[begin][0]], text[spans[begin][0] :], draw.randint(1, _WORDS))
    last = min(begin + draw.randint(1, _WORDS), len(spans)) - 1
    between = [text[spans[at][1] : spans[at + 1][0]] for at in range(begin, last)]
    end = next((begin + at for at, marks in enumerate(between) if set(marks) & set(_ENDS)), last)
    number = draw.randint(1, _WORDS) if kind == "replace" else 0
    return _Gap(text[: spans[begin][0]], text[spans[end][1] :], number)


def _fill_gap(space: LatentSpace, gap: _Gap, begun: Sequence[int], row: Sequence[int]) -> str:
    """Return the text with what the decoder wrote in the gap: so many words, or no more than a sentence."""
    before = space.tokenizer.decode(begun)
    new = space.tokenizer.decode(row)[len(before) :]
    if gap.before.strip() and new[:1].isalnum() and before[-1:].isascii():
        # It went on with the word before.
        return gap.before + gap.behind
    upto = _sentence_end(new) if gap.words == _SENTENCE else max([end for _, end in word_spans(new)[: gap.words]], default=0)
    return _join(_join(gap.before.rstrip(), new[:upto].strip()), gap.behind.lstrip() if gap.words else gap.behind)


def _sentence_end(text: str) -> int:
    """Tell where the first sentence of a text ends, marks that are repeated with it; 0 where that is not within a few words."""
    spans = word_spans(text)[: _SENTENCE + 1]
    marks = [number for number, (start, end) in enumerate(spans) if text[start:end] in _ENDS]
    if not marks:
        return 0
    last = marks[0]
    while last + 1 < len(spans) and text[slice(*spans[last + 1])] in _ENDS:
        last += 1
    return spans[last][1]


def _is_ended(text: str) -> bool:
    """Tell whether a sentence can follow: the last character is a mark or an emoji."""
    return not text.rstrip()[-1:].isalnum()


def _join(left: str, right: str) -> str:
    """Return both with a blank between, where one belongs there.

    >>> _join("Oh", "[NAME]"), _join("Oh", ", yes"), _join("太好了。", "谢谢"), _join("I’m", "😂")
    ('Oh [NAME]', 'Oh, yes', '太好了。谢谢', 'I’m 😂')
    """
    if not left or not right or left[-1].isspace() or right[0].isspace():
        return left + right
    tight = right[0] in _CLOSING or left[-1] in _OPENING or _is_cjk(left[-1]) or _is_cjk(right[0])
    return left + right if tight else f"{left} {right}"


def _is_cjk(character: str) -> bool:
    """Tell whether it is a wide letter or mark, beside which no blank stands; emoji are wide, and no letters."""
    return unicodedata.east_asian_width(character) in "WF" and unicodedata.category(character)[0] in "LP"
