"""The corpus that ships: enough of everything, nothing twice, no openings worn out."""

from collections import Counter, defaultdict

import pytest

from emogen.data.check import check_file
from emogen.data.corpora import locate
from emogen.data.exchange import read_exchanges
from emogen.emotions.labels import EKMAN
from emogen.text.words import language_of, words

LEAST = {"en": 300, "zh": 100}


@pytest.fixture(scope="module")
def rows():
    return list(read_exchanges(locate("starter")))


@pytest.fixture(scope="module")
def report():
    return check_file(locate("starter"))


@pytest.fixture(scope="module")
def languages(rows):
    return [language_of([*row.context, row.reply]) for row in rows]


def fourgrams(row):
    """Word 4-grams of a row, context and reply together; a shorter text is one gram."""
    said = words(" ".join([*row.context, row.reply]))
    return {tuple(said[at : at + 4]) for at in range(max(1, len(said) - 3))}


def closest(grams):
    """The largest share of the shorter row's 4-grams that two rows have in common, and the two.

    An index from grams to rows finds all pairs that share any, so that no others are compared.
    """
    holders = defaultdict(list)
    shared = Counter()
    for number, row in enumerate(grams):
        for gram in row:
            shared.update((other, number) for other in holders[gram])
            holders[gram].append(number)
    pairs = ((count / min(len(grams[one]), len(grams[other])), one, other) for (one, other), count in shared.items())
    return max(pairs, default=(0.0, 0, 0))


def test_enough_rows_of_every_emotion_in_both_languages(rows, languages):
    counts = Counter((language, row.emotion.name) for row, language in zip(rows, languages, strict=True))
    assert counts.keys() == {(language, name) for language in LEAST for name in EKMAN.names}
    assert {pair: count for pair, count in counts.items() if count < LEAST[pair[0]]} == {}


def test_every_row_has_context_reply_and_one_emotion(rows):
    assert all(row.context and all(map(str.strip, row.context)) and row.reply.strip() for row in rows)
    assert all(max(row.emotion.weights) == 1.0 and row.emotion.labels == EKMAN for row in rows)


def test_every_split_has_every_emotion_in_both_languages(rows, languages):
    found = {(row.split, language, row.emotion.name) for row, language in zip(rows, languages, strict=True)}
    splits = ("train", "valid", "test")
    assert found == {(split, language, name) for split in splits for language in LEAST for name in EKMAN.names}
    assert Counter(row.split for row in rows)["train"] >= 0.7 * len(rows)


def test_no_two_rows_are_nearly_the_same(rows):
    share, one, other = closest([fourgrams(row) for row in rows])
    assert share <= 0.5, (rows[one], rows[other])


def test_the_measure_of_sameness_finds_a_copy():
    """Four of five grams of the shorter text stand in the longer one."""
    texts = ["a b c d e f g h", "z y x w v", "q a b c d e f g"]
    grams = [{tuple(text.split()[at : at + 4]) for at in range(len(text.split()) - 3)} for text in texts]
    assert closest(grams) == (0.8, 0, 2)


def test_no_opening_is_worn_out(rows):
    """Checked in each language by itself, too, where the other cannot dilute it."""
    replies = [words(row.reply) for row in rows]
    for part in ("en", "zh", None):
        chosen = [said for row, said in zip(rows, replies, strict=True) if part in (None, language_of([row.reply]))]
        (opening, count), *_ = Counter(tuple(said[:3]) for said in chosen).most_common(1)
        assert count <= 0.02 * len(chosen), opening


def test_the_checker_finds_nothing(report, rows):
    assert report.problems == ()
    assert report.counts.rows == len(rows)
    assert report.duplicates.rows == 0
    assert report.single == {}


def test_nothing_of_train_stands_in_valid_or_test(report, rows):
    assert report.overlap.rows == 0
    trained = {(row.context, row.reply) for row in rows if row.split == "train"}
    assert not any((row.context, row.reply) in trained for row in rows if row.split != "train")
