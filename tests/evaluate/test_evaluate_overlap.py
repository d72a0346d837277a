"""Overlap metrics against sacrebleu and rouge-score, the outside reference of every value here."""

import random
import subprocess
import sys
import weakref
from importlib.metadata import version
from itertools import zip_longest
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from emogen.errors import DataError, SettingsError
from emogen.evaluate import overlap
from emogen.evaluate.overlap import bleu, chrf, rouge, rouge_tallies, ter
from emogen.text.words import words

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
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
VOCABULARY = {
    "en": "the cat sat on a mat The I don't know why , . ! ? ... he's <3 well-known 3.5 so happy “ok” naïve 🙂",
    "zh": "我 很 开 心 ， 。 你 说 什 么 ？ 今 天 ！ Python 编 程 3 🙂 👍🏽 《 好 》",
}
TEXT = st.lists(st.sampled_from(["the", "cat", "sat", "The", "我", "爱", "!", "🙂", "don't", "\n"]), max_size=8).map(" ".join)
PAIRS = st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=5)
UNTIMED = settings(deadline=None, max_examples=30)


def varied_pairs(language, number=500):
    """Hypotheses that share about half of their words with one to three references; every tenth is empty or one word."""
    source, vocabulary = random.Random(language), VOCABULARY[language].split()
    space = " " if language == "en" else ""
    hypotheses, references = [], []
    for item in range(number):
        size = item % 2 if item % 10 < 1 else source.randint(3, 12)
        listed = [source.choices(vocabulary, k=source.randint(1, 12)) for _ in range(source.randint(1, 3))]
        taken = [word for word in source.choice(listed) if source.random() < 0.7]
        hypothesis = (taken + source.choices(vocabulary, k=size))[:size]
        hypotheses.append(space.join(hypothesis))
        references.append([space.join(text) for text in listed])
    return hypotheses, references


def transposed(references):
    """As sacrebleu wants them."""
    return list(zip_longest(*references))


def theirs(name, language="en", lowercase=None, **options):
    """The metric of sacrebleu that ours of that name must equal."""
    if name == "bleu":
        return BLEU(lowercase=bool(lowercase), tokenize={"en": "13a", "zh": "zh"}[language], **options)
    if name == "chrf":
        return CHRF(lowercase=bool(lowercase))
    return TER(case_sensitive=lowercase is False, normalized=language == "zh", asian_support=language == "zh")


def ours(form, name):
    """`bleu.statistic` from "{}.statistic" and "bleu"."""
    return attrgetter(form.format(name))(overlap)


class Words:
    """Our words as rouge-score's tokenizer."""

    def tokenize(self, text):
        return words(text)


def by_rouge_score(hypotheses, references, kind, tokenizer=None):
    """F-measures of rouge-score, one a pair."""
    scorer = RougeScorer([kind], tokenizer=tokenizer)
    return [scorer.score_multi(listed, text)[kind].fmeasure for text, listed in zip(hypotheses, references, strict=True)]


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", ["bleu", "chrf", "ter"])
def test_500_pairs_equal_sacrebleu(name, language, lowercase):
    """Corpus values, and the language found by the script."""
    hypotheses, references = varied_pairs(language)
    expected = theirs(name, language, lowercase).corpus_score(hypotheses, transposed(references)).score
    assert 1 < expected < 200
    assert ours("{}.statistic", name)(hypotheses, references, lowercase=lowercase).value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter"])
def test_defaults_are_those_of_sacrebleu(name):
    """Ordinary English through sacrebleu's plain functions."""
    expected = getattr(sacrebleu, f"corpus_{name}")(ENGLISH[0], transposed(ENGLISH[1])).score
    assert ours("{}", name)(*ENGLISH).value == pytest.approx(expected, abs=1e-9)
    sentence = getattr(sacrebleu, f"sentence_{name}")
    expected = [sentence(text, listed).score for text, listed in zip(*ENGLISH, strict=True)]
    np.testing.assert_array_equal(ours("sentence_{}", name)(*ENGLISH), expected)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", ["bleu", "chrf", "ter"])
def test_sentences_equal_sacrebleu(name, language):
    """One value a pair; BLEU with the effective order, as sacrebleu.sentence_bleu."""
    hypotheses, references = varied_pairs(language, 100)
    metric = theirs(name, language, **({"effective_order": True} if name == "bleu" else {}))
    expected = [metric.sentence_score(text, listed).score for text, listed in zip(hypotheses, references, strict=True)]
    np.testing.assert_array_equal(ours("sentence_{}", name)(hypotheses, references), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("language", "tokenizer"), [("en", None), ("zh", Words())])
