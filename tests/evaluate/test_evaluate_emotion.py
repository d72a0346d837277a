"""Emotion scores against closed forms, nltk and scikit-learn; corrections by simulated judges whose truth is known."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.metrics import ConfusionMatrix
from nltk.metrics.agreement import AnnotationTask
from scipy import stats

from emogen.errors import DataError, UndefinedScoreError
from emogen.evaluate import bootstrap_interval
from emogen.evaluate.correction import corrected_accuracy, corrected_shares
from emogen.evaluate.emotion import (
    Confusion,
    agreement,
    calibration_error,
    checked_probabilities,
    confusion,
    emotion_accuracy,
    emotion_f1,
    judged_labels,
    kappa_tally,
    multilabel_f1,
)
from emogen.evaluate.resampling import wilson_interval

LABELS = ["anger", "joy", "sadness", "喜悦"]
EKMAN = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=20)
MARKS = st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=3, max_size=3), min_size=1, max_size=12)
UNTIMED = settings(deadline=None, max_examples=50)
FEW = settings(deadline=None, max_examples=15)


def test_accuracy_by_hand():
    """Three of four, with sacrebleu's form of signature."""
    found = emotion_accuracy.statistic(["joy", "joy", "anger", "喜悦"], ["joy", "anger", "anger", "喜悦"]).score(5)
    assert found.value == 3 / 4
    assert found.signature.startswith("emotion_accuracy|texts:4|version:")
    assert found.signature.endswith("|bs:1000|seed:5")


def test_f1_by_hand():
    """F1 of joy is 2*1/(2+1), of anger 2*1/(1+2), of sadness 0 of 1; 喜悦 was neither asked for nor judged."""
    found = emotion_f1(["joy", "joy", "anger"], ["joy", "anger", "anger"], LABELS)
    assert found.value == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert emotion_f1(["joy", "joy"], ["joy", "sadness"], LABELS).value == pytest.approx((2 / 3 + 0) / 2)
    assert found.signature.startswith("emotion_f1|average:macro|labels:4|texts:3|version:")


@UNTIMED
@given(PAIRS)
def test_f1_equals_nltk(pairs):
    """The mean of the F-measures of nltk's confusion matrix, over the labels that occur."""
    target, judged = zip(*pairs, strict=True)
    matrix = ConfusionMatrix(target, judged)
    measures = [matrix.f_measure(label) for label in {*target, *judged}]
    assert emotion_f1.statistic(target, judged, LABELS).value == pytest.approx(np.mean(measures))


@FEW
@given(PAIRS)
def test_intervals_lie_within_the_scale(pairs):
    """And the same seed gives the same interval."""
    target, judged = zip(*pairs, strict=True)
    for found, again in [
        (emotion_accuracy(target, judged), emotion_accuracy(target, judged)),
        (emotion_f1(target, judged, LABELS), emotion_f1(target, judged, LABELS)),
    ]:
        assert 0 <= found.low <= found.high <= 1
        assert found == again


@FEW
@given(st.lists(st.sampled_from(LABELS), min_size=1, max_size=20))
def test_agreement_scores_1(labels):
    """In every resample, even where rare labels fall out."""
    for found in (emotion_accuracy(labels, labels), emotion_f1(labels, labels, LABELS)):
        assert (found.value, found.low, found.high) == (1, 1, 1)


@UNTIMED
@given(PAIRS, st.randoms(use_true_random=False))
def test_order_of_texts_and_of_labels_does_not_matter(pairs, random):
    """Both are functions of the confusion matrix."""
    target, judged = zip(*pairs, strict=True)
    mixed_asked, mixed_judged = zip(*random.sample(pairs, len(pairs)), strict=True)
    assert emotion_accuracy.statistic(mixed_asked, mixed_judged).value == pytest.approx(
        emotion_accuracy.statistic(target, judged).value
    )
    mixed = emotion_f1.statistic(mixed_asked, mixed_judged, LABELS[::-1])
    assert mixed.value == pytest.approx(emotion_f1.statistic(target, judged, LABELS).value)


