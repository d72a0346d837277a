"""What stops adversarial training from going wrong: each rule provoked by numbers, then by a loop of tiny models."""

import copy
import itertools
import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emogen.data.batches import Batch
from emogen.errors import TrainingError
from emogen.models.discriminator import Discriminator, DiscriminatorConfig, of_whole_texts, score
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.likelihood_ratio import LikelihoodRatioDiscriminator
from emogen.text.tokenizer import BOS, EOS
from emogen.train.config import GanConfig
from emogen.train.gan.safeguards import (
    Action,
    SafeguardConfig,
    Signals,
    check_step,
    distinct_pairs,
    rate_share,
    refresh_discriminator,
    return_to_start,
)
from emogen.train.loops.gan import Adversaries, train_gan
from emogen.train.run.state import TrainState, adamw

FINE = Action(False, False, False, ())
LIMITS = SafeguardConfig()


def judged(values, limits=LIMITS, figures=None):
    """Verdicts on a sequence of what steps measured."""
    figures = {} if figures is None else figures
    return [check_step(step, figures, measured, limits) for step, measured in enumerate(values, 1)]


def rewards(*values):
    return [Signals(0.5, 0.5, {"reward": value}) for value in values]


def accuracies(*values):
    return [Signals(0.5, value, {"reward": 0.5}) for value in values]


def diversities(*values):
    return [Signals(value, 0.5, {"reward": 0.5}) for value in values]


@pytest.mark.parametrize("name", ["reward", "advantage", "loss"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, "nan is not finite"),
        (math.inf, "inf is not finite"),
        (-math.inf, "-inf is not finite"),
        (1001.0, "1001 is beyond 1000"),
        (-2e30, "-2e+30 is beyond 1000"),
    ],
)
def test_broken_values_skip_the_update(name, value, said, caplog):
    """From the first step on; said in words, and logged with the step."""
    with caplog.at_level(logging.WARNING, "emogen.train.gan.safeguards"):
        (verdict,) = judged([Signals(0.5, 0.5, {"other": 0.1, name: value})])
    expected = f"{name} {said}, in 1 updates in a row: the generator skips this one"
    assert verdict == Action(True, False, False, (expected,))
    assert caplog.messages == [f"step 1: {expected}"]


def test_broken_values_in_a_row_stop_the_run():
    """The tenth; nine, and then a good one, do not, and the count begins anew."""
    nine = rewards(*[math.nan] * 9)
    figures = {}
    verdicts = judged([*nine, *rewards(0.5), *nine], figures=figures)
    assert [verdict.skip_generator for verdict in verdicts] == [True] * 9 + [False] + [True] * 9
    with pytest.raises(TrainingError) as caught:
        check_step(20, figures, rewards(math.nan)[0], LIMITS)
    assert str(caught.value) == (
        "step 20: reward nan is not finite, in 10 updates in a row; lower --learning-rate and --discriminator-rate"
    )


def test_a_value_far_from_its_running_mean_is_skipped():
    """Alternating 2 and 4: mean 3, deviation 1, so 22.9 is within 20 deviations and 23.1 is not; the 20 first settle it."""
    before = rewards(*[2.0, 4.0] * 10)
    for value, skipped in ((22.9, False), (23.1, True), (-16.9, False), (-17.1, True)):
        verdict = judged([*before, *rewards(value)])[-1]
        assert verdict.skip_generator is skipped
        assert judged([*before[:19], *rewards(value)])[-1] == FINE
    assert verdict.words == (
        "reward -17.1 is more than 20 running deviations from 3, in 1 updates in a row: the generator skips this one",
    )


def test_a_level_that_lasts_becomes_the_usual_one():
    """A loss that rises from 0 to 50 and stays costs some updates, not the run; one of 2000 does."""
    verdicts = judged(rewards(*[0.0] * 30, *[50.0] * 30))
    skipped = [verdict.skip_generator for verdict in verdicts]
    assert 1 <= sum(skipped) < LIMITS.skips
    assert not any(skipped[:30])
    assert not any(skipped[40:])
    with pytest.raises(TrainingError, match=r"^step 40: reward 2000 is beyond 1000, in 10 updates in a row; lower "):
        judged(rewards(*[0.0] * 30, *[2000.0] * 30))


@given(st.lists(st.floats(0, 1), max_size=80))
def test_probabilities_never_explode(values):
    """A reward that is a probability is never taken for broken, whatever it does."""
    assert judged(rewards(*values)) == [FINE] * len(values)


