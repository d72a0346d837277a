"""Shapley values against their definition, closed forms of linear and pairwise games, and the words of the text."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emogen.errors import DataError, SettingsError
from emogen.evaluate.attribution import EXACT_WORDS, log_odds, shapley_words
from emogen.text.words import words

UNTIMED = settings(deadline=None, max_examples=30)
LETTERS = "abcdefghijklmnopqrst"
LONG = " ".join(LETTERS)


def additive(weights):
    """A text is worth the sum of its words' weights, plus 3."""
    return lambda texts: np.array([3 + sum(weights.get(word, 0) for word in words(text)) for text in texts])


def weights_of(found):
    return [word.weight for word in found.words]


@pytest.mark.parametrize("text", ["a b c", LONG])
def test_a_linear_value_gives_its_weights(text):
    """Enumerated or sampled."""
    weights = {letter: place - 4.5 for place, letter in enumerate(LETTERS)}
    found = shapley_words(text, additive(weights), draws=2)
    assert weights_of(found) == pytest.approx([weights[word] for word in text.split()])
    assert found.nothing == 3
    assert [word.text for word in found.words] == text.split()


@UNTIMED
@given(st.integers(1, 4), st.data())
def test_few_words_give_the_definition(count, data):
    """The mean over all orders of what each word adds, for any game."""
    letters = LETTERS[:count]
    number = st.floats(-10, 10)
    game = {mask: data.draw(number) for mask in range(2**count)}

    def worth(kept):
        return game[sum(1 << letters.index(letter) for letter in kept)]

    expected = np.zeros(count)
    orders = list(permutations(range(count)))
    for order in orders:
        for length, place in enumerate(order):
            before = [letters[other] for other in order[:length]]
            expected[place] += (worth([*before, letters[place]]) - worth(before)) / len(orders)
    found = shapley_words(" ".join(letters), lambda texts: np.array([worth(words(text)) for text in texts]))
    assert weights_of(found) == pytest.approx(expected.tolist(), abs=1e-9)
    assert found.orders == 0


def test_pairs_are_exact_with_one_order_and_its_reverse():
    """A pair's worth is halved: in one of the two orders either word comes last (closed form)."""
    random = np.random.default_rng(0)
    pairs = np.triu(random.normal(size=(20, 20)), 1)

    def value(texts):
        marks = np.array([[letter in words(text) for letter in LETTERS] for text in texts], dtype=float)
        return np.einsum("ti,ij,tj->t", marks, pairs, marks)

    found = shapley_words(LONG, value, draws=2, seed=4)
    assert weights_of(found) == pytest.approx(((pairs.sum(axis=0) + pairs.sum(axis=1)) / 2).tolist())
    assert found.orders == 2


@UNTIMED
@given(st.lists(st.sampled_from(["good", "not", "bad", "!", "我"]), min_size=1, max_size=14), st.integers(0, 9))
def test_weights_add_up(chosen, seed):
    """To the value of the text less that of nothing, however few the draws and whatever the game."""

    def value(texts):
        return np.array([np.sin(sum(ord(sign) * place for place, sign in enumerate(text, 1))) for text in texts])

    found = shapley_words(" ".join(chosen), value, draws=2, seed=seed)
    assert sum(weights_of(found)) == pytest.approx(found.full - found.nothing, abs=1e-9)
    assert found.full == value([" ".join(chosen)])[0]


def test_sampling_comes_near_enumeration():
    """A product of three words is shared by them in thirds; 2,000 orders are some 0.01 off."""

    def value(texts):
        return np.array([float({"a", "b", "c"} <= set(words(text))) for text in texts])

    found = weights_of(shapley_words("a b c d e f g h", value, draws=600))
    assert found == pytest.approx([1 / 3] * 3 + [0] * 5, abs=0.05)
    assert found != pytest.approx([1 / 3] * 3 + [0] * 5, abs=1e-9)


def test_value_is_called_once_on_different_texts():
    """Enumeration of six words takes 64 texts; "ha ha" has only three different remains."""
    calls = []

    def value(texts):
        calls.append(list(texts))
        return np.zeros(len(texts))

    shapley_words(" ".join(LETTERS[:EXACT_WORDS]), value)
    shapley_words("ha ha", value)
    shapley_words(LONG, value, draws=8)
    assert [len(texts) == len(set(texts)) for texts in calls] == [True] * 3
    assert len(calls[0]) == 64
    assert sorted(calls[1]) == ["", "ha", "ha ha"]
    assert len(calls[2]) <= 8 * 19 + 2


