"""Sampling: the inverse CDF against the exact distribution, filters against transformers, and the token loop."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from emogen.decoding.loop import PromptBatch, generate, read_prefixes
from emogen.decoding.params import SamplingParams
from emogen.decoding.random_streams import fold_in, row_normals, row_uniforms
from emogen.decoding.sampler import build_sampler, filter_logits, inverse_cdf
from emogen.emotions.labels import EKMAN, parse_emotion
from emogen.errors import SettingsError
from emogen.models.generator import Generator, GeneratorConfig
from emogen.text.tokenizer import BOS, EOS, PAD, TURN, train_tokenizer

TOKENIZER = train_tokenizer(["so happy today", "the dog ran home", "we lost it"] * 20)
JOY = parse_emotion("joy", EKMAN)
BACKBONES = pytest.mark.parametrize("backbone", ["lstm", "transformer"])


def generator(backbone="lstm", latent=2):
    torch.manual_seed(1)
    config = GeneratorConfig(TOKENIZER.vocabulary, 7, backbone, width=16, layers=2, latent=latent, dropout=0.5)
    model = Generator(config)
    model.bias.data[EOS] = 4.0
    return model.eval()


def test_draws_follow_the_distribution():
    """Chi-square of 200,000 draws over 150 ids (149 degrees of freedom, mean 149, deviation sqrt(298)): within 4 deviations."""
    probabilities = torch.softmax(torch.randn(150) * 1.5, 0)
    probabilities[::7] = 0
    probabilities /= probabilities.sum()
    drawn = inverse_cdf(probabilities.expand(200_000, -1), torch.rand(200_000))
    counts = torch.bincount(drawn, minlength=150).double()
    expected = 200_000 * probabilities.double()
    assert (counts[expected == 0] == 0).all()
    kept = expected > 0
    freedom = int(kept.sum()) - 1
    chi_square = float(((counts - expected)[kept] ** 2 / expected[kept]).sum())
    assert abs(chi_square - freedom) < 4 * math.sqrt(2 * freedom)


def test_draws_equal_one_search_over_the_whole_sum():
    """But for draws that fall on a boundary of the sums, where rounding decides: then the next possible id."""
    probabilities = torch.softmax(torch.randn(20_000, 1000) * 2, 1)
    uniforms = torch.rand(20_000)
    found = inverse_cdf(probabilities, uniforms)
    exact = probabilities.double().cumsum(1)
    expected = torch.searchsorted(exact, uniforms[:, None].double() * exact[:, -1:], right=True).squeeze(1)
    assert (found == expected).float().mean() > 0.999
    assert (found - expected).abs().max() <= 3


WEIGHTS = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1.0)), min_size=1, max_size=140).filter(any)
EDGES = st.sampled_from([0.0, 2.0**-24, 2.0**-60, 0.5, 1 - 2.0**-24])


@given(WEIGHTS, st.one_of(EDGES, st.floats(0, 1 - 2.0**-24, width=32)))
def test_no_draw_is_impossible(weights, uniform):
    """Whatever the zeros and the random number, the id has a probability, and numpy's sums agree with it."""
    probabilities = torch.tensor([weights])
    probabilities /= probabilities.sum()
    found = int(inverse_cdf(probabilities, torch.tensor([uniform])))
    assert probabilities[0, found] > 0
    exact = np.cumsum(probabilities[0].double().numpy())
    target = uniform * exact[-1]
    assert exact[found] - float(probabilities[0, found]) - 1e-6 <= target <= exact[found] + 1e-6


@pytest.mark.parametrize("place", [0, 63, 64, 100, 129])
def test_a_certain_id_is_always_drawn(place):
    """At block borders too, for the smallest and the largest random number."""
    probabilities = torch.zeros(2, 130)
    probabilities[:, place] = 1
    assert inverse_cdf(probabilities, torch.tensor([0.0, 1 - 2.0**-24])).tolist() == [place, place]


