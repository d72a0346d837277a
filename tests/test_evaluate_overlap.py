"""BLEU against sacrebleu, the outside reference of every value here."""

import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from emogen.errors import DataError, SettingsError
from emogen.evaluate import bleu

ENGLISH = (
    ["I am so happy for you!", "That is terrible news.", "What do you mean, he left?", ""],
    [
        ["I am very happy for you!", "So happy for you!"],
        ["That's terrible news."],
        ["What do you mean he left?", "He left? Why?", "What do you mean?"],
        ["I see."],
    ],
)
CHINESE = (
    ["我今天很开心!", "这真是个坏消息。", "你说什么？"],
    [["我今天非常开心!"], ["这真是一个坏消息。", "真糟糕。"], ["你在说什么？"]],
)
TEXT = st.lists(st.sampled_from(["the", "cat", "sat", "The", "我", "爱", "!", "🙂", "don't"]), max_size=8).map(" ".join)
UNTIMED = settings(deadline=None, max_examples=50)


def by_sacrebleu(hypotheses, references, **options):
    """Value of sacrebleu, which wants the references transposed and padded."""
    return sacrebleu.corpus_bleu(hypotheses, list(zip_longest(*references)), **options).score


@pytest.mark.parametrize("lowercase", [False, True])
def test_english_equals_sacrebleu(lowercase):
    """A ragged list of references and an empty hypothesis."""
    assert bleu(*ENGLISH, lowercase=lowercase).value == by_sacrebleu(*ENGLISH, lowercase=lowercase)


def test_chinese_equals_sacrebleu_by_characters():
    """The script alone chooses the tokenizer; `13a` sees whole sentences as words."""
    assert bleu(*CHINESE).value == by_sacrebleu(*CHINESE, tokenize="zh")
    assert bleu(*CHINESE, language="en").value == by_sacrebleu(*CHINESE, tokenize="13a")
    assert bleu(*CHINESE).value > bleu(*CHINESE, language="en").value


@pytest.mark.parametrize(
    ("reference", "tokenizer"),
    [
        ("I love 北京 very much", "13a"),
        ("我爱 Python 编程", "zh"),
        ("Ça va?", "13a"),
        ("🙂!", "13a"),
        ("", "13a"),
    ],
)
def test_auto_goes_by_the_majority_of_words(reference, tokenizer):
    """A borrowed word does not change the language."""
    assert f"|tok:{tokenizer}|" in bleu(["x"], [[reference]]).signature


@UNTIMED
@given(st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=5), st.booleans())
def test_any_texts_equal_sacrebleu(pairs, lowercase):
    """Random token salads, with as many references as they like."""
    hypotheses, references = zip(*pairs, strict=True)
    ours = bleu(hypotheses, references, language="zh", lowercase=lowercase)
    assert ours.value == by_sacrebleu(hypotheses, references, tokenize="zh", lowercase=lowercase)
    assert 0 <= ours.low <= ours.high < 100.001


def test_identity_scores_100():
    """Every resample of perfect texts is perfect."""
    texts = [listed[0] for listed in CHINESE[1]]
    score = bleu(texts, [[text] for text in texts])
    assert (score.value, score.low, score.high) == pytest.approx((100, 100, 100))


def test_empty_hypotheses_score_0():
    """No n-gram at all."""
    score = bleu(["", ""], [["a b"], ["c"]])
    assert (score.value, score.low, score.high) == (0, 0, 0)


def test_order_of_sentences_does_not_matter():
    """Corpus BLEU is a function of sums."""
    assert bleu(ENGLISH[0][::-1], ENGLISH[1][::-1]).value == bleu(*ENGLISH).value


def test_interval_agrees_with_the_bootstrap_of_sacrebleu():
    """Both draw 1000 resamples of the same statistics; sacrebleu gives half the width of its interval."""
    hypotheses, references = ENGLISH[0] * 25, ENGLISH[1] * 25
    ours = bleu(hypotheses, references)
    theirs = BLEU().corpus_score(hypotheses, list(zip_longest(*references)), n_bootstrap=1000)
    assert (ours.high - ours.low) / 2 == pytest.approx(theirs._ci, rel=0.1)
    assert (ours.high + ours.low) / 2 == pytest.approx(theirs._mean, rel=0.02)


def test_interval_of_one_sentence_is_its_value():
    """Every resample is that sentence; no 4-gram matches, so case and smoothing must be those of the value."""
    score = bleu(["THE cat sat down"], [["the cat sat there"]], lowercase=True)
    assert score.value > 0
    assert score.low == score.high == score.value


def test_interval_depends_on_the_seed_alone():
    """Same seed, same interval."""
    assert bleu(*ENGLISH, seed=3) == bleu(*ENGLISH, seed=3)
    hypotheses, references = ENGLISH[0] * 10, ENGLISH[1] * 10
    assert bleu(hypotheses, references, seed=3).low != bleu(hypotheses, references, seed=4).low


def test_signature_is_that_of_sacrebleu():
    """With the resamples and the seed of the interval."""
    version = sacrebleu.__version__
    expected = f"bleu|nrefs:var|bs:1000|seed:7|case:lc|eff:no|tok:13a|smooth:exp|version:{version}"
    assert bleu(*ENGLISH, lowercase=True, seed=7).signature == expected


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        (["a", "b"], [["a"]], "2 hypotheses but 1 lists of references"),
        ([], [], "no hypotheses"),
        (["a", "b"], [["a"], []], r"references\[1\] is \[\]"),
        (["a"], ["a"], r"references\[0\] is 'a'"),
    ],
)
def test_lists_that_do_not_fit_are_refused(hypotheses, references, message):
    """The message names the numbers or the place."""
    with pytest.raises(DataError, match=message):
        bleu(hypotheses, references)


def test_unknown_language_is_refused():
    """The message names the languages there are."""
    with pytest.raises(SettingsError, match=r"'fr' is not one of auto, en, zh"):
        bleu(["a"], [["a"]], language="fr")


def test_package_needs_neither_torch_nor_transformers():
    """In an interpreter of its own, since other tests import them here."""
    check = "import emogen.evaluate, sys; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], cwd=Path(__file__).parents[1], check=True)
