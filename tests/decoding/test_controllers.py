"""Controllers against their formulas, computed from the whole text at once, and rows of a batch against rows alone."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from emogen.decoding import controllers, loop
from emogen.decoding.control import Control
from emogen.decoding.controllers import (
    ControlledSampler,
    Labels,
    drop_unlikely,
    expand_conditions,
    log_posterior,
    neutral_place,
    refuse_unserved,
    weights_of,
)
from emogen.decoding.loop import PromptBatch, generate
from emogen.decoding.params import SamplingParams
from emogen.decoding.random_streams import fold_in, row_uniforms
from emogen.decoding.sampler import build_sampler, filter_logits, inverse_cdf
from emogen.decoding.texts import Prompt, TextGenerator, sample
from emogen.emotions.labels import EKMAN, Emotion, LabelSet, mixture, no_emotion
from emogen.errors import SettingsError
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.head import head_of, output_vectors
from emogen.text.tokenizer import BOS, EOS, PAD, TURN, train_tokenizer

TOKENIZER = train_tokenizer(["so happy today", "the dog ran home", "we lost it"] * 20)
NO_NEUTRAL = LabelSet(("joy", "fear", "anger"))
BACKBONES = pytest.mark.parametrize("backbone", ["lstm", "transformer"])
MOST = 10


def generator(backbone, labels=EKMAN, latent=2, end=2.0):
    """One that heeds its emotion and its tokens, and ends its texts early and late."""
    torch.manual_seed(1)
    config = GeneratorConfig(TOKENIZER.vocabulary, len(labels), backbone, width=16, layers=2, latent=latent, dropout=0.5)
    model = Generator(config)
    # With vectors of its own for what it writes: else a fresh model repeats what it has read.
    model.output = torch.nn.Embedding(config.vocabulary, config.width)
    for vectors, deviation in ((model.inject, 0.5), (model.embedding, 1.0), (model.output, 0.7)):
        torch.nn.init.normal_(vectors.weight, std=deviation)
    model.bias.data[EOS] = end
    return model.eval().requires_grad_(False)


def some_head(model, rank=3):
    head = head_of(model, rank)
    torch.nn.init.normal_(head.up, std=0.5)
    torch.nn.init.normal_(head.bias)
    return head.eval().requires_grad_(False)


@dataclass(frozen=True)
class Asked:
    emotion: Emotion
    control: Control
    prefix: tuple[int, ...] = (BOS,)


def written(model, head, target, uniforms, latent, temperature=0.7):
    """Replies to rows of one batch, and nothing of how `sample` makes them."""
    longest = max(len(row.prefix) for row in target)
    prefixes = PromptBatch(
        torch.tensor([[*row.prefix, *[PAD] * (longest - len(row.prefix))] for row in target]),
        torch.tensor([len(row.prefix) for row in target]),
        torch.cat([torch.tensor([row.emotion.condition for row in target]), latent], 1),
    )
    weights = weights_of([row.emotion for row in target], [row.control for row in target], torch.device("cpu"))
    company = expand_conditions(prefixes, weights, neutral_place(target[0].emotion))
    choose = build_sampler(SamplingParams(temperature=temperature), uniforms)
    return generate(model, company.prefixes, uniforms.shape[1], ControlledSampler(company, weights, choose, head))


# ---- the formulas, from all states of a text under each condition


def scores_under(model, tokens, condition, latent):
    """Scores [time - 1, vocabulary] of the tokens that follow, and the states; in one pass."""
    states = model(tokens[None, :-1], torch.cat([torch.tensor([condition]), latent[None]], 1))[0]
    return model.logits(states), states


def steered_scores(model, head, tokens, target, latent):
    """What the docstring of the module says, for each reply token: [reply, vocabulary] from tokens [time]."""
    labels, emotion, control, first = target.emotion.labels, target.emotion, target.control, len(target.prefix) - 1

    def under(conditioning):
        return scores_under(model, tokens, conditioning.condition, latent)[0][first:]

    plain, none, strength = under(emotion), under(no_emotion(labels)), emotion.strength
    neutral = under(mixture({"neutral": 1.0}, labels)) if "neutral" in labels else none
    share, bayes = torch.tensor(emotion.weights), control.bayes * strength
    moved = none + control.guidance * (plain - none)
    moved = moved + control.expert * strength * (plain - neutral)
    each = torch.stack([under(mixture({name: 1.0}, labels)).log_softmax(-1) for name in labels.names])
    moved = moved + bayes * torch.einsum("e,etv->tv", share, log_posteriors(each, tokens[first + 1 :], share, bayes)[0])
    if head is not None:
        _, states = scores_under(model, tokens, emotion.condition, latent)
        conditioning = head_probabilities(model, head, states[first:]).log()
        centred = conditioning - conditioning.mean(-1, keepdim=True)
        moved = moved + control.head * strength * torch.einsum("e,tve->tv", share, centred)
    return moved


def log_posteriors(each, reply, share, weight, odds=0.05):
    """Bayes' rule: of each label, given the reply up to each token and any next one, from their log likelihoods in float64.

    A label without share leaves once the odds against the likeliest that has one fall below `odds` / max(1, 2 weight). Gives,
    for each token, also the log likelihoods before it and which labels have left.
    """
    likelihood, gone = torch.zeros(len(each), dtype=torch.float64), torch.zeros(len(each), dtype=torch.bool)
    found, before, left = [], [], []
    for time, token in enumerate(reply.tolist()):
        before.append(likelihood)
        left.append(gone)
        joint = likelihood[:, None] + each[:, time].double()
        found.append(joint - joint[~gone].logsumexp(0))
        likelihood = joint[:, token]
        gone = gone | (share == 0) & ((likelihood - likelihood[share > 0].max()).exp() < odds / max(1.0, 2 * weight))
    return torch.stack(found, 1).float(), torch.stack(before), torch.stack(left)


def head_probabilities(model, head, states):
    """Of each emotion [reply, vocabulary, emotions], once the text goes on with each token: a softmax of the scores."""
    ids = torch.arange(model.config.vocabulary)
    vectors = output_vectors(model, ids)
    return torch.stack([head(state.expand(len(ids), -1), vectors, ids).softmax(-1) for state in states])


CONTROLS = [
    Control(guidance=2.5),
    Control(guidance=0.0),
    Control(expert=1.5),
    Control(bayes=2.0),
    Control(head=1.5),
    Control(guidance=2.0, head=1.0),
    Control(guidance=3.0, expert=0.5, bayes=1.0, head=0.5),
]


def reachable():
    """Ids that a reply may hold: the others stay out of reach, whatever is added to their scores."""
    ids = torch.arange(TOKENIZER.vocabulary)
    return ~torch.isin(ids, torch.tensor([PAD, 1, BOS, TURN]))


@BACKBONES
@pytest.mark.parametrize("control", CONTROLS, ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.7])
def test_tokens_and_their_log_probabilities_follow_the_formula(backbone, control, temperature):
    """Each token is the likeliest of the steered scores, or the one drawn from them; log probabilities are those of them."""
    model = generator(backbone)
    head, can_be = some_head(model), reachable()
    target = [
        Asked(mixture({"joy": 1.0}, EKMAN), control),
        Asked(mixture({"joy": 0.6, "fear": 0.4}, EKMAN, 0.5), control, (270, 271, TURN, BOS)),
        Asked(mixture({"neutral": 1.0}, EKMAN, 0.8), control, (262, TURN, BOS)),
    ]
    uniforms, latent = row_uniforms([fold_in(3, row) for row in range(3)], MOST), torch.randn(3, 2)
    found = written(model, head, target, uniforms, latent, temperature)
    plain = written(model, head, [Asked(row.emotion, Control(), row.prefix) for row in target], uniforms, latent, temperature)
    assert found.tokens.tolist()[:3] != plain.tokens.tolist()[:3]
    for row, one in enumerate(target):
        start = len(one.prefix)
        tokens = found.tokens[row][: int((found.tokens[row] != PAD).sum())]
        reply, times = tokens[start:], torch.arange(len(tokens) - start)
        scores = steered_scores(model, head, tokens, one, latent[row])
        taken = scores.log_softmax(-1)[times, reply]
        torch.testing.assert_close(found.log_probs[row, start : len(tokens)], taken, atol=2e-4, rtol=1e-4)
        if temperature:
            kept = filter_logits(scores / temperature, SamplingParams()).softmax(-1)
            expected = inverse_cdf(kept, uniforms[row, : len(reply)])
        else:
            expected = scores.argmax(-1)
        assert reply.tolist() == expected.tolist()
        assert can_be[reply].all()


@BACKBONES
def test_expert_is_held_against_no_emotion_where_no_label_is_neutral(backbone):
    model = generator(backbone, NO_NEUTRAL)
    emotion = mixture({"joy": 0.5, "anger": 0.5}, NO_NEUTRAL, 0.75)
    target, latent = Asked(emotion, Control(expert=2.0)), torch.randn(1, 2)
    found = written(model, None, [target], torch.zeros(1, MOST), latent, 0.0)
    tokens = found.tokens[0]
    plain, none = (
        scores_under(model, tokens, conditioning.condition, latent[0])[0] for conditioning in (emotion, no_emotion(NO_NEUTRAL))
    )
    expected = plain + 2.0 * 0.75 * (plain - none)
    assert tokens[1:].tolist() == expected.argmax(-1).tolist()
    assert neutral_place(emotion) is None
    assert neutral_place(mixture({"joy": 1.0}, EKMAN)) == EKMAN.position("neutral")


@BACKBONES
def test_a_single_label_of_bayes_and_head_is_no_choice(backbone):
    """Where there is one label alone, its probability is 1 whatever is written."""
    only = LabelSet(("joy",))
    model = generator(backbone, only)
    head, uniforms, latent = some_head(model), torch.rand(4, MOST), torch.randn(4, 2)
    texts = [
        written(model, head, [Asked(mixture({"joy": 1.0}, only), control)] * 4, uniforms, latent).tokens[:4].tolist()
        for control in (Control(), Control(bayes=5.0, head=5.0))
    ]
    assert texts[0] == texts[1]


def test_posteriors_of_labels_far_apart():
    """In float64 by definition, for texts whose likelihoods under two labels differ by up to e^60."""
    scores = torch.randn(5, 4, 30) * 5
    before = torch.randn(5, 4) * 20
    share = torch.rand(5, 4).softmax(-1)
    labels = Labels(torch.einsum("re,rev->rv", share, scores), scores.softmax(-1))
    joint = before.double()[..., None] + scores.double().log_softmax(-1)
    expected = torch.einsum("re,rev->rv", share.double(), joint.log_softmax(1))
    # Each row has a constant of its own.
    apart = log_posterior(labels, before).double() - expected
    torch.testing.assert_close(apart, apart[:, :1].expand(-1, 30), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(labels.of(torch.arange(5)), scores.log_softmax(-1)[torch.arange(5), :, torch.arange(5)])


# ---- labels that leave


def test_which_labels_count():
    """By their odds against the likeliest label of the mixture: .05, and less for weights above .5; who has left stays away."""
    texts = torch.tensor([[-9.0, -9.0 - math.log(19.9), -9.0 - math.log(20.1), 40.0]]).repeat(5, 1)
    share = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0], [1.0, 0, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 0, 1.0]])
    found = drop_unlikely(texts, share, torch.tensor([[0.5], [0.2], [0.51], [0.5], [9.0]]))
    left = found < -1e29
    assert left.tolist() == [[False, False, True, False]] * 2 + [[False] * 4] * 2 + [[True, True, True, False]]
    assert torch.equal(found[~left], texts[~left])
    assert torch.equal(drop_unlikely(found + 50.0, share, torch.full((5, 1), 99.0)) < -1e29, left)


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_what_is_left_out_is_bounded(weight):
    """The chance of each token moves by at most v d / p^v, where d are the odds of what has left and v is max(1, weight)."""
    model, least = generator("lstm", end=-50.0), max(1.0, weight)
    target = [Asked(mixture({name: 1.0}, EKMAN), Control(bayes=weight)) for name in EKMAN.names] * 3
    uniforms, latent = row_uniforms([fold_in(4, row) for row in range(21)], 16), torch.randn(21, 2)
    found, moved, bounds = written(model, None, target, uniforms, latent, 1.0), [], []
    for row, one in enumerate(target):
        tokens, own = found.tokens[row], EKMAN.names.index(str(one.emotion))
        conditioning = [mixture({name: 1.0}, EKMAN).condition for name in EKMAN.names]
        each = torch.stack(
            [scores_under(model, tokens, condition, latent[row])[0].log_softmax(-1) for condition in conditioning]
        )
        share = torch.tensor(one.emotion.weights)
        exact, before, _ = log_posteriors(each, tokens[1:], share, weight, 0.0)
        _, _, gone = log_posteriors(each, tokens[1:], share, weight)
        scores = (each[own] + weight * exact[own]).log_softmax(-1)
        chances = scores.gather(1, tokens[1:, None]).squeeze(1).exp()
        moved.append((found.log_probs[row, 1:].exp() - chances).abs())
        odds = ((before - before[:, own, None]).exp() * gone).sum(1)
        bounds.append(least * odds / before.softmax(1)[:, own] ** least)
    difference, bound = torch.stack(moved), torch.stack(bounds)
    assert (difference <= bound + 1e-5).all()
    assert (difference > 1e-3).any()
    assert ((bound > 0) & (bound < 0.05)).float().mean() > 0.1


@pytest.fixture
def departures(monkeypatch):
    """Of each company row that is told to leave before its owner has ended: its role less 3, and its owner's mixture."""
    found, pick = [], ControlledSampler.sample

    def watched(self, model, hidden, rows, number):
        tokens, log_probs = pick(self, model, hidden, rows, number)
        row_index, role = self.company.row_index[rows], self.company.role[rows]
        ended = torch.zeros(self.company.target, dtype=torch.bool)
        ended[row_index[role == 0]] = tokens[role == 0] == EOS
        for row in ((tokens == EOS) & ~ended[row_index]).nonzero().flatten().tolist():
            found.append((int(role[row]) - 3, self.weights.mixture[row_index[row]].tolist()))
        return tokens, log_probs

    monkeypatch.setattr(ControlledSampler, "sample", watched)
    return found


