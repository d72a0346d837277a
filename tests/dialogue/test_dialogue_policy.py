"""Reply policies: what comes with the toolkit, files of one's own, and what people answered with."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emogen.dialogue.policy import BUILT_IN, Policy, built_in, find_policy, learn_policy, read_policy, write_policy
from emogen.emotions.labels import EKMAN, EMPATHETIC, GOEMOTIONS, Emotion, LabelSet, no_emotion, parse_emotion
from emogen.errors import DataError, SettingsError

PAIR = LabelSet(("joy", "sadness"))
JOY, SADNESS = (parse_emotion(name, PAIR) for name in PAIR.names)
UNPLEASANT = ("anger", "disgust", "fear", "sadness")


@st.composite
def emotions(draw, labels=EKMAN):
    parts = draw(st.lists(st.integers(0, 100), min_size=len(labels), max_size=len(labels)).filter(any))
    return Emotion(labels, tuple(part / sum(parts) for part in parts), draw(st.floats(0, 1)))


def answer(name, felt, reply=EKMAN):
    return built_in(name, felt.labels, reply).answer(felt)


@given(emotions())
def test_mirror_answers_with_what_is_felt(felt):
    assert answer("mirror", felt).condition == pytest.approx(felt.condition)


@given(emotions())
def test_neutral_answers_as_strongly_as_is_felt_and_always_the_same(felt):
    assert answer("neutral", felt).condition == pytest.approx((*[0] * 4, felt.strength, 0, 0, 1 - felt.strength))


@given(st.sampled_from(BUILT_IN), emotions(GOEMOTIONS), st.sampled_from([EKMAN, GOEMOTIONS, EMPATHETIC]))
def test_every_policy_answers_every_feeling_no_more_strongly_than_it_is(name, felt, reply):
    found = answer(name, felt, reply)
    assert found.labels == reply
    assert found.strength <= felt.strength + 1e-9


def test_cheer_brings_joy_and_soothe_neither_anger_nor_fear():
    for name in EKMAN.names:
        felt = parse_emotion(name, EKMAN)
        assert answer("cheer", felt).name == "joy"
        if name in UNPLEASANT:
            weights = dict(zip(EKMAN.names, answer("soothe", felt).weights, strict=True))
            assert weights["anger"] == weights["fear"] == weights["disgust"] == weights["joy"] == 0
    assert answer("soothe", parse_emotion("sadness", EKMAN), GOEMOTIONS).name == "caring"
    assert answer("soothe", parse_emotion("devastated", EMPATHETIC), EMPATHETIC).name == "caring"


def test_labels_that_differ_are_answered_by_family_then_by_place():
    assert answer("mirror", parse_emotion("furious", EMPATHETIC)).name == "anger"
    # No label of EmpatheticDialogues is called joy; of its family joyful stands nearest.
    assert answer("mirror", parse_emotion("joy", EKMAN), EMPATHETIC).name == "joyful"
    assert answer("mirror", parse_emotion("relief", GOEMOTIONS), EMPATHETIC).name == "content"
    # Neutral is no label there: nothing is asked for.
    assert answer("neutral", parse_emotion("joy", EKMAN), EMPATHETIC) == no_emotion(EMPATHETIC)
    # No kin among the labels: the nearest of them.
    assert answer("mirror", parse_emotion("fear", EKMAN), LabelSet(("terrified", "proud"))).name == "terrified"
    assert answer("mirror", parse_emotion("anger", EKMAN), LabelSet(("disgusted", "proud"))).name == "disgusted"


@pytest.mark.parametrize(
    ("name", "user", "reply", "said"),
    [
        ("sooth", EKMAN, EKMAN, "policy 'sooth' is not one of mirror, soothe, cheer, neutral; or name a file"),
        ("soothe", LabelSet(("joy", "hunger")), EKMAN, "'hunger' belongs to none of anger, .* policy file"),
        ("mirror", EKMAN, LabelSet(("good", "bad")), "no label of good, bad can stand for 'anger'; write a policy file"),
    ],
)
def test_what_no_policy_can_be_made_of_is_refused(name, user, reply, said):
    with pytest.raises(SettingsError, match=said):
        find_policy(name, user, reply)


def own(strength=1.0):
    rows = (parse_emotion("joy=0.25,sadness=0.75", PAIR, strength), no_emotion(PAIR))
    return Policy("mine", "to try", PAIR, rows)


def test_an_answer_in_closed_form():
    """Half sadness, which asks for nothing, half joy, which asks for .25 joy and .75 sadness at strength .4; felt at .5."""
    found = own(0.4).answer(Emotion(PAIR, (0.5, 0.5), 0.5))
    assert found.weights == pytest.approx((0.25, 0.75))
    assert found.strength == pytest.approx(0.5 * 0.5 * 0.4)
    assert own().answer(no_emotion(PAIR)) == no_emotion(PAIR)


def test_a_policy_fits_labels_that_it_knows():
    turned, more = LabelSet(("sadness", "joy")), LabelSet(("fear", "sadness", "joy"))
    found = own().fit_labels(turned, more).answer(parse_emotion("joy", turned))
    assert dict(zip(more.names, found.weights, strict=True)) == {"fear": 0, "sadness": 0.75, "joy": 0.25}
    with pytest.raises(SettingsError, match="policy mine has no row for fear, only for joy, sadness; add rows"):
        own().fit_labels(more, PAIR)
    with pytest.raises(SettingsError, match="policy mine answers with sadness, which is not one of joy, fear"):
        own().fit_labels(PAIR, LabelSet(("joy", "fear")))
    with pytest.raises(SettingsError, match="policy mine answers joy, sadness, but the user's emotion is over anger"):
        own().answer(parse_emotion("joy", EKMAN))


@pytest.mark.parametrize("name", ["policy.json", "policy.toml"])
@pytest.mark.parametrize("policy", [own(0.3), *(built_in(each, EKMAN, EMPATHETIC) for each in BUILT_IN)], ids=str)
def test_files_give_the_same_policy(tmp_path, name, policy):
    write_policy(tmp_path / name, policy)
    assert read_policy(tmp_path / name) == policy


def test_odd_names_pass_through_files(tmp_path):
    labels = LabelSet(('a "b"', "c\\d", "开心", "e.f", "g h"))
    policy = Policy('quote " and \x7f', "", labels, tuple(parse_emotion(name, labels) for name in labels.names))
    for name in ("policy.json", "policy.toml"):
        write_policy(tmp_path / name, policy)
        assert read_policy(tmp_path / name) == policy


def test_a_file_by_hand(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'user = ["joy", "sadness"]\nreply = ["joy", "sadness"]\n[rows]\njoy = { emotion = "joy" }\n'
        '[rows.sadness]\nemotion = "joy=0.5,sadness=0.5"\nstrength = 0.5\n',
        encoding="utf-8",
    )
    found = read_policy(path)
    assert (found.name, found.intent) == ("mine", "")
    assert found.rows == (JOY, parse_emotion("joy=0.5,sadness=0.5", PAIR, 0.5))
    assert find_policy(str(path), PAIR, PAIR) == found


def content(**changes):
    rows = {"joy": {"emotion": "joy"}, "sadness": {"emotion": {"joy": 0.5, "sadness": 0.5}, "strength": 1}}
    return {"user": ["joy", "sadness"], "reply": ["joy", "sadness"], "rows": rows} | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": {"joy": {"emotion": "joy"}}}, "no row for sadness"),
        ({"rows": {**content()["rows"], "fear": {"emotion": "joy"}}}, "row 'fear' is not one of joy, sadness"),
        ({"rows": {**content()["rows"], "joy": {"emotion": {"joy": 0.5}}}}, "row joy: emotion weights sum to 0.5, not to 1"),
        ({"rows": {**content()["rows"], "joy": {"emotion": {"joy": 2}}}}, "row joy: emotion .* neither text"),
        (
            {"rows": {**content()["rows"], "joy": {"emotion": {"fear": 1}}}},
            "row joy: emotion 'fear' is not one of joy, sadness",
        ),
        ({"rows": {**content()["rows"], "joy": {"emotion": "joy", "strength": 1.5}}}, "row joy: strength 1.5 is no number"),
        ({"rows": {**content()["rows"], "joy": {"emotion": "joy", "strength": True}}}, "row joy: strength True is no number"),
        (
            {"rows": {**content()["rows"], "joy": {"emotion": "joy", "power": 1}}},
            "row joy: .* is no table of emotion and strength",
        ),
        ({"rows": {**content()["rows"], "joy": "joy"}}, "row joy: 'joy' is no table"),
        ({"rows": []}, "rows is no table"),
        ({"user": "joy"}, "user is no list of emotion names"),
        ({"reply": ["joy", "joy"]}, "label set has a name twice"),
        ({"reply": []}, "a label set needs at least one name"),
        ({"name": 3}, "name 3 is no text"),
        ({"more": 3}, "unknown key 'more'; known are name, intent, user, reply, rows"),
    ],
)
def test_files_that_hold_no_policy_are_refused_in_one_line(tmp_path, changes, said):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(content(**changes)), encoding="utf-8")
    with pytest.raises(DataError, match=f"bad.json: {said}") as raised:
        read_policy(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("a.json", b"{", "cannot be read as a policy"),
        ("a.json", b"[]", "a policy is one table with name"),
        ("a.json", b"\xff\xfe", "cannot be read as a policy"),
        ("a.json", b"[" * 100_000, "cannot be read as a policy"),
        ("a.toml", b"rows = ", "cannot be read as a policy"),
        ("b.toml", None, "cannot be read as a policy .No such file"),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path, name, raw, said):
    if raw is not None:
        (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError, match=said):
        read_policy(tmp_path / name)


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"ends in .json or .toml; rename it"):
        write_policy(tmp_path / "policy.yaml", own())


def test_rows_must_be_one_a_label_and_over_the_same_labels():
    with pytest.raises(SettingsError, match="policy p: 1 rows for 2 labels"):
        Policy("p", "", PAIR, (JOY,))
    with pytest.raises(SettingsError, match="is over anger"):
        Policy("p", "", PAIR, (JOY, parse_emotion("joy", EKMAN)))


def test_a_learnt_policy_counts():
    """Sadness answered three times with sadness, once with joy: (3 + 1) / (4 + 2) with smoothing 1."""
    found = learn_policy([(SADNESS, SADNESS)] * 3 + [(SADNESS, JOY)], PAIR, PAIR)
    assert found.answer(SADNESS).weights == pytest.approx((1 / 3, 2 / 3))
    # Nobody showed joy: nothing is known, and nothing asked for.
    assert found.answer(JOY) == no_emotion(PAIR)
    assert found.intent == "answer as people did in 4 pairs of turns (smoothing 1)"
    assert learn_policy([(SADNESS, SADNESS)] * 3 + [(SADNESS, JOY)], PAIR, PAIR, 0).rows[1].weights == (0.25, 0.75)


def test_mixtures_count_by_their_shares_and_replies_without_emotion_lower_the_strength():
    """Sadness of .6 answered with joy of strength .5: c = .3 of n = .6; then sadness of .2 with nothing."""
    felt, answered = Emotion(PAIR, (0.4, 0.6)), Emotion(PAIR, (1.0, 0.0), 0.5)
    found = learn_policy([(felt, answered), (Emotion(PAIR, (0.8, 0.2)), no_emotion(PAIR))], PAIR, PAIR, 0)
    assert found.rows[1].weights == (1, 0)
    assert found.rows[1].strength == pytest.approx(0.3 / 0.8)


@given(st.lists(st.tuples(emotions(PAIR), emotions()), min_size=1, max_size=6), st.floats(0, 5))
def test_learnt_rows_are_distributions_in_any_order(pairs, smoothing):
    if not any(felt.strength for felt, _ in pairs):
        return
    found = learn_policy(pairs, PAIR, EKMAN, smoothing)
    for row, turned in zip(found.rows, learn_policy(pairs[::-1], PAIR, EKMAN, smoothing).rows, strict=True):
        assert sum(row.weights) == pytest.approx(1)
        assert row.condition == pytest.approx(turned.condition)


def test_nothing_to_learn_from_is_refused():
    for pairs in ([], [(no_emotion(PAIR), JOY)]):
        with pytest.raises(DataError, match="hold no feeling to learn a policy from"):
            learn_policy(pairs, PAIR, PAIR)
    for smoothing in (-1.0, float("nan"), float("inf")):
        with pytest.raises(SettingsError, match="smoothing"):
            learn_policy([(JOY, JOY)], PAIR, PAIR, smoothing)
    with pytest.raises(SettingsError, match="not over anger"):
        learn_policy([(JOY, JOY)], PAIR, EKMAN)


def test_a_policy_as_text():
    assert own(0.4).as_text() == "mine: to try\njoy      sadness 0.75, joy 0.25 (strength 0.40)\nsadness  no emotion"
