"""How controllers move the scores of the next token.

With z the scores of a row as it is asked for, z_none those of the same text without emotion, z_neutral those with the neutral
label, z_e those with label e at full strength, y the mixture and s the strength (0 to 1):

    guidance g    z_none + g (z - z_none)                            Ho & Salimans 2022; for text Sanchez et al. 2023
    expert w      z + w s (z - z_neutral)                            after DExperts, Liu et al. 2021
    bayes w       z + w s sum_e y_e log p(e | text, token)           after GeDi, Krause et al. 2021, but with all labels at once
    head w        z + w s sum_e (y_e - 1/E) score_e(token)           after Director, Arora et al. 2022; see `EmotionHead`

They add up. In `bayes` p(e | text, token) follows from the likelihood of the whole reply under each label, all labels being
equally likely before. So it pushes hard while the text looks like another emotion, and no more once it looks like its own.

A label outside of the mixture counts in `bayes` until its odds fall below .05 / max(1, 2 w s): the likelihood of the text
under it over that under the likeliest label of the mixture. It then leaves the row's company for good, and is neither decoded
nor found in Bayes' denominator; see `drop_unlikely` for what that changes. Whether it leaves depends on the row alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional

from emogen.decoding.control import Control
from emogen.decoding.loop import PromptBatch
from emogen.decoding.sampler import LogitsSampler, looks, rows_at_once
from emogen.emotions.labels import Emotion
from emogen.errors import SettingsError
from emogen.models.generator import Generator
from emogen.models.head import EmotionHead
from emogen.text.tokenizer import EOS, PAD

NEUTRAL = "neutral"
_ASKED, _NONE, _NEUTRAL, _LABELS = 0, 1, 2, 3
_LEAST = 1e-36
# Divided by twice the weight, since what is left out moves scores in proportion to it. Measured on two LSTMs at weights of .5
# to 8, 24 tokens: a next token's distribution moves by .002 to .005 in total variation, and 3.3 to 3.8 of 7 labels are decoded.
# Twice as lax, texts lose .01 to .015 of the judged probability of their emotion.
_ODDS = 0.05
# In place of a log likelihood: of a label that has left. Finite, so that a weight of 0 times it is 0.
_GONE = -1e30


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

    def of(self, rows: Tensor) -> Weights:
        """Return those of `rows` [m] alone."""
        return Weights(*(getattr(self, field.name)[rows] for field in fields(self)))

    def join(self, others: Weights) -> Weights:
        """Put those of others behind them."""
        return Weights(*(torch.cat([getattr(self, field.name), getattr(others, field.name)]) for field in fields(self)))


def weights_of(emotions: Sequence[Emotion], controls: Sequence[Control], device: torch.device) -> Weights:
    """Return the weights of rows with these emotions, as the model is told them, and controls."""
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
class ConditionBatch:
    """Rows, and the rows that stand beside them: the same text under other conditions.

    Attributes:
        prefixes: all of them, in any order.
        target: how many are asked for.
        row_index: [all], whose company a row is: a number below `target`, its own for a row that is asked for.
        role: [all], 0 asked, 1 no emotion, 2 neutral, 3 and above a label.
    """

    prefixes: PromptBatch
    target: int
    row_index: Tensor
    role: Tensor

    @property
    def is_asked(self) -> Tensor:
        """Return [all], which rows are those that are asked for."""
        return self.role == _ASKED

    def of(self, rows: Tensor) -> ConditionBatch:
        """Return those of `rows` [m] alone, in that order, with each its owner; owners keep their order and close up."""
        left, kept = self.owners(rows), self.prefixes
        prefixes = PromptBatch(kept.tokens[rows], kept.lengths[rows], kept.condition[rows])
        return ConditionBatch(prefixes, len(left), torch.searchsorted(left, self.row_index[rows]), self.role[rows])

    def owners(self, rows: Tensor) -> Tensor:
        """Return the numbers of those of `rows` that are asked for, rising."""
        found, _ = self.row_index[rows][self.is_asked[rows]].sort()
        return found

    def join(self, others: ConditionBatch) -> ConditionBatch:
        """Put others behind them, whose owners are numbered on."""
        both = self.prefixes, others.prefixes
        longest = max(some.tokens.shape[1] for some in both)
        padded = [functional.pad(some.tokens, (0, longest - some.tokens.shape[1]), value=PAD) for some in both]
        lengths, condition = (torch.cat([getattr(some, name) for some in both]) for name in ("lengths", "condition"))
        row_index, role = torch.cat([self.row_index, self.target + others.row_index]), torch.cat([self.role, others.role])
        return ConditionBatch(PromptBatch(torch.cat(padded), lengths, condition), self.target + others.target, row_index, role)


def expand_conditions(prefixes: PromptBatch, weights: Weights, neutral: int | None) -> ConditionBatch:
    """Return the rows, and behind them the company that their weights need.

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
    for label in range(emotions):
        # A row that is told this label alone stands beside itself.
        itself = prefixes.condition[:, label] == 1
        wanted.append((_LABELS + label, every[(weights.bayes != 0) & ~itself], label))
    row_index = torch.cat([rows_of_role for _, rows_of_role, _ in wanted])
    role = torch.cat([torch.full_like(rows_of_role, role) for role, rows_of_role, _ in wanted])
    condition = torch.cat([_set_condition(prefixes.condition[found], emotions, place) for _, found, place in wanted])
    return ConditionBatch(
        PromptBatch(prefixes.tokens[row_index], prefixes.lengths[row_index], condition), rows, row_index, role
    )