def test_interval_of_accuracy_is_that_of_a_binomial_share():
    """Quantiles of Binomial(100, 0.8) / 100: 0.72 and 0.87 (tables), each to the next hundredth."""
    found = emotion_accuracy(["joy"] * 100, ["joy"] * 80 + ["anger"] * 20)
    assert (found.low, found.high) == pytest.approx((0.72, 0.87), abs=0.0101)


@pytest.mark.parametrize(("level", "deviations"), [(0.95, 1.96), (0.8, 1.2816)])
def test_bootstrap_interval_of_a_mean_is_normal_for_many_items(level, deviations):
    """Mean plus and minus z standard errors, by the central limit theorem; 4000 resamples give it to some 3%."""
    values = np.arange(1000.0)
    low, high = bootstrap_interval(values, seed=0, resamples=4000, level=level)
    error = values.std() / 1000**0.5
    expected = (values.mean() - deviations * error, values.mean() + deviations * error)
    assert (low, high) == pytest.approx(expected, abs=0.12 * error)


def test_bootstrap_interval_of_one_value_is_the_value():
    """There is nothing else to draw."""
    assert bootstrap_interval(np.array([0.25]), seed=0) == (0.25, 0.25)


def test_lists_that_do_not_fit_are_refused():
    """The message names the numbers, or the place and the labels there are."""
    with pytest.raises(DataError, match="1 asked labels but 2 judged labels"):
        emotion_accuracy(["joy"], ["joy", "joy"])
    with pytest.raises(DataError, match="no asked labels"):
        emotion_f1([], [], LABELS)
    with pytest.raises(DataError, match=r"judged\[1\]: emotion 'glee' is not one of anger, joy"):
        emotion_f1(["joy", "joy"], ["joy", "glee"], LABELS)
    with pytest.raises(DataError, match=r"asked\[0\]: emotion 'grief' \(nor 'glee' further down\) is not one of anger, joy"):
        confusion(["grief", "glee", "grief"], ["joy"] * 3, LABELS)
    with pytest.raises(DataError, match="labels hold a name twice: joy, joy"):
        confusion(["joy"], ["joy"], ["joy", "joy"])
    with pytest.raises(DataError, match="no values"):
        bootstrap_interval(np.array([]), seed=0)


def test_multilabel_f1_by_hand():
    """F1 of the first label 2*1/(1+2), of the second 1, of the third 0 as it is nowhere."""
    gold = np.array([[1, 0, 0], [0, 1, 0]], dtype=bool)
    found = multilabel_f1(gold, np.array([[1, 0, 0], [1, 1, 0]]), LABELS[:3])
    assert found.value == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.signature.startswith("multilabel_f1|average:macro|zero_division:0|labels:3|texts:2|version:")


@UNTIMED
@given(MARKS)
def test_multilabel_f1_equals_scikit_learn(rows):
    """`average="macro", zero_division=0`, absent labels included."""
    reference = pytest.importorskip("sklearn.metrics")
    gold, found = np.moveaxis(np.array(rows, dtype=bool), -1, 0)
    expected = reference.f1_score(gold.astype(int), found.astype(int), average="macro", zero_division=0)
    assert multilabel_f1.statistic(gold, found, LABELS[:3]).value == pytest.approx(expected)


@UNTIMED
@given(PAIRS)
def test_multilabel_f1_of_single_labels_is_emotion_f1(pairs):
    """Over the labels that occur."""
    target, judged = zip(*pairs, strict=True)
    labels = sorted({*target, *judged})
    marks = [np.array([[given == label for label in labels] for given in side]) for side in (target, judged)]
    assert multilabel_f1.statistic(*marks, labels).value == pytest.approx(emotion_f1.statistic(target, judged, labels).value)


