"""Diversity against nltk, closed forms and sampling theory; the words it counts."""

import math
import statistics
from collections import Counter
from importlib.metadata import PackageNotFoundError
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from nltk.util import ngrams

from emogen.errors import DataError, SettingsError
from emogen.evaluate import score, words
from emogen.evaluate.diversity import (
    commonest,
    distinct,
    distinct_corrected,
    length_distribution,
    mean_length,
    ngram_entropy,
    unique,
)
from emogen.evaluate.resampling import reservoir
from emogen.evaluate.set_bleu import backward_bleu, forward_bleu, self_bleu
from emogen.evaluate.training_overlap import copied, copied_tally, novelty, novelty_tally, seen_in_training

TEXT = st.lists(st.sampled_from(["a", "b", "c", "我", "爱", "!", "🙂"]), max_size=9).map(" ".join)
TEXTS = st.lists(TEXT, min_size=2, max_size=7)
UNTIMED = settings(deadline=None, max_examples=50)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I don't KNOW.", ["i", "don't", "know", "."]),
        ("I don’t know", ["i", "don't", "know"]),
        ("'tis the dogs' bone", ["'", "tis", "the", "dogs", "'", "bone"]),
        ("no way!!", ["no", "way", "!", "!"]),
        ("well-known foo_bar 3.5", ["well", "-", "known", "foo", "_", "bar", "3", ".", "5"]),
        ("我爱Python3编程。", ["我", "爱", "python3", "编", "程", "。"]),
        ("ありがとう", list("ありがとう")),
        ("안녕 하세요", ["안녕", "하세요"]),
        ("Cafe\u0301 = café", ["café", "=", "café"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("می‌خواهم", ["می‌خواهم"]),
        ("ok🙂🙂", ["ok", "🙂", "🙂"]),
        ("👍🏽👩‍⚕️❤️🇩🇪🇫🇷1️⃣", ["👍🏽", "👩‍⚕️", "❤️", "🇩🇪", "🇫🇷", "1️⃣"]),
        ("𠮷野家", ["𠮷", "野", "家"]),
        (" \t\u3000\n", []),
        ("", []),
    ],
)
def test_words(text, expected):
    """By hand, after the rules of Unicode Standard Annex 29 for marks and of UTS 51 for emoji."""
    assert words(text) == expected


@UNTIMED
@given(st.text())
def test_words_lose_nothing_but_blanks(text):
    """So no text that is not blank is empty."""
    kept = "".join(words(text))
    assert bool(kept) == bool(text.strip())
    assert words(" ".join(words(text))) == words(text)


@UNTIMED
@given(st.text(alphabet="aB我é'🙂 !1"), st.text(alphabet="aB我é'🙂 !1"))
def test_words_of_joined_texts(left, right):
    """A blank always parts two words."""
    assert words(f"{left} {right}") == words(left) + words(right)


@pytest.mark.parametrize(
    ("texts", "n", "expected"),
    [
        (["a b c d"], 1, 1.0),
        (["a a a a"], 1, 1 / 4),
        (["a a a a"], 2, 1 / 3),
        (["a b", "a b", "A B"], 2, 1 / 3),
        (["a b c", "b c d"], 2, 3 / 4),
        (["我 爱 你", "我爱他"], 1, 4 / 6),
        (["🙂🙂🙂"], 1, 1 / 3),
        (["", "a a"], 1, 1 / 2),
        (["a", "b", ""], 2, 0.0),
    ],
)
def test_distinct_by_hand(texts, n, expected):
    """N-grams never cross two texts; texts too short for one add nothing."""
    assert distinct(texts, n).value == pytest.approx(expected)


@UNTIMED
@given(TEXTS, st.integers(1, 4))
def test_distinct_equals_the_count_by_nltk(texts, n):
    """The formula of Li et al. 2016 over nltk's n-grams."""
    pooled = [gram for text in texts for gram in ngrams(words(text), n)]
    assert distinct(texts, n).value == pytest.approx(len(set(pooled)) / max(1, len(pooled)))


