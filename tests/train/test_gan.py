"""Adversarial training: the exact policy gradient of a 3-word language, masks, modes, and the loop."""

import copy
import itertools
import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from emogen.data.batches import Batch
from emogen.decoding.counter_rng import CounterRNG
from emogen.decoding.rollout import rollout_returns
from emogen.errors import SettingsError, TrainingError
from emogen.models.classifier import Classifier, ClassifierConfig, emotion_probabilities
from emogen.models.discriminator import Discriminator, DiscriminatorConfig, score
from emogen.models.generator import Generator, GeneratorConfig, reply_mask
from emogen.models.likelihood import reply_nll
from emogen.models.losses import clipped_policy_loss, leave_one_out
from emogen.models.vae import TextVAE, TextVaeConfig
from emogen.text.tokenizer import BOS, EOS, PAD, TURN
from emogen.train.config import GanConfig
from emogen.train.gan.discriminator_step import cut_to, discriminator_loss
from emogen.train.gan.rewards import Guide, dense_returns
from emogen.train.gan.trajectories import (
    Adversaries,
    Replies,
    gather_experience,
    likelihood_loss,
    place_terms,
    policy_loss,
    sample_replies,
)
from emogen.train.loops.gan import train_gan
from emogen.train.run.state import TrainState, adamw

ESTIMATORS = pytest.mark.parametrize("estimator", ["rollout", "dense"])
ALL_ESTIMATORS = pytest.mark.parametrize("estimator", ["rollout", "dense", "gumbel"])
BACKBONES = pytest.mark.parametrize("backbone", ["lstm", "transformer"])
WORDS = (5, 6)
TINY = GanConfig(max_tokens=3, samples=4, rollouts=2, kl_weight=0.0, entropy_weight=0.0, precision="float32")
READING = {"rollout": "sequence", "dense": "prefix", "gumbel": "sequence"}


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


def token_log_probs(model, tokens, condition, mask):
    """Log probabilities of the tokens of rows, 0 outside the mask."""
    log_probs = model.logits(model(tokens[:, :-1], condition)).log_softmax(-1)
    return log_probs.gather(2, tokens[:, 1:, None]).squeeze(2) * mask


def exact_gradient(model, reward):
    """Of minus the expected reward, by adding up all sequences."""
    language = whole_language()
    mask = reply_mask(language.tokens, language.reply_start)
    log_prob = token_log_probs(model, language.tokens, language.emotion, mask).sum(1)
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
    batch, draws = two_conditions(16), CounterRNG(int(torch.randint(1 << 62, (), generator=random)))
    replies = sample_replies(Adversaries(model, model, discriminator), batch, TINY, draws)
    generated, condition, mask = replies.generated, replies.condition, replies.mask

    def mixed(rewards):
        return rewards[torch.randperm(len(rewards), generator=random)] if shuffled else rewards

    if estimator == "dense":
        probability = score(discriminator, generated.tokens, condition).sigmoid()
        returns = dense_returns(mixed(probability), mask, discount=1.0)
    else:
        returns = rollout_returns(
            model, generated, condition, 3, lambda t, r: mixed(table_reward(t, generated.reply_start[r])), 2, draws
        )
    grouped = (len(batch), TINY.samples, mask.shape[1])
    advantages = leave_one_out(returns.view(grouped), mask.view(grouped)).view(mask.shape)
    taken = token_log_probs(model, generated.tokens, condition, mask)
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


@ALL_ESTIMATORS
@BACKBONES
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_three_steps(estimator, backbone, precision, bfloat16):
    """Generator and discriminator change, the reference does not; figures are finite; rewards are probabilities."""
    models = adversaries(estimator, backbone)
    before = [weights(one) for one in (models.generator, models.discriminator, models.reference)]
    config = replace(SMALL, estimator=estimator, precision=precision, generator_updates=2, accuracy_ceiling=1.0)
    with bfloat16 if precision == "bf16" else nullcontext():
        figures = advance(models, config, 3)
        assert len(figures) == 3
        assert all(math.isfinite(value) for step in figures for value in step.values())
        assert all(1 <= step["length"] <= 6 for step in figures)
        assert estimator == "gumbel" or all(0 < step["reward"] < 1 for step in figures)
        assert changed(models.generator, before[0])
        assert changed(models.discriminator, before[1])
    assert not changed(models.reference, before[2])