@BACKBONES
def test_labels_leave_the_decoding_and_those_of_a_mixture_stay(backbone, departures, monkeypatch):
    """Also the rows of the token loop; a mixture's labels are decoded to the end, and so is the row itself."""
    model, sizes = generator(backbone, end=-50.0), []
    monkeypatch.setattr(
        model, "step", lambda tokens, *rest: sizes.append(len(tokens)) or Generator.step(model, tokens, *rest), raising=False
    )
    emotions = [mixture({"joy": 0.5, "fear": 0.5}, EKMAN), mixture({"anger": 0.2, "sadness": 0.8}, EKMAN)] * 4
    target = [Asked(emotion, Control(bayes=2.0)) for emotion in emotions]
    uniforms = row_uniforms([fold_in(5, row) for row in range(8)], 24)
    written(model, None, target, uniforms, torch.randn(8, 2))
    assert sizes[0] == 8 * 8
    assert 8 * 3 <= sizes[-1] < 8 * 6
    assert departures
    assert all(mixed[label] == 0 for label, mixed in departures)


@BACKBONES
def test_when_rows_are_looked_at_changes_nothing(backbone, monkeypatch):
    """As on a GPU, which looks seldom: labels that have left are decoded on, and no more heard."""
    model = generator(backbone, end=4.0)
    writer, prompts = TextGenerator(model, TOKENIZER, some_head(model)), targets(CONTROLS, 14)
    options = SamplingParams(max_tokens=MOST)
    expected = list(sample(writer, prompts, options))
    for every in (3, 100):
        for module in (controllers, loop):
            monkeypatch.setattr(module, "looks", lambda number, _, every=every: number % every == every - 1)
        assert_alike(list(sample(writer, prompts, options)), expected)