@given(st.lists(st.floats(-1000, 1000), min_size=1, max_size=20))
def test_mean_and_variance_of_the_first_values(values):
    """As NumPy finds them."""
    figures = {}
    judged(rewards(*values), figures=figures)
    assert figures["guard_reward_mean"] == pytest.approx(np.mean(values), abs=1e-9)
    assert figures["guard_reward_variance"] == pytest.approx(np.var(values), rel=1e-6, abs=1e-6)


def test_a_discriminator_at_100_percent_is_refreshed():
    """After 50 steps in a row at 99% or more, and after 50 more."""
    verdicts = judged(accuracies(*[0.99] * 49, 0.98, *[1.0] * 100))
    due = [number for number, verdict in enumerate(verdicts, 1) if verdict.refresh_discriminator]
    assert due == [100, 150]
    said = "the discriminator was right in 100.0% of pairs for 50 steps"
    said += ": its last layer is shrunk to scores that are 3 apart at most"
    assert verdicts[99] == Action(False, True, False, (said,))
    assert all(verdict == FINE for number, verdict in enumerate(verdicts, 1) if number not in due)


def test_the_warm_up_counts_for_nothing_but_distinct():
    """There the generator cannot answer: no accuracy, no values; a broken row of updates goes on behind it."""
    figures = {}
    assert judged([Signals(0.8)] * 200, figures=figures) == [FINE] * 200
    assert figures == pytest.approx(
        {"guard_full_steps": 0, "guard_distinct_seen": 20, "guard_distinct_start": 0.8} | {"guard_distinct": 0.8}
    )


def test_a_collapse_returns_the_generator():
    """From 0.8 to 0: the running mean of 0.9 old and 0.1 new is below 0.4 after the seventh (0.9^6 = 0.531, 0.9^7 = 0.478)."""
    figures = {}
    verdicts = judged(diversities(*[0.7, 0.9] * 10, *[0.0] * 7), figures=figures)
    assert verdicts[:-1] == [FINE] * 26
    said = "distinct-2 of the replies fell from 0.800 to 0.383"
    said += ": the generator goes back to the starting model, at 0.5 of its learning rate from now on"
    assert verdicts[-1] == Action(True, False, True, (said,))
    assert rate_share(figures) == 0.5
    assert judged(diversities(0.8, 0.5, 0.6), figures=figures) == [FINE] * 3
    assert rate_share(figures) == 0.5


def test_the_fourth_collapse_stops_the_run():
    """Three returns, each to half of the rate before; then a line that names what helps."""
    figures = {}
    verdicts = judged(diversities(*[0.8] * 20, *[0.0] * 27), figures=figures)
    assert [number for number, verdict in enumerate(verdicts, 1) if verdict.return_generator] == [27, 34, 41]
    assert rate_share(figures) == 0.125
    with pytest.raises(TrainingError) as caught:
        check_step(48, figures, Signals(0.0), LIMITS)
    assert str(caught.value) == (
        "step 48: distinct-2 of the replies fell from 0.800 to 0.383, after 3 returns to the starting model; raise --kl-weight "
        "or --entropy-floor, or lower --learning-rate"
    )


def test_a_share_of_0_turns_the_rule_off():
    """As a user may want it who looks for few and good replies."""
    assert judged(diversities(*[0.8] * 20, *[0.0] * 100), replace(LIMITS, distinct=0.0)) == [FINE] * 120


@given(st.floats(0.001, 1), st.lists(st.floats(0, 1), max_size=60))
def test_no_collapse_without_a_value_below_half(start, others):
    """The running mean stays within what it is the mean of."""
    values = [start] * 20 + [start / 2 * 1.001 + other for other in others]
    assert judged(diversities(*values)) == [FINE] * len(values)


STEPS = st.builds(
    lambda distinct, accuracy, reward: Signals(distinct, accuracy, {"reward": reward}),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([0.5, 1.0]),
    st.sampled_from([0.5, 40.0, math.nan]),
)
QUICK = SafeguardConfig(skips=5, patience=3, settled=4, returns=5)


def outcome(values, figures):
    """Verdicts up to an error, and its words."""
    found = []
    for step, measured in enumerate(values, 1):
        try:
            found.append(check_step(step, figures, measured, QUICK))
        except TrainingError as error:
            return [*found, str(error)]
    return found


