"""Diversity against nltk, closed forms and sampling theory; the words it counts."""

from importlib.metadata import PackageNotFoundError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from nltk.util import ngrams

from emogen.errors import DataError, SettingsError
from emogen.evaluate import commonest, distinct, score, self_bleu, unique, words

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


def by_nltk(texts, order=4):
    """Each text against all the others with NLTK, as Texygen does."""
    sentences = [words(text) for text in texts]
    smooth = SmoothingFunction().method1
    others = [sentences[:place] + sentences[place + 1 :] for place in range(len(sentences))]
    pairs = zip(others, sentences, strict=True)
    scores = [sentence_bleu(left, own, (1 / order,) * order, smoothing_function=smooth) for left, own in pairs]
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


@UNTIMED
@given(TEXTS, st.randoms(use_true_random=False))
def test_order_of_texts_does_not_matter(texts, random):
    """All four are functions of the set with repetition."""
    mixed = random.sample(texts, len(texts))
    for metric in (lambda given: distinct(given, 2), unique, commonest, self_bleu):
        assert metric(mixed).value == pytest.approx(metric(texts).value)


@UNTIMED
@given(TEXTS, st.integers(0, 3))
def test_interval_is_about_the_value_and_of_the_seed(texts, seed):
    """And within the scale."""
    for metric in (lambda given, seed: distinct(given, 1, seed), unique, commonest):
        found = metric(texts, seed)
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found == metric(texts, seed)
    assert self_bleu(texts, seed=seed) == self_bleu(texts, seed=seed)


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
    assert distinct(texts, 2).signature == "distinct|n:2|words:v1|texts:2|seed:0|version:dev"
    assert unique(texts, seed=1).signature == "unique|texts:2|seed:1|version:dev"
    assert commonest(texts).signature == "commonest|texts:2|seed:0|version:dev"
    expected = "self_bleu|order:3|smooth:method1|words:v1|texts:2|seed:0|version:dev"
    assert self_bleu(texts, order=3).signature == expected


def test_signature_has_the_version_of_the_distribution(monkeypatch):
    """By its name on the index, which is not that of the package."""
    monkeypatch.setattr(score, "version", lambda name: {"emogen-toolkit": "9.8.7"}[name])
    assert unique(["a"]).signature.endswith("|version:9.8.7")


def test_too_few_texts_are_refused():
    """The message says how many it takes."""
    for metric in (lambda given: distinct(given, 1), unique, commonest):
        with pytest.raises(DataError, match="no texts to score"):
            metric([])
    with pytest.raises(DataError, match="got 1: pass at least two"):
        self_bleu(["alone"])


def test_orders_below_1_are_refused():
    """The message has the number found."""
    with pytest.raises(SettingsError, match="n is 0"):
        distinct(["a"], 0)
    with pytest.raises(SettingsError, match="order is -1"):
        self_bleu(["a", "b"], order=-1)