@pytest.mark.parametrize(
    ("gold", "found", "message"),
    [
        ([[1, 0]], [[1, 0], [1, 0]], "1 rows of gold labels but 2 rows of found labels"),
        ([[1, 0, 0]], [[1, 0, 0]], r"gold is \[1, 3\]: pass \[texts, 2\], for anger, joy"),
        ([[1, 0]], [[1, 0.5]], r"found\[0\]: joy is 0.5; pass true or false"),
        ([[1, 0], [np.nan, 0]], [[1, 0], [1, 0]], r"gold\[1\]: anger is nan"),
    ],
)
def test_marks_that_do_not_fit_are_refused(gold, found, message):
    with pytest.raises(DataError, match=message):
        multilabel_f1(np.array(gold), np.array(found), LABELS[:2])


def test_confusion_by_hand():
    """Rows are what was asked for; a label never asked for has an empty row."""
    found = confusion(["joy", "joy", "anger"], ["joy", "anger", "anger"], ["anger", "joy", "fear"])
    assert found.counts.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert found.row_shares.tolist() == [[1, 0, 0], [0.5, 0.5, 0], [0, 0, 0]]
    assert found.labels == ("anger", "joy", "fear")


def test_impossible_confusions_are_refused():
    with pytest.raises(DataError, match=r"confusion of 2 labels is \[2, 3\]"):
        Confusion(np.zeros((2, 3), dtype=np.int64), ("anger", "joy"))
    with pytest.raises(DataError, match="confusion holds -1"):
        Confusion(np.array([[1, -1], [0, 1]]), ("anger", "joy"))


def test_judged_labels_are_the_likeliest():
    """And the first of equals; 16-bit numbers are near enough to a sum of 1."""
    given_rows = np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]], dtype=np.float16)
    assert judged_labels(given_rows, ["anger", "joy", "fear"]) == ["joy", "anger"]


@pytest.mark.parametrize(
    ("given_rows", "message"),
    [
        ([[0.5, 0.5], [0.5, np.nan]], r"probabilities\[1\]: joy is nan"),
        ([[np.inf, 0.5]], r"probabilities\[0\]: anger is inf"),
        ([[0.5, 0.5], [1.25, -0.25]], r"probabilities\[1\]: joy is -0.25"),
        ([[0.5, 0.5], [0.5, 0.5], [0.9, 0.9]], r"probabilities\[2\] sum to 1.8, not to 1"),
        ([[0.5, 0.25, 0.25]], r"probabilities are \[1, 3\]: pass \[texts, 2\], for anger, joy"),
        ([0.5, 0.5], r"probabilities are \[2\]"),
        (np.zeros((0, 2)), "no probabilities"),
    ],
)
def test_what_is_no_probability_is_refused(given_rows, message):
    """With its row and value, on one line."""
    with pytest.raises(DataError, match=message) as refused:
        checked_probabilities(np.array(given_rows), ["anger", "joy"])
    assert "\n" not in str(refused.value)


def test_calibration_error_by_hand():
    """Confidences 0.61 and 0.65 share a bin of width 1/15, right once: |1 - 1.26|; 0.6 ends its bin; 0.9 is alone."""
    given_rows = np.array([[0.61, 0.39], [0.35, 0.65], [0.9, 0.1], [0.6, 0.4]])
    found = calibration_error(given_rows, ["anger", "anger", "anger", "anger"], ["anger", "joy"])
    assert found.value == pytest.approx((0.26 + 0.1 + 0.4) / 4)
    assert found.signature.startswith("calibration_error|bins:15|labels:2|texts:4|version:")


