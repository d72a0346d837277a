"""Adversarial training: the exact policy gradient of a 3-word language, masks, modes, and the loop."""

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch

from emogen.data.batches import Batch
from emogen.decoding.rollout import rollout_returns
from emogen.errors import SettingsError, TrainingError
from emogen.losses import clipped_policy_loss, leave_one_out
from emogen.models.discriminator import Discriminator, DiscriminatorConfig, score
from emogen.models.generator import Generator, GeneratorConfig, reply_mask
from emogen.text import BOS, EOS, PAD, TURN
from emogen.train.config import GanConfig
from emogen.train.gan import (
    Adversaries,
    cut_to,
    dense_returns,
    discriminator_loss,
    gather_experience,
    policy_loss,
    sample_replies,
    token_log_probs,
    train_gan,
)
from emogen.train.state import TrainState, adamw

ESTIMATORS = pytest.mark.parametrize("estimator", ["rollout", "dense"])
BACKBONES = pytest.mark.parametrize("backbone", ["lstm", "transformer"])
WORDS = (5, 6)
TINY = GanConfig(max_tokens=3, samples=4, rollouts=2, kl_weight=0.0, entropy_weight=0.0, precision="float32")
READING = {"rollout": "sequence", "dense": "prefix"}


def tiny_language(backbone="lstm"):
    """A generator over the words 5 and 6 and the end token, with uneven odds."""
    torch.manual_seed(5)
    model = Generator(GeneratorConfig(7, 1, backbone, width=4, layers=1, heads=2, dropout=0.0)).eval()
    model.bias.data[list(WORDS)] = torch.tensor([0.5, -0.3])
    return model


def two_conditions(copies=1):
    """Prefixes of one and three tokens, so that replies begin at different places."""
    tokens = torch.tensor([[BOS, 5, 6, EOS, PAD, PAD], [6, TURN, BOS, 6, EOS, PAD]])
    return Batch(
        tokens.repeat(copies, 1), torch.tensor([1, 3]).repeat(copies), torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(copies, 1)
    )


def every_reply():
    """The 15 replies of up to 3 tokens: ended after 0, 1 or 2 words, or cut after 3."""
    ended = [(*words, EOS) for length in range(3) for words in itertools.product(WORDS, repeat=length)]
    return ended + list(itertools.product(WORDS, repeat=3))


def whole_language():
    """Every reply to both prefixes, as a batch."""
    batch, rows = two_conditions(), []
    for prefix, start in zip(batch.tokens.tolist(), batch.reply_start.tolist(), strict=True):
        rows += [[*prefix[:start], *reply, *[PAD] * (6 - start - len(reply))] for reply in every_reply()]
    return Batch(torch.tensor(rows), batch.reply_start.repeat_interleave(15), batch.emotion.repeat_interleave(15, 0))


TABLE = torch.randn(7, 7, 7, generator=torch.Generator().manual_seed(11))


def table_reward(tokens, starts):
    """An arbitrary fixed reward for every reply."""
    padded = torch.nn.functional.pad(tokens, (0, 3))
    reply = padded.gather(1, starts[:, None] + torch.arange(3))
    return TABLE[reply[:, 0], reply[:, 1], reply[:, 2]]


def flat_gradient(loss, model):
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def exact_gradient(model, reward):
    """Of minus the expected reward, by adding up all sequences."""
    language = whole_language()
    mask = reply_mask(language.tokens, language.reply_start)
    log_prob = token_log_probs(model, language.tokens, language.emotion, mask)[0].sum(1)
    torch.testing.assert_close(log_prob.exp().view(2, 15).sum(1), torch.ones(2))
    return flat_gradient(-(log_prob.exp() * reward(language.tokens, language.reply_start)).sum() / 2, model)


def judge():
    """A prefix discriminator whose opinions differ much."""
    torch.manual_seed(6)
    model = Discriminator(DiscriminatorConfig(7, 1, "prefix", width=8, layers=1, heads=2, dropout=0.5))
    model.head.weight.data *= 8
    return model


def judged_at_the_end(model, tokens, emotion):
    """The probability of being real at each row's last token."""
    ends = (tokens != PAD).sum(1, keepdim=True) - 1
    return score(model, tokens, emotion).sigmoid().gather(1, ends).squeeze(1)