def test_500_pairs_equal_rouge_score(kind, language, tokenizer):
    """The best reference of each pair, and the mean of the pairs; English with rouge-score's own tokenizer."""
    pairs = varied_pairs(language)
    expected = by_rouge_score(*pairs, kind, tokenizer)
    assert 0.05 < np.mean(expected) < 0.95
    assert rouge(*pairs, kind).value == pytest.approx(np.mean(expected), abs=1e-9)
    np.testing.assert_array_equal(overlap.sentence_rouge(*pairs, kind), expected)


@UNTIMED
@given(PAIRS, st.booleans())
def test_any_texts_equal_sacrebleu(pairs, lowercase):
    """Random token salads, with as many references as they like."""
    hypotheses, references = zip(*pairs, strict=True)
    for name in ("bleu", "chrf", "ter"):
        tally = ours("{}.statistic", name)(hypotheses, references, language="zh", lowercase=lowercase)
        expected = theirs(name, "zh", lowercase).corpus_score(hypotheses, transposed(references)).score
        assert tally.value == pytest.approx(expected, abs=1e-9)


@UNTIMED
@given(PAIRS)
def test_rouge_lies_between_0_and_1(pairs):
    """Of any texts, whatever their references; with one line everywhere rougeLsum is rougeL."""
    hypotheses, references = zip(*pairs, strict=True)
    for language in ("en", "zh"):
        tallies = rouge_tallies(hypotheses, references, KINDS, language)
        assert all(0 <= tally.value <= 1 for tally in tallies.values())
        if not any("\n" in text for text, listed in pairs for text in [text, *listed]):
            assert tallies["rougeLsum"].value == tallies["rougeL"].value


def test_rouge_lsum_takes_lines_for_sentences():
    """Lines in another order are found; as one line they are not."""
    text, reference = "he left\nshe stayed", "she stayed\nhe left"
    assert rouge([text], [[reference]], "rougeLsum").value == 1
    assert rouge([text], [[reference]], "rougeL").value == 0.5
    assert rouge([text.replace("\n", " ")], [[reference.replace("\n", " ")]], "rougeLsum").value == 0.5


def test_several_kinds_of_rouge_in_one_reading():
    """As each alone, from a stream that can be read only once."""
    hypotheses, references = varied_pairs("en", 60)
    tallies = rouge_tallies(iter(hypotheses), iter(references), KINDS)
    for kind in KINDS:
        alone = overlap.rouge.statistic(hypotheses, references, kind)
        np.testing.assert_array_equal(tallies[kind].sums, alone.sums)
        assert tallies[kind].signature == alone.signature
        assert tallies[kind].score(seed=5) == rouge.statistic(hypotheses, references, kind).score(5)


@pytest.mark.parametrize(
    "text", ["我今天很开心!", "这真是个坏消息。你说什么？", "我爱 Python 编程, 很好 👍🏽", "他说：「好的，明天见！」"]
)
def test_identical_chinese_gets_full_marks(text):
    """In every metric, the corpus and the sentence, whatever the language is called."""
    pairs = [text], [[text]]
    for name, full in {"bleu": 100, "chrf": 100, "ter": 0}.items():
        score = ours("{}", name)(*pairs)
        assert (score.value, score.low, score.high) == pytest.approx((full, full, full))
        assert ours("sentence_{}", name)(*pairs) == pytest.approx([full])
    assert [rouge(*pairs, kind).value for kind in KINDS] == [1, 1, 1, 1]


@pytest.mark.parametrize("text", ["🙂🙂👍🏽", "❤️", "Привет, мир", "ありがとう", "Ελλάδα"])
def test_identical_texts_without_latin_letters_get_full_marks(text):
    """Rouge-score's own tokenizer would find nothing in them; one token has no bigram."""
    assert by_rouge_score([text], [[text]], "rouge1") == [0]
    assert rouge([text], [[text]], "rouge1").value == rouge([text], [[text]], "rougeL").value == 1
    assert rouge([text], [[text]], "rouge2").value == (len(words(text)) > 1)
    assert rouge([text], [[text]], "rouge1", language="en").value == 0
    assert chrf([text], [[text]]).value == pytest.approx(100)
    assert ter([text], [[text]]).value == 0
    assert overlap.sentence_bleu([text], [[text]]) == pytest.approx([100])


