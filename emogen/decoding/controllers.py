"""How controllers move the scores of the next token.

With z the scores of a row as it is asked for, z_none those of the same text without emotion, z_neutral those with the neutral
label, z_e those with label e at full strength, y the mixture and s the strength (0 to 1):

    guidance g    z_none + g (z - z_none)                            Ho & Salimans 2022; for text Sanchez et al. 2023
    expert w      z + w s (z - z_neutral)                            after DExperts, Liu et al. 2021
    bayes w       z + w s sum_e y_e log p(e | text, token)           after GeDi, Krause et al. 2021, but with all labels at once
    head w        z + w s sum_e (y_e - 1/E) score_e(token)           after Director, Arora et al. 2022; see `EmotionHead`

They add up. In `bayes` p(e | text, token) follows from the likelihood of the whole reply under each label, all labels being
equally likely before. So it pushes hard while the text looks like another emotion, and no more once it looks like its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emogen.decoding.control import Control
from emogen.decoding.sampling import Choose, Prefixes
from emogen.emotions import Emotion
from emogen.errors import SettingsError
from emogen.models.generator import Generator
from emogen.models.head import EmotionHead

NEUTRAL = "neutral"
_ASKED, _NONE, _NEUTRAL, _LABELS = 0, 1, 2, 3
_SCORES = {"cpu": 1 << 20}
_SCORES_ELSEWHERE = 1 << 28


@dataclass(frozen=True)
class Weights:
    """What each row asks for, [rows] each, times its strength where the formula says so.

    Attributes:
        guidance: 0 is off: the weight of `Control` less 1.
        expert: 0 is off.
        bayes: 0 is off.
        head: [rows, emotions], the weights of the emotions' scores.
        mixture: [rows, emotions].
    """

    guidance: Tensor
    expert: Tensor
    bayes: Tensor
    head: Tensor
    mixture: Tensor


def weights_of(emotions: Sequence[Emotion], controls: Sequence[Control], device: torch.device) -> Weights:
    """The weights of rows with these emotions, as the model is told them, and controls."""
    mixture = torch.tensor([emotion.weights for emotion in emotions], device=device)
    strength = torch.tensor([emotion.strength for emotion in emotions], device=device)

    def column(name: str) -> Tensor:
        return torch.tensor([float(getattr(control, name)) for control in controls], device=device)

    return Weights(
        (column("guidance") - 1) * (strength > 0),
        column("expert") * strength,
        column("bayes") * strength,
        (column("head") * strength)[:, None] * (mixture - 1 / mixture.shape[1]),
        mixture,
    )


@dataclass(frozen=True)
class Company:
    """Rows, and behind them the rows that stand beside them: the same text under other conditions.

    Attributes:
        prefixes: all of them, those that are asked for first.
        asked: how many are asked for.
        owner: [all], whose company a row is; its own number for the first.
        role: [all], 0 asked, 1 no emotion, 2 neutral, 3 and above a label.
    """

    prefixes: Prefixes
    asked: int
    owner: Tensor
    role: Tensor


def in_company(prefixes: Prefixes, weights: Weights, neutral: int | None) -> Company:
    """The rows with the company that their weights need.

    Args:
        prefixes: of the rows that are asked for.
        weights: of the same rows.
        neutral: place of the neutral label; None for no emotion in its place.
    """
    emotions, rows = weights.mixture.shape[1], len(prefixes.lengths)
    every = torch.arange(rows, device=prefixes.lengths.device)
    none = emotions
    wanted = [(_ASKED, every, None), (_NONE, every[weights.guidance != 0], none)]
    wanted.append((_NEUTRAL, every[weights.expert != 0], none if neutral is None else neutral))
    wanted += [(_LABELS + label, every[weights.bayes != 0], label) for label in range(emotions)]
    owner = torch.cat([rows_of_role for _, rows_of_role, _ in wanted])
    role = torch.cat([torch.full_like(rows_of_role, role) for role, rows_of_role, _ in wanted])
    condition = torch.cat([_told(prefixes.condition[found], emotions, place) for _, found, place in wanted])
    return Company(Prefixes(prefixes.tokens[owner], prefixes.lengths[owner], condition), rows, owner, role)


def _told(condition: Tensor, emotions: int, place: int | None) -> Tensor:
    """The conditions with all weight at one place, whatever the latent; None leaves them."""
    if place is None:
        return condition
    told = condition.clone()
    told[:, : emotions + 1] = 0.0
    told[:, place] = 1.0
    return told


class Controlled:
    """The choice of tokens for rows in company; all rows of one owner get the same token.

    It remembers how likely the text so far is under each label, so it serves one call of the token loop.
    """

    def __init__(self, company: Company, weights: Weights, choose: Choose, head: EmotionHead | None) -> None:
        """For the rows of `company`, by their `weights`.

        Args:
            company: rows in the order of the token loop.
            weights: of those that are asked for.
            choose: takes the steered scores.
            head: of the generator; not needed where no row asks for it.
        """
        self.company, self.weights, self.choose = company, weights, choose
        self.head = head if bool(weights.head.any()) else None
        self.log_likelihoods = torch.zeros_like(weights.mixture)

    def pick(self, generator: Generator, hidden: Tensor, rows: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """The next tokens [m] of the rows numbered `rows` [m] and their log probabilities under the steered scores.

        Args:
            generator: gives the scores.
            hidden: [m, width], from the generator's `read` or `step`.
            rows: [m], rising; with a row stands all its company.
            number: of the reply token.
        """
        table, roles = self._places(rows)
        size = max(1, _SCORES.get(hidden.device.type, _SCORES_ELSEWHERE) // (len(generator.bias) * table.shape[1]))
        owners = rows[: len(table)]
        pieces = zip(torch.split(table, size), torch.split(owners, size), strict=True)
        picked = [self._picked(generator, hidden[places], roles, numbers, number) for places, numbers in pieces]
        tokens, log_probs = (torch.cat(parts) for parts in zip(*picked, strict=True))
        place = torch.searchsorted(owners, self.company.owner[rows])
        return tokens[place], log_probs[place]

    def _places(self, rows: Tensor) -> tuple[Tensor, list[int]]:
        """[asked, roles], where each row's company stands among `rows`, its own place where it has none of a role; the roles."""
        owner, role = self.company.owner[rows], self.company.role[rows]
        asked = int((rows < self.company.asked).sum())
        used, column = role.unique(return_inverse=True)
        table = torch.arange(asked, device=rows.device)[:, None].repeat(1, len(used))
        table[torch.searchsorted(rows[:asked], owner), column] = torch.arange(len(rows), device=rows.device)
        return table, used.tolist()

    def _picked(
        self, generator: Generator, states: Tensor, roles: Sequence[int], owners: Tensor, number: int
    ) -> tuple[Tensor, Tensor]:
        """Tokens and their log probabilities for states [rows, roles, width]."""
        if self.head is not None:
            steered = self.head.steered(states[:, 0].float(), self.weights.head[owners])
            states = torch.cat([steered[:, None].to(states.dtype), states[:, 1:]], 1)
        scores = generator.logits(states).float()
        moved, labels = self._moved(scores, roles, owners)
        chosen = self.choose(moved, owners, number)
        if labels is not None:
            self.log_likelihoods[owners] += labels.gather(2, chosen[:, None, None].expand(-1, labels.shape[1], 1)).squeeze(2)
        return chosen, moved.log_softmax(-1).gather(1, chosen[:, None]).squeeze(1)

    def _moved(self, scores: Tensor, roles: Sequence[int], owners: Tensor) -> tuple[Tensor, Tensor | None]:
        """Steered scores [rows, vocabulary], and the log probabilities [rows, emotions, vocabulary] under each label."""
        weights, asked, labels = self.weights, scores[:, 0], None
        moved = asked
        if _NONE in roles:
            moved = moved + weights.guidance[owners, None] * (asked - scores[:, roles.index(_NONE)])
        if _NEUTRAL in roles:
            moved = moved + weights.expert[owners, None] * (asked - scores[:, roles.index(_NEUTRAL)])
        if _LABELS in roles:
            labels = scores[:, roles.index(_LABELS) :].log_softmax(-1)
            found = log_posterior(labels + self.log_likelihoods[owners, :, None], weights.mixture[owners])
            moved = moved + weights.bayes[owners, None] * found
        if self.head is not None:
            moved = moved + self.head.biases(weights.head[owners])
        return moved, labels