# ---- what changes nothing


@BACKBONES
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_strength_zero_and_default_weights_change_nothing(backbone, temperature):
    """Every bit of the log probabilities included, since nothing is computed beside the rows."""
    model = generator(backbone)
    head, uniforms, latent = some_head(model), torch.rand(3, MOST), torch.randn(3, 2)
    unasked = no_emotion(EKMAN)
    target = [[Asked(unasked, control)] * 3 for control in (Control(), *CONTROLS)]
    first, *others = (written(model, head, rows, uniforms, latent, temperature) for rows in target)
    for other in others:
        assert torch.equal(other.tokens, first.tokens)
        assert torch.equal(other.log_probs, first.log_probs)
    options = SamplingParams(temperature=temperature, max_tokens=MOST)
    prompts = [Prompt([BOS], mixture({"joy": 1.0}, EKMAN))] * 3
    writer = TextGenerator(model, TOKENIZER, head)
    off = Control(guidance=1.0, expert=0.0, bayes=0.0, head=0.0, rerank=1)
    given = [Prompt(prompt.tokens, prompt.emotion, control=off) for prompt in prompts]
    assert list(sample(writer, given, options, latent)) == list(sample(writer, prompts, options, latent))


@BACKBONES
def test_half_the_strength_is_half_the_weight(backbone):
    """Of expert, bayes and head, since their formulas hold a product; the condition is told alike."""
    model = generator(backbone)
    joy, half = mixture({"joy": 1.0}, EKMAN), mixture({"joy": 1.0}, EKMAN, 0.5)
    found = weights_of([joy, half], [Control(2.0, 1.5, 1.0, 3.0), Control(2.0, 3.0, 2.0, 6.0)], torch.device("cpu"))
    for weight in (found.guidance, found.expert, found.bayes, found.head):
        torch.testing.assert_close(weight[0], weight[1])
    assert model.config.emotions == found.mixture.shape[1]
    none = weights_of([no_emotion(EKMAN)], [CONTROLS[-1]], torch.device("cpu"))
    assert not any(weight.any() for weight in (none.guidance, none.expert, none.bayes, none.head))


