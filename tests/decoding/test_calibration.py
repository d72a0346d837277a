"""Calibration: monotone fits, curves inverted, shares recovered from judgements of a known kind, and the file."""

import json
import math
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emogen.checkpoint.model import load
from emogen.decoding.calibration import Calibration, read_calibration, told_shares, write_calibration
from emogen.decoding.control import Control
from emogen.decoding.params import SamplingParams
from emogen.emotions.labels import EKMAN, Emotion, LabelSet, mixture, no_emotion
from emogen.errors import CheckpointError, SettingsError
from emogen.train.calibration import (
    STEPS,
    Gain,
    calibrate_model,
    fitted_shares,
    fitted_strengths,
    keep_what_helps,
    measure_gain,
    monotone,
    straighten,
)
from emogen.train.config import CalibrationSettings

LABELS = LabelSet(("joy", "fear", "anger"))
NUMBERS = st.lists(st.floats(-5, 5), min_size=1, max_size=8).map(np.array)
RISING = st.lists(st.floats(0.01, 1), min_size=2, max_size=12).map(lambda steps: np.cumsum([0.0, *steps]))


# ---- monotone fits


def partitions(size):
    """All ways to cut a sequence into runs."""
    for count in range(size):
        for cuts in combinations(range(1, size), count):
            yield [0, *cuts, size]


def nearest_rising(values):
    """By exhaustion: the least-squares fit is the mean on each run of some partition."""
    found = None
    for cuts in partitions(len(values)):
        fit = np.concatenate([np.full(b - a, values[a:b].mean()) for a, b in pairwise(cuts)])
        error = float(((fit - values) ** 2).sum())
        if (np.diff(fit) >= 0).all() and (found is None or error < found[0]):
            found = error, fit
    return found[1]


@given(NUMBERS)
def test_the_fit_is_the_nearest_rising_sequence(values):
    np.testing.assert_allclose(monotone(values), nearest_rising(values), atol=1e-9)


@given(NUMBERS)
def test_the_fit_keeps_the_mean_and_what_rises(values):
    found = monotone(values)
    assert found.mean() == pytest.approx(values.mean(), abs=1e-9)
    np.testing.assert_array_equal(monotone(np.sort(values)), np.sort(values))
    np.testing.assert_allclose(monotone(found), found, atol=1e-12)


def test_known_fits():
    assert monotone(np.array([3.0, 2.0, 1.0])).tolist() == [2.0, 2.0, 2.0]
    assert monotone(np.array([1.0, 4.0, 2.0, 3.0, 5.0])).tolist() == [1.0, 3.0, 3.0, 3.0, 5.0]
    assert monotone(np.array([0.5])).tolist() == [0.5]


# ---- straightening


def followed(curve, conditioning):
    """The height of a curve on the even grid where it is told to be."""
    return np.interp(conditioning, np.linspace(0, 1, len(curve)), curve)


@given(RISING)
def test_told_strengths_rise_in_a_straight_line(curve):
    """Whatever rising curve was measured: at what is told for the n-th even share it has gone that share of its way."""
    conditioning = straighten(curve)
    assert (conditioning[0], conditioning[-1]) == (0.0, pytest.approx(1.0))
    assert (np.diff(conditioning) >= 0).all()
    np.testing.assert_allclose(followed(curve, conditioning), np.linspace(curve[0], curve[-1], len(curve)), atol=1e-9)


def test_the_inverse_of_a_square_is_the_root():
    """On a grid of 101 steps; a line is told as it is asked."""
    grid = np.linspace(0, 1, 101)
    np.testing.assert_allclose(straighten(grid**2), np.sqrt(grid), atol=0.01)
    np.testing.assert_allclose(straighten(0.2 + 0.7 * grid), grid, atol=1e-9)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        # A dead zone is skipped: what is told lies where the curve rises.
        ([0.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.8125, 0.875, 0.9375, 1.0]),
        # Nothing beyond the place where the top is reached.
        ([0.0, 0.5, 1.0, 1.0, 1.0], [0.0, 0.125, 0.25, 0.375, 0.5]),
        # A plateau in the middle, from its first place on.
        ([0.0, 0.5, 0.5, 0.5, 1.0], [0.0, 0.125, 0.25, 0.875, 1.0]),
        # What falls is first made monotone: 0, .5, .5, 1.
        ([0.0, 0.6, 0.4, 1.0], [0.0, 2 / 9, 7 / 9, 1.0]),
    ],
)
def test_plateaus(curve, expected):
    np.testing.assert_allclose(straighten(np.array(curve)), expected, atol=1e-9)


