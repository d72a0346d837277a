"""Training of an emotion head on a generator that stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from emogen.data.batches import Batch
from emogen.models.generator import Generator, reply_mask
from emogen.models.head import EmotionHead, output_vectors
from emogen.train.config import HeadConfig
from emogen.train.loops.mle import with_no_latent
from emogen.train.run.state import Step, TrainState, learning_rate_at, mixed_precision, update


def train_head(
    generator: Generator, head: EmotionHead, batches: Iterable[Batch], config: HeadConfig, state: TrainState
) -> Iterator[Step]:
    """Update `head` in place with the optimizer `state.optimizers["head"]`; the generator stays in eval mode.

    The head learns to tell the emotion of a text from its first tokens, at every place. Meanwhile the generator is told some
    emotion at random, which says nothing about the text's own: so it will read states under any emotion.

    Yields after each update; stop by not asking for the next one.

    Raises:
        TrainingError: the loss is not finite; the head keeps its last weights.
    """
    device = generator.bias.device
    generator.eval()
    for batch in batches:
        moved = batch.to(device)
        with mixed_precision(config.precision, device):
            nll, positions = head_nll(generator, head, moved, _at_random(moved, state.random))
        loss = nll.sum() / positions
        taken = update(loss, state.optimizers["head"], learning_rate_at(config.learning_rate, state), state)
        state.step += 1
        yield Step(state.step, {"nll": float(loss.detach()), **taken})


def head_nll(generator: Generator, head: EmotionHead, batch: Batch, conditioning: Tensor) -> tuple[Tensor, Tensor]:
    """Return cross-entropy of the emotions at each reply token [places], in nats, and how many of them have an emotion.

    Args:
        generator: gives the states; no gradient reaches it.
        head: that judges.
        batch: rows with their emotions.
        conditioning: [batch, emotions + 1], what the generator is told.
    """
    mask = reply_mask(batch.tokens, batch.reply_start)
    with torch.no_grad():
        states = generator(batch.tokens, with_no_latent(generator, conditioning))[:, :-1][mask].float()
    tokens = batch.tokens[:, 1:][mask]
    scores = head(states, output_vectors(generator, tokens).float(), tokens)
    emotion = batch.emotion[:, None, :-1].expand(-1, mask.shape[1], -1)[mask]
    return functional.cross_entropy(scores.float(), emotion, reduction="none"), emotion.sum().clamp(min=1)


def _at_random(batch: Batch, random: torch.Generator) -> Tensor:
    """Return [batch, emotions + 1], each row with all weight on one label, or on no emotion."""
    width = batch.emotion.shape[1]
    return functional.one_hot(torch.randint(width, (len(batch),), generator=random), width).to(batch.emotion)


@torch.no_grad()
def held_out_head_nll(generator: Generator, head: EmotionHead, batches: Iterable[Batch], seed: int = 0) -> dict[str, float]:
    """`nll` (nats a token) of held-out emotions; `chance`, that of a head that knows how frequent they are and no more."""
    random = torch.Generator().manual_seed(seed)
    nats, shares = 0.0, torch.zeros(generator.config.emotions, dtype=torch.float64)
    for batch in batches:
        moved = batch.to(generator.bias.device)
        nll, _ = head_nll(generator, head, moved, _at_random(moved, random))
        tokens = reply_mask(batch.tokens, batch.reply_start).sum(1)
        nats, shares = nats + float(nll.sum()), shares + (batch.emotion[:, :-1] * tokens[:, None]).sum(0)
    frequencies = shares / shares.sum()
    return {"nll": nats / float(shares.sum()), "chance": float(-torch.xlogy(frequencies, frequencies).sum())}