@pytest.mark.parametrize(
    ("texts", "kinds", "top"),
    [(["a"], 1, 1), (["a", "a"], 1 / 2, 1), (["a", "A", "b", "a"], 3 / 4, 1 / 2), (["", "", "我"], 2 / 3, 2 / 3)],
)
def test_unique_and_commonest_by_hand(texts, kinds, top):
    """Compared character by character."""
    assert unique(texts).value == pytest.approx(kinds)
    assert commonest(texts).value == pytest.approx(top)


def brute_force(items, sample):
    """Mean share of different ones over all ways to draw `sample` of the items."""
    draws = list(combinations(items, sample))
    return sum(len(set(drawn)) for drawn in draws) / len(draws) / sample


@UNTIMED
@given(st.lists(st.sampled_from(["a a", "b", "a b", "c", "我", "🙂 a", ""]), min_size=1, max_size=7), st.data())
def test_distinct_corrected_equals_enumeration(texts, data):
    """Over every sample without replacement."""
    items = [word for text in texts for word in words(text)]
    if items:
        sample = data.draw(st.integers(1, len(items)))
        assert distinct_corrected(texts, 1, sample).value == pytest.approx(brute_force(items, sample), abs=1e-12)


def test_distinct_corrected_of_bigrams_equals_enumeration():
    """Bigrams are drawn one by one, whatever text they stand in."""
    texts = ["a b a b a", "a b c", "我爱我爱", "one"]
    items = [gram for text in texts for gram in ngrams(words(text), 2)]
    assert distinct_corrected(texts, 2, 4).value == pytest.approx(brute_force(items, 4), abs=1e-12)


def test_distinct_corrected_of_a_large_pool_equals_exact_integers():
    """The binomials of the formula as Python integers, at counts where logarithms of factorials lose digits."""
    counts, sample = [40_000, 9_000, 999, 1], 1000
    total = sum(counts)
    drawn = math.comb(total, sample)
    expected = sum(1 - math.comb(total - count, sample) / drawn for count in counts) / sample
    texts = [word * count for word, count in zip(["我", "爱", "你", "们"], counts, strict=True)]
    assert distinct_corrected.statistic(texts, 1).value == pytest.approx(expected, abs=1e-15, rel=1e-12)


@UNTIMED
@given(TEXTS, st.integers(1, 3))
def test_distinct_corrected_at_all_ngrams_is_distinct(texts, n):
    """With its interval, since the halves are taken whole; and at one n-gram it is 1."""
    total = sum(max(0, len(words(text)) - n + 1) for text in texts)
    if total:
        found, raw = distinct_corrected(texts, n, total), distinct(texts, n)
        assert (found.value, found.low, found.high) == pytest.approx((raw.value, raw.low, raw.high))
        assert distinct_corrected(texts, n, 1).value == pytest.approx(1)


def zipf_texts(texts, seed=0):
    """Ten words each, of 20,000 with frequencies rank ** -1.3."""
    weights = np.arange(1, 20_001) ** -1.3
    drawn = np.random.default_rng(seed).choice(20_000, (texts, 10), p=weights / weights.sum())
    return [" ".join(f"w{word}" for word in row) for row in drawn]


def test_distinct_corrected_does_not_drift_with_the_number_of_texts():
    """Where the raw share falls by a third and more."""
    texts = zipf_texts(5000)
    raw, corrected = (
        [form(texts[:size]).value for size in (500, 5000)]
        for form in (lambda given: distinct.statistic(given, 2), lambda given: distinct_corrected.statistic(given, 2))
    )
    assert raw[1] < 0.67 * raw[0]
    assert corrected[1] == pytest.approx(corrected[0], rel=0.05)


def test_interval_of_distinct_corrected_has_the_width_of_its_sampling_error():
    """The spread over 60 independent sets of texts, known to some 10%, as is the interval."""
    values = [distinct_corrected.statistic(zipf_texts(300, seed), 1, 500).value for seed in range(60)]
    widths = [found.high - found.low for found in (distinct_corrected(zipf_texts(300, seed), 1, 500) for seed in range(3))]
    assert statistics.mean(widths) == pytest.approx(2 * 1.96 * statistics.stdev(values), rel=0.35)