@pytest.mark.parametrize("curve", [[0.3] * 5, [0.3, 0.305, 0.31, 0.31, 0.315], [0.9, 0.5, 0.3, 0.2, 0.1]])
def test_where_nothing_rises_the_asked_is_told(curve):
    assert straighten(np.array(curve)).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_each_label_has_a_curve_of_its_own():
    """Judged probabilities rise with the root of strength for joy, with its square for fear, and evenly for anger."""
    powers = {"joy": 0.5, "fear": 2.0, "anger": 1.0}

    def judged(conditioning):
        assert all(max(emotion.weights) == 1 for emotion in conditioning)
        rows = [[0.1] * 3 for _ in conditioning]
        for row, emotion in zip(rows, conditioning, strict=True):
            row[LABELS.position(emotion.name)] = 0.1 + 0.8 * emotion.strength ** powers[emotion.name]
        return np.array(rows)

    found = fitted_strengths(judged, LABELS)
    grid = np.linspace(0, 1, STEPS)
    for name, row in zip(LABELS.names, found, strict=True):
        curve = 0.1 + 0.8 * grid ** powers[name]
        np.testing.assert_allclose(followed(curve, np.array(row)), 0.1 + 0.8 * grid, atol=1e-9)


# ---- shares


@pytest.mark.parametrize("sharpness", [0.6, 1.0, 1.8])
@pytest.mark.parametrize("preference", [(0.0, 0.0, 0.0), (0.5, -0.3, -0.2)])
def test_sharpness_and_preferences_are_recovered(sharpness, preference):
    """From a judge that sees shares moved by the inverse of a known law; then what comes out is what was asked for."""

    def judged(conditioning):
        rows = []
        for emotion in conditioning:
            raw = [
                (share * math.exp(-favour)) ** (1 / sharpness) if share else 0.0
                for share, favour in zip(emotion.weights, preference, strict=True)
            ]
            rows.append(np.array(raw) / sum(raw) * 0.8 + 0.0)
        return np.array(rows)

    found, favours = fitted_shares(judged, LABELS)
    assert found == pytest.approx(sharpness, rel=0.02)
    assert np.array(favours) - np.mean(favours) == pytest.approx(np.array(preference), abs=0.02)
    for target in ((0.5, 0.5, 0.0), (0.3, 0.0, 0.7)):
        conditioning = Emotion(LABELS, told_shares(target, found, favours))
        seen = judged([conditioning])[0]
        np.testing.assert_allclose(seen / seen.sum(), target, atol=0.02)


def test_one_label_has_no_shares():
    """Nothing is asked of the judge."""
    assert fitted_shares(lambda conditioning: 1 / 0, LabelSet(("joy",))) == (1.0, (0.0,))


def moved(emotion):
    """What a judge sees of a model that exaggerates: strength to the root, log odds of shares doubled."""
    raw = np.array(emotion.weights) ** 2
    return raw / raw.sum() * emotion.strength**0.5


def some_calibration(strengths, sharpness):
    return Calibration(LABELS, Control(), (strengths,) * 3, sharpness, (0.0,) * 3, "")


def test_the_gain_of_a_calibration_that_is_right():
    """Squares undo the root, half the log odds their doubling: no error is left.

    Before, the root of 0, 1/4 ... 1 lies above them by 1/4, .2071 and .1160, and 9/10 above 3/4 by .15, as 1/10 below 1/4.
    """
    squares = tuple((np.linspace(0, 1, 101) ** 2).tolist())
    found = measure_gain(lambda conditioning: np.array([moved(one) for one in conditioning]), some_calibration(squares, 0.5))
    assert found.strengths[0] == pytest.approx((0.25 + math.sqrt(0.5) - 0.5 + math.sqrt(0.75) - 0.75) / 5)
    assert found.strengths[1] == pytest.approx(0, abs=1e-9)
    assert found.shares == (pytest.approx(0.1), pytest.approx(0, abs=1e-9))