def test_company_is_as_large_as_the_controllers_need():
    """No emotion for guidance, neutral for expert, all labels but its own for bayes, none for head; with the owner's latent."""
    kinds = [
        Control(),
        Control(guidance=2.0),
        Control(expert=1.0),
        Control(bayes=1.0),
        Control(head=1.0),
        Control(2.0, 1.0, 1.0),
    ]
    emotions = [mixture({"joy": 1.0}, EKMAN)] * 5 + [mixture({"joy": 0.5, "fear": 0.5}, EKMAN)]
    latent = torch.arange(6.0)[:, None]
    condition = torch.cat([torch.tensor([emotion.condition for emotion in emotions]), latent], 1)
    prefixes = PromptBatch(torch.full((6, 1), BOS), torch.ones(6, dtype=torch.long), condition)
    weights = weights_of(emotions, kinds, torch.device("cpu"))
    found = expand_conditions(prefixes, weights, EKMAN.position("neutral"))
    assert found.target == 6
    assert torch.bincount(found.row_index).tolist() == [1, 2, 2, 7, 1, 10]
    assert torch.equal(found.prefixes.condition[:6], condition)
    assert torch.equal(found.prefixes.condition[:, 8], found.row_index.float())
    assert (found.prefixes.condition[6:, :8].sum(1) == 1).all()
    # Places: 7 is no emotion, 4 is neutral.
    positions = [found.prefixes.condition[6:, :8].argmax(1)[found.row_index[6:] == row].tolist() for row in range(6)]
    assert positions == [[], [7], [4], [0, 1, 2, 4, 5, 6], [], [7, 4, *range(7)]]


