"""Significance tests against sacrebleu, exact enumeration, closed forms and their own guarantees under the null."""

import math
import random
from itertools import chain, combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.significance import PairedTest

from emogen.errors import DataError, SettingsError
from emogen.evaluate.resampling import SumStatistic, bootstrap_interval, mean_tally, pool
from emogen.evaluate.significance import (
    approximate_randomisation,
    compare_seeds,
    holm,
    over_seeds,
    paired_bootstrap,
)

WORDS = [f"word{number}" for number in range(19)]
PROBABILITY = st.floats(0, 1, allow_subnormal=False)


def corpus(sentences=150, kept=(0.8, 0.82)):
    """References, and two systems that keep each word of them with these probabilities."""
    random_words = random.Random(1)
    references = [[random_words.choice(WORDS) for _ in range(random_words.randint(6, 14))] for _ in range(sentences)]

    def system(share):
        return [
            " ".join(w if random_words.random() < share else random_words.choice(WORDS) for w in words) for words in references
        ]

    return [" ".join(words) for words in references], *map(system, kept)


def bleu_tally(hypotheses, references):
    scores = [
        BLEU(effective_order=True).sentence_score(text, [right]) for text, right in zip(hypotheses, references, strict=True)
    ]
    sums = np.array([[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in scores], dtype=np.float64)
    return SumStatistic(sums, corpus_bleu, "bleu")


def corpus_bleu(sums):
    rows = np.rint(sums).astype(int).reshape(-1, sums.shape[-1]).tolist()
    scores = [BLEU.compute_bleu(row[2:6], row[6:], row[0], row[1], "exp").score for row in rows]
    return np.array(scores).reshape(sums.shape[:-1])


def by_sacrebleu(kind, draws, references, first, second):
    found = PairedTest([("first", first), ("second", second)], {"BLEU": BLEU()}, [references], test_type=kind, n_samples=draws)
    return found()[1]["BLEU"]


def mean(values):
    return mean_tally(values, "mean")


def distinct(texts):
    return pool([text.split() for text in texts], lambda counts: np.count_nonzero(counts) / max(1, counts.sum()), "distinct")


def test_randomisation_equals_sacrebleu():
    """Two samplings of 2,000 swaps of one p near .15: four standard errors of their difference are .045."""
    references, first, second = corpus()
    baseline, other = by_sacrebleu("ar", 2000, references, first, second)
    ours = approximate_randomisation(bleu_tally(first, references), bleu_tally(second, references), trials=2000)
    assert ours.difference == pytest.approx(other.score - baseline.score, abs=1e-9)
    assert 0.1 < other.p_value < 0.2
    assert ours.p == pytest.approx(other.p_value, abs=0.045)


def test_bootstrap_has_twice_the_p_of_sacrebleu():
    """Which counts the resamples beyond the difference on one side only."""
    references, first, second = corpus()
    baseline, other = by_sacrebleu("bs", 1000, references, first, second)
    ours = paired_bootstrap(bleu_tally(first, references), bleu_tally(second, references))
    assert ours.difference == pytest.approx(other.score - baseline.score, abs=1e-9)
    assert 0.05 < other.p_value < 0.1
    assert ours.p == pytest.approx(2 * other.p_value, abs=0.05)


def test_bootstrap_of_a_mean_is_that_of_the_paired_differences():
    """The difference of two means over the same draws is the mean of the differences."""
    values = np.random.default_rng(2).normal(size=(2, 80))
    found = paired_bootstrap(mean(values[0]), mean(values[1]), seed=5)
    assert (found.low, found.high) == pytest.approx(bootstrap_interval(values[1] - values[0], seed=5))
    assert found.difference == pytest.approx((values[1] - values[0]).mean())


def test_bootstrap_agrees_with_the_normal_test():
    """For the mean of many differences, erfc(|z| / sqrt 2)."""
    values = np.random.default_rng(3).normal(0.1, 1, 300)
    z = values.mean() / (values.std() / math.sqrt(len(values)))
    found = paired_bootstrap(mean(np.zeros(300)), mean(values), resamples=20_000)
    assert found.p == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.01)
    assert 0.001 < found.p < 0.2


