"""The estimator gumbel: its noise, its value, its gradient against enumeration and against a sequential graph, its bounds."""

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional

from emogen.data.batches import Batch
from emogen.decoding.counter_rng import CounterRNG
from emogen.decoding.loop import Generated, PromptBatch, generate
from emogen.decoding.sampler import PlainSampler
from emogen.errors import SettingsError
from emogen.models.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    PretrainedDiscriminator,
    of_whole_texts,
    score,
)
from emogen.models.generator import Generator, GeneratorConfig, reply_mask
from emogen.models.likelihood_ratio import LikelihoodRatioDiscriminator
from emogen.models.transformer import present_tokens
from emogen.text.tokenizer import BOS, EOS, PAD, TURN
from emogen.train.loops import gumbel
from emogen.train.loops.gumbel import Relaxation, anneal, gumbel_loss, perturbed_scores

READINGS = pytest.mark.parametrize("reading", ["sequence", "prefix"])
BACKBONES = pytest.mark.parametrize("backbone", ["lstm", "transformer"])
PLAIN = Relaxation(temperature=0.7)
DRAWS = CounterRNG(3)


def tiny_language(backbone="lstm"):
    """A generator over the words 5 and 6 and the end token, with uneven odds."""
    torch.manual_seed(5)
    model = Generator(GeneratorConfig(7, 1, backbone, width=4, layers=1, heads=2, dropout=0.0)).eval()
    model.bias.data[[5, 6]] = torch.tensor([0.5, -0.3])
    return model


def two_conditions(copies=1):
    """Prefixes of one and three tokens, so that replies begin at different places."""
    tokens = torch.tensor([[BOS, 5, 6, EOS, PAD, PAD], [6, TURN, BOS, 6, EOS, PAD]])
    emotion = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    return Batch(tokens.repeat(copies, 1), torch.tensor([1, 3]).repeat(copies), emotion.repeat(copies, 1))


def sampled(model, batch, samples, longest, seed=0):
    """Replies of at most `longest` tokens, `samples` to each condition."""
    starts = batch.reply_start.repeat_interleave(samples)
    tokens = batch.tokens.repeat_interleave(samples, 0)[:, : int(starts.max())]
    prefixes = PromptBatch(
        tokens.masked_fill(torch.arange(tokens.shape[1]) >= starts[:, None], PAD),
        starts,
        batch.emotion.repeat_interleave(samples, 0),
    )
    uniforms = torch.rand(len(starts), longest, generator=torch.Generator().manual_seed(seed))
    return generate(model, prefixes, longest, PlainSampler(lambda rows, n: uniforms[rows, n]))


class Linear(nn.Module):
    """A discriminator that adds up a number for each word, times one that grows with its place: a linear one."""

    reading = "sequence"

    def __init__(self, vocabulary, scale):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, vocabulary, _weight=torch.eye(vocabulary))
        self.reward = nn.Parameter(torch.randn(vocabulary, generator=torch.Generator().manual_seed(7)) * scale)

    def forward(self, tokens, emotion, vectors=None):
        vectors = self.embedding(tokens) if vectors is None else vectors
        by_place = (vectors @ self.reward) * (1 + torch.arange(tokens.shape[1])) * (1 + emotion[:, :1])
        return (by_place * present_tokens(tokens)).sum(1)


def judge(reading="sequence", vocabulary=7, emotions=1):
    torch.manual_seed(6)
    model = Discriminator(DiscriminatorConfig(vocabulary, emotions, reading, width=8, layers=1, heads=2, dropout=0.5))
    model.head.weight.data *= 8
    return model


def flat_gradient(loss, model):
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def test_given_the_word_the_noise_puts_it_first():
    """For every word, also a very unlikely one; an id of probability 0 stays out of reach."""
    probabilities = torch.tensor([0.0, 0.9, 0.0999, 1e-4]).repeat(3000, 1)
    taken = torch.arange(3000) % 3 + 1
    noise = torch.empty_like(probabilities).exponential_(generator=torch.Generator().manual_seed(0))
    perturbed = perturbed_scores(probabilities, taken, noise)
    assert torch.equal(perturbed.argmax(1), taken)
    assert torch.equal(perturbed[:, 0], torch.full((3000,), -math.inf))