# ---- rows of a batch are what they are alone


class Guide:
    """Probabilities that depend on the text alone."""

    def __call__(self, texts):
        raw = np.array([[(sum(map(ord, text)) * (label + 3)) % 17 + 1.0 for label in range(7)] for text in texts])
        return raw / raw.sum(1, keepdims=True)


def targets(controls, rows=32):
    """Prompts with different emotions, mixtures, strengths and contexts, each with a seed of its own."""
    prefixes = [(BOS,), (270, 271, TURN, BOS), (265, TURN, BOS), (262,) * 6 + (TURN, BOS)]
    found = []
    for row in range(rows):
        one, other = EKMAN.names[row % 7], EKMAN.names[(row * 3 + 1) % 7]
        share = 1.0 if one == other or row % 3 == 0 else round(0.3 + row / 100, 2)
        shares = {one: share} if share == 1.0 else {one: share, other: 1 - share}
        emotion = mixture(shares, EKMAN, 1 - (row % 5) / 8)
        found.append(Prompt(prefixes[row % 4], emotion, control=controls[row % len(controls)], seed=1000 + row))
    assert len({(str(prompt.emotion), prompt.emotion.strength) for prompt in found}) == rows
    return found


def assert_alike(together, alone):
    assert [(one.text, one.tokens, one.finished) for one in together] == [(one.text, one.tokens, one.finished) for one in alone]
    assert [one.log_probability for one in together] == pytest.approx([one.log_probability for one in alone], abs=2e-3)