def exact(first, second, statistic):
    """P-value over all swaps, each as likely."""
    found = abs(statistic(second) - statistic(first))
    hits = 0
    for swaps in product([False, True], repeat=len(first)):
        ours = [right if swap else left for left, right, swap in zip(first, second, swaps, strict=True)]
        theirs = [left if swap else right for left, right, swap in zip(first, second, swaps, strict=True)]
        hits += abs(statistic(theirs) - statistic(ours)) >= found - 1e-9
    return hits / 2 ** len(first)


@pytest.mark.parametrize("seed", range(4))
def test_randomisation_of_a_mean_equals_all_swaps(seed):
    """Ties included, since the values are tenths; within four standard errors."""
    first, second = (np.random.default_rng(seed).integers(0, 10, size=(2, 9)) / 10).tolist()
    found = approximate_randomisation(mean(first), mean(second), seed=seed)
    assert found.p == pytest.approx(exact(first, second, np.mean), abs=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_randomisation_of_a_pool_equals_all_swaps(seed):
    """Distinct words of eight pairs of texts, one of them empty."""
    draw = random.Random(seed)
    first = [" ".join(draw.choices("abcdef", k=4)) for _ in range(8)]
    second = ["", *(" ".join(draw.choices("abcdefghijkl", k=3)) for _ in range(7))]

    def share(texts):
        words = " ".join(texts).split()
        return len(set(words)) / len(words)

    found = approximate_randomisation(distinct(first), distinct(second), seed=seed, trials=4000)
    assert found.difference == pytest.approx(share(second) - share(first))
    assert found.p == pytest.approx(exact(first, second, share), abs=0.03)


@pytest.mark.parametrize("test", [paired_bootstrap, approximate_randomisation])
def test_p_is_uniform_under_the_null(test):
    """Of 200 pairs of like systems some 5% have p up to .05 and half up to .5; four standard errors are .06 and .14."""
    draws = np.random.default_rng(0).normal(size=(200, 2, 40))
    p_values = np.array([test(mean(left), mean(right), seed, 400).p for seed, (left, right) in enumerate(draws)])
    assert np.mean(p_values <= 0.05) == pytest.approx(0.05, abs=0.06)
    assert np.mean(p_values <= 0.5) == pytest.approx(0.5, abs=0.14)


def test_p_of_pools_under_the_null_is_not_too_often_small():
    """Two systems that draw from the same words: 100 times, up to .05 in at most 5% and four standard errors."""
    draw = random.Random(0)

    def texts():
        return [" ".join(map(str, draw.choices(range(300), k=5))) for _ in range(30)]

    p_values = np.array([approximate_randomisation(distinct(texts()), distinct(texts()), seed, 200).p for seed in range(100)])
    assert np.mean(p_values <= 0.05) <= 0.14
    assert np.mean(p_values <= 0.5) == pytest.approx(0.5, abs=0.2)


def test_a_plain_difference_is_found():
    """The smallest p that the number of draws allows, and the sign of the second less the first."""
    low, high = mean(np.linspace(0, 1, 50)), mean(np.linspace(1, 2, 50))
    assert paired_bootstrap(low, high, resamples=500).p == 1 / 501
    found = approximate_randomisation(low, high, trials=999)
    assert (found.p, found.difference, found.low, found.high) == pytest.approx((0.001, 1, 1, 1))
    assert approximate_randomisation(high, low).difference == pytest.approx(-1)
    varied, same = distinct([f"{n} {n + 1}" for n in range(0, 80, 2)]), distinct(["a b"] * 40)
    found = approximate_randomisation(varied, same)
    assert found.p == 1 / 1001
    assert found.difference == pytest.approx(2 / 80 - 1)
    assert found.low <= found.difference <= found.high < 0


def test_a_system_does_not_differ_from_itself():
    """Though its own texts are given twice, and though .1 + .2 is not .3."""
    for measured in (mean([0.1, 0.2, 0.4] * 20), distinct(["a b", "b c d", ""])):
        found = approximate_randomisation(measured, measured)
        assert (found.difference, found.low, found.high, found.p) == pytest.approx((0, 0, 0, 1))
    found = paired_bootstrap(mean([0.1, 0.2, 0.3]), mean([0.3, 0.2, 0.1]))
    assert found.p == 1


def test_interval_of_a_pool_has_the_width_of_independent_shares():
    """Share of the commonest of two texts, .7 and .5 of 400, chosen apart: the variances add."""
    shuffled = random.Random(0)

    def share_of_yes(yes):
        texts = ["yes"] * yes + ["no"] * (400 - yes)
        shuffled.shuffle(texts)
        return pool([[text] for text in texts], lambda counts: counts.max() / counts.sum(), "commonest")

    found = approximate_randomisation(share_of_yes(280), share_of_yes(240), trials=10)
    error = math.sqrt((0.7 * 0.3 + 0.6 * 0.4) / 400)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.25)