def test_over_all_words_the_noise_is_gumbel():
    """With words drawn by their probabilities each id's noise is standard Gumbel, and two ids' are independent."""
    random = torch.Generator().manual_seed(1)
    probabilities = torch.tensor([0.6, 0.3, 0.1]).repeat(5_000, 1)
    taken = torch.multinomial(probabilities, 1, generator=random).squeeze(1)
    noise = perturbed_scores(probabilities, taken, torch.empty_like(probabilities).exponential_(generator=random))
    noise -= probabilities.log()
    for each in noise.unbind(1):
        assert stats.kstest(each.numpy(), "gumbel_r").pvalue > 0.01
    assert stats.kstest((noise[:, 0] - noise[:, 1]).numpy(), "logistic").pvalue > 0.01


def noise_of(rows, times=30, ids=200, noises=2, key=3, first=0):
    source = gumbel._Noise(CounterRNG(key, first), torch.ones(rows, times, dtype=torch.bool), noises, ids)
    return torch.stack([source.exponentials(draw, slice(0, rows * times)) for draw in range(noises)]).view(
        noises, rows, times, ids
    )


def test_the_counted_noise_is_exponential_and_uncorrelated():
    """Along ids, places, rows and draws, and from one key to the next; correlations within 4.5 standard errors of 0."""
    noise = noise_of(20)
    assert noise.min() > 0
    assert stats.kstest(noise.flatten()[::7].numpy(), "expon").pvalue > 0.01
    centred = noise - noise.mean()
    pairs = [(centred.narrow(axis, 0, 1), centred.narrow(axis, 1, 1)) for axis in range(4)]
    pairs += [(centred[..., :-1], centred[..., 1:]), (centred[:, :, :-1], centred[:, :, 1:]), (centred[:, :-1], centred[:, 1:])]
    other = noise_of(20, key=4)
    for one, two in [*pairs, (centred, other - other.mean())]:
        correlation = float((one * two).mean() / centred.var())
        assert abs(correlation) < 4.5 / math.sqrt(one.numel())


def test_a_row_keeps_its_noise_in_another_process():
    """Rows 5 to 7 of a process that begins at row 5 are those of one that has them all."""
    assert torch.equal(noise_of(8)[:, 5:], noise_of(3, first=5))


@READINGS
def test_the_value_is_the_loss_of_the_hard_rows(reading):
    """-log sigmoid of the difference of the scores, as from the tokens themselves."""
    model, discriminator, real = tiny_language(), judge(reading), two_conditions()
    generated = sampled(model, real, 3, 3)
    condition = real.emotion.repeat_interleave(3, 0)

    def scores(tokens, emotion):
        found = score(discriminator, tokens, emotion)
        return found if reading == "sequence" else found.gather(1, (tokens != PAD).sum(1, keepdim=True) - 1).squeeze(1)

    own, real_scores = scores(generated.tokens, condition), scores(real.tokens, real.emotion).repeat_interleave(3)
    expected = torch.log1p((real_scores - own).exp()).mean()
    found = gumbel_loss(model, discriminator, real, generated, condition, PLAIN, DRAWS)
    torch.testing.assert_close(found.detach(), expected)


@BACKBONES
def test_the_gradient_of_one_word_is_exact_as_the_temperature_falls(backbone):
    """Replies of one token and a linear score: the mean estimate against all three replies of each condition, enumerated."""
    model, real = tiny_language(backbone), two_conditions()
    discriminator = Linear(7, scale=0.05)
    real_scores = discriminator(real.tokens, real.emotion).detach()
    prefixes = torch.tensor([[BOS, PAD, PAD], [6, TURN, BOS]])
    states = model(prefixes, real.emotion)[[0, 1], real.reply_start - 1]
    probabilities = model.logits(states).softmax(-1)
    loss = torch.zeros(())
    for word in (5, 6, EOS):
        rows = functional.pad(prefixes, (0, 1)).scatter(1, real.reply_start[:, None], word)
        value = -(discriminator(rows, real.emotion) - real_scores).sigmoid().log()
        loss = loss + (probabilities[:, word] * value.detach()).mean()
    exact = flat_gradient(loss, model)
    generated = sampled(model, real, 5_000, 1)
    condition = real.emotion.repeat_interleave(5_000, 0)

    def cosine(temperature):
        relaxation = Relaxation(temperature, noises=2, chunk=4096)
        found = flat_gradient(gumbel_loss(model, discriminator, real, generated, condition, relaxation, DRAWS), model)
        return found, float(torch.cosine_similarity(found, exact, dim=0))

    found, agreement = cosine(0.1)
    assert agreement > 0.995
    assert float(found.norm() / exact.norm()) == pytest.approx(1, abs=0.1)
    assert cosine(20.0)[1] < agreement
    discriminator.reward.data = discriminator.reward.data.roll(1)
    assert cosine(0.1)[1] < 0.9