@pytest.mark.parametrize(
    ("reference", "tokenizer"),
    [
        ("I love 北京 very much", "default"),
        ("“Well — I’m fine…” 🙂", "default"),
        ("Ça va? Très bien à Paris", "default"),
        ("...", "default"),
        ("", "default"),
        ("🙂 ok", "default"),
        ("🙂🙂 ok", "words-v2"),
        ("我爱 Python 编程", "words-v2"),
        ("Привет", "words-v2"),
    ],
)
def test_rouge_keeps_its_own_tokenizer_while_it_keeps_most(reference, tokenizer):
    """Punctuation and a borrowed word decide nothing."""
    assert f"|tok:{tokenizer}|" in rouge(["x"], [[reference]], "rouge1").signature


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
    assert f"|asian:{'yes' if tokenizer == 'zh' else 'no'}|" in ter(["x"], [[reference]]).signature


def test_chinese_is_parted_into_characters():
    """One edit among six characters and a sign; `13a` and the words of TER see a whole sentence as one word."""
    pair = ["我今天开心啊!"], [["我今天开心吗!"]]
    assert ter(*pair).value == pytest.approx(100 / 7)
    assert ter(*pair, language="en").value == 100
    assert bleu(*CHINESE).value > bleu(*CHINESE, language="en").value


def test_short_identical_texts_in_bleu():
    """No hypothesis has four tokens: 0 for sacrebleu, unless the order is the effective one; longer texts do not change."""
    short = ["你好", "是"], [["你好"], ["是"]]
    assert bleu(*short).value == theirs("bleu", "zh").corpus_score(short[0], transposed(short[1])).score == 0
    assert bleu(*short, effective_order=True).value == pytest.approx(100)
    assert "|eff:yes|" in bleu(*short, effective_order=True).signature
    assert overlap.sentence_bleu(*short) == pytest.approx([100, 100])
    assert bleu(*ENGLISH, effective_order=True).value == bleu(*ENGLISH).value


def test_empty_hypotheses_score_nothing():
    """No n-gram at all, and every word of the references to insert."""
    pairs = ["", ""], [["a b"], ["c"]]
    for score in (bleu(*pairs), chrf(*pairs), rouge(*pairs, "rougeL")):
        assert (score.value, score.low, score.high) == (0, 0, 0)
    assert ter(*pairs).value == 100


def test_empty_references():
    """Nothing to find; two empty texts need no edit."""
    assert (bleu(["a"], [[""]]).value, chrf(["a"], [[""]]).value, rouge(["a"], [[""]], "rouge1").value) == (0, 0, 0)
    assert (ter(["a"], [[""]]).value, ter([""], [[""]]).value) == (100, 0)


def test_one_word_hypotheses():
    """One word of two found, by hand: recall 1/2, precision 1; one insertion for two words."""
    pairs = ["yes"], [["yes sir"]]
    assert rouge(*pairs, "rouge1").value == pytest.approx(2 / 3)
    assert rouge(*pairs, "rouge2").value == 0
    assert ter(*pairs).value == 50
    assert overlap.sentence_bleu(*pairs) == pytest.approx([100 * np.exp(-1)])


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter"])
def test_metric_of_any_sums_is_that_of_the_chosen_pairs(name):
    """Sums [2, 3, columns] of six choices of pairs, as resampling makes them, against sacrebleu on those pairs."""
    hypotheses, references = varied_pairs("en", 40)
    tally = ours("{}.statistic", name)(hypotheses, references)
    choices = np.random.default_rng(1).integers(40, size=(2, 3, 40))
    values = tally.metric(tally.sums[choices].sum(axis=2))
    assert values.shape == (2, 3)
    for place in np.ndindex(2, 3):
        chosen = [hypotheses[item] for item in choices[place]], [references[item] for item in choices[place]]
        expected = theirs(name).corpus_score(chosen[0], transposed(chosen[1])).score
        assert values[place] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter"])
def test_interval_agrees_with_the_bootstrap_of_sacrebleu(name):
    """Both draw 1000 resamples of the same statistics; sacrebleu gives half the width of its interval."""
    hypotheses, references = ENGLISH[0] * 25, ENGLISH[1] * 25
    score = ours("{}", name)(hypotheses, references)
    bootstrapped = theirs(name).corpus_score(hypotheses, transposed(references), n_bootstrap=1000)
    assert (score.high - score.low) / 2 == pytest.approx(bootstrapped._ci, rel=0.1)
    assert (score.high + score.low) / 2 == pytest.approx(bootstrapped._mean, rel=0.02)