@given(st.lists(STEPS, max_size=40), st.integers(0, 40))
def test_a_resumed_run_judges_as_one_that_was_not_stopped(values, place):
    """All that is remembered is in the figures, and these are finite and survive JSON, as train.json needs it."""
    figures = {}
    whole = outcome(values, {})
    first = outcome(values[:place], figures)
    if any(isinstance(each, str) for each in first):
        assert first == whole
        return
    restored = json.loads(json.dumps(figures, allow_nan=False))
    later = outcome(values[place:], restored)
    assert len(first) + len(later) == len(whole)
    assert [each for each in first + later if isinstance(each, Action)] == [each for each in whole if isinstance(each, Action)]


def by_enumeration(tokens, mask, drawn):
    """Expected share of different pairs in all draws of so many."""
    pairs = [
        (row[t], row[t + 1])
        for row, seen in zip(tokens.tolist(), mask.tolist(), strict=True)
        for t in range(len(seen))
        if seen[t]
    ]
    found = [len(set(draw)) for draw in itertools.combinations(pairs, min(drawn, len(pairs)))]
    return sum(found) / len(found) / min(drawn, len(pairs))


@given(st.lists(st.lists(st.integers(5, 7), min_size=7, max_size=7), min_size=1, max_size=2), st.data())
def test_distinct_pairs_by_enumeration(rows, data):
    """Against all draws of 4 pairs a row from up to 12."""
    tokens = torch.tensor(rows)
    flags = st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=len(rows), max_size=len(rows))
    mask = torch.tensor(data.draw(flags))
    if mask.any():
        assert distinct_pairs(tokens, mask) == pytest.approx(by_enumeration(tokens, mask, 4 * len(rows)))
    else:
        assert distinct_pairs(tokens, mask) == 1


@pytest.mark.parametrize("words", [1, 6, 20])
def test_one_sentence_over_and_over(words):
    """Its own pairs are all there are: with 200 rows nearly each is drawn, so words / 800."""
    tokens = torch.arange(words + 1).repeat(200, 1)
    assert distinct_pairs(tokens, torch.ones(200, words, dtype=torch.bool)) == pytest.approx(
        words / min(800, 200 * words), rel=1e-3
    )


def test_pairs_are_told_apart_in_large_vocabularies():
    """Order counts, and so does every bit of an id."""
    tokens = torch.tensor([[1, 70_000], [70_000, 1], [0, 151_935], [151_935, 0], [1, 69_999]], dtype=torch.int32)
    assert distinct_pairs(tokens, torch.ones(5, 1, dtype=torch.bool)) == 1


def test_longer_replies_look_no_less_varied():
    """The same distribution of pairs at 6 and at 24 tokens a reply; the plain share falls by more than half."""
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 25, (256, 25), generator=random)
    mask = torch.ones(256, 24, dtype=torch.bool)
    short, long = distinct_pairs(tokens[:, :7], mask[:, :6]), distinct_pairs(tokens, mask)
    assert long == pytest.approx(short, rel=0.03)
    assert 400 / (256 * 24) < 0.5 * 400 / (256 * 6)


def tiny_discriminator(reading="sequence"):
    torch.manual_seed(3)
    return Discriminator(DiscriminatorConfig(14, 1, reading, width=8, layers=1, heads=2, dropout=0.0))


EMOTION = torch.tensor([[1.0, 0.0]])
REAL = torch.tensor([[BOS, 5, 6, 5, EOS], [BOS, 6, 5, 6, EOS]])
FALSE = torch.tensor([[BOS, 9, 8, 9, EOS], [BOS, 8, 9, 8, EOS]])


def teach(discriminator, steps):
    optimizer = torch.optim.Adam(discriminator.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        gap = (discriminator(REAL, EMOTION.repeat(2, 1)) - discriminator(FALSE, EMOTION.repeat(2, 1))).view(2, -1)[:, -1]
        torch.nn.functional.softplus(-gap).mean().backward()
        optimizer.step()


def whole(discriminator, tokens):
    return of_whole_texts(score(discriminator, tokens, EMOTION.repeat(len(tokens), 1)), tokens)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module, before):
    return any(not torch.equal(value, before[name]) for name, value in module.state_dict().items())


def target(reply_tokens):
    """Rows as a batch without context."""
    return Batch(reply_tokens, torch.ones(len(reply_tokens), dtype=torch.long), EMOTION.repeat(len(reply_tokens), 1))