def straight_through(model, discriminator, real, generated, condition, temperature, exponentials):
    """The same loss by automatic differentiation: one-hot words plus relaxed ones less themselves."""
    mask, taken = reply_mask(generated.tokens, generated.reply_start), generated.tokens[:, 1:]
    samples, ended = len(mask) // len(real), mask & (taken == EOS)
    scores = model.logits(model(generated.tokens[:, :-1], condition))
    log_end = scores.log_softmax(-1)[..., EOS]
    decisions = (torch.where(ended, log_end, torch.log1p(-log_end.exp())) * mask).sum(1)
    words = scores[..., [5, 6]]
    with torch.no_grad():
        place = (taken == 6).long().flatten()
        noise = perturbed_scores(words.softmax(-1).flatten(0, 1), place, exponentials[..., [5, 6]].flatten(0, 1))
        noise = noise.view(words.shape) - words.log_softmax(-1)
    soft = functional.pad(((words + noise) / temperature).softmax(-1), (5, 0))
    hard = functional.one_hot(generated.tokens, 7).float()
    one_hot = hard + functional.pad((soft - soft.detach()) * (mask & ~ended)[..., None], (0, 0, 1, 0))
    vectors = one_hot @ discriminator.embedding.weight.detach()
    with torch.no_grad():
        real_scores = of_whole_texts(discriminator(real.tokens, real.emotion), real.tokens).repeat_interleave(samples)
    losses = functional.softplus(
        real_scores - of_whole_texts(discriminator(generated.tokens, condition, vectors), generated.tokens)
    )
    grouped = losses.detach().view(-1, samples)
    advantages = samples / (samples - 1) * (grouped - grouped.mean(1, keepdim=True)).flatten()
    return (losses + advantages * decisions).mean()


@READINGS
@BACKBONES
def test_it_is_what_automatic_differentiation_gives(reading, backbone):
    """With a graph over words as one-hot vectors, under the same noise."""
    model, discriminator, real = tiny_language(backbone), judge(reading).eval(), two_conditions()
    generated = sampled(model, real, 8, 3)
    condition = real.emotion.repeat_interleave(8, 0)
    mask = reply_mask(generated.tokens, generated.reply_start)
    noise = gumbel._Noise(DRAWS, mask, 1, 7)
    exponentials = torch.ones(*mask.shape, 7)
    exponentials[mask] = noise.exponentials(0, slice(0, int(mask.sum())))
    expected = straight_through(model, discriminator, real, generated, condition, 0.7, exponentials)
    found = gumbel_loss(model, discriminator, real, generated, condition, PLAIN, DRAWS)
    torch.testing.assert_close(flat_gradient(found, model), flat_gradient(expected, model), atol=1e-6, rtol=1e-4)


@BACKBONES
def test_whether_to_end_is_learnt(backbone):
    """A score that prefers longer replies by far: nearly the exact gradient over the 15 replies of up to three tokens."""
    model, real, discriminator = tiny_language(backbone), two_conditions(), Linear(7, scale=0.0)
    discriminator.reward.data[[5, 6]] = torch.tensor([0.1, 0.12])
    replies = [(*words, EOS) for length in range(3) for words in itertools.product((5, 6), repeat=length)]
    replies += itertools.product((5, 6), repeat=3)
    rows = [
        [*prefix[:start], *reply, *[PAD] * (6 - start - len(reply))]
        for prefix, start in zip(real.tokens.tolist(), real.reply_start.tolist(), strict=True)
        for reply in replies
    ]
    tokens, starts = torch.tensor(rows), real.reply_start.repeat_interleave(15)
    condition = real.emotion.repeat_interleave(15, 0)
    log_probs = model.logits(model(tokens[:, :-1], condition)).log_softmax(-1).gather(2, tokens[:, 1:, None]).squeeze(2)
    probability = (log_probs * reply_mask(tokens, starts)).sum(1).exp()
    real_scores = discriminator(real.tokens, real.emotion).repeat_interleave(15)
    loss = functional.softplus(real_scores - discriminator(tokens, condition)).detach()
    exact = flat_gradient((probability * loss).sum() / 2, model)
    generated = sampled(model, real, 2000, 3)
    condition = real.emotion.repeat_interleave(2000, 0)
    found = flat_gradient(gumbel_loss(model, discriminator, real, generated, condition, Relaxation(0.2), DRAWS), model)
    assert torch.cosine_similarity(found, exact, dim=0) > 0.95