def estimated_gradient(model, estimator, random, discriminator, shuffled):
    """The estimator's gradient from 32 conditions of 4 replies."""
    batch = two_conditions(16)
    generated, condition = sample_replies(model, batch, TINY, random)
    mask = reply_mask(generated.tokens, generated.reply_start)

    def mixed(rewards):
        return rewards[torch.randperm(len(rewards), generator=random)] if shuffled else rewards

    if estimator == "dense":
        probability = score(discriminator, generated.tokens, condition).sigmoid()
        returns = dense_returns(mixed(probability), mask, discount=1.0)
    else:
        returns = rollout_returns(
            model, generated, condition, 3, lambda t, r: mixed(table_reward(t, generated.reply_start[r])), 2, random
        )
    grouped = (len(batch), TINY.samples, mask.shape[1])
    advantages = leave_one_out(returns.view(grouped), mask.view(grouped)).view(mask.shape)
    taken, _ = token_log_probs(model, generated.tokens, condition, mask)
    return flat_gradient(clipped_policy_loss(taken, taken.detach(), advantages, mask, 0.2), model)


def agreement(estimator, backbone, shuffled=False, repeats=100):
    """Cosine of the mean estimate with the exact gradient, and the largest distance in standard errors."""
    model, random, discriminator = tiny_language(backbone), torch.Generator().manual_seed(2), judge()
    emotion = whole_language().emotion

    def reward(tokens, starts):
        return judged_at_the_end(discriminator, tokens, emotion) if estimator == "dense" else table_reward(tokens, starts)

    exact = exact_gradient(model, reward)
    estimates = torch.stack([estimated_gradient(model, estimator, random, discriminator, shuffled) for _ in range(repeats)])
    mean, error = estimates.mean(0), estimates.std(0) / math.sqrt(repeats)
    distance = ((mean - exact).abs() - 1e-6).clamp(min=0) / error.clamp(min=1e-12)
    return float(torch.cosine_similarity(mean, exact, dim=0)), float(distance.max())


@ESTIMATORS
@BACKBONES
def test_policy_gradient_is_exact_in_the_mean(estimator, backbone):
    """Against all 15 sequences of each condition: cosine above 0.99, and no coordinate over 4 standard errors away."""
    cosine, distance = agreement(estimator, backbone)
    assert cosine > 0.99
    assert distance < 4


@ESTIMATORS
def test_shuffled_rewards_fail_that_check(estimator):
    """So it can fail."""
    cosine, distance = agreement(estimator, "lstm", shuffled=True)
    assert cosine < 0.99
    assert distance > 4


def test_dense_returns_by_hand():
    """Rises from 0.1 to 0.4 to 0.2, a row that has ended, and a later reward at half its worth."""
    probability = torch.tensor([[0.9, 0.1, 0.4, 0.2], [0.3, 0.5, 0.7, 0.9]])
    mask = torch.tensor([[False, True, True], [True, False, False]])
    found = dense_returns(probability, mask, discount=1.0)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.1, -0.2], [0.2, 0.0, 0.0]]))
    found = dense_returns(probability, mask, discount=0.5)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.2, -0.2], [0.2, 0.0, 0.0]]))


def test_prefix_discriminators_learn_from_begin_to_end():
    """Scores that are right at BOS by 1 and at reply tokens by 2, and wrong at every other place, by hand."""
    batch = real_batch()
    begin = torch.arange(9) == batch.reply_start[:, None] - 1
    reply = (torch.arange(9) >= batch.reply_start[:, None]) & (batch.tokens != PAD)
    signs = iter([1.0, -1.0])

    def judge_by_place(_tokens, _emotion):
        sign = next(signs)
        return sign * torch.where(begin, 1.0, torch.where(reply, 2.0, -50.0))

    judge_by_place.reading = "prefix"
    loss, accuracy = discriminator_loss(judge_by_place, batch, batch.tokens, samples=1)
    tokens = int(reply.sum())
    expected = (6 * math.log(1 + math.exp(-1)) + tokens * math.log(1 + math.exp(-2))) / (6 + tokens)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert accuracy == 1


def test_cut_to_by_hand():
    """Three reply tokens, wherever the reply begins."""
    tokens = torch.tensor([[BOS, 5, 6, 5, 6, EOS], [6, TURN, BOS, 5, EOS, PAD]])
    cut = cut_to(Batch(tokens, torch.tensor([1, 3]), torch.eye(2)), 3)
    assert cut.tokens.tolist() == [[BOS, 5, 6, 5, PAD, PAD], [6, TURN, BOS, 5, EOS, PAD]]


def adversaries(estimator="rollout", backbone="lstm", latent=2):
    torch.manual_seed(4)
    generator = Generator(GeneratorConfig(14, 2, backbone, width=8, layers=1, heads=2, latent=latent, dropout=0.4))
    settings = DiscriminatorConfig(14, 2, READING[estimator], width=8, layers=1, heads=2, dropout=0.4)
    return Adversaries(generator, copy.deepcopy(generator), Discriminator(settings))


def state_of(models):
    modules = {"generator": models.generator, "discriminator": models.discriminator}
    return TrainState(modules, {name: adamw(one) for name, one in modules.items()}, torch.Generator().manual_seed(0))