def test_what_helps_is_kept():
    found = some_calibration((0.0, 0.2, 0.9), 2.0)
    assert keep_what_helps(found, Gain((0.2, 0.1), (0.2, 0.1))) == found
    assert keep_what_helps(found, Gain((0.2, 0.2), (0.2, 0.2))) is None
    shares = keep_what_helps(found, Gain((0.1, 0.2), (0.2, 0.1)))
    assert shares.sharpness == 2.0
    target = Emotion(LABELS, (1.0, 0.0, 0.0), 0.37)
    assert shares.conditioning_for(target).strength == pytest.approx(0.37)
    strengths = keep_what_helps(found, Gain((0.2, 0.1), (0.1, 0.2)))
    assert strengths.strengths == found.strengths
    assert strengths.conditioning_for(Emotion(LABELS, (0.3, 0.7, 0.0), 1.0)).weights == pytest.approx((0.3, 0.7, 0.0))


def test_a_judge_that_sees_no_mixture_gives_a_calibration_all_the_same():
    """All or nothing at the half, constant, or the wrong way round: finite numbers, sharpness above 0."""
    for law in (lambda share: float(share > 0.5), lambda share: 0.5, lambda share: 1 - share):

        def judged(conditioning, law=law):
            return np.array([[law(weight) if weight else 0.0 for weight in emotion.weights] for emotion in conditioning])

        sharpness, preference = fitted_shares(judged, LABELS)
        assert sharpness > 0
        assert all(map(math.isfinite, preference))


SHARES = st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda found: sum(found) > 0.1)


@given(SHARES, st.floats(0.2, 3), st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_told_shares_are_shares(raw, sharpness, preference):
    """They sum to 1, what is nothing stays nothing, and the log odds are those of the law."""
    shares = [max(share, 1e-3) / sum(max(share, 1e-3) for share in raw if share) if share else 0.0 for share in raw]
    found = told_shares(shares, sharpness, preference)
    assert sum(found) == pytest.approx(1)
    assert [share > 0 for share in found] == [share > 0 for share in shares]
    for one, other in combinations([place for place in range(3) if shares[place]], 2):
        moved = sharpness * math.log(shares[one] / shares[other]) + preference[one] - preference[other]
        assert math.log(found[one] / found[other]) == pytest.approx(moved, abs=1e-6)


# ---- what is told


def some(labels=LABELS, **changes):
    steps = ((0.0, 0.2, 0.9), (0.0, 0.5, 1.0), (0.0, 0.0, 0.4))
    return replace(Calibration(labels, Control(guidance=2.0), steps, 1.0, (0.0, 0.0, 0.0), "guide x 12ab; 5 texts"), **changes)


@pytest.mark.parametrize(("target", "conditioning"), [(0.0, 0.0), (0.25, 0.1), (0.5, 0.2), (0.75, 0.55), (1.0, 0.9)])
def test_strengths_are_told_between_the_steps(target, conditioning):
    found = some().conditioning_for(mixture({"joy": 1.0}, LABELS, target))
    assert found.strength == pytest.approx(conditioning)
    assert found.weights == (1.0, 0.0, 0.0)


def test_a_mixture_is_told_the_mean_strength_of_its_labels():
    """By the shares that are told, not those that are asked."""
    found = some(preference=(0.0, math.log(3), 0.0)).conditioning_for(mixture({"joy": 0.5, "fear": 0.5}, LABELS))
    assert found.weights == pytest.approx((0.25, 0.75, 0.0))
    assert found.strength == pytest.approx(0.25 * 0.9 + 0.75 * 1.0)


def test_no_emotion_is_told_as_none():
    assert some().conditioning_for(no_emotion(LABELS)).strength == 0.0


@pytest.mark.parametrize(
    "changes",
    [
        {"strengths": ((0.0, 1.0),) * 2},
        {"preference": (0.0, 0.0)},
        {"strengths": ((0.0, 0.5, 0.4),) * 3},
        {"strengths": ((0.1, 1.0),) * 3},
        {"strengths": ((0.0, 1.1),) * 3},
        {"strengths": ((0.0,),) * 3},
        {"strengths": ((0.0, math.nan, 1.0),) * 3},
        {"strengths": ((0.0, 1.0), (0.0, 1.0), (0.0, 0.5, 1.0))},
        {"sharpness": 0.0},
        {"sharpness": math.inf},
        {"preference": (0.0, math.nan, 0.0)},
    ],
)
def test_impossible_calibrations(changes):
    with pytest.raises(SettingsError, match=r"^[^\n]*calibration[^\n]*$"):
        some(**changes)


# ---- the file


@given(
    st.lists(st.floats(0, 1), min_size=3, max_size=6).map(sorted),
    st.floats(0.1, 5),
    st.lists(st.floats(-5, 5), min_size=3, max_size=3),
)
def test_it_comes_back(tmp_path_factory, row, sharpness, preference):
    """To the last digit."""
    folder = tmp_path_factory.mktemp("calibration")
    saved = some(strengths=((0.0, *row),) * 3, sharpness=sharpness, preference=tuple(preference))
    write_calibration(folder, saved)
    assert read_calibration(folder, LABELS) == saved


def test_none_where_there_is_none(tmp_path):
    assert read_calibration(tmp_path, LABELS) is None


CHANGES = {
    "labels": [["joy"], ["joy", "joy", "fear"], 3, [1, 2, 3], []],
    "control": ["boost:2", 3, None],
    "strengths": [[[0, 1]], [[0, "x"]] * 3, 3, None, [[0, 0.5, 1], [0, 1], [0, 1]]],
    "sharpness": [0, "x", None, 1e999],
    "preference": [[0, 0], [0, 0, "x"], 3],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in CHANGES.items() for value in values])