@ALL_ESTIMATORS
def test_warm_up_leaves_the_generator(estimator):
    """Two discriminator updates before the generator's first."""
    models = adversaries(estimator)
    before, opponent = weights(models.generator), weights(models.discriminator)
    state = state_of(models)
    figures = advance(models, replace(SMALL, estimator=estimator, warmup_steps=2), 2, state)
    assert not changed(models.generator, before)
    assert changed(models.discriminator, opponent)
    assert all("kl" not in step for step in figures)
    assert "kl" in advance(models, replace(SMALL, estimator=estimator, warmup_steps=2), 1, state)[0]
    assert changed(models.generator, before)


def test_the_discriminator_waits_above_the_ceiling():
    """Its running accuracy starts at 1/2: a ceiling below stops it, one of 1 does not; the generator goes on."""
    for ceiling, moves in ((0.2, False), (1.0, True)):
        models = adversaries()
        before, own = weights(models.discriminator), weights(models.generator)
        figures = advance(models, replace(SMALL, accuracy_floor=0.0, accuracy_ceiling=ceiling), 2)
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


@ALL_ESTIMATORS
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


@ALL_ESTIMATORS
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


@ESTIMATORS
def test_the_reward_is_that_of_the_whole_replies(estimator):
    """Dense: the probability at the end; rollout: the probability to be preferred to the real reply."""
    models, batch = adversaries(estimator), real_batch()
    models.generator.eval()
    config = replace(SMALL, estimator=estimator)
    replies = sample_replies(models, batch, config, CounterRNG(0))
    tokens, emotion = replies.generated.tokens, batch.emotion.repeat_interleave(3, 0)
    if estimator == "dense":
        expected = judged_at_the_end(models.discriminator, tokens, emotion)
    else:
        real_scores = score(models.discriminator, batch.tokens, batch.emotion).repeat_interleave(3)
        expected = (score(models.discriminator, tokens, emotion) - real_scores).sigmoid()
    found = gather_experience(models, batch, replies, config, CounterRNG(1))
    assert found.figures["reward"] == pytest.approx(float(expected.mean()))


@ESTIMATORS
@pytest.mark.parametrize("behind", [PAD, 9, EOS])
def test_what_stands_behind_the_end_never_counts(estimator, behind):
    """Neither it nor padding columns change rewards, advantages, losses or gradients."""
    models, batch = adversaries(estimator), real_batch()
    for module in (models.generator, models.reference, models.discriminator):
        module.eval()
    models.generator.bias.data[EOS] = 1.0
    config = replace(SMALL, estimator=estimator)
    replies = sample_replies(models, batch, config, CounterRNG(0))

    def beyond(tokens):
        ends = (tokens == EOS).long()
        changed_tokens = torch.where(ends.cumsum(1) - ends > 0, behind, tokens)
        ended = ends.any(1, keepdim=True)
        return torch.cat([changed_tokens, torch.where(ended, behind, PAD).expand(-1, 2)], 1)

    generated = replace(replies.generated, tokens=beyond(replies.generated.tokens))
    wider = Replies(generated, replies.condition, reply_mask(generated.tokens, generated.reply_start))
    wider_batch = replace(batch, tokens=beyond(batch.tokens))
    assert not replies.mask[:, 2:].all()
    pairs, time = ((batch, replies), (wider_batch, wider)), replies.mask.shape[1]
    found, again = (gather_experience(models, *pair, config, CounterRNG(1)) for pair in pairs)
    assert again.figures["reward"] == pytest.approx(found.figures["reward"], abs=1e-6)
    for one, other in ((found.advantages, again.advantages), (replies.mask, wider.mask)):
        torch.testing.assert_close(other[:, :time], one)
        assert not other[:, time:].any()
    losses = [policy_loss(models, one, gained, config)[0] for one, gained in ((replies, found), (wider, again))]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(flat_gradient(loss, models.generator) for loss in losses), atol=1e-6, rtol=1e-4)
    judged = [discriminator_loss(models.discriminator, real, written.generated.tokens, 3) for real, written in pairs]
    torch.testing.assert_close(judged[0], judged[1])
    gradients = [flat_gradient(loss, models.discriminator) for loss, _ in judged]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def written_by(models, config, batch):
    """Replies of a generator in eval mode."""
    models.generator.eval()
    models.reference.eval()
    return sample_replies(models, batch, config, CounterRNG(0))


