"""The discriminator's side of adversarial training: its loss, and the band in which its accuracy is held."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from emogen.data.batches import Batch
from emogen.models.discriminator import AnyDiscriminator, of_whole_texts
from emogen.models.losses import bradley_terry, prefix_cross_entropy
from emogen.models.transformer import present_tokens
from emogen.text.tokenizer import PAD
from emogen.train.config import GanConfig
from emogen.train.run.processes import joint_mean
from emogen.train.run.state import TrainState, update

_MEMORY = 0.9


def train_discriminator(
    discriminator: AnyDiscriminator, real: Batch, generated: Tensor, config: GanConfig, state: TrainState
) -> dict[str, float]:
    """Update the discriminator as often as the accuracy band says; return its loss and running accuracy.

    Below the floor it gets `discriminator_updates` on the same replies, in the band one, above the ceiling none.
    """
    discriminator.train()
    loss, accuracy = discriminator_loss(discriminator, real, generated, config.samples)
    running = _MEMORY * state.figures.get("accuracy", 0.5) + (1 - _MEMORY) * float(accuracy)
    state.figures["accuracy"] = running
    figures = {"discriminator": float(loss.detach()), "accuracy": running}
    for number in range(_updates(figures["accuracy"], config)):
        if number:
            loss, _ = discriminator_loss(discriminator, real, generated, config.samples)
        taken = update(loss, state.optimizers["discriminator"], config.discriminator_rate, state)
        figures["discriminator_gradient_norm"] = taken["gradient_norm"]
    return figures


def _updates(accuracy: float, config: GanConfig) -> int:
    if accuracy > config.accuracy_ceiling:
        return 0
    return config.discriminator_updates if accuracy < config.accuracy_floor else 1


def discriminator_loss(discriminator: AnyDiscriminator, real: Batch, generated: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Return the discriminator's loss on real replies and generated ones to the same conditions, and its pairwise accuracy.

    Args:
        discriminator: reads sequences (pairs compared) or prefixes (each prefix told apart).
        real: one row a condition.
        generated: [conditions * samples, time].
        samples: generated rows a condition.

    Returns:
        The loss over all processes, to be given to `update`, and the accuracy.
    """
    emotion = real.emotion.repeat_interleave(samples, 0)
    on_real, on_generated = discriminator(real.tokens, real.emotion), discriminator(generated, emotion)
    ends = of_whole_texts(on_real, real.tokens).repeat_interleave(samples), of_whole_texts(on_generated, generated)
    if discriminator.reading == "sequence":
        loss = joint_mean(bradley_terry(*ends), len(generated))
    else:
        starts = real.reply_start.repeat_interleave(samples)
        loss = _told_apart(on_real, True, real.tokens, real.reply_start) / 2
        loss = loss + _told_apart(on_generated, False, generated, starts) / 2
    return loss, joint_mean((ends[0] > ends[1]).float().mean(), len(generated))


def _told_apart(scores: Tensor, real: bool, tokens: Tensor, reply_start: Tensor) -> Tensor:
    """Return the cross-entropy at the prefixes from the one before the reply on."""
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    seen = (positions >= reply_start[:, None] - 1) & present_tokens(tokens)
    return joint_mean(prefix_cross_entropy(scores, real, seen), int(seen.sum()))


def cut_to(batch: Batch, max_tokens: int) -> Batch:
    """Return rows whose replies are no longer than a generator may write, so that length alone does not give them away."""
    ends = batch.reply_start + max_tokens
    positions = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
    tokens = batch.tokens.masked_fill(positions >= ends[:, None], PAD)
    return replace(batch, tokens=tokens)