@UNTIMED
@given(st.lists(st.tuples(st.floats(0.5, 1), st.booleans()), min_size=1, max_size=30))
def test_calibration_error_equals_the_published_loop(texts):
    """Guo et al.'s: for each bin (lower, upper], its share of texts times |accuracy - confidence|."""
    confidence = np.array([sure for sure, _ in texts])
    gold = ["anger" if right else "joy" for _, right in texts]
    right = np.array([right for _, right in texts])
    edges = np.linspace(0, 1, 16)
    expected = 0.0
    for lower, upper in pairwise(edges):
        inside = (confidence > lower) & (confidence <= upper)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    rows = np.stack([confidence, 1 - confidence], axis=1)
    assert calibration_error.statistic(rows, gold, ["anger", "joy"]).value == pytest.approx(expected)


def test_calibration_error_of_a_calibrated_judge_falls_with_the_texts():
    """Its bias is sqrt(2 / pi) times a bin's mean standard error: below 0.032 with 1,000 texts, 0.008 with 16,000."""
    random = np.random.default_rng(0)
    for texts, most in ((1000, 0.032), (16000, 0.008)):
        confidence = random.uniform(0.5, 1, texts)
        gold = np.where(random.random(texts) < confidence, "anger", "joy").tolist()
        rows = np.stack([confidence, 1 - confidence], axis=1)
        assert 0 < calibration_error.statistic(rows, gold, ["anger", "joy"]).value < most


def test_calibration_refuses_gold_that_does_not_fit():
    with pytest.raises(DataError, match="1 rows of probabilities but 2 gold labels"):
        calibration_error(np.array([[0.5, 0.5]]), ["joy", "joy"], ["anger", "joy"])
    with pytest.raises(DataError, match=r"gold\[0\]: emotion 'glee'"):
        calibration_error(np.array([[0.5, 0.5]]), ["glee"], ["anger", "joy"])


@UNTIMED
@given(PAIRS.filter(lambda pairs: len({label for pair in pairs for label in pair}) > 1))
def test_kappa_equals_nltk(pairs):
    """With two coders; nltk divides by zero where there is but one label."""
    first, second = zip(*pairs, strict=True)
    rows = [(coder, item, label) for item, pair in enumerate(pairs) for coder, label in enumerate(pair)]
    task = AnnotationTask(rows)
    assert kappa_tally(first, second).value == pytest.approx(task.kappa())


def test_agreement_by_hand():
    """Cohen 1960's form: (raw - chance) / (1 - chance), with raw 0.7 and chance 0.5."""
    first = ["joy"] * 50 + ["anger"] * 50
    second = ["joy"] * 35 + ["anger"] * 15 + ["joy"] * 15 + ["anger"] * 35
    found = agreement(first, second)
    assert found.raw.value == pytest.approx(0.7)
    assert found.kappa.value == pytest.approx(0.4)
    assert found.raw.low < 0.7 < found.raw.high
    assert found.kappa.low < 0.4 < found.kappa.high
    assert found.raw.signature.startswith("agreement|texts:100|")
    assert found.kappa.signature.startswith("kappa|labels:2|texts:100|")


def test_agreement_on_one_label_shows_nothing_beyond_chance():
    """And labels that only one judge has never agree."""
    alike = agreement(["joy"] * 5, ["joy"] * 5)
    assert (alike.raw.value, alike.kappa.value) == (1, 0)
    other = agreement(["joy", "anger"], ["happiness", "anger"])
    assert other.raw.value == 0.5
    with pytest.raises(DataError, match="2 labels of the first judge but 1 labels of the second"):
        agreement(["joy", "joy"], ["joy"])


def simulated(seed, held_out, texts, right=0.8, concentration=2.0):
    """A judge right in 55 to 80% of each label, tried on `held_out` texts a label, and texts with shifted class shares.

    Returns the asked, the true and the judged labels of the texts, and the judge's confusion.
    """
    random = np.random.default_rng(seed)
    count = len(EKMAN)
    judge = np.array(
        [
            np.insert((1 - own) * random.dirichlet([2] * (count - 1)), row, own)
            for row, own in enumerate(random.uniform(0.55, 0.8, count))
        ]
    )
    tried = Confusion(np.array([random.multinomial(held_out, row) for row in judge]), EKMAN)
    target = random.choice(count, texts, p=random.dirichlet([concentration] * count))
    true = np.where(random.random(texts) < right, target, random.integers(count, size=texts))
    judged = np.minimum((judge[true].cumsum(axis=1) < random.random((texts, 1))).sum(axis=1), count - 1)
    named = ([EKMAN[place] for place in side.tolist()] for side in (target, true, judged))
    return (*named, tried)