def test_broken_probabilities_give_an_id():
    """Not one outside the vocabulary; the loss then reports the broken model."""
    assert 0 <= int(inverse_cdf(torch.full((1, 70), math.nan), torch.tensor([0.3]))) < 70


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({"top_k": 5}, TopKLogitsWarper(5)),
        ({"top_k": 1}, TopKLogitsWarper(1)),
        ({"top_p": 0.7}, TopPLogitsWarper(0.7)),
        ({"top_p": 0.01}, TopPLogitsWarper(0.01)),
        ({"min_p": 0.1}, MinPLogitsWarper(0.1)),
        ({"min_p": 1.0}, MinPLogitsWarper(1.0)),
    ],
)
def test_filters_equal_transformers(options, theirs):
    """The same tokens stay, with their scores."""
    scores = torch.randn(50, 40) * 2
    torch.testing.assert_close(filter_logits(scores, SamplingParams(**options)), theirs(None, scores))


def test_filters_compose_and_default_to_nothing():
    """In the order top-k, top-p, min-p; a k beyond the vocabulary keeps all."""
    scores = torch.randn(50, 40) * 2
    expected = MinPLogitsWarper(0.1)(None, TopPLogitsWarper(0.8)(None, TopKLogitsWarper(20)(None, scores)))
    torch.testing.assert_close(filter_logits(scores, SamplingParams(top_k=20, top_p=0.8, min_p=0.1)), expected)
    assert torch.equal(filter_logits(scores, SamplingParams(top_k=100)), scores)


@pytest.mark.parametrize("tries", [1, 2, 4])
@pytest.mark.parametrize("options", [{"top_p": 0.9}, {"top_p": 0.6}, {"min_p": 0.1}, {"top_p": 0.8, "min_p": 0.05}])
def test_filtered_draws_follow_the_filtered_distribution(options, tries):
    """Chi-square of 40,000 draws within 4 deviations, however many tries there are before the filter itself is computed."""
    scores, chosen = torch.randn(60) * 2, SamplingParams(temperature=1.3, max_tokens=1, **options)
    found = build_sampler(chosen, torch.rand(40_000, tries)).choose(scores.expand(40_000, -1), torch.arange(40_000), 0)
    expected = 40_000 * filter_logits(scores[None] / 1.3, chosen)[0].softmax(0).double()
    counts = torch.bincount(found, minlength=60).double()
    assert (counts[expected == 0] == 0).all()
    kept = expected > 0
    freedom = int(kept.sum()) - 1
    chi_square = float(((counts - expected)[kept] ** 2 / expected[kept]).sum())
    assert abs(chi_square - freedom) < 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-12, 1e-5])
def test_no_temperature_is_greedy(temperature):
    """The likeliest token, whatever the random numbers; so is one too low for floating point."""
    scores = torch.randn(9, 30)
    scores[:, :3] = -1e4
    found = build_sampler(SamplingParams(temperature=temperature), torch.rand(9, 1)).choose(scores, torch.arange(9), 0)
    assert torch.equal(found, scores.argmax(1))


def test_temperature_divides_the_scores():
    """Draws at temperature 2 are those of halved scores."""
    scores, uniforms, rows = torch.randn(99, 30), torch.rand(99, 1), torch.arange(99)
    found = build_sampler(SamplingParams(temperature=2), uniforms).choose(scores, rows, 0)
    assert torch.equal(found, build_sampler(SamplingParams(), uniforms).choose(scores / 2, rows, 0))
    assert not torch.equal(found, build_sampler(SamplingParams(), uniforms).choose(scores, rows, 0))


def streams(seed, rows):
    return [fold_in(seed, row) for row in range(rows)]


def test_random_numbers_of_a_row_are_its_own():
    """They do not depend on how many rows there are, and differ between rows, seeds, and the two kinds."""
    for numbers in (row_uniforms, row_normals):
        assert torch.equal(numbers(streams(3, 5), 4)[:2], numbers(streams(3, 2), 4))
        assert torch.equal(numbers(streams(3, 5)[2:3], 4)[0], numbers(streams(3, 5), 4)[2])
        assert len({tuple(row) for seed in (3, 4, -1) for row in numbers(streams(seed, 5), 4).tolist()}) == 15
    assert row_normals(streams(0, 3), 0).shape == (3, 0)