def test_interval_of_one_sentence_is_its_value():
    """Every resample is that sentence; no 4-gram matches, so case and smoothing must be those of the value."""
    score = bleu(["THE cat sat down"], [["the cat sat there"]], lowercase=True)
    assert score.value > 0
    assert score.low == score.high == score.value


def test_interval_depends_on_the_seed_alone():
    """Same seed, same interval."""
    assert bleu.statistic(*ENGLISH).score(3) == bleu.statistic(*ENGLISH).score(3)
    hypotheses, references = ENGLISH[0] * 10, ENGLISH[1] * 10
    assert bleu.statistic(hypotheses, references).score(3).low != bleu.statistic(hypotheses, references).score(4).low


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter"])
@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("pairs", [ENGLISH, (ENGLISH[0], [["x", "y"]] * 4)])
def test_signature_is_that_of_sacrebleu(name, lowercase, pairs):
    """Word by word, with the resamples and the seed of the interval behind it."""
    metric = theirs(name, lowercase=lowercase)
    metric.corpus_score(pairs[0], transposed(pairs[1]))
    start = {"bleu": "bleu", "chrf": "chrf|beta:2", "ter": "ter"}[name]
    score = ours("{}.statistic", name)(*pairs, lowercase=lowercase).score(7)
    assert score.signature == f"{start}|{metric.get_signature()}|bs:1000|seed:7"


def test_signature_of_rouge():
    """All that changes a value, and the version of rouge-score."""
    end = f"rouge_score:{version('rouge-score')}|version:"
    assert rouge(*ENGLISH, "rouge1").signature.startswith(f"rouge1|nrefs:var|best:fmeasure|tok:default|stem:no|{end}")
    signature = rouge.statistic(["a"], [["我们", "b"]], "rougeLsum").score(2).signature
    assert signature.startswith(f"rougeLsum|nrefs:2|best:fmeasure|tok:words-v2|stem:no|sentences:lines|{end}")
    assert signature.endswith("|bs:1000|seed:2")


class Watched(str):
    """A text whose end can be noticed."""


@pytest.mark.parametrize(
    ("values", "language", "most_living"),
    [
        (overlap.chrf.statistic, "auto", 5),
        (rouge_tallies, "auto", 1005),
        (rouge_tallies, "en", 5),
    ],
)
def test_streams_are_not_kept(values, language, most_living):
    """No more references live at once than decide the language (in these, whose libraries keep no text either)."""
    ended: list[int] = []
    counts: list[int] = []

    def stream():
        for number in range(3000):
            text = Watched(f"a b {number}")
            weakref.finalize(text, ended.append, number)
            counts.append(number + 1 - len(ended))
            yield [text]

    values(("a b c" for _ in range(3000)), stream(), language=language)
    assert len(counts) == 3000
    assert max(counts) <= most_living


def test_streams_score_as_lists():
    """Read once, with the pairs that decided the language among them."""
    pairs = varied_pairs("zh", 60)
    for name in ("bleu", "chrf", "ter"):
        assert ours("{}", name)(*map(iter, pairs)) == ours("{}", name)(*pairs)