def test_distinct_corrected_says_how_many_ngrams_there_are():
    """Both numbers and the way out."""
    with pytest.raises(DataError, match=r"sample is 1000 but the texts have only 3 2-grams: pass a smaller sample="):
        distinct_corrected(["a b c", "d e"], 2)
    with pytest.raises(SettingsError, match="sample is 0"):
        distinct_corrected(["a"], 1, sample=0)


@UNTIMED
@given(TEXTS, st.integers(1, 4))
def test_ngram_entropy_equals_the_formula(texts, n):
    """Sum of p log(1 / p) over nltk's n-grams; the interval may pass 1 and no more than the log of their number."""
    counts = Counter(gram for text in texts for gram in ngrams(words(text), n))
    total = counts.total()
    found = ngram_entropy(texts, n)
    assert found.value == pytest.approx(sum(count / total * math.log(total / count) for count in counts.values()))
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value <= found.high + 1e-12 <= max(1, math.log(max(1, total))) + 2e-12


def test_ngram_entropy_of_equally_frequent_words_is_the_log_of_their_number():
    """In nats; 0 for one word alone and where no text has n words."""
    found = ngram_entropy([f"w{number}" for number in range(100)] * 5, 1)
    assert found.value == pytest.approx(math.log(100))
    assert found.low < math.log(100) < found.high
    assert ngram_entropy(["a a", "A"], 1).value == ngram_entropy(["a", ""], 2).value == 0


def by_nltk(texts, order=4):
    """Each text against all the others with NLTK, as Texygen does."""
    others = [texts[:place] + texts[place + 1 :] for place in range(len(texts))]
    return sum(nltk_bleu([text], left, order) for text, left in zip(texts, others, strict=True)) / len(texts)


def nltk_bleu(texts, references, order=4):
    """Each text against all references with NLTK."""
    sentences, left = [words(text) for text in texts], [words(text) for text in references]
    smooth = SmoothingFunction().method1
    scores = [sentence_bleu(left, own, (1 / order,) * order, smoothing_function=smooth) for own in sentences]
    return sum(scores) / len(scores)


@UNTIMED
@given(TEXTS, st.integers(1, 5))
def test_self_bleu_equals_nltk(texts, order):
    """With empty and one-word texts, repeated texts and ties of counts and of lengths."""
    assert self_bleu(texts, order).value == pytest.approx(by_nltk(texts, order), abs=1e-9)


@pytest.mark.parametrize(
    "texts",
    [
        ["I am happy for you today.", "I am so happy today!", "You are not happy.", "I am happy for you today."],
        ["我今天很开心。", "我今天很难过。", "你今天开心吗？", "好"],
        ["🙂🙂 great", "great 🙂🙂", "great!"],
        ["a a a a b", "a a b", "a a a c a", "b b"],
    ],
)
def test_self_bleu_of_sentences_equals_nltk(texts):
    """English, Chinese, emoji, and an n-gram whose holder must give way to the second."""
    assert self_bleu(texts).value == pytest.approx(by_nltk(texts), abs=1e-9)


def test_self_bleu_of_identical_texts_is_1_and_of_strangers_0():
    """The two ends of the scale, where all texts agree and the interval is a point."""
    same, strangers = self_bleu(["we all say this"] * 5), self_bleu(["a b c d", "e f g h", "i j"])
    assert (same.value, same.low, same.high) == pytest.approx((1, 1, 1))
    assert (strangers.value, strangers.low, strangers.high) == (0, 0, 0)


def test_self_bleu_of_one_word_is_held_down_by_the_smoothing():
    """Precisions 1, .1, .1, .1: method1 puts 0.1 over a denominator of at least 1."""
    assert self_bleu(["yes", "yes"]).value == pytest.approx(0.1**0.75)


def test_self_bleu_of_300_texts_equals_nltk():
    """Many lengths, and counts above 1 in many texts."""
    draw = np.random.default_rng(1)
    texts = [" ".join(draw.choice(list("abcdefghij"), draw.integers(0, 15))) for _ in range(300)]
    assert self_bleu.statistic(texts).value == pytest.approx(by_nltk(texts), abs=1e-9)


