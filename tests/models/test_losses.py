"""Losses against torch.distributions, closed forms and sums done by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from emogen.models.losses import (
    Gaussian,
    active_units,
    bradley_terry,
    clipped_policy_loss,
    entropy,
    free_bits,
    importance_weighted_nll,
    kl_to_prior,
    leave_one_out,
    masked_mean,
    mutual_information,
    policy_kl,
    prefix_cross_entropy,
    standard_normal,
    token_nll,
    unpaired_loss,
)


def gaussian(*shape):
    return Gaussian(torch.randn(*shape), torch.randn(*shape))


def as_torch(found):
    return Normal(found.mean, (0.5 * found.log_variance).exp())


def test_kl_equals_torch():
    """One term a dimension, also where the prior broadcasts over the batch."""
    posterior, prior = gaussian(6, 3), gaussian(1, 3)
    expected = kl_divergence(as_torch(posterior), as_torch(prior).expand((6, 3)))
    torch.testing.assert_close(kl_to_prior(posterior, prior), expected)


def test_kl_of_the_prior_to_itself_is_0():
    """And a posterior shifted by 2 costs 2 nats (half the square)."""
    prior = standard_normal(torch.zeros(2, 3))
    assert kl_to_prior(prior, prior).abs().max() == 0
    shifted = Gaussian(prior.mean + 2, prior.log_variance)
    torch.testing.assert_close(kl_to_prior(shifted, prior), torch.full((2, 3), 2.0))


def test_log_density_equals_torch():
    """Summed over the last axis."""
    found, point = gaussian(5, 3), torch.randn(5, 3)
    torch.testing.assert_close(found.log_density(point), Independent(as_torch(found), 1).log_prob(point))


def test_reparametrised_draws_have_the_asked_for_moments():
    """Mean 3 and variance 4 over 100,000 draws, within 4 standard errors."""
    wanted = Gaussian(torch.full((100_000, 1), 3.0), torch.full((100_000, 1), math.log(4)))
    drawn = wanted.sample(torch.randn(100_000, 1))
    assert abs(float(drawn.mean()) - 3) < 4 * 2 / math.sqrt(1e5)
    assert abs(float(drawn.var()) - 4) < 4 * 4 * math.sqrt(2 / 1e5)


def test_token_nll_is_minus_the_log_probability():
    """By torch.distributions, for any leading shape; half precision is computed in float32."""
    logits, targets = torch.randn(2, 3, 7), torch.randint(7, (2, 3))
    torch.testing.assert_close(token_nll(logits, targets), -Categorical(logits=logits).log_prob(targets))
    assert token_nll(logits.bfloat16(), targets).dtype is torch.float32


def test_masked_mean_by_hand():
    """The mean of 1 and 3; 0 where nothing counts."""
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert masked_mean(values, torch.tensor([[True, False], [True, False]])) == 2
    assert masked_mean(values, torch.zeros(2, 2, dtype=torch.bool)) == 0


def test_free_bits_by_hand():
    """Batch means 0.1, 1 and 3 with a floor of 3 / 3 nats: 1 + 1 + 3; without a target the plain rate."""
    kl = torch.tensor([[0.0, 0.5, 2.0], [0.2, 1.5, 4.0]])
    assert free_bits(kl, 3.0) == pytest.approx(5.0)
    assert free_bits(kl, 0.0) == pytest.approx(4.1)


def test_free_bits_push_only_above_the_floor():
    """The gradient is 0 for a dimension below its share and 1 / rows above."""
    kl = torch.tensor([[0.0, 2.0], [0.2, 4.0]], requires_grad=True)
    free_bits(kl, 2.0).backward()
    torch.testing.assert_close(kl.grad, torch.tensor([[0.0, 0.5], [0.0, 0.5]]))


def test_active_units_by_hand():
    """Variances 0, 0.0001 and 1: only the last is above 0.01."""
    assert active_units(torch.tensor([[5.0, 0.01, 1.0], [5.0, -0.01, -1.0]])) == 1


def test_mutual_information_of_equal_posteriors_is_0():
    """A latent whose distribution is the same for every text tells nothing."""
    posterior = Gaussian(torch.ones(9, 4), torch.full((9, 4), 0.3))
    assert mutual_information(posterior, posterior.sample(torch.randn(9, 4))) == pytest.approx(0, abs=1e-5)


def test_mutual_information_of_distant_posteriors_is_log_n():
    """A latent from which the text can be told carries log(rows) nats."""
    posterior = Gaussian(100.0 * torch.arange(9).float()[:, None].expand(9, 4), torch.zeros(9, 4))
    assert mutual_information(posterior, posterior.sample(torch.randn(9, 4))) == pytest.approx(math.log(9), rel=1e-5)


def test_mutual_information_of_two_texts():
    """Posteriors N(-1, 1) and N(1, 1): log 2 - H(side | z) by numerical integration, over many draws."""
    rows = 2000
    side = torch.tensor([-1.0, 1.0]).repeat(rows // 2)[:, None]
    found = mutual_information(Gaussian(side, torch.zeros(rows, 1)), side + torch.randn(rows, 1))
    z = torch.linspace(-10, 10, 20_001)
    weight = Normal(1.0, 1.0).log_prob(z).exp() * 1e-3
    exact = math.log(2) - float((weight * torch.nn.functional.softplus(-2 * z)).sum())
    assert float(found) == pytest.approx(exact, abs=0.05)


def linear_gaussian(draws, spread):
    """Give the bound for z ~ N(0,1), x|z ~ N(z,1) and its proposal, besides the exact -log N(x; 0, 2)."""
    x = torch.tensor([-2.0, 0.0, 0.5, 3.0])
    posterior = Normal(x / 2, spread * math.sqrt(0.5))
    z = posterior.sample((draws,))
    found = importance_weighted_nll(Normal(z, 1.0).log_prob(x), Normal(0.0, 1.0).log_prob(z), posterior.log_prob(z))
    return found, -Normal(0.0, math.sqrt(2)).log_prob(x)


def test_importance_weighting_is_exact_with_the_true_posterior():
    """One draw suffices in the linear Gaussian model, whose marginal is known."""
    found, exact = linear_gaussian(draws=1, spread=1.0)
    torch.testing.assert_close(found, exact)


def test_importance_weighting_tightens_to_the_exact_value():
    """With a wrong proposal the mean over 500 one-draw bounds lies above; 5,000 draws come close."""
    loose = torch.stack([linear_gaussian(1, 1.5)[0] for _ in range(500)]).mean(0)
    found, exact = linear_gaussian(5000, 1.5)
    assert (loose > exact + 0.05).all()
    torch.testing.assert_close(found, exact, atol=0.05, rtol=0)


def test_bradley_terry_by_hand():
    """Margins 0 and log 3: -log(1/2) and -log(3/4)."""
    found = bradley_terry(torch.tensor([1.0, math.log(3)]), torch.tensor([1.0, 0.0]))
    assert float(found) == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)


def test_prefix_cross_entropy_equals_torch():
    """Binary cross-entropy with logits at the places that count."""
    scores, mask = torch.randn(3, 4), torch.rand(3, 4) > 0.4
    for real in (True, False):
        target = torch.full_like(scores[mask], float(real))
        expected = torch.nn.functional.binary_cross_entropy_with_logits(scores[mask], target)
        torch.testing.assert_close(prefix_cross_entropy(scores, real, mask), expected)


def masked(values, lengths, before=0):
    returns = torch.nn.functional.pad(torch.tensor(values), (before, 0))
    positions = torch.arange(returns.shape[-1])
    ends = torch.tensor(lengths)[..., None] + before
    return returns, (positions >= before) & (positions < ends)


@pytest.mark.parametrize("before", [0, 3])
def test_leave_one_out_by_hand(before):
    """A sample that has ended is compared by its last return, wherever in the row the replies begin."""
    values = [[[1.0, 2.0, 3.0], [4.0, 7.0, 0.0], [9.0, 0.0, 0.0]]]
    returns, mask = masked(values, [[3, 2, 1]], before)
    expected = [
        [1 - (4 + 9) / 2, 2 - (7 + 9) / 2, 3 - (7 + 9) / 2],
        [4 - (1 + 9) / 2, 7 - (2 + 9) / 2, 0.0],
        [9 - (1 + 4) / 2, 0.0, 0.0],
    ]
    found = leave_one_out(returns, mask)
    torch.testing.assert_close(found[0, :, before:], torch.tensor(expected))
    assert (found[~mask] == 0).all()


def test_leave_one_out_keeps_conditions_apart():
    """Changing one condition's returns changes no other's advantages, nor does what stands outside the mask."""
    returns, mask = torch.randn(2, 3, 4), torch.ones(2, 3, 4, dtype=torch.bool)
    mask[:, 0, 2:] = False
    changed = returns.clone()
    changed[1] += torch.randn(3, 4)
    changed[0, 0, 2:] = 99.0
    torch.testing.assert_close(leave_one_out(returns, mask)[0], leave_one_out(changed, mask)[0])


def test_leave_one_out_baseline_does_not_know_its_own_sample():
    """Each advantage changes by exactly what its own return changes by (so the gradient stays unbiased)."""
    returns = torch.randn(1, 3, 2)
    raised = returns.clone()
    raised[0, 1] += 5.0
    mask = torch.ones(1, 3, 2, dtype=torch.bool)
    gained = (leave_one_out(raised, mask) - leave_one_out(returns, mask))[0, 1]
    torch.testing.assert_close(gained, torch.full((2,), 5.0))


def policy_gradient(log_prob, old, advantages, mask, clip=0.2):
    log_prob = log_prob.clone().requires_grad_()
    clipped_policy_loss(log_prob, old, advantages, mask, clip).backward()
    return log_prob.grad


def test_policy_loss_has_the_gradient_of_reinforce_at_ratio_1():
    """-advantage / rows at each place in the mask."""
    log_prob, advantages = -torch.rand(4, 5), torch.randn(4, 5)
    mask = torch.rand(4, 5) > 0.3
    torch.testing.assert_close(policy_gradient(log_prob, log_prob, advantages, mask), -advantages * mask / 4)


def test_policy_loss_stands_still_outside_the_clip():
    """A good token already likelier than the clip, and a bad one already rarer, are left alone; the opposite are not."""
    ratio = torch.tensor([[1.5, 0.5, 1.5, 0.5]])
    advantages = torch.tensor([[1.0, -1.0, -1.0, 1.0]])
    found = policy_gradient(ratio.log(), torch.zeros(1, 4), advantages, torch.ones(1, 4, dtype=torch.bool))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0, 1.5, -0.5]]))


def test_policy_kl_and_entropy_equal_torch():
    """At each position, also where an id is out of reach."""
    policy, reference = torch.randn(3, 4, 6), torch.randn(3, 4, 6)
    policy[..., 0] = reference[..., 0] = -1e4
    policy, reference = policy.log_softmax(-1), reference.log_softmax(-1)
    ours, theirs = Categorical(logits=policy), Categorical(logits=reference)
    torch.testing.assert_close(policy_kl(policy, reference), kl_divergence(ours, theirs))
    torch.testing.assert_close(entropy(policy), ours.entropy())
    assert policy_kl(policy, policy).abs().max() == 0


def test_unpaired_loss_by_hand():
    """KTO's equation 8: beta .1, 12 nats gained, reference 2: 1 - sigmoid(1) of a good reply, 1 - sigmoid(-1) of a bad one."""
    found = unpaired_loss(torch.tensor([12.0, 12.0]), torch.tensor([True, False]), torch.tensor(2.0), 0.1, (1.0, 2.0))
    torch.testing.assert_close(found, torch.tensor([0.2689414214, 2 * 0.7310585786]))


@given(gain=st.floats(-20, 20), more=st.floats(0.1, 5), reference=st.floats(0, 5))
def test_unpaired_loss_falls_for_a_good_reply_that_gains_and_rises_for_a_bad_one(gain, more, reference):
    good = torch.tensor([True, False])
    before, after = (
        unpaired_loss(torch.full((2,), value, dtype=torch.float64), good, torch.tensor(reference), 0.1, (1.0, 1.0))
        for value in (gain, gain + more)
    )
    assert after[0] < before[0]
    assert after[1] > before[1]