def test_it_varies_less_than_reinforce():
    """Over 200 batches of 16 one-word replies, at the temperature 1/2, beside the score function with a leave-one-out mean."""
    model, real = tiny_language(), two_conditions()
    discriminator = Linear(7, scale=0.05)
    condition = real.emotion.repeat_interleave(8, 0)
    real_scores = discriminator(real.tokens, real.emotion).detach().repeat_interleave(8)
    through, by_score = [], []
    for seed in range(200):
        generated = sampled(model, real, 8, 1, seed)
        loss = gumbel_loss(model, discriminator, real, generated, condition, Relaxation(0.5), CounterRNG(seed))
        through.append(flat_gradient(loss, model))
        value = functional.softplus(real_scores - discriminator(generated.tokens, condition)).detach().view(2, 8)
        advantage = (value - (value.sum(1, keepdim=True) - value) / 7).flatten()
        mask = reply_mask(generated.tokens, generated.reply_start)
        scores = model.logits(model(generated.tokens[:, :-1], condition)[mask])
        taken = scores.log_softmax(-1).gather(1, generated.tokens[:, 1:][mask][:, None]).squeeze(1)
        by_score.append(flat_gradient((taken * advantage).mean(), model))
    spread, reinforce = (torch.stack(each).var(0).sum() for each in (through, by_score))
    assert spread < reinforce / 1.5


def ended_at_two():
    """Rows that end early, and one that does not."""
    tokens = torch.tensor([[BOS, 5, EOS, PAD], [BOS, 6, 5, 5], [BOS, EOS, PAD, PAD], [BOS, 6, 6, EOS]])
    starts = torch.ones(4, dtype=torch.long)
    return Generated(tokens, starts, torch.zeros(4, 4)), Batch(tokens[[1, 3]], starts[:2], torch.eye(2))


@READINGS
@BACKBONES
@pytest.mark.parametrize("behind", [PAD, 5, EOS])
def test_padding_and_what_stands_behind_the_end_change_nothing(reading, backbone, behind):
    """Neither the value nor the gradient, of one draw or of three, and whatever the chunk."""
    model, discriminator = tiny_language(backbone), judge(reading)
    generated, real = ended_at_two()
    ends = (generated.tokens == EOS).long()
    past = (ends.cumsum(1) - ends).bool()
    tokens = torch.where(past, behind, generated.tokens)
    tokens = torch.cat([tokens, torch.where(ends.any(1, keepdim=True), behind, PAD).expand(-1, 2)], 1)
    condition = real.emotion.repeat_interleave(2, 0)
    relaxation = replace(PLAIN, noises=3)
    loss = gumbel_loss(model, discriminator, real, generated, condition, relaxation, DRAWS)
    wider = replace(generated, tokens=tokens)
    again = gumbel_loss(model, discriminator, real, wider, condition, replace(relaxation, chunk=2), DRAWS)
    torch.testing.assert_close(again, loss)
    torch.testing.assert_close(flat_gradient(again, model), flat_gradient(loss, model), atol=1e-6, rtol=1e-4)