def test_a_file_with_something_else_inside(tmp_path, name, value):
    write_calibration(tmp_path, some())
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(CheckpointError) as caught:
        read_calibration(tmp_path, LABELS)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b"{}", b"\xff\xfe"])
def test_a_file_that_cannot_be_read(tmp_path, content):
    (tmp_path / "calibration.json").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_calibration(tmp_path, LABELS)
    assert str(caught.value).startswith(f"{tmp_path / 'calibration.json'}: no readable calibration (")
    assert str(caught.value).endswith("); remove it, then run `emogen calibrate` again")
    assert "\n" not in str(caught.value)


def test_a_calibration_of_other_labels(tmp_path):
    write_calibration(tmp_path, some())
    with pytest.raises(
        CheckpointError, match=r"calibration\.json: is of joy, fear, anger, the model has anger, .*; remove the file$"
    ):
        read_calibration(tmp_path, EKMAN)


# ---- measured on a model


def guide(texts):
    raw = np.array([[(sum(map(ord, text)) * (label + 3)) % 17 + 1.0 for label in range(7)] for text in texts])
    return raw / raw.sum(1, keepdims=True)


def test_a_model_is_measured_and_told(tiny_checkpoint):
    """Under the control of the options, whatever calibration it has; under that control alone it is told what was found."""
    bare = load(tiny_checkpoint)
    settings, options = CalibrationSettings(texts=2, seed=3), SamplingParams(control=Control(guidance=1.5), max_tokens=6)
    found = calibrate_model(bare, guide, options, settings, "guide g")
    assert found.labels == EKMAN
    assert found.control == Control(guidance=1.5)
    assert len(found.strengths[0]) == STEPS
    assert found.signature == "guide g; 2 texts a point, seed 3, temperature 1"
    flat = replace(found, strengths=((0.0, 0.3),) * 7, sharpness=2.0)
    known = replace(bare, calibration=flat)
    assert calibrate_model(known, guide, options, settings, "guide g") == found
    target = ["joy", "joy=0.7,fear=0.3"]
    prompts = known.prompts([()] * 2, target, Control(guidance=1.5))
    assert [prompt.conditioning for prompt in prompts] == [flat.conditioning_for(known.emotion(text)) for text in target]
    assert [prompt.emotion for prompt in prompts] == [known.emotion(text) for text in target]
    assert [prompt.conditioning for prompt in known.prompts([()] * 2, target, Control())] == [None, None]
    weak = bare.sample(known.emotion("joy", 0.3), 3, sampling=options, seed=1)
    assert known.sample("joy", 3, sampling=options, seed=1) == weak
    assert bare.sample("joy", 3, sampling=options, seed=1) != weak
