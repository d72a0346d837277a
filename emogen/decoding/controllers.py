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
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from emogen.decoding.control import Control
from emogen.decoding.sampling import Choose, Prefixes, taken
from emogen.emotions import Emotion
from emogen.errors import SettingsError
from emogen.models.generator import Generator
from emogen.models.head import EmotionHead
from emogen.text import PAD

NEUTRAL = "neutral"
_ASKED, _NONE, _NEUTRAL, _LABELS = 0, 1, 2, 3
_SCORES = {"cpu": 1 << 20}
_SCORES_ELSEWHERE = 1 << 28
_LEAST = 1e-36


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
        """Those of `rows` [m] alone."""
        return Weights(*(getattr(self, field.name)[rows] for field in fields(self)))

    def joined(self, others: Weights) -> Weights:
        """With those of others behind them."""
        return Weights(*(torch.cat([getattr(self, field.name), getattr(others, field.name)]) for field in fields(self)))


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
    """Rows, and the rows that stand beside them: the same text under other conditions.

    Attributes:
        prefixes: all of them, in any order.
        asked: how many are asked for.
        owner: [all], whose company a row is: a number below `asked`, its own for a row that is asked for.
        role: [all], 0 asked, 1 no emotion, 2 neutral, 3 and above a label.
    """

    prefixes: Prefixes
    asked: int
    owner: Tensor
    role: Tensor

    def of(self, rows: Tensor) -> Company:
        """Those of `rows` [m] alone, in that order: whole companies, whose owners keep their order and close up."""
        left, kept = self.owners(rows), self.prefixes
        prefixes = Prefixes(kept.tokens[rows], kept.lengths[rows], kept.condition[rows])
        return Company(prefixes, len(left), torch.searchsorted(left, self.owner[rows]), self.role[rows])

    def owners(self, rows: Tensor) -> Tensor:
        """The numbers of those of `rows` that are asked for, rising."""
        found, _ = self.owner[rows][self.role[rows] == _ASKED].sort()
        return found

    def joined(self, others: Company) -> Company:
        """With others behind them, whose owners are numbered on."""
        both = self.prefixes, others.prefixes
        longest = max(some.tokens.shape[1] for some in both)
        padded = [functional.pad(some.tokens, (0, longest - some.tokens.shape[1]), value=PAD) for some in both]
        lengths, condition = (torch.cat([getattr(some, name) for some in both]) for name in ("lengths", "condition"))
        owner, role = torch.cat([self.owner, self.asked + others.owner]), torch.cat([self.role, others.role])
        return Company(Prefixes(torch.cat(padded), lengths, condition), self.asked + others.asked, owner, role)