EACH = [Control(guidance=2.5), Control(expert=1.5), Control(bayes=1.5), Control(head=2.0), Control(rerank=3)]
MIX = [Control(), *EACH, Control(2.0, 0.5, 0.5, 1.0, 2), Control(guidance=4.0, head=0.5), Control(bayes=0.3, expert=2.0)]


@BACKBONES
@pytest.mark.parametrize(
    "options", [SamplingParams(temperature=0, max_tokens=MOST), SamplingParams(max_tokens=MOST, temperature=0.8)]
)
@pytest.mark.parametrize("controls", [*([control] for control in EACH), MIX], ids=lambda found: "+".join(map(str, found))[:40])
def test_32_targets_in_one_batch_are_what_they_are_alone(backbone, options, controls, departures):
    """Token for token, greedy and seeded: whatever stands beside a row, and whether rows have left the batch before it."""
    model = generator(backbone, end=8.0)
    writer, prompts = TextGenerator(model, TOKENIZER, some_head(model), Guide()), targets(controls)
    together = list(sample(writer, prompts, options))
    assert (len(departures) > 10) == any(control.bayes for control in controls)
    assert_alike(together, [next(sample(writer, [prompt], options)) for prompt in prompts])
    assert len({one.tokens for one in together}) > 3
    assert sum(one.finished for one in together) > 4
    assert len({one.text for one in together}) > 8
    assert_alike(list(sample(writer, prompts[::-1], options)), together[::-1])


@BACKBONES
def test_rows_without_control_beside_rows_with_it_stay_as_they_are(backbone):
    """Those of a plain call, token for token."""
    model = generator(backbone)
    writer, prompts = TextGenerator(model, TOKENIZER, some_head(model)), targets([Control(), CONTROLS[-1]])
    plain = [prompt for prompt in prompts if prompt.control == Control()]
    for options in (SamplingParams(temperature=0, max_tokens=MOST), SamplingParams(max_tokens=MOST)):
        mixed = list(sample(writer, prompts, options))
        assert_alike(mixed[::2], list(sample(writer, plain, options)))


# ---- what a checkpoint cannot serve


def test_controllers_that_cannot_be_served():
    """One line that says which can and how to get one."""
    model = generator("lstm")
    every = [Control(), Control(head=1.0), Control(rerank=2)]
    with pytest.raises(SettingsError) as no_head:
        refuse_unserved(every, None, True, "here")
    with pytest.raises(SettingsError) as no_guide:
        refuse_unserved(every, some_head(model), False, "here")
    assert str(no_head.value).startswith("control head: here has no emotion head; `emogen train-head --checkpoint here DATA` ")
    assert str(no_guide.value).startswith("control rerank: here names no guide; pass --guide FOLDER ")
    assert all("\n" not in str(error.value) for error in (no_head, no_guide))
    refuse_unserved(every, some_head(model), True, "here")
    refuse_unserved([Control(2.0, 1.0, 1.0)], None, False, "here")
    assert math.isfinite(
        next(sample(TextGenerator(model, TOKENIZER), [Prompt([BOS], no_emotion(EKMAN))], SamplingParams())).log_probability
    )
