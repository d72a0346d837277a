"""Pairs of replies as data: their file, their division by context, and other labels."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emogen.data.preferences import Preference, as_json, read_preferences, split_by_context, write_preferences
from emogen.emotions.labels import EKMAN, LabelSet, no_emotion, parse_emotion
from emogen.errors import DataError

JOY = parse_emotion("joy", EKMAN)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
EMOTIONS = st.sampled_from(
    [JOY, no_emotion(EKMAN), parse_emotion("joy=0.7,fear=0.3", EKMAN), parse_emotion("anger", EKMAN, 0.35)]
)
PAIRS = st.builds(Preference, st.lists(TEXTS, max_size=3).map(tuple), EMOTIONS, TEXTS, TEXTS)


@given(pairs=st.lists(PAIRS, max_size=5))
def test_a_file_gives_back_what_was_written(pairs, tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_preferences(path, pairs)
    assert list(read_preferences(path, EKMAN)) == pairs


def test_a_file_written_by_hand_is_read(tmp_path):
    path = tmp_path / "pairs.jsonl.gz"
    row = {"context": "Hi.", "better": "Hello!", "worse": "No.", "emotion": "joy=0.5,surprise=0.5", "strength": 0.5}
    with gzip.open(path, "wt") as handle:
        handle.write(json.dumps(row) + "\n\n")
    (found,) = read_preferences(path, EKMAN)
    assert found == Preference(("Hi.",), parse_emotion("joy=0.5,surprise=0.5", EKMAN, 0.5), "Hello!", "No.")


def message(role, text):
    return {"role": role, "content": text}


ASKED = [message("user", "Any news?"), message("assistant", "Not yet."), message("user", "And now?")]


@pytest.mark.parametrize(
    ("row", "context"),
    [
        ({"prompt": "And now?", "chosen": "Yes!", "rejected": "No."}, ("And now?",)),
        (
            {"prompt": ASKED, "chosen": [message("assistant", "Yes!")], "rejected": [message("assistant", "No.")]},
            ("Any news?", "Not yet.", "And now?"),
        ),
        (
            {"chosen": [*ASKED, message("assistant", "Yes!")], "rejected": [*ASKED, message("assistant", "No.")]},
            ("Any news?", "Not yet.", "And now?"),
        ),
        ({"chosen": "Yes!", "rejected": "No."}, ()),
    ],
)
def test_trl_s_formats_are_read(row, context, tmp_path):
    """Standard and conversational, with the prompt given or within both, as in TRL's page on dataset formats."""
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "emotion": "joy"}))
    assert list(read_preferences(path, EKMAN)) == [
        Preference(context, no_emotion(EKMAN), "Yes!", "No."),
        Preference(context, JOY, "Yes!", "No."),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": 3, "chosen": "a", "rejected": "b"}', "prompt is 3; a text or a list of messages"),
        ('{"prompt": "p", "chosen": [], "rejected": "b"}', "not one message each"),
        ('{"prompt": [{"role": "system", "content": "s"}], "chosen": "a", "rejected": "b"}', "role 'system'; allowed are user"),
        (
            '{"chosen": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "a"}], "rejected": "b"}',
            "differ before their last message",
        ),
        ('{"better": "a"}', "worse is None"),
        ('{"better": 1, "worse": "b"}', "better is 1"),
        ('{"context": [1], "better": "a", "worse": "b"}', "context is"),
        ('{"better": "a", "worse": "b", "emotion": "hunger"}', "'hunger' is not one of anger"),
        ('{"better": "a", "worse": "b", "emotion": {"joy": "much"}}', "emotion is"),
        ('{"better": "a", "worse": "b", "emotion": "joy", "strength": 2}', "strength 2 is not between"),
        ('{"better": "a", "worse": "b", "emotion": "joy", "strength": true}', "strength is True"),
        ("{", "broken JSON"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(line, said, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"better": "a", "worse": "b"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=f"pairs.jsonl:2: .*{said}"):
        list(read_preferences(path, EKMAN))


@given(contexts=st.lists(st.integers(0, 9), min_size=2, max_size=40), share=st.floats(0.01, 0.99), random=st.randoms())
def test_no_context_is_on_both_sides_whatever_the_order(contexts, share, random):
    pairs = [Preference((f"context {number}",), JOY, f"{place}", "worse") for place, number in enumerate(contexts)]
    train, held_out = split_by_context(pairs, share)
    assert not {pair.context for pair in train} & {pair.context for pair in held_out}
    assert sorted(pair.better for pair in [*train, *held_out]) == sorted(pair.better for pair in pairs)
    if len(set(contexts)) > 1:
        assert train
        assert held_out
    random.shuffle(pairs)
    assert {pair.better for pair in split_by_context(pairs, share)[1]} == {pair.better for pair in held_out}


def test_a_pair_over_other_labels():
    """Names decide, whatever their order; what the labels do not have makes it None."""
    others = LabelSet(("sadness", "joy", "fear"))
    pair = Preference((), parse_emotion("joy=0.75,fear=0.25", EKMAN, 0.5), "a", "b")
    found = pair.over(others)
    assert found is not None
    assert (found.emotion.weights, found.emotion.strength) == ((0.0, 0.75, 0.25), 0.5)
    assert Preference((), parse_emotion("anger", EKMAN), "a", "b").over(others) is None
    asked_nothing = Preference((), no_emotion(EKMAN), "a", "b").over(others)
    assert asked_nothing is not None
    assert asked_nothing.emotion == no_emotion(others)


def test_no_emotion_is_written_as_null():
    assert json.loads(as_json(Preference((), no_emotion(EKMAN), "a", "b")))["emotion"] is None