@pytest.mark.parametrize("reading", ["sequence", "prefix"])
def test_a_refreshed_discriminator_gives_rewards_that_differ_again(reading):
    """Saturated rewards are all 0 in float32; with scores 3 apart they are not, and rank as the scores did."""
    discriminator = tiny_discriminator(reading)
    teach(discriminator, 15)
    generated = torch.cat([FALSE, FALSE.roll(1, 1)])
    discriminator.head.weight.data *= 1000
    before = whole(discriminator, REAL).repeat_interleave(2) - whole(discriminator, generated)
    assert before.min() > 200
    assert (-before).sigmoid().max() == 0
    others = {name: value.clone() for name, value in discriminator.state_dict().items() if not name.startswith("head")}
    refresh_discriminator(discriminator, target(REAL), generated)
    after = whole(discriminator, REAL).repeat_interleave(2) - whole(discriminator, generated)
    assert float(after.mean()) == pytest.approx(3, rel=1e-4)
    torch.testing.assert_close(after, before * 3 / before.mean(), rtol=1e-3, atol=1e-4)
    assert all(torch.equal(value, discriminator.state_dict()[name]) for name, value in others.items())


@pytest.mark.parametrize("distance", [-30.0, 0.0, 2.99])
def test_scores_that_are_near_stay(distance):
    """Where rewards are sound, nothing is changed."""
    discriminator = tiny_discriminator()
    found = whole(discriminator, REAL).mean() - whole(discriminator, FALSE).mean()
    discriminator.head.weight.data *= distance / found
    before = weights(discriminator)
    refresh_discriminator(discriminator, target(REAL), FALSE)
    assert not changed(discriminator, before)


def test_the_last_layer_of_a_likelihood_ratio():
    """Scale and offset: real texts are 3 above, and its readers are what they were."""
    reader = tiny_generator()
    reader.bias.data[5:7] = 60.0
    discriminator = LikelihoodRatioDiscriminator([reader], tiny_generator())
    before = weights(reader)
    refresh_discriminator(discriminator, target(REAL), FALSE)
    assert float(whole(discriminator, REAL).mean() - whole(discriminator, FALSE).mean()) == pytest.approx(3, rel=1e-4)
    assert not changed(reader, before)


def tiny_generator():
    torch.manual_seed(5)
    return Generator(GeneratorConfig(14, 1, "lstm", width=8, layers=1, heads=2, dropout=0.0))


def test_return_to_start():
    """Trained weights are the reference's again, whose own need no gradient; fixed ones stay; the optimizer starts anew."""
    generator = tiny_generator()
    generator.inject.requires_grad_(False)
    reference = copy.deepcopy(generator).requires_grad_(False)
    optimizer = adamw(generator)
    generator(REAL, EMOTION.repeat(2, 1)).sum().backward()
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    generator.inject.weight.data += 1
    kept = generator.inject.weight.clone()
    return_to_start(generator, reference, optimizer)
    start = reference.state_dict()
    for name, value in generator.state_dict().items():
        assert torch.equal(value, start[name]) is not name.startswith("inject")
    assert torch.equal(generator.inject.weight, kept)
    assert optimizer.state
    assert not any(value.any() for state in optimizer.state.values() for value in state.values())


SMALL = GanConfig(max_tokens=6, samples=3, rollouts=0, warmup_steps=25, precision="float32", learning_rate=0.05)
READING = {"rollout": "sequence", "dense": "prefix", "gumbel": "sequence"}


def adversaries(estimator="rollout"):
    generator = tiny_generator()
    return Adversaries(generator, copy.deepcopy(generator).requires_grad_(False), tiny_discriminator(READING[estimator]))


def state_of(models):
    modules = {"generator": models.generator, "discriminator": models.discriminator}
    return TrainState(modules, {name: adamw(one) for name, one in modules.items()}, torch.Generator().manual_seed(0))


def real_batches():
    """Replies of five words 5 to 8, then the end, without end."""
    random = torch.Generator().manual_seed(1)
    while True:
        replies = torch.randint(5, 9, (8, 5), generator=random)
        tokens = torch.cat([torch.full((8, 1), BOS), replies, torch.full((8, 1), EOS)], 1)
        yield Batch(tokens, torch.ones(8, dtype=torch.long), EMOTION.repeat(8, 1))


def poison(discriminator):
    """NaN for every score of a text while the list that it gives is not empty; updates of the discriminator stay sound."""
    poisoned = []
    discriminator.register_forward_hook(lambda module, _, odds: odds * math.nan if poisoned and not module.training else None)
    return poisoned


