"""What generated replies are worth: to the discriminator, to a guide that knows emotions, and to controls that know nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from emogen.checkpoint.model import load_classifier
from emogen.data.batches import Batch
from emogen.decoding.counter_rng import CounterRNG
from emogen.decoding.rollout import Reward
from emogen.emotions.labels import LabelSet
from emogen.errors import SettingsError
from emogen.models.classifier import Classifier, emotion_probabilities
from emogen.models.discriminator import AnyDiscriminator, of_whole_texts, score
from emogen.text.tokenizer import Tokenizer
from emogen.train.config import GanConfig


@dataclass(frozen=True)
class Guide:
    """A classifier that rewards emotion.

    Attributes:
        classifier: reads text.
        columns: where each of the generator's labels stands among the classifier's, [emotions].
        tokenizer: the generator's.
    """

    classifier: Classifier
    columns: Tensor
    tokenizer: Tokenizer

    def reward(self, tokens: Tensor, reply_start: Tensor, emotion: Tensor) -> Tensor:
        """Return the probability [rows] of the emotion that was asked for, in nothing but the reply; 0 where none was.

        Args:
            tokens: [rows, time].
            reply_start: [rows].
            emotion: [rows, emotions + 1], the condition.
        """
        pairs = zip(tokens.tolist(), reply_start.tolist(), strict=True)
        texts = [self.tokenizer.decode(row[start:]).strip() for row, start in pairs]
        found = emotion_probabilities(self.classifier, texts).to(emotion.device)[:, self.columns.to(emotion.device)]
        return (found * emotion[:, :-1]).sum(1)


def load_guide(folder: str | Path, labels: LabelSet, tokenizer: Tokenizer, device: torch.device) -> Guide:
    """Return the guide that stands in `folder`, for a generator of these labels.

    Raises:
        CheckpointError: no classifier stands there.
        SettingsError: it does not know one of the labels.
    """
    classifier, known = load_classifier(Path(folder), device)
    unknown = [name for name in labels.names if name not in known]
    if unknown:
        raise SettingsError(f"--guide {folder}: does not know {', '.join(unknown)}, only {', '.join(known.names)}")
    return Guide(classifier, torch.tensor([known.names.index(name) for name in labels.names]), tokenizer)


def relative_reward(discriminator: AnyDiscriminator, real: Batch, config: GanConfig, draws: CounterRNG) -> Reward:
    """Return the reward of a generated row.

    The probability that the discriminator prefers it to the real reply of its condition.

    Args:
        discriminator: in whatever mode.
        real: one row a condition; generated row r belongs to condition r // samples.
        config: says how many samples, and whether a control takes the place of this reward.
        draws: of the control.
    """
    real_scores = of_whole_texts(score(discriminator, real.tokens, real.emotion), real.tokens)

    def reward(tokens: Tensor, rows: Tensor) -> Tensor:
        condition = rows // config.samples
        scores = of_whole_texts(score(discriminator, tokens, real.emotion[condition]), tokens)
        return ablate_reward((scores - real_scores[condition]).sigmoid(), config, draws)

    return reward


def ablate_reward(rewards: Tensor, config: GanConfig, draws: CounterRNG) -> Tensor:
    """Return rewards [rows, ...] as they are, or of a control that can teach nothing.

    All 1, or dealt out to other rows at random.
    """
    if config.reward == "constant":
        return torch.ones_like(rewards)
    if config.reward == "shuffled":
        rows = torch.arange(len(rewards), device=rewards.device)
        return rewards[draws.uniforms(rows).argsort()]
    return rewards


def dense_returns(potential: Tensor, mask: Tensor, discount: float) -> Tensor:
    """Return of each token from one causal pass: discounted sum of the rises of a potential, the odds of being real.

    A reward of potential(prefix with the token) - potential(prefix before it) adds up to the whole text's, so that no reply
    gains by being longer (potential-based shaping; Ng, Harada & Russell 1999). Log odds of a discriminator at its best add up
    to log p(text) - log q(text), whose expectation is minus the reverse Kullback-Leibler divergence.

    Args:
        potential: [rows, time], the probability or the log odds that the text up to each place is real.
        mask: [rows, time - 1], from `reply_mask`.
        discount: of later rises; 1 for none.

    Returns:
        [rows, time - 1], aligned with `mask`, 0 outside it.
    """
    rises = (potential[:, 1:] - potential[:, :-1]) * mask
    returns = torch.zeros_like(rises)
    later = rises.new_zeros(len(rises))
    for place in reversed(range(rises.shape[1])):
        later = rises[:, place] + discount * later
        returns[:, place] = later
    return returns * mask