def test_advantages_compare_replies_to_the_same_condition():
    """At the first token they add up to 0 over the samples of a condition (a property of the leave-one-out mean)."""
    models, batch, config = adversaries("dense"), real_batch(), replace(SMALL, estimator="dense")
    replies = written_by(models, config, batch)
    found = gather_experience(models, batch, replies, config, CounterRNG(1))
    first = found.advantages.gather(1, replies.generated.reply_start[:, None] - 1).view(6, 3)
    torch.testing.assert_close(first.sum(1), torch.zeros(6), atol=1e-6, rtol=0)
    assert first.abs().max() > 1e-4


def test_standardised_advantages_have_deviation_1():
    """Over the places of reply tokens, as NumPy's std says; the order of their values stays."""
    models, batch, config = adversaries(), real_batch(), replace(SMALL, rollouts=0)
    replies = written_by(models, config, batch)
    plain, scaled = (
        gather_experience(models, batch, replies, replace(config, scale_advantages=choice), CounterRNG(1)).advantages[
            replies.mask
        ]
        for choice in ("no", "yes")
    )
    assert scaled.numpy().std() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(scaled * plain.numpy().std(), plain, atol=1e-6, rtol=1e-4)


def test_without_a_baseline_returns_are_the_advantages():
    """With no rollouts each token of a reply has the reply's own reward, a probability."""
    models, batch, config = adversaries(), real_batch(), replace(SMALL, rollouts=0, baseline="none")
    replies = written_by(models, config, batch)
    found = gather_experience(models, batch, replies, config, CounterRNG(1)).advantages
    own = found.max(1, keepdim=True).values
    torch.testing.assert_close(found, own * replies.mask)
    assert ((own > 0) & (own < 1)).all()


@ESTIMATORS
def test_a_constant_reward_teaches_nothing(estimator):
    """All advantages are 0; with real rewards they are not."""
    models, batch = adversaries(estimator), real_batch()
    for reward, taught in (("constant", False), ("discriminator", True)):
        config = replace(SMALL, estimator=estimator, reward=reward)
        replies = written_by(models, config, batch)
        found = gather_experience(models, batch, replies, config, CounterRNG(1))
        assert bool((found.advantages.abs() > 1e-6).any()) is taught


@ESTIMATORS
def test_shuffled_rewards_are_dealt_out_to_other_replies(estimator):
    """Of replies of one length the rewards are the same ones in another order."""
    models, batch = adversaries(estimator), real_batch()
    models.generator.bias.data[EOS] = -1e4
    config = replace(SMALL, estimator=estimator, rollouts=0, baseline="none")
    replies = written_by(models, config, batch)
    real, dealt = (
        gather_experience(models, batch, replies, replace(config, reward=reward), CounterRNG(1)).advantages
        for reward in ("discriminator", "shuffled")
    )
    start = replies.generated.reply_start[:, None] - 1
    real, dealt = real.gather(1, start).squeeze(1), dealt.gather(1, start).squeeze(1)
    if estimator == "rollout":
        torch.testing.assert_close(real.sort().values, dealt.sort().values)
    assert not torch.equal(real, dealt)


def test_chunks_change_neither_loss_nor_gradient():
    """The vocabulary's scores for five places at once, computed again for the gradient, or for all."""
    models, batch, config = adversaries("dense"), real_batch(), replace(SMALL, estimator="dense", mle_weight=0.5)
    replies = written_by(models, config, batch)
    found = gather_experience(models, batch, replies, config, CounterRNG(1))
    losses = [
        policy_loss(models, replies, found, small)[0] + likelihood_loss(models, batch, small)
        for small in (config, replace(config, chunk=5))
    ]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(flat_gradient(loss, models.generator) for loss in losses), atol=1e-7, rtol=1e-5)


def test_the_likelihood_is_that_of_the_real_replies():
    """Against the negative log-likelihood that `train_mle` minimises."""
    models, batch = adversaries(latent=0), real_batch()
    models.generator.eval()
    nll, mask = reply_nll(models.generator, batch.tokens, batch.reply_start, batch.emotion)
    assert float(likelihood_loss(models, batch, SMALL).detach()) == pytest.approx(
        float((nll.sum() / mask.sum()).detach()), rel=1e-5
    )


