"""Sampling: frozen options in, frozen samples out, and the token loop between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from emogen.emotions import Emotion
from emogen.errors import SettingsError
from emogen.models.generator import Generator
from emogen.text import EOS, PAD, Tokenizer

_BLOCK = 64
_FEWEST_ROWS = 256
_SCORES = {"cpu": 1 << 20}
_SCORES_ELSEWHERE = 1 << 28
_LOOK_AGAIN = 8
_BELOW_ONE = 1 - 2.0**-23
_NUCLEUS = 256
_COLDEST = 1e-6


@dataclass(frozen=True)
class Sampling:
    """Options of one decoding call.

    Attributes:
        n: samples for each condition.
        temperature: divides the scores; 0 takes the likeliest token (greedy).
        top_k: the k likeliest tokens stay; 0 for all (Fan et al. 2018).
        top_p: the smallest set of likeliest tokens that holds this probability stays; 1 for all (Holtzman et al. 2020).
        min_p: tokens stay that are at least this share as likely as the likeliest; 0 for all (Nguyen et al. 2024).
        guidance: scores go this many times the way from those without emotion to those with it (Ho & Salimans 2022; Sanchez et
            al. 2023). 1 leaves them alone; above it the emotion is plainer, texts less various, and each token costs twice.
        max_tokens: a reply is cut after so many.
        seed: of the random numbers; row i of a call has the stream (seed, i).
    """

    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    guidance: float = 1.0
    max_tokens: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.n >= 1, "n", self.n, "at least 1")
        _require(0 <= self.temperature <= 100, "temperature", self.temperature, "between 0 and 100")
        _require(self.top_k >= 0, "top-k", self.top_k, "0 (off) or more")
        _require(0 < self.top_p <= 1, "top-p", self.top_p, "above 0 and at most 1")
        _require(0 <= self.min_p <= 1, "min-p", self.min_p, "between 0 and 1")
        _require(0 <= self.guidance <= 100, "guidance", self.guidance, "between 0 and 100")
        _require(1 <= self.max_tokens <= 4096, "max-tokens", self.max_tokens, "between 1 and 4096")


@dataclass(frozen=True)
class Sample:
    """One generated reply.

    Attributes:
        text: the reply.
        emotion: what was asked for; "none" for no emotion.
        log_probability: of the reply under the model at temperature 1, in nats, its end token included.
        tokens: their number, the end token included.
        finished: whether the model ended it; false where max_tokens cut it.
    """

    text: str
    emotion: str
    log_probability: float
    tokens: int
    finished: bool


@dataclass(frozen=True)
class Prompt:
    """What one reply is asked for with.

    Attributes:
        tokens: context tokens and BOS, from `Tokenizer.prefix`.
        emotion: over the generator's labels.
    """

    tokens: Sequence[int]
    emotion: Emotion


@dataclass(frozen=True)
class Prefixes:
    """What is given to the generator.

    Attributes:
        tokens: [rows, time], context tokens and BOS, padded at the end.
        lengths: [rows].
        condition: [rows, emotions + 1 + latent].
    """

    tokens: Tensor
    lengths: Tensor
    condition: Tensor


@dataclass(frozen=True)
class Generated:
    """Prefixes with their replies.

    Attributes:
        tokens: [rows, time], padded at the end.
        reply_start: [rows].
        log_probs: [rows, time], of the token at each place under the model at temperature 1; 0 outside replies.
        states: decoding states after the prefix and each further token of the reply, where they were asked for.
    """

    tokens: Tensor
    reply_start: Tensor
    log_probs: Tensor
    states: tuple[Tensor, ...] = field(default=(), repr=False)


Choose = Callable[[Tensor, Tensor, int], Tensor]
"""Takes scores [m, vocabulary], the numbers [m] of their rows, and the number of the reply token; gives token ids [m]."""


def sample(
    generator: Generator,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    latent: Tensor | None = None,
    chunk: int = 256,
) -> Iterator[Sample]:
    """`sampling.n` replies to each prompt, those of one prompt after another.

    Args:
        generator: in whatever mode; it decodes in eval mode.
        tokenizer: the generator's.
        prompts: each with a context and an emotion of its own.
        sampling: the options.
        latent: [prompts * n, latent] in place of draws from the standard normal prior.
        chunk: rows decoded at once; a row's text does not depend on it.

    Raises:
        SettingsError: a reply may become longer than the model reads.
    """
    generator.eval()
    rows = [prompt for prompt in prompts for _ in range(sampling.n)]
    if not rows:
        return
    _refuse_longer(max(len(prompt.tokens) for prompt in rows), sampling.max_tokens, generator.backbone.longest)
    if latent is None:
        latent = row_normals(sampling.seed, len(rows), generator.config.latent)
    for at in range(0, len(rows), chunk):
        part = rows[at : at + chunk]
        prefixes = _padded(part, latent[at : at + chunk], generator.bias.device)
        uniforms = row_uniforms(sampling.seed, len(part), sampling.max_tokens, first=at).to(generator.bias.device)
        choose = chooser(sampling, uniforms)
        if sampling.guidance != 1 and any(prompt.emotion.strength for prompt in part):
            prefixes = beside_no_emotion(prefixes, generator.config.emotions)
            choose = guided(choose, sampling.guidance)
        yield from _samples(generate(generator, prefixes, sampling.max_tokens, choose), part, tokenizer)


def _refuse_longer(prompt: int, reply: int, longest: int) -> None:
    if prompt + reply > longest:
        raise SettingsError(f"--max-tokens {reply} behind {prompt} tokens of context: the model reads {longest}; lower it")


def _padded(prompts: Sequence[Prompt], latent: Tensor, device: torch.device) -> Prefixes:
    tokens = [torch.tensor(prompt.tokens) for prompt in prompts]
    condition = torch.tensor([prompt.emotion.condition for prompt in prompts])
    return Prefixes(
        tokens=nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=PAD).to(device),
        lengths=torch.tensor([len(row) for row in tokens], device=device),
        condition=torch.cat([condition, latent], 1).to(device),
    )


def _samples(generated: Generated, prompts: Sequence[Prompt], tokenizer: Tokenizer) -> Iterator[Sample]:
    totals = generated.log_probs.sum(1).tolist()
    for prompt, row, total in zip(prompts, generated.tokens.tolist(), totals, strict=False):
        reply = row[len(prompt.tokens) :]
        kept = reply[: reply.index(PAD)] if PAD in reply else reply
        yield Sample(
            tokenizer.decode(kept).strip(),
            str(prompt.emotion) if prompt.emotion.strength else "none",
            total,
            len(kept),
            EOS in kept,
        )


@dataclass(frozen=True)
class Plain:
    """The choice that leaves the model as it is: a draw at temperature 1. It alone does without all scores at once.

    Attributes:
        uniforms: takes the numbers [m] of rows and the number of the reply token; gives random numbers in [0, 1), [m].
    """

    uniforms: Callable[[Tensor, int], Tensor]

    def __call__(self, scores: Tensor, rows: Tensor, number: int) -> Tensor:
        """See `Choose`."""
        return inverse_cdf(scores.float().softmax(-1), self.uniforms(rows, number))


@torch.no_grad()
def generate(generator: Generator, prefixes: Prefixes, max_tokens: int, choose: Choose, keep_states: bool = False) -> Generated:
    """The token loop: reads each prefix, then chooses up to `max_tokens` tokens, until every row has its end token.

    Once half of the rows have ended, the others go on alone.

    Args:
        generator: its mode is left alone; sampling wants eval mode.
        prefixes: may differ in length; rows do not influence each other.
        max_tokens: of the reply, the end token included.
        choose: picks the next tokens.
        keep_states: whether `Generated.states` is filled, for rollouts.
    """
    lengths, capacity = prefixes.lengths, prefixes.tokens.shape[1] + max_tokens
    tokens = functional.pad(prefixes.tokens, (0, max_tokens), value=PAD)
    log_probs = torch.zeros(tokens.shape, device=tokens.device)
    shifts = generator.shifts(prefixes.condition)
    hidden, state = generator.read(prefixes.tokens, lengths, shifts, generator.start(shifts, capacity))
    states = [state]
    rows = torch.arange(len(tokens), device=tokens.device)
    writing = torch.ones_like(rows, dtype=torch.bool)
    for number in range(max_tokens):
        chosen, taken = _chosen(generator, hidden, choose, rows, number)
        tokens[rows, lengths[rows] + number] = torch.where(writing, chosen, PAD)
        log_probs[rows, lengths[rows] + number] = torch.where(writing, taken, 0.0)
        writing = writing & (chosen != EOS)
        left = int(writing.sum()) if looks(number, rows.device) else len(rows)
        if number + 1 == max_tokens or not left:
            break
        if not keep_states and 2 * left <= len(rows):
            rows, chosen, shifts, state = rows[writing], chosen[writing], shifts[:, writing], state[:, :, writing]
            writing = writing[writing]
        hidden, state = generator.step(chosen, lengths[rows] + number, shifts, state)
        if keep_states:
            states.append(state)
    used = int((tokens != PAD).sum(1).max())
    return Generated(tokens[:, :used], lengths, log_probs[:, :used], tuple(states) if keep_states else ())


def looks(number: int, device: torch.device) -> bool:
    """Whether a token loop looks which rows have ended after its step `number`: on a GPU, which then has to wait, seldom."""
    return device.type == "cpu" or number % _LOOK_AGAIN == _LOOK_AGAIN - 1


def _chosen(generator: Generator, hidden: Tensor, choose: Choose, rows: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The next tokens [m] and their log probabilities at temperature 1."""
    if isinstance(choose, Plain):
        return draw(generator, hidden, choose.uniforms(rows, number))
    scores = generator.logits(hidden).float()
    chosen = choose(scores, rows, number)
    return chosen, scores.log_softmax(-1).gather(1, chosen[:, None]).squeeze(1)


