"""What adversarial training does when it goes wrong: broken rewards, a discriminator that is always right, a collapse.

Each rule is judged once a step, speaks in words (a warning of this module's logger, and `Action.words`), and keeps what it
remembers in the figures of the run's state, so that a resumed run goes on with it. Defaults are those of `SafeguardConfig`.

1. Broken or exploding: a reward, advantage or loss that is not finite, is larger than `bound`, or lies more than `deviations`
   running deviations from its running mean (judged after `settled` steps; a deviation counts with at least a twentieth of the
   mean or of 1). The generator skips the update; after `skips` in a row the run stops. What is finite and within the bound
   moves mean and deviation as if it stood at the edge, so that a level which lasts becomes the usual one.
2. A discriminator at 100%: running pairwise accuracy of `accuracy` or more for `patience` steps after the warm-up. Above the
   ceiling of its band it waits already, and while it waits a lower learning rate changes nothing; but its rewards may lie at
   the flat end of the sigmoid, where they are equal and the generator gets no gradient. Its last layer is made smaller, until
   real and generated replies lie 3 apart in the mean (a reward of about 0.05), and it goes on from there. That is a
   temperature (Guo et al. 2017): every ranking stays, rewards differ again. Where they lie nearer, nothing is changed. What
   else is known did worse when tried: a last layer at zero (cf. Nikishin et al. 2022) gave rewards that differ too little, and
   under all weights shrunk towards random ones (Ash & Adams 2020) the ranking stayed and the rewards became equal.
3. Collapse: the running distinct-2 of the replies below `distinct` times its mean over the first `settled` steps, which the
   warm-up is part of. The generator goes back to the starting model, the optimizer forgets its means, and the learning rate
   is halved from then on. At the collapse after `returns` such returns the run stops.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer

from emogen.data.batches import Batch
from emogen.errors import TrainingError
from emogen.models.discriminator import AnyDiscriminator, of_whole_texts, score
from emogen.models.generator import Generator
from emogen.models.trained import take_trained, trained_tensors
from emogen.train.run.processes import is_main_process, joint_mean

_LOG = logging.getLogger(__name__)
_PAIRS_A_ROW = 4
_LEAST_GAIN = 0.01
_LEAST_DEVIATION = 0.05
_MEMORY = 0.9
_DISTANCE = 3.0


@dataclass(frozen=True)
class SafeguardConfig:
    """Where the rules set in.

    Attributes:
        bound: largest size of a reward, advantage or loss.
        deviations: running deviations that one of these may lie from its running mean.
        skips: skipped updates in a row that stop the run.
        accuracy: pairwise accuracy at which a discriminator counts as always right.
        patience: steps there before its last layer is made smaller.
        distinct: share of the first distinct-2 below which the generator counts as collapsed; 0 for never.
        returns: how often the generator may go back to its start.
        settled: steps whose values are the first ones.
    """

    bound: float = 1e3
    deviations: float = 20.0
    skips: int = 10
    accuracy: float = 0.99
    patience: int = 50
    distinct: float = 0.5
    returns: int = 3
    settled: int = 20


@dataclass(frozen=True)
class Signals:
    """What a step found, the same in every process.

    Attributes:
        distinct: of the sampled replies, from `distinct_pairs`.
        accuracy: the discriminator's running pairwise accuracy; left out in the warm-up, when the generator cannot answer.
        values: rewards, advantages and losses by name, as the words call them; none in the warm-up.
    """

    distinct: float
    accuracy: float = 0.0
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Action:
    """What is to be done in this step, and why.

    Attributes:
        skip_generator: leave out the generator's update.
        refresh_discriminator: call the function of that name.
        return_generator: call `return_to_start`; the update is skipped too.
        words: one sentence for each of these that is due.
    """

    skip_generator: bool
    refresh_discriminator: bool
    return_generator: bool
    words: tuple[str, ...]


def check_step(step: int, figures: dict[str, float], measured: Signals, limits: SafeguardConfig) -> Action:
    """Apply the three rules, and logs what is to be done.

    Args:
        step: number of the step, for the words.
        figures: of the run's state; entries whose names begin with "guard" are read and written.
        measured: what the step found.
        limits: where the rules set in.

    Raises:
        TrainingError: too many broken updates in a row, or too many collapses.
    """
    broken = _broken(step, figures, measured.values, limits)
    saturated = _find_saturation(figures, measured.accuracy, limits)
    collapsed = _find_collapse(step, figures, measured.distinct, limits)
    words = tuple(said for said in (broken, saturated, collapsed) if said)
    for said in words if is_main_process() else ():
        _LOG.warning("step %d: %s", step, said)
    return Action(bool(broken or collapsed), bool(saturated), bool(collapsed), words)


def rate_share(figures: Mapping[str, float]) -> float:
    """Return the share of the generator's learning rate that is left after its returns: a half for each."""
    return math.pow(0.5, figures.get("guard_returns", 0.0))