@UNTIMED
@given(st.lists(TEXT, min_size=1, max_size=6), st.lists(TEXT, min_size=1, max_size=6), st.integers(1, 5))
def test_forward_and_backward_bleu_equal_nltk(texts, references, order):
    """With empty and one-word texts on both sides, and ties of lengths."""
    forward, backward = forward_bleu(texts, references, order), backward_bleu(texts, references, order)
    assert forward.value == pytest.approx(nltk_bleu(texts, references, order), abs=1e-9)
    assert backward.value == pytest.approx(nltk_bleu(references, texts, order), abs=1e-9)


def test_forward_bleu_sees_quality_and_backward_bleu_coverage():
    """One real sentence said over and over."""
    references = ["we all say this now", "the cat sat on the mat", "nobody knows her name here"]
    texts = references[:1] * 3
    forward, backward = forward_bleu(texts, references), backward_bleu(texts, references)
    assert (forward.value, forward.low, forward.high) == pytest.approx((1, 1, 1))
    assert backward.value == pytest.approx(1 / 3)


@UNTIMED
@given(st.lists(TEXT, min_size=1, max_size=6), st.lists(TEXT, min_size=1, max_size=6), st.integers(1, 4))
def test_novelty_equals_the_count_by_nltk(texts, training, n):
    """Every occurrence counts; the training texts are an iterator that is read once."""
    seen = {gram for text in training for gram in ngrams(words(text), n)}
    owned = [gram for text in texts for gram in ngrams(words(text), n)]
    expected = sum(gram not in seen for gram in owned) / max(1, len(owned))
    assert novelty(texts, iter(training), n).value == pytest.approx(expected)


def test_novelty_and_copied_by_hand():
    """Of the 4-grams `a b c d`, `b c d e` and `w x y z` training has one; of the texts it has the third, cased otherwise."""
    texts, training = ["a b c d e", "w x y z", "OK 🙂!", "", "我很好"], ["a b c d", "ok  🙂 !", "我很好。"]
    assert novelty(texts, training).value == pytest.approx(2 / 3)
    assert copied(texts, training).value == pytest.approx(1 / 5)
    assert copied(texts, [*training, " "]).value == pytest.approx(2 / 5)
    assert novelty(["a", ""], ["b"]).value == 0


def test_one_pass_over_training_serves_both_and_several_systems():
    """A generator can be read but once."""
    systems, training = (["a b c", "d e"], ["a b", "d e f"]), ["a b x", "d e"]
    seen = seen_in_training([*systems[0], *systems[1]], (text for text in training), 2)
    for texts in systems:
        assert novelty_tally(texts, seen).score() == novelty(texts, training, 2)
        assert copied_tally(texts, seen).score() == copied(texts, training)


def test_texts_that_were_not_looked_for_are_refused():
    """They would all seem novel, or all seen."""
    seen = seen_in_training(["a b"], ["c d"], 2)
    for form in (novelty_tally, copied_tally):
        with pytest.raises(DataError, match=r"texts\[1\] was not looked for"):
            form(["A b", "a c"], seen)


def test_missing_training_texts_are_refused():
    """An iterator read before is empty: without this all would seem novel."""
    training = iter(["a b"])
    novelty(["a b"], training, 2)
    with pytest.raises(DataError, match="an iterator only once"):
        copied(["a b"], training)


def test_length_distribution_equals_the_statistics_module():
    """Words 0, 1, 3, 3 and 5; quantiles inclusive; an emoji with its skin tone is one word of two characters."""
    found = length_distribution(["", "👍🏽", "我很好", "I'm ok!", "a b c d e"])
    lengths = [0, 1, 3, 3, 5]
    cuts = statistics.quantiles(lengths, n=20, method="inclusive")
    assert found.mean == pytest.approx(statistics.mean(lengths))
    assert found.deviation == pytest.approx(statistics.pstdev(lengths))
    assert found.quantiles == pytest.approx((cuts[0], cuts[4], cuts[9], cuts[14], cuts[18]))
    assert found.characters == pytest.approx((0 + 2 + 3 + 7 + 9) / 5)