def test_comparisons_repeat_and_say_how():
    """The same seed gives the same figures, another seed others."""
    first, second = (mean(values) for values in np.random.default_rng(1).normal(size=(2, 30)))
    found = paired_bootstrap(first, second, seed=3)
    assert found == paired_bootstrap(first, second, seed=3)
    assert found.low != paired_bootstrap(first, second, seed=4).low
    assert approximate_randomisation(first, second, 3) == approximate_randomisation(first, second, 3)
    assert approximate_randomisation(first, second, 3).p != approximate_randomisation(first, second, 4).p
    assert found.signature == "mean|test:paired_bootstrap|bs:1000|seed:3"
    signed = approximate_randomisation(first, second, seed=3).signature
    assert signed == "mean|test:approximate_randomisation|trials:10000|interval:bs:1000|seed:3"
    pools = distinct(["a b"]), distinct(["a a"])
    assert approximate_randomisation(*pools).signature == (
        "distinct|test:approximate_randomisation|trials:1000|interval:halves|seed:0"
    )


@pytest.mark.parametrize("test", [paired_bootstrap, approximate_randomisation])
def test_what_cannot_be_compared_is_refused(test):
    """One line with both numbers or both signatures."""
    with pytest.raises(DataError, match=r"^mean: 3 x 2 sums of the first system but 2 x 2 sums of the second"):
        test(mean([1, 2, 3]), mean([1, 2]))
    with pytest.raises(DataError, match="scored by mean and the second by rouge"):
        test(mean([1, 2]), mean_tally([1, 2], "rouge"))
    broken = SumStatistic(np.zeros((2, 1)), lambda sums: np.full(sums.shape[:-1], np.nan), "mean")
    with pytest.raises(DataError, match="mean: the first system's value is nan"):
        test(broken, broken)
    with pytest.raises(SettingsError, match="is 0: pass at least 1"):
        test(mean([1]), mean([2]), 0, 0)


def test_a_metric_that_fails_for_some_draws_is_refused():
    """As one that is not defined where the sums are low."""
    shaky = SumStatistic(np.array([[0.0], [3.0]]), lambda sums: np.where(sums[..., 0] < 2, np.nan, sums[..., 0]), "shaky")
    with pytest.raises(DataError, match="not finite for some draws"):
        paired_bootstrap(shaky, shaky)


def test_pools_of_other_sizes_are_refused():
    """With both numbers of texts."""
    with pytest.raises(DataError, match="distinct: 1 texts of the first system but 2 texts of the second"):
        approximate_randomisation(distinct(["a"]), distinct(["a", "b"]))


def test_a_pool_may_hold_more_than_a_share():
    """Numbers of different words: 80 and 2, where every half has 40 and 2, so that the interval is a point."""
    varied, same = ([f"{n} {n + 1}" for n in range(0, 80, 2)], ["a b"] * 40)
    kinds = [
        pool([text.split() for text in texts], lambda counts: float(np.count_nonzero(counts)), "kinds")
        for texts in (varied, same)
    ]
    found = approximate_randomisation(*kinds)
    assert (found.difference, found.low, found.high) == (-78, -78, -78)


def student_cdf(quantile, freedom):
    """By Simpson's rule over the density of Student's t."""
    points = np.linspace(0, quantile, 20_001)
    constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    density = constant * (1 + points**2 / freedom) ** (-(freedom + 1) / 2)
    weights = np.ones(len(points))
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return 0.5 + float(weights @ density) * (points[1] - points[0]) / 3


@pytest.mark.parametrize("seeds", [*range(2, 32), 32, 50, 400])
def test_interval_over_seeds_is_students(seeds):
    """The half width is t * deviation / sqrt(n), and 97.5% of Student's distribution lie below t."""
    values = list(range(seeds))
    found = over_seeds(values)
    assert found.seeds == seeds
    assert found.mean == pytest.approx((seeds - 1) / 2)
    assert found.deviation == pytest.approx(math.sqrt(seeds * (seeds + 1) / 12))
    quantile = (found.high - found.mean) / (found.deviation / math.sqrt(seeds))
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert student_cdf(quantile, seeds - 1) == pytest.approx(0.975, abs=3.2e-6)