def test_first_thousand_references_decide():
    """So that a stream can be scored without a second reading."""
    late = ["x"] * 1001, [["an English text"]] * 1000 + [["我" * 10_000]]
    assert "|tok:13a|" in overlap.bleu.statistic(*late).signature
    assert "|tok:zh|" in overlap.bleu.statistic(late[0][1:], late[1][1:]).signature


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        (["a", "b"], [["a"]], "2 hypotheses but 1 lists of references"),
        (iter(["a", "b"]), [["a"]], r"references\[1\] is missing"),
        (["a"], iter([["a"], ["b"]]), r"hypotheses\[1\] is missing"),
        ([], [], "no hypotheses"),
        (iter([]), iter([]), "no hypotheses"),
        (["a", "b"], [["a"], []], r"references\[1\] is \[\]"),
        (["a"], ["a"], r"references\[0\] is 'a'"),
        (["a"], [["a", None]], r"references\[0\]\[1\] is missing"),
        (["a", 3.5], [["a"], ["b"]], r"hypotheses\[1\] is 3.5"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(hypotheses, references, message):
    """The message names the numbers or the place."""
    with pytest.raises(DataError, match=message):
        chrf(hypotheses, references)


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter"])
def test_every_form_refuses_what_is_no_pair(name):
    """And so does ROUGE."""
    for form in ("{}", "{}.statistic", "sentence_{}"):
        with pytest.raises(DataError, match="no hypotheses"):
            ours(form, name)([], [])
        with pytest.raises(SettingsError, match="'fr' is not one of auto, char, en, zh"):
            ours(form, name)(["a"], [["a"]], language="fr")
        with pytest.raises(DataError, match="no hypotheses"):
            ours(form, "rouge")([], [], "rouge1")


def test_unknown_kind_of_rouge_is_refused():
    """The message names the kinds there are."""
    for form in (rouge, overlap.rouge.statistic, overlap.sentence_rouge):
        with pytest.raises(SettingsError, match="'rouge3' is not one of rouge1, rouge2, rougeL, rougeLsum"):
            form(["a"], [["a"]], "rouge3")


def test_order_of_pairs_does_not_matter():
    """Corpus metrics are functions of sums."""
    for name in ("bleu", "chrf", "ter"):
        forwards, backwards = ours("{}", name)(*ENGLISH), ours("{}", name)(ENGLISH[0][::-1], ENGLISH[1][::-1])
        assert forwards.value == pytest.approx(backwards.value)


def test_package_needs_neither_torch_nor_transformers():
    """In an interpreter of its own, since other tests import them here."""
    check = "import emogen.evaluate, sys; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], cwd=Path(__file__).parents[2], check=True)


# Remarks about the weather and food in scripts without blanks between words.
UNSPACED = {
    "Hiragana": ["きょうは とてもたのしかった。", "またあした会いましょう。"],
    "Katakana": ["コーヒーヲノミマス。", "アシタハハレデス。"],
    "Thai": ["เมื่อวานฝนตกหนักมาก", "ฉันชอบกินข้าวผัด"],
    "Lao": ["ມື້ນີ້ອາກາດດີຫຼາຍ", "ຂ້ອຍມັກກິນເຂົ້າໜຽວ"],
    "Khmer": ["ថ្ងៃនេះមេឃស្រឡះណាស់", "ខ្ញុំចូលចិត្តញ៉ាំបាយ"],
    "Myanmar": ["ဒီနေ့ရာသီဥတုကောင်းတယ်", "ကျွန်တော်ထမင်းစားတယ်"],
}


@pytest.mark.parametrize("script", UNSPACED)
def test_scripts_without_blanks_are_compared_by_characters(script):
    """Identical texts score full marks, and BLEU is sacrebleu's with its tokenizer `char`."""
    texts = UNSPACED[script]
    same = [[text] for text in texts]
    assert bleu(texts, same).value == pytest.approx(100)
    assert rouge(texts, same, "rouge2").value == 1
    assert ter(texts, same).value == 0
    other = [[text[: len(text) // 2] + texts[0][-3:]] for text in texts]
    expected = BLEU(tokenize="char").corpus_score(texts, [[listed[0] for listed in other]]).score
    found = bleu(texts, other)
    assert found.value == pytest.approx(expected)
    assert "|tok:char|" in found.signature
    assert "|tok:char" in ter(texts, other).signature
    spaced = TER().corpus_score([" ".join(text) for text in texts], [[" ".join(listed[0]) for listed in other]]).score
    assert ter(texts, other).value == pytest.approx(spaced)
    assert script in overlap.tokenisation_note(other)
    assert "--language char" in overlap.tokenisation_note(other, "en")


@pytest.mark.parametrize(
    "text", ["我很开心。", "我爱这家の店，东西很好吃", "so happy", "Привет мир", "한국어 문장입니다", "", "🙂"]
)
def test_scripts_with_words_are_not(text):
    assert overlap.tokenisation_note([[text]]) == ""
    assert "|tok:char|" not in bleu(["x"], [[text]]).signature


def test_whether_texts_have_ngrams():
    """Rouge-score's own tokens are runs of a-z and 0-9; ours keep every sign."""
    assert overlap.has_ngrams(["hi"], [["oh no"]], 2)
    assert not overlap.has_ngrams(["hi !"], [["oh"]], 2, "en")
    assert overlap.has_ngrams(["hi !"], [["oh"]], 2, "zh")
    assert not overlap.has_ngrams(["🙂"], [["🙂"]], 1, "en")