@pytest.mark.parametrize("estimator", ["rollout", "dense", "gumbel"])
def test_a_loop_with_broken_rewards(estimator, caplog):
    """Three steps of NaN leave the generator, in words, not the discriminator; then both learn on; ten of NaN stop the run."""
    models = adversaries(estimator)
    state, poisoned = state_of(models), poison(models.discriminator)
    config = replace(SMALL, estimator=estimator, warmup_steps=1, accuracy_ceiling=1.0)
    loop = train_gan(models, real_batches(), config, state)
    assert [next(loop).words for _ in range(3)] == [()] * 3
    before, opponent = weights(models.generator), weights(models.discriminator)
    poisoned.append(True)
    messages = [next(loop).words for _ in range(3)]
    assert all(len(words) == 1 and "nan is not finite" in words[0] for words in messages)
    assert caplog.messages == [f"step {step}: {words[0]}" for step, words in zip((4, 5, 6), messages, strict=True)]
    assert not changed(models.generator, before)
    assert changed(models.discriminator, opponent)
    poisoned.clear()
    assert next(loop).words == ()
    assert changed(models.generator, before)
    before = weights(models.generator)
    poisoned.append(True)
    with pytest.raises(TrainingError, match=r"^step 17: .* nan is not finite.* in 10 updates in a row; lower --learning-rate"):
        list(loop)
    assert not changed(models.generator, before)


def test_a_loop_with_a_discriminator_at_100_percent():
    """Words that no real reply has, and a high rate: rewards are near 0, until its scores are 3 apart."""
    models = adversaries()
    for module in (models.generator, models.reference):
        module.bias.data[5:9] = -20.0
    config = replace(SMALL, discriminator_rate=0.1, learning_rate=1e-6, accuracy_ceiling=0.98)
    loop = train_gan(models, real_batches(), config, state_of(models))
    steps = list(itertools.takewhile(lambda step: not step.words, itertools.islice(loop, 150)))
    assert 75 <= len(steps) < 150
    assert all(step.figures["accuracy"] >= 0.99 for step in steps[-49:])
    assert steps[-1].figures["reward"] < 0.01
    later = list(itertools.islice(loop, 10))
    assert all(0.01 < step.figures["reward"] < 0.3 for step in later)


def test_a_loop_whose_generator_repeats_one_sentence():
    """A reward for the word 7 alone: behind two returns the generator is its start again, at an eighth; then the run stops."""
    models = adversaries()
    models.discriminator.register_forward_hook(
        lambda module, given, odds: None if module.training else (given[0] == 7).sum(1).float()
    )
    start, state = weights(models.reference), state_of(models)
    state.figures["guard_returns"] = 2.0
    config = replace(SMALL, learning_rate=0.5, kl_weight=0.0, entropy_weight=0.0)
    loop, said, rates, lowest = train_gan(models, real_batches(), config, state), [], [], 1.0

    def look_on():
        nonlocal lowest
        for step in itertools.islice(loop, 600):
            lowest = min(lowest, step.figures["distinct2"])
            if step.words:
                said.extend(step.words)
                rates.append(rate_share(state.figures))
                assert not changed(models.generator, start)

    with pytest.raises(TrainingError) as caught:
        look_on()
    assert len(said) == 1
    assert said[0].endswith("the generator goes back to the starting model, at 0.125 of its learning rate from now on")
    assert rates == [0.125]
    assert lowest < 0.5 * state.figures["guard_distinct_start"]
    assert "after 3 returns to the starting model; raise --kl-weight or --entropy-floor, or lower --learning-rate" in str(
        caught.value
    )


def test_a_loop_that_stops_behind_a_return_goes_on_bit_equal():
    """The halved rate and the running figures come back with the state."""
    models = adversaries()
    config = replace(SMALL, warmup_steps=1)
    state = state_of(models)
    state.figures |= {"guard_distinct_seen": 20.0, "guard_distinct_start": 1.0, "guard_distinct": 0.0}
    state.step = 1
    batch = next(real_batches())
    first = next(train_gan(models, [batch], config, state))
    assert len(first.words) == 1
    again = adversaries()
    restored = state_of(again)
    restored.restore(state.dump(), "here")
    for pair in ((models, state), (again, restored)):
        list(train_gan(pair[0], [batch] * 3, config, pair[1]))
    assert rate_share(restored.figures) == 0.5
    # The last update is the fifth of the 100 over which the rate rises.
    assert restored.optimizers["generator"].param_groups[0]["lr"] == pytest.approx(0.5 * 0.05 * 5 / 100)
    assert restored.figures == state.figures
    assert not changed(again.generator, weights(models.generator))