def test_three_seeds_never_get_below_a_tenth():
    """Two of the twenty ways to part six values are as extreme; for four against four 2 of 70."""
    found = compare_seeds([1, 2, 3], [11, 12, 13], "bleu")
    assert (found.test, found.p, found.difference) == ("exact_permutation", pytest.approx(0.1), 10)
    assert found.signature.startswith("bleu|test:exact_permutation|seeds:3+3|interval:welch|seed:0|version:")
    assert compare_seeds([1, 2, 3, 4], [11, 12, 13, 14], "bleu").p == pytest.approx(2 / 70)
    assert compare_seeds([0.1, 0.1], [0.1, 0.1, 0.1], "bleu").p == 1


@given(st.lists(st.integers(0, 9), min_size=2, max_size=4), st.lists(st.integers(0, 9), min_size=2, max_size=4))
def test_permutation_of_seeds_equals_enumeration(first, second):
    """Over sets of places, with the difference by hand."""
    values = first + second
    found = abs(sum(second) / len(second) - sum(first) / len(first))

    def gap(chosen):
        inside = [values[place] for place in chosen]
        return abs((sum(values) - sum(inside)) / len(second) - sum(inside) / len(first))

    ways = list(combinations(range(len(values)), len(first)))
    expected = sum(gap(chosen) >= found - 1e-9 for chosen in ways) / len(ways)
    assert compare_seeds(first, second, "x").p == pytest.approx(expected)


def test_welch_interval_by_hand():
    """Equal sizes and variances: 2n - 2 degrees, t = 2.7764, error sqrt(2 / 3). Else 1.47 and more, rounded down to 1."""
    found = compare_seeds([1, 2, 3], [4, 5, 6], "x")
    assert (found.low, found.high) == pytest.approx((3 - 2.7764 * math.sqrt(2 / 3), 3 + 2.7764 * math.sqrt(2 / 3)))
    found = compare_seeds([0, 10], [4, 5, 6], "x")
    assert found.high == pytest.approx(12.7062 * math.sqrt(50 / 2 + 1 / 3))


def test_many_seeds_are_dealt_at_random():
    """Eleven against eleven have 705,432 ways: 10,000 stand for them; the normal test agrees where the gap is small."""
    first, second = np.random.default_rng(0).normal(size=(2, 11)).tolist()
    found = compare_seeds(first, second, "x")
    assert found.test == "random_permutation"
    z = found.difference / math.sqrt(np.var(first + second) * 2 / 11 * 22 / 21)
    assert found.p == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.05)
    assert compare_seeds([0.0] * 11, [1.0] * 11, "x").p < 0.001


def test_seeds_that_tell_nothing_are_refused():
    """Too few, and values that are none."""
    with pytest.raises(DataError, match="1 values: a spread over training seeds takes at least two"):
        over_seeds([1.0])
    with pytest.raises(DataError, match="number 2 is nan"):
        over_seeds([1.0, math.nan])
    with pytest.raises(DataError, match="0 values of the second system"):
        compare_seeds([1, 2], [], "x")


@given(st.lists(PROBABILITY, max_size=5))
def test_holm_is_the_closure_of_bonferroni(p_values):
    """Each test's largest Bonferroni p over all families that hold it (Marcus, Peritz & Gabriel 1976)."""
    places = range(len(p_values))
    families = list(chain.from_iterable(combinations(places, size) for size in range(1, len(p_values) + 1)))

    def bonferroni(family):
        return min(1.0, len(family) * min(p_values[place] for place in family))

    expected = [max(bonferroni(family) for family in families if place in family) for place in places]
    assert holm(p_values) == pytest.approx(expected)


def test_holm_by_hand():
    """Five steps of one hundredth; unordered input keeps its order."""
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.9, 0.01]) == pytest.approx([0.9, 0.02])
    assert holm([]) == []
    with pytest.raises(DataError, match=r"p_values\[1\] is nan"):
        holm([0.5, math.nan])
    with pytest.raises(DataError, match=r"p_values\[0\] is 1\.5"):
        holm([1.5])