def distinct_pairs(tokens: Tensor, mask: Tensor) -> float:
    """Return distinct-2 on token ids: the share of different pairs that 4 pairs a row would have, 0 to 1.

    The expected number in a draw without replacement (rarefaction; Hurlbert 1971), so that longer replies do not look less
    varied. Where replies have fewer pairs than that, all count.

    Args:
        tokens: [rows, time], ids.
        mask: [rows, time - 1], true at t if token t + 1 belongs to a reply (`reply_mask`); its pair is with the token before.

    Returns:
        The share; 1 where the mask is true nowhere.
    """
    pairs = torch.stack([tokens[:, :-1][mask], tokens[:, 1:][mask]]).long()
    kinds = torch.unique((pairs[0] << 32) + pairs[1], return_counts=True)[1].double()
    total = pairs.shape[1]
    drawn = min(_PAIRS_A_ROW * len(tokens), total)
    if not drawn:
        return 1.0
    others = total - kinds
    ways = torch.lgamma(others + 1) - torch.lgamma((others - drawn + 1).clamp(min=1))
    missed = (ways - math.lgamma(total + 1) + math.lgamma(total - drawn + 1)).exp()
    return float(torch.where(others < drawn, 1.0, 1 - missed).sum()) / drawn


@torch.no_grad()
def refresh_discriminator(discriminator: AnyDiscriminator, real: Batch, generated: Tensor) -> None:
    """Make the last layer smaller, in place, until the scores of real and generated replies are at most 3 apart in the mean.

    Args:
        discriminator: the model; its ranking of texts stays.
        real: one row a condition.
        generated: [conditions * samples, time], for the same conditions.

    Source: temperature scaling, Guo et al. 2017, On Calibration of Modern Neural Networks.
    """
    target = real.emotion.repeat_interleave(len(generated) // len(real), 0)
    on_real = of_whole_texts(score(discriminator, real.tokens, real.emotion), real.tokens)
    on_generated = of_whole_texts(score(discriminator, generated, target), generated)
    distance = float(joint_mean(on_real.mean() - on_generated.mean(), len(real)))
    for weight in discriminator.last_layer():
        weight.mul_(_DISTANCE / max(distance, _DISTANCE))


@torch.no_grad()
def return_to_start(generator: Generator, reference: Generator, optimizer: Optimizer) -> None:
    """Give the generator the reference's weights, in place, and forget what its optimizer knows of it.

    Fixed weights of a base model are the same in both and stay.
    """
    start = reference.state_dict()
    take_trained(generator, {name: start[name] for name in trained_tensors(generator)})
    for known in optimizer.state.values():
        for value in known.values():
            value.zero_()


def _broken(step: int, figures: dict[str, float], values: Mapping[str, float], limits: SafeguardConfig) -> str:
    if not values:
        return ""
    faults = [said for name, value in values.items() if (said := _fault(figures, name, value, limits))]
    for name, value in values.items():
        _note(figures, name, value, limits)
    skips = figures.get("guard_skips", 0.0) + 1 if faults else 0.0
    figures["guard_skips"] = skips
    said = f"{'; '.join(faults)}, in {skips:.0f} updates in a row"
    if skips >= limits.skips:
        raise TrainingError(f"step {step}: {said}; lower --learning-rate and --discriminator-rate")
    return f"{said}: the generator skips this one" if faults else ""


def _fault(figures: Mapping[str, float], name: str, value: float, limits: SafeguardConfig) -> str:
    """Return what is wrong with a value; nothing where it is usual."""
    if not math.isfinite(value):
        return f"{name} {value:g} is not finite"
    if abs(value) > limits.bound:
        return f"{name} {value:g} is beyond {limits.bound:g}"
    mean = figures.get(f"guard_{name}_mean", 0.0)
    if abs(value - mean) <= _reach(figures, name, limits):
        return ""
    return f"{name} {value:g} is more than {limits.deviations:g} running deviations from {mean:.3g}"


def _reach(figures: Mapping[str, float], name: str, limits: SafeguardConfig) -> float:
    """Return how far from its running mean a value is usual."""
    if figures.get(f"guard_{name}_seen", 0.0) < limits.settled:
        return math.inf
    least = _LEAST_DEVIATION * max(1.0, abs(figures[f"guard_{name}_mean"]))
    return limits.deviations * max(least, math.sqrt(figures[f"guard_{name}_variance"]))


def _note(figures: dict[str, float], name: str, value: float, limits: SafeguardConfig) -> None:
    """Take a value into its running mean and variance: all weigh the same at first, later ones fade after 100 steps."""
    if not abs(value) <= limits.bound:
        return
    seen, mean, variance = (figures.get(f"guard_{name}_{key}", 0.0) for key in ("seen", "mean", "variance"))
    reach = _reach(figures, name, limits)
    change = min(max(value - mean, -reach), reach)
    gain = max(1 / (seen + 1), _LEAST_GAIN)
    figures[f"guard_{name}_seen"] = seen + 1
    figures[f"guard_{name}_mean"] = mean + gain * change
    figures[f"guard_{name}_variance"] = (1 - gain) * (variance + gain * change**2)


def _find_saturation(figures: dict[str, float], accuracy: float, limits: SafeguardConfig) -> str:
    steps = figures.get("guard_full_steps", 0.0) + 1 if accuracy >= limits.accuracy else 0.0
    figures["guard_full_steps"] = steps % limits.patience
    if steps < limits.patience:
        return ""
    remedy = f"its last layer is shrunk to scores that are {_DISTANCE:g} apart at most"
    return f"the discriminator was right in {accuracy:.1%} of pairs for {steps:.0f} steps: {remedy}"


def _find_collapse(step: int, figures: dict[str, float], distinct: float, limits: SafeguardConfig) -> str:
    start, now = _noted_distinct(figures, distinct, limits)
    if now >= limits.distinct * start:
        return ""
    returns = figures.get("guard_returns", 0.0)
    said = f"distinct-2 of the replies fell from {start:.3f} to {now:.3f}"
    if returns >= limits.returns:
        remedy = "raise --kl-weight or --entropy-floor, or lower --learning-rate"
        raise TrainingError(f"step {step}: {said}, after {returns:.0f} returns to the starting model; {remedy}")
    figures |= {"guard_returns": returns + 1, "guard_distinct": start}
    return f"{said}: the generator goes back to the starting model, at {rate_share(figures):g} of its learning rate from now on"


def _noted_distinct(figures: dict[str, float], distinct: float, limits: SafeguardConfig) -> tuple[float, float]:
    """Return the mean of the first values, and running mean, of distinct-2."""
    seen, start = figures.get("guard_distinct_seen", 0.0), figures.get("guard_distinct_start", 0.0)
    if seen < limits.settled:
        start += (distinct - start) / (seen + 1)
        figures |= {"guard_distinct_seen": seen + 1, "guard_distinct_start": start, "guard_distinct": start}
        return start, start
    figures["guard_distinct"] = _MEMORY * figures["guard_distinct"] + (1 - _MEMORY) * distinct
    return start, figures["guard_distinct"]