def test_mean_length_has_the_standard_error_of_a_mean():
    """Half of 400 texts with 1 word, half with 3: deviation 1, standard error 1/20."""
    found = mean_length(["a", "a b c"] * 200)
    assert found.value == pytest.approx(2)
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.15)


FORMS = [
    (lambda texts: distinct(texts, 2), lambda texts: distinct.statistic(texts, 2)),
    (unique, unique.statistic),
    (commonest, commonest.statistic),
    (self_bleu, self_bleu.statistic),
    (lambda texts: forward_bleu(texts, ["a b", "c"]), lambda texts: forward_bleu.statistic(texts, ["a b", "c"])),
    (lambda texts: backward_bleu(texts, ["a b", "c"]), lambda texts: backward_bleu.statistic(texts, ["a b", "c"])),
    (lambda texts: novelty(texts, ["a b"], 2), lambda texts: novelty_tally(texts, seen_in_training(texts, ["a b"], 2))),
    (lambda texts: copied(texts, ["a b"]), lambda texts: copied_tally(texts, seen_in_training(texts, ["a b"]))),
    (mean_length, mean_length.statistic),
]
CORRECTED = (lambda texts: distinct_corrected(texts, 1, 2), lambda texts: distinct_corrected.statistic(texts, 1, 2))


@pytest.mark.parametrize(("metric", "form"), [*FORMS, CORRECTED])
def test_forms_score_as_their_metrics(metric, form):
    """Value, interval and signature."""
    texts = ["a b", "b c d", "a b", "", "我 🙂", "b"]
    assert form(texts).score() == metric(texts)


def test_ngram_entropy_pool_has_the_value_and_signature_of_ngram_entropy():
    """Not its interval, which a pool holds within 0 and 1."""
    texts = ["a b c", "a b d"]
    pooled, found = ngram_entropy.statistic(texts, 2), ngram_entropy(texts, 2)
    assert (pooled.value, f"{pooled.signature}|seed:0") == (found.value, found.signature)


@UNTIMED
@given(TEXTS, st.randoms(use_true_random=False))
def test_order_of_texts_does_not_matter(texts, random):
    """All are functions of the set with repetition."""
    mixed = random.sample(texts, len(texts))
    for form in [form for _metric, form in FORMS] + [lambda given: ngram_entropy.statistic(given, 2)]:
        assert form(mixed).value == pytest.approx(form(texts).value)


@UNTIMED
@given(TEXTS, st.integers(0, 3))
def test_interval_is_about_the_value_and_of_the_seed(texts, seed):
    """And within the scale."""
    for metric in (
        lambda given, seed: distinct.statistic(given, 1).score(seed),
        lambda given, seed: unique.statistic(given).score(seed),
        lambda given, seed: commonest.statistic(given).score(seed),
    ):
        found = metric(texts, seed)
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found == metric(texts, seed)
    assert self_bleu.statistic(texts).score(seed) == self_bleu.statistic(texts).score(seed)


@pytest.mark.parametrize("items", [400, 401])
def test_interval_of_commonest_has_the_width_of_a_share(items):
    """A share p of n has the standard error sqrt(p (1 - p) / n); 0.7 of two texts; 200 draws give it to some 10%."""
    texts = ["yes"] * round(0.7 * items) + ["no"] * (items - round(0.7 * items))
    found = commonest(texts)
    assert found.high - found.low == pytest.approx(2 * 1.96 * (0.7 * 0.3 / items) ** 0.5, rel=0.25)


def test_interval_of_unique_is_not_biased_by_duplicates():
    """All different: every half is too, where a bootstrap would find about 1 - 1/e."""
    found = unique([str(number) for number in range(100)])
    assert (found.low, found.high) == (1, 1)