def _set_condition(condition: Tensor, emotions: int, place: int | None) -> Tensor:
    """Return the conditions with all weight at one place, whatever the latent; None leaves them."""
    if place is None:
        return condition
    conditioning = condition.clone()
    conditioning[:, : emotions + 1] = 0.0
    conditioning[:, place] = 1.0
    return conditioning


class ControlledSampler:
    """Samples for rows in company: steers the logits, and gives all rows of one owner the same token.

    It remembers how likely the text so far is under each label, so it serves one call of the token loop.
    """

    def __init__(
        self,
        company: ConditionBatch,
        weights: Weights,
        sampler: LogitsSampler,
        head: EmotionHead | None,
        log_likelihoods: Tensor | None = None,
    ) -> None:
        """For the rows of `company`, by their `weights`.

        Args:
            company: rows in the order of the token loop.
            weights: of those that are asked for.
            sampler: takes the steered logits, and the numbers of the rows among those that are asked for.
            head: of the generator; not needed where no row asks for it.
            log_likelihoods: [asked, emotions], of what the rows have written so far, under each label; None for nothing.
        """
        self.company, self.weights, self.sampler = company, weights, sampler
        self.head = head if bool(weights.head.any()) else None
        self.log_likelihoods = torch.zeros_like(weights.mixture) if log_likelihoods is None else log_likelihoods
        self._has_labels = bool(weights.bayes.any())
        self._rows: Tensor | None = None
        self._seats: list[_Layout] = []

    def of(self, rows: Tensor) -> ControlledSampler:
        """Return the choice for `rows` [m] alone, as in `ConditionBatch.of`."""
        left = self.company.owners(rows)
        return ControlledSampler(
            self.company.of(rows), self.weights.of(left), self.sampler, self.head, self.log_likelihoods[left]
        )

    def join(self, others: ControlledSampler) -> ControlledSampler:
        """Return the choice for these rows and others, as in `ConditionBatch.join`."""
        likelihoods = torch.cat([self.log_likelihoods, others.log_likelihoods])
        company, weights = self.company.join(others.company), self.weights.join(others.weights)
        return ControlledSampler(company, weights, self.sampler, self.head or others.head, likelihoods)

    def sample(self, generator: Generator, hidden: Tensor, rows: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Return the next tokens [m] of the rows numbered `rows` [m] and their log probabilities under the steered scores.

        Args:
            generator: gives the scores.
            hidden: [m, width], from the generator's `read` or `step`.
            rows: [m]; with a row stands its company.
            number: of the reply token.

        Returns:
            Those of its owner for each row; but the end token for company that counts no more.
        """
        if self._rows is not rows or (self._has_labels and looks(number, rows.device)):
            self._rows, self._seats = rows, _lay_out(self.company, rows, self._count_labels())
        tokens = torch.zeros(self.company.target, dtype=torch.long, device=rows.device)
        log_probs = torch.zeros(self.company.target, device=rows.device)
        states = rows_at_once(len(generator.bias), hidden.device)
        for seats in self._seats:
            for some in seats.split(max(1, states // seats.positions.shape[1])):
                tokens[some.owners], log_probs[some.owners] = self._sample_layout(
                    generator, hidden[some.positions], some, number
                )
        row_index, role = self.company.row_index[rows], self.company.role[rows]
        if not self._has_labels:
            return tokens[row_index], log_probs[row_index]
        counts = (role < _LABELS) | self._count_labels()[row_index, (role - _LABELS).clamp(min=0)]
        return torch.where(counts, tokens[row_index], EOS), log_probs[row_index]

    def _count_labels(self) -> Tensor:
        """Tell which labels count, [asked, labels].

        None where one alone is left, since its probability is 1 whatever is written.
        """
        left = (self.weights.bayes[:, None] != 0) & (self.log_likelihoods > _GONE)
        return left & (left.sum(1, keepdim=True) > 1)

    def _sample_layout(self, generator: Generator, states: Tensor, seats: _Layout, number: int) -> tuple[Tensor, Tensor]:
        """Return tokens and their log probabilities for states [owners, places, width]."""
        moved, labels = self._scores(generator, states, seats)
        if labels is None:
            return self.sampler.sample_logits(moved, seats.owners, number)
        bayes, at = self.weights.bayes[seats.owners, None], (seats.owners[:, None], seats.labels)
        before = self.log_likelihoods[at]
        moved.addcmul_(bayes, log_posterior(labels, before))
        chosen, log_probs = self.sampler.sample_logits(moved, seats.owners, number)
        self.log_likelihoods[at] = drop_unlikely(before + labels.of(chosen), self.weights.mixture[at], bayes)
        return chosen, log_probs

    def _scores(self, generator: Generator, states: Tensor, seats: _Layout) -> tuple[Tensor, Labels | None]:
        """Return scores of rows [rows, vocabulary], moved by all but `bayes`; and what it needs of those under each label."""
        others, mixture = len(seats.roles), self.weights.mixture[seats.owners[:, None], seats.labels]
        if others == 1 and self.head is None and seats.are_labels:
            scores = generator.logits(states[:, 1:]).float()
            moved = scores[torch.arange(len(scores), device=scores.device), mixture.argmax(1)]
            return moved, Labels(moved, scores.softmax(-1))
        moving = self._steer_hidden(states, seats.roles, seats.owners).to(states.dtype)
        scores = generator.logits(torch.cat([moving[:, None], states[:, others:]], 1)).float()
        moved = scores[:, 0].contiguous()
        if self.head is not None:
            moved = self.head.add_biases(moved, self.weights.head[seats.owners])
        if scores.shape[1] == 1:
            return moved, None
        return moved, Labels(torch.bmm(mixture[:, None], scores[:, 1:]).squeeze(1), scores[:, 1:].softmax(-1))

    def _steer_hidden(self, states: Tensor, roles: Sequence[int], owners: Tensor) -> Tensor:
        """Return the state [rows, width] whose scores are what guidance, expert and head ask for.

        Scores are linear in the state.
        """
        weights, target = self.weights, states[:, 0].float()
        moved = target if self.head is None else self.head.steer_hidden(target, weights.head[owners])
        for role, weight in ((_NONE, weights.guidance), (_NEUTRAL, weights.expert)):
            if role in roles:
                moved = moved + weight[owners, None] * (target - states[:, roles.index(role)].float())
        return moved


@dataclass(frozen=True)
class _Layout:
    """Where company sits among the rows of a step, for owners with as many labels each.

    Attributes:
        owners: [some], their numbers.
        positions: [some, roles + labels], where each one's company stands; its own place where it has none of a role.
        roles: those that some of them need, labels left out.
        labels: [some, labels], which ones count for each.
        are_labels: whether each of them is the row of its own label, too.
    """

    owners: Tensor
    positions: Tensor
    roles: list[int]
    labels: Tensor
    are_labels: bool

    def split(self, size: int) -> Iterator[_Layout]:
        """Split into so many owners at a time."""
        parts = (torch.split(whole, size) for whole in (self.owners, self.positions, self.labels))
        for owners, positions, labels in zip(*parts, strict=True):
            yield replace(self, owners=owners, positions=positions, labels=labels)


def _lay_out(company: ConditionBatch, rows: Tensor, counting: Tensor) -> list[_Layout]:
    """Return the seats of a step: apart for owners with different numbers of labels that count [asked, labels]."""
    row_index, role = company.row_index[rows], company.role[rows]
    here = torch.arange(len(rows), device=rows.device)
    own = here[company.is_asked[rows]]
    positions = torch.zeros(company.target, _LABELS + counting.shape[1], dtype=torch.long, device=rows.device)
    positions[row_index[own]] = own[:, None]
    positions[row_index, role] = here
    owners = row_index[own]
    numbers = counting[owners].sum(1)
    apart = (owners[numbers == number] for number in sorted(set(numbers.tolist())))
    return [_seats_of(some, positions[some], counting[some]) for some in apart]


def _seats_of(owners: Tensor, positions: Tensor, counting: Tensor) -> _Layout:
    labels = counting.nonzero()[:, 1].view(len(owners), -1)
    others, beside = positions[:, :_LABELS], positions.gather(1, _LABELS + labels)
    roles = [_ASKED, *(others != others[:, :1]).any(0).nonzero().flatten().tolist()]
    are_labels = labels.shape[1] > 0 and bool((beside == others[:, :1]).any(1).all())
    return _Layout(owners, torch.cat([others[:, roles], beside], 1), roles, labels, are_labels)


@dataclass(frozen=True)
class Labels:
    """Of the next token, what `bayes` needs.

    Attributes:
        mean: [rows, vocabulary], scores under each label, as a mean over the mixture.
        chances: [rows, labels, vocabulary], probabilities under each label.
    """

    mean: Tensor
    chances: Tensor

    def of(self, tokens: Tensor) -> Tensor:
        """Log probabilities [rows, labels] of `tokens` [rows]; e^-80 is the least."""
        return of_tokens(self.chances, tokens).clamp(min=_LEAST).log()


def of_tokens(scores: Tensor, tokens: Tensor) -> Tensor:
    """Return those [rows, labels] of `tokens` [rows] among [rows, labels, vocabulary]."""
    return scores.gather(2, tokens[:, None, None].expand(-1, scores.shape[1], 1)).squeeze(2)


def log_posterior(labels: Labels, before: Tensor) -> Tensor:
    """Return the mean over the mixture of the log probability that the text so far, each token appended, has its labels.

    Args:
        labels: scores and probabilities under each label.
        before: [rows, labels], log likelihood of the text so far.

    Returns:
        [rows, vocabulary], up to a constant for each row. For tokens that are less likely than e^-80 under every likely label
        it is a bound.

    Source: Bayes' rule with equal chances before; Krause et al. 2021 (GeDi), equation 3, without its division by length.
    """
    odds = (before - before.amax(1, keepdim=True)).exp_()
    evidence = torch.bmm(odds[:, None], labels.chances).squeeze(1)
    return evidence.clamp_(min=_LEAST).log_().neg_().add_(labels.mean)


def drop_unlikely(log_likelihoods: Tensor, mixture: Tensor, weights: Tensor) -> Tensor:
    """Return the log likelihoods [rows, labels] of texts, those of labels that count no more replaced.

    With d the odds of all labels that have left against label y, p its posterior among all labels and v = max(1, w s): the
    evidence that is left out is at most d of all, on average over the next token. For a row that asks for y alone at full
    strength, and for `bayes` alone, the distribution of the next token moves by at most v d / p^v in total variation. And for
    texts that the model writes under y, d stays what it is on average: a label that has left comes back to even odds with at
    most the probability that its odds were when it left.

    Args:
        log_likelihoods: of the texts so far.
        mixture: [rows, labels]; labels with weight count always.
        weights: [rows, 1], w s.

    Source: the test is Wald's (1945), the bound on odds that come back Ville's (1939).
    """
    likeliest = log_likelihoods.masked_fill(mixture == 0, _GONE).amax(1, keepdim=True)
    least = likeliest - ((2 * weights).clamp(min=1.0) / _ODDS).log()
    return log_likelihoods.masked_fill((mixture == 0) & (log_likelihoods < least), _GONE)


def neutral_place(emotion: Emotion) -> int | None:
    """Tell where the neutral label stands; None where there is none."""
    return emotion.labels.position(NEUTRAL) if NEUTRAL in emotion.labels else None


def refuse_unserved(controls: Sequence[Control], head: EmotionHead | None, has_guide: bool, where: str) -> None:
    """Raise SettingsError where a controller needs what a checkpoint does not have.

    Args:
        controls: of all rows.
        head: the checkpoint's.
        has_guide: whether a guide is at hand.
        where: the checkpoint, for the message.
    """
    if head is None and any(control.head for control in controls):
        raise SettingsError(
            f"control head: {where} has no emotion head; `emogen train-head --checkpoint {where} DATA` gives it one, "
            "and the small model that ships has one; guidance, expert and bayes need none"
        )
    if not has_guide and any(control.rerank > 1 for control in controls):
        raise SettingsError(
            f"control rerank: {where} names no guide; pass --guide FOLDER of a classifier over its labels "
            "(`emogen train-classifier` makes one)"
        )