def test_streams_of_seeds_rows_and_candidates_differ():
    """The first candidate has the stream of its row; each is a number that a random generator takes as its seed."""
    found = [fold_in(*place) for place in itertools.product((-1, 0, 1, 2**31), range(20), range(20))]
    assert len(set(found)) == len(found)
    assert fold_in(5, 7, 0) == fold_in(5, 7)
    assert all(0 <= stream < 2**63 for stream in found)


def test_random_numbers_are_spread_evenly_over_rows():
    """First numbers of 20,000 rows: mean 1/2 and variance 1/12; normals 0 and 1; within 4 standard errors."""
    uniforms, normals = row_uniforms(streams(5, 20_000), 1), row_normals(streams(5, 20_000), 1)
    assert abs(float(uniforms.mean()) - 0.5) < 4 / math.sqrt(12 * 20_000)
    assert abs(float(uniforms.var()) - 1 / 12) < 4 / math.sqrt(180 * 20_000)
    assert abs(float(normals.mean())) < 4 / math.sqrt(20_000)
    assert abs(float(normals.var()) - 1) < 4 * math.sqrt(2 / 20_000)


def test_the_two_kinds_of_random_numbers_are_independent():
    """No correlation of size and uniform number within 4 standard errors: a Box-Muller normal of the same stream has one."""
    uniforms, normals = row_uniforms(streams(5, 1000), 16), row_normals(streams(5, 1000), 16)
    assert abs(float(torch.corrcoef(torch.stack([uniforms.flatten(), normals.abs().flatten()]))[0, 1])) < 4 / math.sqrt(16_000)


def greedy(model, prefixes, max_tokens=7):
    return generate(
        model,
        prefixes,
        max_tokens,
        build_sampler(SamplingParams(temperature=0), torch.zeros(len(prefixes.lengths), max_tokens)),
    )


def prefixes_of(model, *rows):
    time = max(map(len, rows))
    tokens = torch.tensor([[*row, *[PAD] * (time - len(row))] for row in rows])
    condition = torch.linspace(-1, 1, len(rows) * (8 + model.config.latent)).view(len(rows), -1)
    return PromptBatch(tokens, torch.tensor([len(row) for row in rows]), condition)


@BACKBONES
def test_prefixes_of_different_lengths_do_not_influence_each_other(backbone):
    """A batch gives what its rows give alone (greedy), prefix kept."""
    model = generator(backbone)
    model.bias.data[EOS] = 0.0
    rows = [[BOS], [270, 271, TURN, BOS], [265, TURN, BOS], [262] * 6 + [TURN, BOS]]
    together = prefixes_of(model, *rows)
    found = greedy(model, together)
    for number, row in enumerate(rows):
        one = slice(number, number + 1)
        alone = greedy(model, PromptBatch(torch.tensor([row]), together.lengths[one], together.condition[one]))
        written = alone.tokens[0]
        assert written[: len(row)].tolist() == row
        assert found.tokens[number, : len(written)].tolist() == written.tolist()
        assert (found.tokens[number, len(written) :] == PAD).all()
        torch.testing.assert_close(found.log_probs[number, : len(written)], alone.log_probs[0], atol=1e-4, rtol=0)
        assert (found.log_probs[number, len(written) :] == 0).all()


@BACKBONES
def test_replies_end_once_and_in_time(backbone):
    """Padding and nothing else behind the end token, and no reply is longer than asked for."""
    model = generator(backbone)
    together = prefixes_of(model, *([[BOS], [270, TURN, BOS]] * 100))
    found = generate(model, together, 5, build_sampler(SamplingParams(), torch.rand(200, 5)))
    lengths = []
    for row, start in zip(found.tokens.tolist(), found.reply_start.tolist(), strict=True):
        reply = row[start:]
        end = reply.index(EOS) + 1 if EOS in reply else 5
        assert set(reply[end:]) <= {PAD}
        assert not {PAD, BOS, TURN} & set(reply[:end])
        lengths.append(end if EOS in reply else 6)
    assert set(lengths) == {1, 2, 3, 4, 5, 6}