def real_batch():
    tokens = torch.randint(5, 14, (6, 9))
    tokens[:3, 0], tokens[3:, :3] = BOS, torch.tensor([8, TURN, BOS])
    tokens[:, -1] = EOS
    tokens[1, 4:] = torch.tensor([EOS, PAD, PAD, PAD, PAD])
    emotion = torch.eye(3)[torch.arange(6) % 3]
    return Batch(tokens, torch.tensor([1, 1, 1, 3, 3, 3]), emotion)


SMALL = GanConfig(max_tokens=6, samples=3, rollouts=2, warmup_steps=0, precision="float32", learning_rate=0.1)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module, before):
    return any(not torch.equal(value, before[name]) for name, value in module.state_dict().items())


def advance(models, config, steps, state=None):
    loop = train_gan(models, [real_batch()] * steps, config, state or state_of(models))
    return [step.figures for step in loop]


@ESTIMATORS
@BACKBONES
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_three_steps(estimator, backbone, precision):
    """Generator and discriminator change, the reference does not; figures are finite; rewards are probabilities."""
    models = adversaries(estimator, backbone)
    before = [weights(one) for one in (models.generator, models.discriminator, models.reference)]
    config = replace(SMALL, estimator=estimator, precision=precision, generator_updates=2, accuracy_ceiling=1.0)
    figures = advance(models, config, 3)
    assert len(figures) == 3
    assert all(math.isfinite(value) for step in figures for value in step.values())
    assert all(0 < step["reward"] < 1 and 1 <= step["length"] <= 6 for step in figures)
    assert changed(models.generator, before[0])
    assert changed(models.discriminator, before[1])
    assert not changed(models.reference, before[2])


@ESTIMATORS
def test_warm_up_leaves_the_generator(estimator):
    """Two discriminator updates before the generator's first."""
    models = adversaries(estimator)
    before, opponent = weights(models.generator), weights(models.discriminator)
    state = state_of(models)
    figures = advance(models, replace(SMALL, estimator=estimator, warmup_steps=2), 2, state)
    assert not changed(models.generator, before)
    assert changed(models.discriminator, opponent)
    assert all("reward" not in step for step in figures)
    assert "reward" in advance(models, replace(SMALL, estimator=estimator, warmup_steps=2), 1, state)[0]
    assert changed(models.generator, before)


def test_the_discriminator_waits_above_the_ceiling():
    """Its running accuracy starts at 1/2: a ceiling below stops it, one of 1 does not; the generator goes on."""
    for ceiling, moves in ((0.2, False), (1.0, True)):
        models = adversaries()
        before, own = weights(models.discriminator), weights(models.generator)
        figures = advance(models, replace(SMALL, accuracy_ceiling=ceiling), 2)
        assert changed(models.discriminator, before) is moves
        assert changed(models.generator, own)
        assert 0.4 <= figures[-1]["accuracy"] <= 0.6


@BACKBONES
def test_the_divergence_is_0_at_the_start(backbone):
    """Generator and reference are equal then, dropout notwithstanding; afterwards it is above."""
    figures = advance(adversaries(backbone=backbone), SMALL, 3)
    assert figures[0]["kl"] == pytest.approx(0, abs=1e-7)
    assert figures[2]["kl"] > 1e-4


@ESTIMATORS
def test_the_discriminator_scores_without_dropout(estimator):
    """Whenever no gradient is kept it stands in eval mode, and in training mode when it learns."""
    models, seen = adversaries(estimator), set()
    models.discriminator.register_forward_hook(
        lambda module, *_: seen.add((torch.is_grad_enabled(), module.training, module.encoder.training))
    )
    advance(models, replace(SMALL, estimator=estimator), 2)
    assert seen == {(True, True, True), (False, False, False)}


@ESTIMATORS
def test_broken_weights_stop_the_run(estimator):
    """No model changes, whichever is broken."""
    for broken in ("generator", "discriminator"):
        models = adversaries(estimator)
        target = models.generator.bias if broken == "generator" else models.discriminator.head.weight
        target.data.view(-1)[-1] = math.nan
        before = [weights(models.generator), weights(models.discriminator)]
        with pytest.raises(TrainingError, match=r"^step 1: ") as caught:
            advance(models, replace(SMALL, estimator=estimator), 1)
        assert "\n" not in str(caught.value)
        for module, kept in zip((models.generator, models.discriminator), before, strict=True):
            for name, value in module.state_dict().items():
                torch.testing.assert_close(value, kept[name], equal_nan=True, atol=0, rtol=0)


