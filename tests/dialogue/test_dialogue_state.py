"""The state of a conversation: exponential decay in closed form, always on the simplex, and forgetting."""

import json
import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emogen.dialogue.state import as_emotion, at_rest
from emogen.emotions.labels import EKMAN, Emotion, LabelSet, no_emotion, parse_emotion
from emogen.emotions.space import coordinates
from emogen.errors import SettingsError

PAIR = LabelSet(("joy", "sadness"))
JOY, SADNESS = (parse_emotion(name, PAIR) for name in PAIR.names)
decays = st.floats(0, 1)


@st.composite
def emotions(draw):
    parts = draw(st.lists(st.integers(0, 100), min_size=2, max_size=2).filter(any))
    return Emotion(PAIR, tuple(part / sum(parts) for part in parts), draw(st.floats(0, 1)))


def after(turns, decay):
    state = at_rest(PAIR)
    for turn in turns:
        state = state.after(turn, decay)
    return state


def test_the_first_turn_is_the_state():
    assert at_rest(PAIR).shares == (0, 0, 1)
    assert at_rest(PAIR).after(JOY, 0.9).emotion == JOY


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("turns", [1, 4])
def test_decay_in_closed_form(decay, turns):
    """Sadness once and then joy: of the weights decay^n, ..., decay, 1 the first is sadness's (a geometric sum)."""
    found = after([SADNESS, *[JOY] * turns], decay)
    sadness = decay**turns * (1 - decay) / (1 - decay ** (turns + 1))
    assert found.shares == pytest.approx((1 - sadness, sadness, 0))
    assert found.turns == turns + 1
    assert found.weight == pytest.approx((1 - decay ** (turns + 1)) / (1 - decay))


def test_half_life():
    """With decay .5^(1/h) a turn counts half as much as one h turns later."""
    found = after([SADNESS, None, None, JOY], 0.5 ** (1 / 3))
    assert found.shares[1] / found.shares[0] == pytest.approx(0.5)


def test_all_turns_count_alike_at_decay_1_and_the_last_alone_at_0():
    assert after([JOY, SADNESS, SADNESS, None], 1.0).shares == pytest.approx((0.25, 0.5, 0.25))
    assert after([JOY, SADNESS], 0.0).shares == pytest.approx((0, 1, 0))


@given(st.lists(emotions() | st.none(), max_size=8), decays)
def test_shares_stay_on_the_simplex(turns, decay):
    shares = after(turns, decay).shares
    assert all(0 <= share <= 1 + 1e-9 for share in shares)
    assert math.fsum(shares) == pytest.approx(1)


@given(st.lists(emotions(), min_size=1, max_size=4), emotions(), st.floats(0, 0.9))
def test_it_forgets(turns, heard, decay):
    """What was before weighs at most decay^n / (1 - decay) beside n later turns."""
    found = after([*turns, *[heard] * 60], decay).shares
    assert found == pytest.approx(heard.condition, abs=decay**60 / (1 - decay) + 1e-9)


@given(st.lists(emotions(), min_size=1, max_size=5), decays)
def test_points_fade_as_the_shares_do(turns, decay):
    """Valence, arousal and dominance are linear in the shares: averaged by themselves they are the same."""
    weights = [decay ** (len(turns) - 1 - at) for at in range(len(turns))]
    columns = zip(*map(coordinates, turns), strict=True)
    own = [sum(map(math.prod, zip(weights, column, strict=True))) / sum(weights) for column in columns]
    assert tuple(after(turns, decay).point()) == pytest.approx(own, abs=1e-9)


@given(st.lists(emotions(), max_size=4), emotions(), decays)
def test_a_state_does_not_change(turns, heard, decay):
    state = after(turns, decay)
    before = (state.shares, state.turns, state.weight)
    state.after(heard, decay)
    assert (state.shares, state.turns, state.weight) == before


@pytest.mark.parametrize("decay", [-0.1, 1.1, math.nan])
def test_an_impossible_decay_is_refused(decay):
    with pytest.raises(SettingsError, match=r"decay .* is not between 0 and 1"):
        at_rest(PAIR).after(JOY, decay)


def test_emotions_over_other_labels_are_refused():
    with pytest.raises(SettingsError, match=r"is over anger, .*, not over joy, sadness"):
        at_rest(PAIR).after(parse_emotion("joy", EKMAN))


def found(**probabilities):
    return SimpleNamespace(probabilities=probabilities)


def test_what_a_recogniser_found_is_heard():
    assert at_rest(PAIR).after(found(joy=0.75, sadness=0.25)).shares == pytest.approx((0.75, 0.25, 0))
    # Labels that are judged one by one may sum to less than 1, where little is felt, or to more.
    assert as_emotion(found(joy=0.1, sadness=0.3), PAIR).condition == pytest.approx((0.1, 0.3, 0.6))
    assert as_emotion(found(joy=0.9, sadness=0.9), PAIR).condition == pytest.approx((0.5, 0.5, 0))
    assert as_emotion(found(joy=0.0), PAIR) == no_emotion(PAIR)


def test_probabilities_that_are_none_are_refused():
    with pytest.raises(SettingsError, match="'fear' was recognised, which is not one of joy, sadness"):
        as_emotion(found(fear=1.0), PAIR)
    for share in (math.nan, -0.1, 1.5):
        with pytest.raises(SettingsError, match="do not lie between 0 and 1"):
            as_emotion(found(joy=share), PAIR)


def test_a_state_as_json():
    content = json.loads(json.dumps(after([JOY, None], 0.5).as_object()))
    assert content["turns"] == 2
    assert content["emotion"] == {"joy": 1.0, "sadness": 0.0}
    assert content["strength"] == pytest.approx(1 / 3, abs=1e-6)
    assert content["point"] == pytest.approx([0.76 / 3, 0.48 / 3, 0.35 / 3], abs=1e-6)
    assert at_rest(LabelSet(("odd", "joy"))).as_object()["point"] is None