def test_the_entropy_floor_pushes_only_from_below():
    """The gradient of its weight is that of the entropy when the generator lacks some, and none when it has enough."""
    models, batch = adversaries(), real_batch()
    config = replace(SMALL, rollouts=0, discriminator_reward=0.0, kl_weight=0.0)
    replies = written_by(models, config, batch)
    found = gather_experience(models, batch, replies, config, CounterRNG(1))
    for floor, weight in ((0.5, 0.0), (2.0, -0.1)):
        loss, _, _ = policy_loss(models, replies, found, replace(config, entropy_floor=floor, entropy_weight=0.1))
        spread = place_terms(models, replies, config)[2].mean()
        expected = weight * flat_gradient(spread, models.generator)
        torch.testing.assert_close(flat_gradient(loss, models.generator), expected, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize(("accuracy", "updates"), [(0.3, 3), (0.7, 1), (0.95, 0)])
def test_the_band_of_accuracy(accuracy, updates, monkeypatch):
    """Below the floor three updates, inside one, above the ceiling none."""
    models, done = adversaries(), []
    monkeypatch.setattr("emogen.train.gan.discriminator_step.update", lambda *_: done.append(1) or {"gradient_norm": 1.0})
    monkeypatch.setattr("emogen.train.loops.gan.update", lambda *_: {})
    state = state_of(models)
    state.figures["accuracy"] = accuracy
    config = replace(SMALL, accuracy_floor=0.45, accuracy_ceiling=0.8, discriminator_updates=3)
    advance(models, config, 1, state)
    assert len(done) == updates


def latents_of(models, batch, config):
    replies = written_by(models, config, batch)
    return replies.condition[:, 3:].view(len(batch), config.samples, -1)


def test_latents_come_from_prior_and_posterior():
    """Of 4 samples 3 lie within a narrow posterior, the rest as the standard normal."""
    torch.manual_seed(3)
    vae = TextVAE(TextVaeConfig(GeneratorConfig(14, 2, "lstm", width=8, layers=1, heads=2, latent=2), encoder_heads=2)).eval()
    vae.posterior.bias.data = torch.tensor([5.0, 5.0, -20.0, -20.0])
    settings = DiscriminatorConfig(14, 2, "sequence", width=8, layers=1, heads=2)
    models = Adversaries(vae.decoder, copy.deepcopy(vae.decoder), Discriminator(settings), encoder=copy.deepcopy(vae))
    batch = real_batch()
    found = latents_of(models, batch, replace(SMALL, samples=4, posterior_share=0.75))
    mean = vae.encode(batch.tokens, batch.reply_start, batch.emotion).mean.detach()
    torch.testing.assert_close(found[:, :3], mean[:, None].expand(-1, 3, -1), atol=0.1, rtol=0)
    assert found[:, 3].abs().max() < 4
    assert found[:, 3].std() > 0.3
    assert not torch.equal(latents_of(models, batch, replace(SMALL, posterior_share=0.0))[:, 0], found[:, 0])


class Words:
    """A tokenizer that writes an id as a word."""

    def decode(self, ids):
        return " ".join(f"w{number}" for number in ids if number >= 5)


def test_the_guide_rewards_the_emotion_that_was_asked_for():
    """Every token of a reply gets the weight times the classifier's own probability; no emotion asked for, none."""
    torch.manual_seed(8)
    classifier = Classifier(ClassifierConfig(3, "ngrams", buckets=64, width=8)).eval()
    models, batch = adversaries(), real_batch()
    guided = replace(models, guide=Guide(classifier, torch.tensor([2, 0]), Words()))
    config = replace(SMALL, rollouts=0, baseline="none", discriminator_reward=0.0, emotion_reward=2.0)
    replies = written_by(guided, config, batch)
    found = gather_experience(guided, batch, replies, config, CounterRNG(1)).advantages.max(1).values
    starts = replies.generated.reply_start.tolist()
    texts = [Words().decode(row[start:]) for row, start in zip(replies.generated.tokens.tolist(), starts, strict=True)]
    own = emotion_probabilities(classifier, texts)
    target = batch.emotion.repeat_interleave(3, 0)
    expected = 2 * torch.where(target[:, 0] == 1, own[:, 2], torch.where(target[:, 1] == 1, own[:, 0], 0.0))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"samples": 1},
        {"rollouts": -1},
        {"generator_updates": 0},
        {"max_tokens": 0},
        {"chunk": 0},
        {"mle_weight": math.inf},
        {"accuracy_floor": 0.9},
        {"gumbel_final": 0.0},
        {"reward": "constant", "estimator": "gumbel"},
    ],
)
def test_impossible_settings(options):
    """One line that names the option."""
    with pytest.raises(SettingsError, match=f"^--{next(iter(options)).replace('_', '-')} "):
        replace(GanConfig(), **options)