def test_two_processes_are_one():
    """The mean gradient over two halves of the conditions is that over all of them."""
    model, discriminator, real = tiny_language(), judge(), two_conditions(2)
    generated = sampled(model, real, 3, 3)
    condition = real.emotion.repeat_interleave(3, 0)

    def gradient(conditions, rows, first):
        batch = Batch(real.tokens[conditions], real.reply_start[conditions], real.emotion[conditions])
        mine = Generated(generated.tokens[rows], generated.reply_start[rows], generated.log_probs[rows])
        loss = gumbel_loss(model, discriminator, batch, mine, condition[rows], PLAIN, CounterRNG(3, first))
        return flat_gradient(loss, model)

    halves = gradient(slice(0, 2), slice(0, 6), 0), gradient(slice(2, 4), slice(6, 12), 6)
    whole = gradient(slice(0, 4), slice(0, 12), 0)
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole, atol=1e-7, rtol=1e-4)
    assert not torch.allclose((halves[0] + gradient(slice(2, 4), slice(6, 12), 0)) / 2, whole, atol=1e-7, rtol=1e-4)


def test_the_discriminator_stays_as_it_is():
    """No gradient reaches it, and it keeps its mode and weights; the generator gets one for all that it trains."""
    model, discriminator, real = tiny_language(), judge(), two_conditions()
    before = copy.deepcopy(discriminator.state_dict())
    generated = sampled(model, real, 3, 3)
    for mode in (True, False):
        discriminator.train(mode)
        gumbel_loss(model, discriminator, real, generated, real.emotion.repeat_interleave(3, 0), PLAIN, DRAWS).backward()
        assert discriminator.training is mode
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    assert all(torch.equal(value, before[name]) for name, value in discriminator.state_dict().items())
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_fixed_words_get_no_gradient():
    """As with a pretrained backbone, whose word vectors and scores are not trained; the others' gradient is as before."""
    real = two_conditions()
    found = []
    for fixed in (False, True):
        model = tiny_language()
        generated = sampled(model, real, 3, 3)
        for parameter in (model.embedding.weight, model.bias):
            parameter.requires_grad_(not fixed)
        gumbel_loss(model, judge(), real, generated, real.emotion.repeat_interleave(3, 0), PLAIN, DRAWS).backward()
        assert (model.embedding.weight.grad is None) is fixed
        found.append(torch.cat([parameter.grad.flatten() for parameter in model.backbone.parameters()]))
    torch.testing.assert_close(found[0], found[1])


def test_in_bfloat16_the_gradient_is_nearly_the_same():
    model, discriminator, real = tiny_language("transformer"), judge(), two_conditions()
    generated = sampled(model, real, 16, 3)
    condition = real.emotion.repeat_interleave(16, 0)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled, cache_enabled=False):
            loss = gumbel_loss(model, discriminator, real, generated, condition, replace(PLAIN, noises=8), DRAWS)
            found.append(flat_gradient(loss, model))
    assert torch.cosine_similarity(*found, dim=0) > 0.98


def test_it_teaches_a_generator_which_word_is_real():
    """A discriminator that likes word 6 alone: after 30 updates every other word is rare."""
    model, real = tiny_language(), two_conditions()
    discriminator = Linear(7, 0.0)
    discriminator.reward.data[6] = 1.0
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    for seed in range(30):
        generated = sampled(model, real, 8, 2, seed)
        loss = gumbel_loss(model, discriminator, real, generated, real.emotion.repeat_interleave(8, 0), PLAIN, CounterRNG(seed))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokens = sampled(model, real, 50, 2, 99).tokens
    begins = real.reply_start.repeat_interleave(50)
    assert (tokens.gather(1, begins[:, None]) == 6).float().mean() > 0.9


@pytest.mark.parametrize("kind", [PretrainedDiscriminator, LikelihoodRatioDiscriminator])
def test_one_without_word_vectors_is_refused(kind):
    """In one line that names the way out."""
    real = two_conditions()
    generated = sampled(tiny_language(), real, 1, 2)
    with pytest.raises(SettingsError, match=r"--estimator rollout$") as caught:
        gumbel_loss(tiny_language(), kind.__new__(kind), real, generated, real.emotion, PLAIN, DRAWS)
    assert "\n" not in str(caught.value)


def test_the_temperature_falls_from_end_to_end():
    """By the same factor at every step."""
    steps = [anneal(2.0, 0.02, progress / 4) for progress in range(5)]
    assert steps[0] == pytest.approx(2.0)
    assert steps[-1] == pytest.approx(0.02)
    ratios = [later / earlier for earlier, later in itertools.pairwise(steps)]
    assert ratios == pytest.approx([100**-0.25] * 4)