def log_posterior(joint: Tensor, mixture: Tensor) -> Tensor:
    """Mean over a mixture of the log probability of its labels.

    Args:
        joint: [rows, labels, vocabulary], log likelihoods of text and token under each label, which are equally likely before.
        mixture: [rows, labels].

    Returns:
        [rows, vocabulary], at most 0.

    Source: Bayes' rule; Krause et al. 2021 (GeDi), equation 3, without its normalisation by length.
    """
    return torch.einsum("re,rev->rv", mixture, joint) - joint.logsumexp(1)


def neutral_place(emotion: Emotion) -> int | None:
    """Where the neutral label stands; None where there is none."""
    return emotion.labels.position(NEUTRAL) if NEUTRAL in emotion.labels else None


def refuse_unserved(controls: Sequence[Control], head: EmotionHead | None, has_guide: bool, where: str) -> None:
    """Raises SettingsError where a controller needs what a checkpoint does not have.

    Args:
        controls: of all rows.
        head: the checkpoint's.
        has_guide: whether a guide is at hand.
        where: the checkpoint, for the message.
    """
    if head is None and any(control.head for control in controls):
        raise SettingsError(
            f"control head: {where} has no emotion head; `emogen train-head --checkpoint {where} DATA` gives it one, "
            "and the models that ship have theirs; guidance, expert and bayes need none"
        )
    if not has_guide and any(control.rerank > 1 for control in controls):
        raise SettingsError(
            f"control rerank: {where} names no guide; pass --guide FOLDER of a classifier over its labels "
            "(`emogen train-classifier` makes one), or store one with `emogen calibrate`"
        )
