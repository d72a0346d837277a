"""Greedy token matching against a double loop and closed forms; cosines of sentence embeddings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from emogen.errors import DataError, SettingsError
from emogen.evaluate.similarity import bertscore, greedy_match, sentence_similarity, token_matches

WIDTH = 3
LETTERS = "abcde"
WORDS = st.lists(st.sampled_from(LETTERS), max_size=5).map(" ".join)
VECTORS = st.integers(1, 5).flatmap(lambda tokens: arrays(np.float64, (tokens, WIDTH), elements=st.floats(-1, 1, width=16)))


def one_hot(texts):
    """Letters as axes: cosine 1 for the same letter, 0 for two."""
    return [np.array([[word == letter for letter in LETTERS] for word in text.split()], dtype=np.float32) for text in texts]


def cosine(one, other):
    lengths = sum(x * x for x in one) ** 0.5 * sum(y * y for y in other) ** 0.5
    return sum(x * y for x, y in zip(one, other, strict=True)) / lengths if lengths else 0.0


def by_double_loop(hypothesis, reference):
    """Equations 1 to 3 of Zhang et al. 2020, one token after another."""
    precision = sum(max(cosine(own, other) for other in reference) for own in hypothesis) / len(hypothesis)
    recall = sum(max(cosine(own, other) for own in hypothesis) for other in reference) / len(reference)
    return precision, recall


@given(VECTORS, VECTORS)
def test_match_equals_a_double_loop(hypothesis, reference):
    found = greedy_match(hypothesis, reference)
    precision, recall = by_double_loop(hypothesis.tolist(), reference.tolist())
    assert (found.precision, found.recall) == pytest.approx((precision, recall), abs=1e-9)
    if min(precision, recall) > 1e-6:
        assert found.f1 == pytest.approx(2 / (1 / precision + 1 / recall))
    elif min(precision, recall) < -1e-6:
        assert found.f1 == 0


@given(VECTORS, VECTORS, st.floats(0.1, 10))
def test_sides_change_places_and_lengths_do_not_count(hypothesis, reference, scale):
    found, turned = greedy_match(hypothesis, reference), greedy_match(scale * reference, hypothesis)
    assert (found.precision, found.recall) == pytest.approx((turned.recall, turned.precision), abs=1e-9)


def test_identical_texts_score_1_and_orthogonal_ones_0():
    same = bertscore(["a b c", "d"], [["a b c"], ["d"]], one_hot, "letters")
    assert (same.value, same.low, same.high) == pytest.approx((1, 1, 1))
    strange = bertscore(["a b", "c"], [["c d"], ["a"]], one_hot, "letters")
    assert (strange.value, strange.low, strange.high) == (0, 0, 0)


def test_match_by_hand():
    """`a a b` against `a c`: two of three tokens find theirs, and one of two is found."""
    (found,) = token_matches(["a a b"], [["a c"]], one_hot)
    assert (found.precision, found.recall) == pytest.approx((2 / 3, 1 / 2))
    assert found.f1 == pytest.approx(4 / 7)


def test_best_of_several_references_counts():
    matches = list(token_matches(["a b", "c"], [["c", "a b", "a"], ["d"]], one_hot))
    assert [match.f1 for match in matches] == pytest.approx([1, 0])
    assert bertscore(["a b", "c"], [["c", "a b", "a"], ["d"]], one_hot, "letters").value == pytest.approx(1 / 2)


@given(st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=8), st.integers(1, 9))
def test_batches_do_not_matter_and_are_no_larger_than_said(pairs, size):
    hypotheses, references = zip(*pairs, strict=True)
    target = []

    def encode(texts):
        target.append(len(texts))
        return one_hot(texts)

    found = [match.f1 for match in token_matches(hypotheses, references, encode, size)]
    alone = [max(greedy_match(*one_hot([own, other])).f1 for other in listed) for own, listed in pairs]
    assert found == pytest.approx(alone)
    assert max(target) <= size
    assert sum(target) == sum(1 + len(listed) for listed in references)


def test_streams_are_read_a_batch_at_a_time():
    read = []

    def texts():
        for number in range(100):
            read.append(number)
            yield "a b"

    matches = token_matches(texts(), (["a"] for _ in range(100)), one_hot, batch_size=4)
    next(matches)
    assert len(read) == 4
    assert len(list(matches)) == 99


@pytest.mark.parametrize(("hypothesis", "reference"), [("", "a"), ("a", ""), ("", "")])
def test_empty_text_matches_nothing(hypothesis, reference):
    """Also where the encoder gives an array without width."""
    for encode in (one_hot, lambda texts: [found if len(found) else np.zeros(0) for found in one_hot(texts)]):
        assert bertscore([hypothesis], [[reference]], encode, "letters").value == 0


def test_zero_vector_has_the_cosine_0():
    assert greedy_match(np.array([[0.0, 0], [1, 0]]), np.array([[1.0, 0]])).precision == 1 / 2


def test_signatures_name_the_encoder():
    signed = bertscore.statistic(["a", "b"], [["a"], ["b"]], one_hot, "letters@1").score(3).signature
    assert signed.startswith("bertscore|encoder:letters@1|idf:no|rescale:no|texts:2|version:")
    assert signed.endswith("|bs:1000|seed:3")
    found = sentence_similarity(np.eye(3), np.eye(3), "MiniLM")
    assert found.signature.startswith("sentence_similarity|encoder:MiniLM|texts:3|version:")


def test_interval_of_mean_f1_is_that_of_a_share():
    """F1 is 1 or 0 here: 80 of 100, quantiles of Binomial(100, 0.8) / 100 are 0.72 and 0.87 (tables)."""
    hypotheses, references = ["a"] * 100, [["a"]] * 80 + [["b"]] * 20
    found = bertscore(hypotheses, references, one_hot, "letters")
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.72, 0.87), abs=0.0101)
    assert found == bertscore.statistic(hypotheses, references, one_hot, "letters").score()


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        (["a"], [["a"], ["b"]], "1 hypotheses but 2 lists of references"),
        (["a", "b"], [["a"], []], r"references\[1\] is \[\]: pass a list"),
        (["a"], ["a"], r"references\[0\] is 'a': pass a list"),
        (iter(["a", "b"]), iter([["a"]]), "1 lists of references but more hypotheses"),
        (iter(["a"]), iter([["a"], ["a"]]), "1 hypotheses but more lists of references"),
        (iter([]), iter([]), "no items to score"),
        ([None], [["a"]], r"hypotheses\[0\] is None: pass a text"),
        (["a"], [["a", 3]], r"references\[0\]\[1\] is 3: pass a text"),
    ],
)
def test_texts_that_do_not_fit_are_refused(hypotheses, references, message):
    with pytest.raises(DataError, match=message):
        bertscore(hypotheses, references, one_hot, "letters")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda texts: one_hot(texts)[1:], r"hypotheses\[0\]: the encoder gave 3 answers for 4 texts"),
        (lambda texts: [np.zeros(3) for _ in texts], r"hypotheses\[0\]: the encoder gave an array of shape \[3\]"),
        (
            lambda texts: [np.full((1, 2), np.nan if text == "d" else 1) for text in texts],
            r"references\[1\]\[0\]: .* not finite",
        ),
        (lambda texts: [np.ones((1, 2 + (text == "d"))) for text in texts], "widths 2 and 3"),
    ],
)
def test_broken_encoders_are_refused(answer, message):
    with pytest.raises(DataError, match=message):
        bertscore(["a", "c"], [["b"], ["d"]], answer, "broken")


def test_batches_below_1_are_refused():
    with pytest.raises(SettingsError, match="batch_size is 0"):
        bertscore(["a"], [["a"]], one_hot, "letters", batch_size=0)


@pytest.mark.parametrize(
    ("generated", "source", "expected"),
    [
        ([[1, 0], [0, 2]], [[3, 0], [0, 4]], 1),
        ([[1, 0], [0, 1]], [[0, 1], [1, 0]], 0),
        ([[1, 1]], [[-2, -2]], -1),
        ([[1, 0]], [[1, 3**0.5]], 1 / 2),
        ([[0, 0], [1, 0]], [[1, 0], [1, 0]], 1 / 2),
    ],
)
def test_sentence_similarity_by_angles(generated, source, expected):
    """Cosines of 0, 90, 180 and 60 degrees; zeros have no direction and count as 0."""
    assert sentence_similarity(np.array(generated), np.array(source), "plane").value == pytest.approx(expected)


def test_sentence_similarity_reads_streams():
    rows = np.random.default_rng(0).normal(size=(2, 50, 4))
    assert sentence_similarity(iter(rows[0]), iter(rows[1]), "noise") == sentence_similarity(rows[0], rows[1], "noise")


@pytest.mark.parametrize(
    ("generated", "source", "message"),
    [
        (np.eye(2), np.eye(3), "2 generated embeddings but 3 source embeddings"),
        (np.ones((2, 3)), np.ones((2, 4)), r"pair 0 has embeddings of shapes \[3\] and \[4\]"),
        (np.ones((2, 3, 4)), np.ones((2, 3, 4)), r"pair 0 has embeddings of shapes \[3, 4\]"),
        (np.array([[1, 1], [1, np.inf]]), np.ones((2, 2)), "pair 1: .* not finite"),
        (np.ones((0, 2)), np.ones((0, 2)), "no generated embeddings to score"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(generated, source, message):
    with pytest.raises(DataError, match=message):
        sentence_similarity(generated, source, "any")