@ESTIMATORS
def test_a_stopped_run_goes_on_bit_equal(estimator):
    """Two steps, saved, and two more in fresh models end as four steps at once."""
    config = replace(SMALL, estimator=estimator, warmup_steps=1)
    batch = real_batch()

    def go_on(models, state, steps):
        list(train_gan(models, [batch] * steps, config, state))

    whole = adversaries(estimator)
    whole_state = state_of(whole)
    torch.manual_seed(9)
    go_on(whole, whole_state, 4)
    first = adversaries(estimator)
    first_state = state_of(first)
    torch.manual_seed(9)
    go_on(first, first_state, 2)
    saved = first_state.dump()
    again = adversaries(estimator)
    state = state_of(again)
    state.restore(saved, "here")
    go_on(again, state, 2)
    assert state.step == 4
    assert not changed(again.generator, weights(whole.generator))
    assert not changed(again.discriminator, weights(whole.discriminator))


def experience_of(models, config, batch, generated, condition):
    random = torch.Generator().manual_seed(1)
    return gather_experience(models.generator, models.discriminator, batch, generated, condition, config, random)


@ESTIMATORS
def test_the_reward_is_that_of_the_whole_replies(estimator):
    """Dense: the probability at the end; rollout: the probability to be preferred to the real reply."""
    models, batch = adversaries(estimator), real_batch()
    models.generator.eval()
    config = replace(SMALL, estimator=estimator)
    generated, condition = sample_replies(models.generator, batch, config, torch.Generator().manual_seed(0))
    emotion = batch.emotion.repeat_interleave(3, 0)
    if estimator == "dense":
        expected = judged_at_the_end(models.discriminator, generated.tokens, emotion)
    else:
        rivals = score(models.discriminator, batch.tokens, batch.emotion).repeat_interleave(3)
        expected = (score(models.discriminator, generated.tokens, emotion) - rivals).sigmoid()
    assert experience_of(models, config, batch, generated, condition).reward == pytest.approx(float(expected.mean()))


@ESTIMATORS
@pytest.mark.parametrize("behind", [PAD, 9, EOS])
def test_what_stands_behind_the_end_never_counts(estimator, behind):
    """Neither it nor padding columns change rewards, advantages, losses or gradients."""
    models, batch = adversaries(estimator), real_batch()
    models.generator.eval()
    models.reference.eval()
    models.discriminator.eval()
    models.generator.bias.data[EOS] = 1.0
    config = replace(SMALL, estimator=estimator)
    generated, condition = sample_replies(models.generator, batch, config, torch.Generator().manual_seed(0))

    def beyond(tokens):
        ends = (tokens == EOS).long()
        changed_tokens = torch.where(ends.cumsum(1) - ends > 0, behind, tokens)
        ended = ends.any(1, keepdim=True)
        return torch.cat([changed_tokens, torch.where(ended, behind, PAD).expand(-1, 2)], 1)

    wider = replace(generated, tokens=beyond(generated.tokens))
    wider_batch = replace(batch, tokens=beyond(batch.tokens))
    mask = reply_mask(generated.tokens, generated.reply_start)
    assert not mask[:, 2:].all()
    assert not torch.equal(wider.tokens, generated.tokens)
    found, again = (experience_of(models, config, *pair, condition) for pair in ((batch, generated), (wider_batch, wider)))
    time = mask.shape[1]
    assert again.reward == pytest.approx(found.reward, abs=1e-6)
    for name in ("advantages", "old_log_probs", "mask"):
        one, other = getattr(found, name), getattr(again, name)
        torch.testing.assert_close(other[:, :time], one)
        assert not other[:, time:].any()
    losses = [policy_loss(models.generator, models.reference, one, config)[0] for one in (found, again)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(flat_gradient(loss, models.generator) for loss in losses), atol=1e-6, rtol=1e-4)
    judged = [
        discriminator_loss(models.discriminator, *pair, 3) for pair in ((batch, generated.tokens), (wider_batch, wider.tokens))
    ]
    torch.testing.assert_close(judged[0], judged[1])
    gradients = [flat_gradient(loss, models.discriminator) for loss, _ in judged]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_advantages_compare_replies_to_the_same_condition():
    """At the first token they add up to 0 over the samples of a condition (a property of the leave-one-out mean)."""
    models, batch = adversaries("dense"), real_batch()
    models.generator.eval()
    config = replace(SMALL, estimator="dense")
    generated, condition = sample_replies(models.generator, batch, config, torch.Generator().manual_seed(0))
    found = experience_of(models, config, batch, generated, condition)
    first = found.advantages.gather(1, generated.reply_start[:, None] - 1).view(6, 3)
    torch.testing.assert_close(first.sum(1), torch.zeros(6), atol=1e-6, rtol=0)
    assert first.abs().max() > 1e-4


@pytest.mark.parametrize(
    "options", [{"samples": 1}, {"rollouts": 0}, {"generator_updates": 0}, {"max_tokens": 0}, {"chunk": 0}]
)
def test_impossible_settings(options):
    """One line that names the option."""
    with pytest.raises(SettingsError, match=f"^--{next(iter(options)).replace('_', '-')} "):
        replace(GanConfig(), **options)