def test_signatures_say_how(monkeypatch):
    """A source tree that was never installed has the version `dev`."""

    def missing(_name):
        raise PackageNotFoundError

    monkeypatch.setattr(score, "version", missing)
    texts = ["a b", "c"]
    options = "order:3|smooth:method1|words:v2|texts:2"
    expected = {
        "distinct|n:2|words:v2|texts:2|version:dev|seed:0": distinct(texts, 2),
        "distinct_corrected|n:1|sample:2|words:v2|texts:2|version:dev|seed:0": distinct_corrected(texts, 1, 2),
        "ngram_entropy|n:2|words:v2|texts:2|version:dev|seed:0": ngram_entropy(texts, 2),
        "unique|texts:2|version:dev|seed:1": unique.statistic(texts).score(1),
        "commonest|texts:2|version:dev|seed:0": commonest(texts),
        f"self_bleu|{options}|version:dev|bs:1000|seed:0": self_bleu(texts, order=3),
        f"forward_bleu|{options}|references:1|version:dev|bs:1000|seed:0": forward_bleu(texts, ["a"], order=3),
        f"backward_bleu|{options}|references:1|version:dev|bs:1000|seed:0": backward_bleu(texts, ["a"], order=3),
        "novelty|n:4|words:v2|texts:2|training:1|version:dev|bs:1000|seed:0": novelty(texts, ["a"]),
        "copied|words:v2|texts:2|training:1|version:dev|bs:1000|seed:0": copied(texts, ["a"]),
        "mean_length|words:v2|texts:2|version:dev|bs:1000|seed:0": mean_length(texts),
    }
    assert list(expected) == [found.signature for found in expected.values()]


def test_signature_has_the_version_of_the_distribution(monkeypatch):
    """By its name on the index, which is not that of the package."""
    monkeypatch.setattr(score, "version", lambda name: {"emogen-toolkit": "9.8.7"}[name])
    assert unique(["a"]).signature == "unique|texts:1|version:9.8.7|seed:0"


def test_too_few_texts_are_refused():
    """The message says how many it takes."""
    several = [metric for metric, _form in [*FORMS, CORRECTED] if metric is not self_bleu]
    for metric in [*several, lambda given: ngram_entropy(given, 2), length_distribution]:
        with pytest.raises(DataError, match="no texts to score"):
            metric([])
    with pytest.raises(DataError, match="no references to score"):
        forward_bleu(["a"], [])
    with pytest.raises(DataError, match="got 1: pass at least two"):
        self_bleu(["alone"])


def test_orders_below_1_are_refused():
    """The message has the number found."""
    for metric in (distinct, distinct_corrected, ngram_entropy, lambda texts, n: novelty(texts, ["a"], n)):
        with pytest.raises(SettingsError, match="n is 0"):
            metric(["a"], 0)
    for metric in (self_bleu, lambda texts, n: forward_bleu(texts, ["a"], n), lambda texts, n: backward_bleu(texts, ["a"], n)):
        with pytest.raises(SettingsError, match="order is -1"):
            metric(["a", "b"], -1)


@UNTIMED
@given(st.lists(st.text(max_size=3), max_size=20), st.integers(1, 25), st.integers(0, 3))
def test_reservoir_keeps_a_part_without_repetition(texts, size, seed):
    """All of them in order if they fit; the same ones for the same seed."""
    kept, read = reservoir(iter(texts), size, seed)
    assert (len(kept), read) == (min(size, len(texts)), len(texts))
    assert Counter(kept) <= Counter(texts)
    assert size < len(texts) or kept == texts
    assert reservoir(texts, size, seed) == (kept, read)


def test_reservoir_is_even():
    """Each of 10 is among 3 kept in 3/10 of 4,000 draws, within 5 standard errors."""
    texts = [str(number) for number in range(10)]
    counts = Counter(text for seed in range(4000) for text in reservoir(texts, 3, seed)[0])
    error = (0.3 * 0.7 / 4000) ** 0.5
    assert [counts[text] / 4000 for text in texts] == pytest.approx([0.3] * 10, abs=5 * error)


def test_reservoir_keeps_pairs():
    """Equally many texts of two systems are drawn at the same places."""
    left, right = ([f"{side}{number}" for number in range(50)] for side in "lr")
    assert [text[1:] for text in reservoir(left, 5, 1)[0]] == [text[1:] for text in reservoir(right, 5, 1)[0]]


def test_reservoir_of_no_texts_is_refused():
    """The message has the number found."""
    with pytest.raises(SettingsError, match="size is 0"):
        reservoir(["a"], 0)