@pytest.mark.parametrize("seed", range(6))
def test_corrected_accuracy_is_within_3_points_where_counting_is_not(seed):
    """At 1,000 held-out texts a label and 5,000 judged ones, where one standard error is 1.3 points."""
    target, true, judged, tried = simulated(seed, held_out=1000, texts=5000)
    truth = emotion_accuracy.statistic(target, true).value
    found = corrected_accuracy(target, judged, tried)
    assert abs(found.value - truth) < 0.03
    assert abs(emotion_accuracy.statistic(target, judged).value - truth) > 0.15
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_interval_of_corrected_accuracy_holds_the_truth():
    """In at least 10 of 12 small trials (95% would give 11 or 12)."""
    held = 0
    for seed in range(12):
        target, true, judged, tried = simulated(seed, held_out=200, texts=1000)
        truth = emotion_accuracy.statistic(target, true).value
        found = corrected_accuracy(target, judged, tried, seed)
        held += found.low <= truth <= found.high
    assert held >= 10


@pytest.mark.parametrize("right", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("found", ["surer", "elsewhere"])
def test_labels_that_the_judge_cannot_give_are_not_corrected(right, found):
    """It finds what was asked for more often than it finds it in texts that truly have it, or gives a label it hardly knows."""
    spread = (1 - right) / 6
    tried = Confusion(np.round(400 * (np.full((7, 7), spread) + np.eye(7) * (right - spread))).astype(np.int64), EKMAN)
    target = [label for label in EKMAN for _ in range(100)]
    better = int(100 * (right + 0.2))
    judged = [label if n < better else EKMAN[n % 7] for label in EKMAN for n in range(100)]
    if found == "elsewhere":
        judged = ["neutral" if n < 90 else label for label in EKMAN for n in range(100)]
    with pytest.raises(UndefinedScoreError, match="no shares of true emotions explain"):
        corrected_accuracy(target, judged, tried)
    if found == "elsewhere":
        with pytest.raises(UndefinedScoreError, match="no shares of true emotions explain"):
            corrected_shares(judged, tried)


def test_texts_that_the_judge_errs_on_as_it_should_are_hardly_ever_refused():
    """At p below .01 one trial in a hundred."""
    for seed in range(15):
        target, _, judged, tried = simulated(seed, held_out=100, texts=500)
        corrected_accuracy(target, judged, tried, seed)


@pytest.mark.parametrize("texts", [7, 70, 700])
def test_no_interval_is_narrower_than_that_of_counting(texts):
    """All right by a faultless judge: the lower end is Wilson's by SciPy, not the 1 of a bootstrap."""
    tried = Confusion(np.eye(7, dtype=np.int64) * 10_000, EKMAN)
    labels = [EKMAN[n % 7] for n in range(texts)]
    found = corrected_accuracy(labels, labels, tried)
    expected = stats.binomtest(texts, texts).proportion_ci(method="wilson")
    assert (found.value, found.high) == (1, 1)
    assert found.low <= expected.low + 1e-9
    assert wilson_interval(0.3, 50) == pytest.approx(tuple(stats.binomtest(15, 50).proportion_ci(method="wilson")))


def test_interval_shows_how_well_the_judge_is_known():
    """The same judge seen on a hundred times as many held-out texts makes it narrower."""
    target, _, judged, tried = simulated(0, held_out=60, texts=2000)
    known = simulated(0, held_out=6000, texts=2000)[3]
    loose, tight = corrected_accuracy(target, judged, tried), corrected_accuracy(target, judged, known)
    assert tight.high - tight.low < 0.8 * (loose.high - loose.low)
    assert loose.signature.startswith(
        "corrected_accuracy|bias_bs:200|method:em|prior:1|labels:7|judge_texts:420|texts:2000|version:"
    )


def test_two_labels_are_corrected_as_by_rogan_and_gladen():
    """Closed form (judged share + specificity - 1) / (sensitivity + specificity - 1): (0.7 + 0.8 - 1) / (0.9 + 0.8 - 1)."""
    tried = Confusion(np.array([[900_000, 100_000], [200_000, 800_000]]), ("joy", "anger"))
    judged = ["joy"] * 7000 + ["anger"] * 3000
    expected = (0.7 + 0.8 - 1) / (0.9 + 0.8 - 1)
    assert corrected_shares(judged, tried)["joy"].value == pytest.approx(expected, abs=1e-4)
    assert corrected_accuracy(["joy"] * 10_000, judged, tried).value == pytest.approx(expected, abs=1e-3)


def test_a_faultless_judge_needs_no_correction():
    """Corrected and plain accuracy are the same, with nearly the same interval."""
    target, true, _, _ = simulated(0, held_out=10, texts=2000)
    tried = Confusion(np.eye(7, dtype=np.int64) * 1_000_000, EKMAN)
    plain, found = emotion_accuracy(target, true), corrected_accuracy(target, true, tried)
    assert found.value == pytest.approx(plain.value, abs=1e-3)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.005)