def test_the_same_seed_gives_the_same_weights():
    """And another seed others, where the game has more than pairs in it."""

    def value(texts):
        return np.array([float(len(words(text)) >= 2 and "a" in text and "b" in text and "c" in text) for text in texts])

    first, again, other = (shapley_words(LONG, value, draws=4, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def remains(text):
    """What `shapley_words` scores for a short text."""
    seen = []
    shapley_words(text, lambda texts: seen.extend(texts) or np.zeros(len(texts)))
    return set(seen)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("I LOVE you", {"I LOVE you", "I you", "LOVE you", "I LOVE", "I", "LOVE", "you", ""}),
        ("  hi there \n", {"hi there", "hi", "there", ""}),
        (
            "Oh, Bob!",
            {
                "Oh, Bob!",
                "Oh Bob!",
                "Oh,!",
                "Oh, Bob",
                "Oh!",
                ", Bob!",
                ", Bob",
                "Oh Bob",
                "Oh,",
                "Oh",
                "Bob!",
                "Bob",
                ",!",
                ",",
                "!",
                "",
            },
        ),
        ("am well-off", {"am off", "am well", "am well off", "am well-", "well-off"}),
        ("我很好", {"我很好", "很好", "我好", "我很", "我", "很", "好", ""}),
        ("I don’t", {"I don’t", "I", "don’t", ""}),
        ("3.5", {"3 5", "3.", ".5"}),
    ],
)
def test_words_are_taken_out_with_their_blanks(text, left):
    """By hand: no double blank, no blank before a comma, no words that grow together, the spelling as it was."""
    assert left <= remains(text)
    assert not any("  " in found or found != found.strip() for found in remains(text))


def test_spans_point_into_the_text():
    text = " I DON’T know 👍🏽!"
    found = shapley_words(text, lambda texts: np.zeros(len(texts)))
    assert [word.text for word in found.words] == ["I", "DON’T", "know", "👍🏽", "!"]
    assert all(text[word.start : word.end] == word.text for word in found.words)


def test_long_texts_get_fewer_orders_within_the_limit():
    """A hundred words, 500 texts: two pairs of orders of 99 texts each, and both ends."""
    scored = []

    def value(texts):
        scored.append(len(texts))
        return np.arange(len(texts), dtype=float)

    found = shapley_words(" ".join(f"w{place}" for place in range(100)), value, draws=64, most_texts=500)
    assert found.orders == 4
    assert scored[0] <= 500
    with pytest.raises(SettingsError, match="a text of 300 words takes 600 texts to score: pass most_texts above 500"):
        shapley_words("w " * 300, value, most_texts=500)


def test_log_odds_of_a_judge():
    """log(p / (1 - p)) of the label's column, finite at 0 and 1."""

    def judge(texts):
        return np.array([[0.25, 0.75] if text else [0, 1] for text in texts])

    value = log_odds(judge, ["anger", "joy"], "joy")
    assert value(["a", ""]) == pytest.approx([np.log(3), np.log(999_999)])
    found = shapley_words("a", value)
    assert weights_of(found) == pytest.approx([np.log(3) - np.log(999_999)])
    with pytest.raises(SettingsError, match="'glee' is not one of the judge's: anger, joy"):
        log_odds(judge, ["anger", "joy"], "glee")


def test_mistakes_are_refused():
    with pytest.raises(DataError, match="no word to weigh"):
        shapley_words(" \n", additive({}))
    for draws in (0, 3):
        with pytest.raises(SettingsError, match=f"draws is {draws}: pass an even number"):
            shapley_words("a", additive({}), draws=draws)
    with pytest.raises(DataError, match=r"returned \[1\] for 2 texts"):
        shapley_words("a", lambda texts: np.zeros(1))
    with pytest.raises(DataError, match="the value of text 'a' is nan"):
        shapley_words("a", lambda texts: np.array([np.nan if text else 0 for text in texts]))