@torch.no_grad()
def draw(generator: Generator, hidden: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Next tokens at temperature 1. Scores are held for a few rows at a time: as many as stay in the processor's cache.

    Args:
        generator: gives the scores.
        hidden: [rows, width], from the generator's `read` or `step`.
        uniforms: [rows] or [rows, draws], in [0, 1).

    Returns:
        Ids and their log probabilities, both in the shape of `uniforms`.
    """
    size = max(_FEWEST_ROWS, _SCORES.get(hidden.device.type, _SCORES_ELSEWHERE) // len(generator.bias))
    pieces = zip(torch.split(hidden, size), torch.split(uniforms, size), strict=True)
    drawn = [_drawn(generator.logits(states).float(), numbers) for states, numbers in pieces]
    ids, log_probs = zip(*drawn, strict=True)
    return torch.cat(ids), torch.cat(log_probs)


def _drawn(scores: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """As `draw`, from scores [rows, vocabulary], which are written over."""
    weights = scores.sub_(scores.amax(-1, keepdim=True)).exp_()
    ids, totals = _search(weights, uniforms.view(len(scores), -1))
    log_probs = (weights.gather(1, ids) / totals).log()
    return ids.view(uniforms.shape), log_probs.view(uniforms.shape)


def chooser(sampling: Sampling, uniforms: Tensor) -> Choose:
    """The choice that the options describe.

    Args:
        sampling: temperature and filters.
        uniforms: [rows, max_tokens], a random number in [0, 1) for every token.
    """
    if sampling.temperature == 1 and not sampling.top_k and sampling.top_p == 1 and not sampling.min_p:
        return Plain(lambda rows, number: uniforms[rows, number])

    def choose(scores: Tensor, rows: Tensor, number: int) -> Tensor:
        if sampling.temperature < _COLDEST:
            return scores.argmax(-1)
        probabilities = filtered(scores.float() / sampling.temperature, sampling).softmax(-1)
        return inverse_cdf(probabilities, uniforms[rows, number])

    return choose


def guided(choose: Choose, guidance: float) -> Choose:
    """The same choice from scores that guidance has moved, for rows of `beside_no_emotion`; both halves get the same tokens."""

    def chosen(scores: Tensor, rows: Tensor, number: int) -> Tensor:
        asked, plain = scores.float().chunk(2)
        return choose(plain + guidance * (asked - plain), rows[: len(asked)], number).repeat(2)

    return chosen


def beside_no_emotion(prefixes: Prefixes, emotions: int) -> Prefixes:
    """The prefixes, and all of them once more, asking for no emotion."""
    plain = prefixes.condition.clone()
    plain[:, :emotions] = 0.0
    plain[:, emotions] = 1.0
    return Prefixes(prefixes.tokens.repeat(2, 1), prefixes.lengths.repeat(2), torch.cat([prefixes.condition, plain]))


def filtered(scores: Tensor, sampling: Sampling) -> Tensor:
    """Scores [rows, vocabulary] with the tokens that top-k, top-p and min-p take away at minus infinity."""
    if 0 < sampling.top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(sampling.top_k).values[:, -1:], -math.inf)
    if sampling.top_p < 1:
        scores = _nucleus(scores, sampling.top_p)
    if sampling.min_p > 0:
        best = scores.max(-1, keepdim=True).values
        scores = scores.masked_fill(scores < best + math.log(sampling.min_p), -math.inf)
    return scores


def _nucleus(scores: Tensor, share: float) -> Tensor:
    """Top-p; only as many of the likeliest tokens are sorted as hold the share in every row, since sorting all is slow."""
    probabilities = scores.softmax(-1)
    width = min(_NUCLEUS, scores.shape[-1])
    while True:
        best, places = probabilities.topk(width)
        upto = best.cumsum(-1)
        if width == scores.shape[-1] or bool((upto[:, -1] >= share).all()):
            break
        width = min(4 * width, scores.shape[-1])
    kept = scores.gather(-1, places).masked_fill(upto - best >= share, -math.inf)
    return torch.full_like(scores, -math.inf).scatter(-1, places, kept)


def inverse_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """One draw a row by inverting the cumulative distribution in two levels: first a block of 64 ids, then the id in it.

    Args:
        weights: [rows, vocabulary], float32, not negative: probabilities, or what is proportional to them.
        uniforms: [rows], in [0, 1).

    Returns:
        [rows], ids; never one of weight 0. Adding up V / 64 blocks and one block costs one pass over the weights where
        `torch.multinomial` draws a random number for each.
    """
    return _search(weights, uniforms[:, None])[0].squeeze(1)


def _search(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Ids [rows, draws] for `uniforms` of that shape, and the sums [rows, 1] of the weights."""
    vocabulary = weights.shape[1]
    full = vocabulary // _BLOCK
    blocks, rest = torch.split(weights, [full * _BLOCK, vocabulary - full * _BLOCK], 1)
    upto = torch.cat([blocks.view(len(weights), full, _BLOCK).sum(-1), rest.sum(-1, keepdim=True)], 1).cumsum(1)
    # Rounded up to the sum itself, a target would lie behind the last id.
    target = uniforms * _BELOW_ONE * upto[:, -1:]
    block = torch.searchsorted(upto, target, right=True).clamp(max=full)
    inner = target - functional.pad(upto, (1, 0)).gather(1, block)
    ids = block[..., None] * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    inside = weights.gather(1, ids.clamp(max=vocabulary - 1).flatten(1)).view(ids.shape) * (ids < vocabulary)
    place = (inside.cumsum(-1) <= inner[..., None]).sum(-1)
    last = _BLOCK - 1 - (inside > 0).flip(-1).int().argmax(-1)
    # The bound holds even where the weights are not numbers: a broken model is reported by its loss.
    return (block * _BLOCK + torch.minimum(place, last)).clamp(max=vocabulary - 1), upto[:, -1:]


def row_uniforms(seed: int, rows: int, numbers: int, first: int = 0) -> Tensor:
    """Uniform random numbers [rows, numbers] of the rows from `first` on; a row's depend on seed and own number alone."""
    streams = (torch.Generator().manual_seed(_mixed(seed, row)) for row in range(first, first + rows))
    return torch.stack([torch.rand(numbers, generator=stream) for stream in streams])


def row_normals(seed: int, rows: int, numbers: int) -> Tensor:
    """Standard normal numbers [rows, numbers], row by row as in `row_uniforms` but of streams of their own."""
    streams = (torch.Generator().manual_seed(_mixed(~seed, row)) for row in range(rows))
    return torch.stack([torch.randn(numbers, generator=stream) for stream in streams])


def _mixed(seed: int, row: int) -> int:
    """A 63-bit stream number from (seed, row), by the finaliser of splitmix64 (Steele et al. 2014)."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + row * 0xD1342543DE82EF95 + 1) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) >> 1


def _require(holds: bool, name: str, value: float, allowed: str) -> None:
    if not holds:
        raise SettingsError(f"--{name} {value}: allowed is {allowed}")