@BACKBONES
@torch.no_grad()
def test_log_probability_is_the_likelihood(backbone):
    """That of the tokens read in one pass at temperature 1, whatever the sampling was."""
    model = generator(backbone)
    together = prefixes_of(model, [BOS], [270, TURN, BOS])
    found = generate(model, together, 8, build_sampler(SamplingParams(temperature=0.7, top_p=0.9), torch.rand(2, 8)))
    scores = model.logits(model(found.tokens[:, :-1], together.condition)).log_softmax(-1)
    taken = scores.gather(2, found.tokens[:, 1:, None]).squeeze(2)
    positions = torch.arange(1, found.tokens.shape[1])
    counts = (positions >= together.lengths[:, None]) & (found.tokens[:, 1:] != PAD)
    torch.testing.assert_close(found.log_probs[:, 1:], taken * counts, atol=1e-4, rtol=0)


def test_first_token_follows_the_model():
    """Frequencies of 4,000 one-token replies against the model's own probabilities: each within 4.5 deviations."""
    model = generator(latent=0)
    prefix = PromptBatch(
        torch.full((4000, 1), BOS), torch.ones(4000, dtype=torch.long), torch.tensor([JOY.condition]).expand(4000, -1)
    )
    drawn = generate(model, prefix, 1, build_sampler(SamplingParams(), row_uniforms(streams(2, 4000), 1))).tokens[:, 1]
    with torch.no_grad():
        expected = model.logits(model(prefix.tokens[:1], prefix.condition[:1]))[0, 0].softmax(0)
    found = torch.bincount(drawn, minlength=len(expected)) / 4000
    deviation = (expected * (1 - expected) / 4000).sqrt()
    assert ((found - expected).abs() <= 4.5 * deviation + 1 / 4000).all()


def test_states_are_those_after_prefix_and_each_token():
    """One after the prefix and one for each further step; a row's first is that of the row alone."""
    model = generator()
    together = prefixes_of(model, [BOS], [270, TURN, BOS])
    found = generate(model, together, 4, build_sampler(SamplingParams(), torch.rand(2, 4)), keep_states=True)
    longest = max((found.tokens != PAD).sum(1) - found.reply_start)
    assert len(found.states) == longest
    alone = PromptBatch(torch.tensor([[BOS]]), torch.tensor([1]), together.condition[:1])
    state = generate(model, alone, 1, build_sampler(SamplingParams(), torch.rand(1, 1)), keep_states=True).states[0]
    torch.testing.assert_close(found.states[0][:, :, :1], state)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 0),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("max_tokens", 0),
        ("max_tokens", 5000),
    ],
)
def test_bad_options(name, value):
    """One line with the option, its value and what is allowed."""
    with pytest.raises(SettingsError, match=f"^--{name.replace('_', '-')} {value}: allowed is ") as caught:
        replace(SamplingParams(), **{name: value})
    assert "\n" not in str(caught.value)


@BACKBONES
def test_equal_prefixes_are_read_once(backbone, monkeypatch):
    """States and decoding states as when each row is read for itself; only the distinct rows are read."""
    torch.manual_seed(0)
    model = Generator(GeneratorConfig(vocabulary=20, emotions=2, backbone=backbone, width=8, heads=2)).eval()
    rows = torch.tensor([[7, 8, BOS], [9, BOS, PAD], [7, 8, BOS], [9, BOS, PAD], [7, 8, BOS]])
    lengths = torch.tensor([3, 2, 3, 2, 3])
    # The last row is another one by its condition alone.
    condition = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]])
    condition_shift = model.condition_shift(condition)
    read = []
    real = model.prefill
    monkeypatch.setattr(model, "prefill", lambda tokens, *rest: read.append(len(tokens)) or real(tokens, *rest))
    with torch.no_grad():
        hidden, state = read_prefixes(model, PromptBatch(rows, lengths, condition), condition_shift, 5)
        expected = real(rows, lengths, condition_shift, model.init_cache(condition_shift, 5))
    assert read == [3]
    torch.testing.assert_close(hidden, expected[0])
    torch.testing.assert_close(state, expected[1])