def in_company(prefixes: Prefixes, weights: Weights, neutral: int | None) -> Company:
    """The rows, and behind them the company that their weights need.

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

    def __init__(
        self,
        company: Company,
        weights: Weights,
        choose: Choose,
        head: EmotionHead | None,
        log_likelihoods: Tensor | None = None,
    ) -> None:
        """For the rows of `company`, by their `weights`.

        Args:
            company: rows in the order of the token loop.
            weights: of those that are asked for.
            choose: takes the steered scores, and the numbers of the rows among those that are asked for.
            head: of the generator; not needed where no row asks for it.
            log_likelihoods: [asked, emotions], of what the rows have written so far, under each label; None for nothing.
        """
        self.company, self.weights, self.choose = company, weights, choose
        self.head = head if bool(weights.head.any()) else None
        self.log_likelihoods = torch.zeros_like(weights.mixture) if log_likelihoods is None else log_likelihoods
        self._rows: Tensor | None = None
        self._seats: list[_Seats] = []

    def of(self, rows: Tensor) -> Controlled:
        """The choice for `rows` [m] alone, as in `Company.of`."""
        left = self.company.owners(rows)
        return Controlled(self.company.of(rows), self.weights.of(left), self.choose, self.head, self.log_likelihoods[left])

    def joined(self, others: Controlled) -> Controlled:
        """The choice for these rows and others, as in `Company.joined`."""
        likelihoods = torch.cat([self.log_likelihoods, others.log_likelihoods])
        company, weights = self.company.joined(others.company), self.weights.joined(others.weights)
        return Controlled(company, weights, self.choose, self.head or others.head, likelihoods)

    def pick(self, generator: Generator, hidden: Tensor, rows: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """The next tokens [m] of the rows numbered `rows` [m] and their log probabilities under the steered scores.

        Args:
            generator: gives the scores.
            hidden: [m, width], from the generator's `read` or `step`.
            rows: [m]; with a row stands all its company.
            number: of the reply token.
        """
        if self._rows is not rows:
            self._rows, self._seats = rows, _seated(self.company, rows, self.weights.mixture.shape[1])
        tokens = torch.zeros(self.company.asked, dtype=torch.long, device=rows.device)
        log_probs = torch.zeros(self.company.asked, device=rows.device)
        for seats in self._seats:
            # As many scores at once as stay in the processor's cache.
            size = max(1, _SCORES.get(hidden.device.type, _SCORES_ELSEWHERE) // (len(generator.bias) * len(seats.roles)))
            for places, owners in zip(torch.split(seats.places, size), torch.split(seats.owners, size), strict=True):
                tokens[owners], log_probs[owners] = self._picked(generator, hidden[places], seats, owners, number)
        owner = self.company.owner[rows]
        return tokens[owner], log_probs[owner]

    def _picked(
        self, generator: Generator, states: Tensor, seats: _Seats, owners: Tensor, number: int
    ) -> tuple[Tensor, Tensor]:
        """Tokens and their log probabilities for states [rows, roles, width]."""
        moved, labels = self._scores(generator, states, seats, owners)
        if labels is not None:
            joint = labels.totals.neg().add_(self.log_likelihoods[owners])
            moved.addcmul_(self.weights.bayes[owners, None], log_posterior(labels, joint, self.weights.mixture[owners]))
        chosen, log_probs = taken(self.choose, moved, owners, number)
        if labels is not None:
            self.log_likelihoods[owners] += labels.of(chosen)
        return chosen, log_probs

    def _scores(self, generator: Generator, states: Tensor, seats: _Seats, owners: Tensor) -> tuple[Tensor, Normalised | None]:
        """Scores of rows [rows, vocabulary], moved by all but `bayes`; and those under each label, where it needs them."""
        if seats.first_label == 1 and self.head is None and seats.are_labels:
            scores = generator.logits(states[:, 1:]).float()
            own = self.weights.mixture[owners].argmax(1)
            return scores[torch.arange(len(own), device=own.device), own], log_normalised(scores)
        moving = self._moved(states, seats.roles, owners).to(states.dtype)
        scores = generator.logits(torch.cat([moving[:, None], states[:, seats.first_label :]], 1)).float()
        moved = scores[:, 0].contiguous()
        if self.head is not None:
            moved = self.head.add_biases(moved, self.weights.head[owners])
        return moved, log_normalised(scores[:, 1:]) if scores.shape[1] > 1 else None

    def _moved(self, states: Tensor, roles: Sequence[int], owners: Tensor) -> Tensor:
        """The state [rows, width] whose scores are what guidance, expert and head ask for: scores are linear in the state."""
        weights, asked = self.weights, states[:, 0].float()
        moved = asked if self.head is None else self.head.steered(asked, weights.head[owners])
        for role, weight in ((_NONE, weights.guidance), (_NEUTRAL, weights.expert)):
            if role in roles:
                moved = moved + weight[owners, None] * (asked - states[:, roles.index(role)].float())
        return moved


@dataclass(frozen=True)
class _Seats:
    """Where company sits among the rows of a step, for owners that need the same.

    Attributes:
        owners: [some], their numbers.
        places: [some, roles], where each one's company stands; its own place where it has none of a role.
        roles: those that some of them need; labels all or none.
        are_labels: whether each of them is the row of its own label, too.
    """

    owners: Tensor
    places: Tensor
    roles: list[int]
    are_labels: bool

    @property
    def first_label(self) -> int:
        """The column of the first label, behind the others."""
        return self.roles.index(_LABELS) if _LABELS in self.roles else len(self.roles)


def _seated(company: Company, rows: Tensor, labels: int) -> list[_Seats]:
    """The seats of a step: those of owners without labels beside them, whom labels would only cost, and of those with them."""
    owner, role = company.owner[rows], company.role[rows]
    here = torch.arange(len(rows), device=rows.device)
    own = here[role == _ASKED]
    places = torch.zeros(company.asked, _LABELS + labels, dtype=torch.long, device=rows.device)
    places[owner[own]] = own[:, None]
    places[owner, role] = here
    has_labels = (places[:, _LABELS:] != places[:, :1]).any(1)[owner[own]]
    apart = (owner[own][~has_labels], owner[own][has_labels])
    return [_seats_of(owners, places[owners], bool(number)) for number, owners in enumerate(apart) if len(owners)]


def _seats_of(owners: Tensor, places: Tensor, has_labels: bool) -> _Seats:
    itself = places == places[:, :1]
    used = {_ASKED, *(~itself[:, :_LABELS]).any(0).nonzero().flatten().tolist()}
    if has_labels:
        used |= set(range(_LABELS, places.shape[1]))
    are_labels = has_labels and bool((itself[:, _LABELS:].sum(1) == 1).all())
    return _Seats(owners, places[:, sorted(used)], sorted(used), are_labels)


@dataclass(frozen=True)
class Normalised:
    """Scores with their normaliser.

    Attributes:
        scores: [rows, labels, vocabulary].
        weights: their exponentials less the highest, likewise.
        highest: [rows, labels].
        totals: [rows, labels], log of the sum of the exponentials.
    """

    scores: Tensor
    weights: Tensor
    highest: Tensor
    totals: Tensor

    def of(self, tokens: Tensor) -> Tensor:
        """Log probabilities [rows, labels] of `tokens` [rows]."""
        return of_tokens(self.scores, tokens) - self.totals


def of_tokens(scores: Tensor, tokens: Tensor) -> Tensor:
    """Those [rows, labels] of `tokens` [rows] among [rows, labels, vocabulary]."""
    return scores.gather(2, tokens[:, None, None].expand(-1, scores.shape[1], 1)).squeeze(2)


def log_normalised(scores: Tensor) -> Normalised:
    """The normaliser of scores [rows, labels, vocabulary], with what was computed on the way."""
    highest = scores.amax(-1)
    weights = (scores - highest[..., None]).exp_()
    return Normalised(scores, weights, highest, weights.sum(-1).log_().add_(highest))


def log_posterior(labels: Normalised, before: Tensor, mixture: Tensor) -> Tensor:
    """Mean over a mixture of the log probability that the text so far, each token appended, has its labels.

    Args:
        labels: scores under each label.
        before: [rows, labels], log likelihood of the text so far less the normaliser of the scores.
        mixture: [rows, labels].

    Returns:
        [rows, vocabulary], at most 0. Exponentials are taken once a label and token, those of the normaliser: so for tokens
        that are less likely than e^-80 of the likeliest under every label it is a bound.

    Source: Bayes' rule with equal chances before; Krause et al. 2021 (GeDi), equation 3, without its division by length.
    """
    lifted = before + labels.highest
    top = lifted.amax(1, keepdim=True)
    evidence = torch.bmm((lifted - top).exp_()[:, None], labels.weights).squeeze(1).clamp_(min=_LEAST).log_().add_(top)
    joint = torch.bmm(mixture[:, None], labels.scores).squeeze(1).add_((mixture * before).sum(1, keepdim=True))
    return joint.sub_(evidence).clamp_(max=0.0)


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
            "and the small model that ships has one; guidance, expert and bayes need none"
        )
    if not has_guide and any(control.rerank > 1 for control in controls):
        raise SettingsError(
            f"control rerank: {where} names no guide; pass --guide FOLDER of a classifier over its labels "
            "(`emogen train-classifier` makes one), or store one with `emogen calibrate`"
        )