def test_corrected_shares_find_a_prior_shift():
    """Mean distance from the true shares below 1.5 points, where counting is more than twice as far off."""
    _, true, judged, tried = simulated(3, held_out=1000, texts=5000, concentration=0.7)
    found = corrected_shares(judged, tried)
    truth = np.array([true.count(label) for label in EKMAN]) / len(true)
    counted = np.array([judged.count(label) for label in EKMAN]) / len(judged)
    corrected = np.array([found[label].value for label in EKMAN])
    assert corrected.sum() == pytest.approx(1)
    assert np.abs(corrected - truth).mean() < min(0.015, np.abs(counted - truth).mean() / 2)
    assert all(0 <= share.low <= share.value <= share.high <= 1 for share in found.values())
    assert found["joy"].signature.startswith(
        "corrected_share|label:joy|method:em|prior:1|labels:7|judge_texts:7000|texts:5000|"
    )


def test_a_label_that_the_judge_never_gives_is_no_obstacle():
    """Its column is empty; the prior keeps the likelihood above 0, and the interval says that little is known."""
    tried = Confusion(np.array([[90, 10, 0], [10, 90, 0], [50, 50, 0]]), ("joy", "anger", "grief"))
    found = corrected_accuracy(["joy"] * 90 + ["grief"] * 10, ["joy"] * 80 + ["anger"] * 19 + ["grief"], tried)
    assert 0 <= found.low < found.value < found.high <= 1
    assert found.high - found.low > 0.2


def test_correction_refuses_what_it_cannot_know():
    """A label without held-out texts, and one that the judge does not have."""
    tried = Confusion(np.array([[9, 1, 0], [1, 9, 0], [0, 0, 0]]), ("joy", "anger", "grief"))
    with pytest.raises(UndefinedScoreError, match="confusion has no text of grief: add such texts"):
        corrected_accuracy(["joy"], ["joy"], tried)
    with pytest.raises(DataError, match="confusion has no text of grief"):
        corrected_shares(["joy"], tried)
    with pytest.raises(DataError, match=r"asked\[1\]: emotion 'glee' is not one of joy, anger, grief"):
        corrected_accuracy(["joy", "glee"], ["joy", "joy"], tried)
    with pytest.raises(DataError, match="2 asked labels but 1 judged labels"):
        corrected_accuracy(["joy", "joy"], ["joy"], tried)
    with pytest.raises(DataError, match="no judged labels"):
        corrected_shares([], tried)
