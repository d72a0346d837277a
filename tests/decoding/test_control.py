"""What `--control` takes: read, written, read again; whatever cannot be meant is refused with what can."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emogen.decoding.control import CONTROLLERS, Control, parse_control
from emogen.errors import SettingsError

WEIGHTS = st.floats(0, 100)
COUNTS = st.integers(min_value=1, max_value=64)
CHOICES = st.one_of(st.fixed_dictionaries({"rerank": COUNTS}), st.fixed_dictionaries({"mbr": COUNTS}))
CONTROLS = st.builds(
    lambda choice, **weights: Control(**weights, **choice),
    choice=CHOICES,
    guidance=WEIGHTS,
    expert=WEIGHTS,
    bayes=WEIGHTS,
    head=WEIGHTS,
)


def test_each_controller_has_its_weight():
    assert parse_control("guidance:2,expert:3,bayes:0.5,head:1.5,rerank:4") == Control(2, 3, 0.5, 1.5, 4)
    assert parse_control("head:2,mbr:16") == Control(head=2, mbr=16)
    assert CONTROLLERS == ("guidance", "expert", "bayes", "head", "rerank", "mbr")


@pytest.mark.parametrize(
    ("text", "choice", "candidates"), [("rerank:4", "rerank", 4), ("mbr:16,guidance:2", "mbr", 16), ("head:1", None, 1)]
)
def test_what_chooses_among_how_many(text, choice, candidates):
    control = parse_control(text)
    assert (control.choice, control.candidates) == (choice, candidates)


@pytest.mark.parametrize("text", ["none", " none ", "guidance:1", "guidance:1,expert:0,bayes:0,head:0,rerank:1,mbr:1"])
def test_none_is_off(text):
    """So are the weights that change nothing."""
    control = parse_control(text)
    assert control == Control()
    assert (control.names, str(control)) == ((), "none")


@pytest.mark.parametrize("text", ["head:1.5,guidance:2", " head : 1.5 , guidance : 2 ", "guidance:2.0,head:15e-1"])
def test_blanks_and_order_do_not_matter(text):
    control = parse_control(text)
    assert control == Control(guidance=2, head=1.5)
    assert (control.names, str(control)) == (("guidance", "head"), "guidance:2,head:1.5")


@given(CONTROLS)
def test_what_is_written_is_read_again(control):
    """To the last digit: a calibration is known by its control."""
    assert parse_control(str(control)) == control


@given(CONTROLS)
def test_those_that_are_on_are_named(control):
    assert set(control.names) == {name for name in CONTROLLERS if getattr(control, name) != getattr(Control(), name)}


ALLOWED = "is not one of guidance, expert, bayes, head, rerank, mbr, none; write guidance:2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("boost:2", f"control 'boost:2': 'boost' {ALLOWED}"),
        ("Guidance:2", f"control 'Guidance:2': 'Guidance' {ALLOWED}"),
        ("", f"control '': '' {ALLOWED}"),
        ("guidance:2,", f"control 'guidance:2,': '' {ALLOWED}"),
        ("none,head:1", f"control 'none,head:1': 'none' {ALLOWED}"),
        ("head:1\n,x:2", f"control 'head:1\\n,x:2': 'x' {ALLOWED}"),
        ("head", "control 'head': '' is not a number; write head:2"),
        ("head:much", "control 'head:much': 'much' is not a number; write head:2"),
        ("head:1:2", "control 'head:1:2': '1:2' is not a number; write head:2"),
        ("guidance=2", f"control 'guidance=2': 'guidance=2' {ALLOWED}"),
        ("head:nan", "control 'head:nan': 'nan' is not finite; write head:2"),
        ("rerank:inf", "control 'rerank:inf': 'inf' is not finite; write rerank:2"),
        ("head:1,head:2", "control 'head:1,head:2' names head twice"),
        ("head:-1", "control head:-1: allowed is between 0 and 100"),
        ("guidance:101", "control guidance:101: allowed is between 0 and 100"),
        ("rerank:0", "control rerank:0: allowed is a whole number between 1 and 64"),
        ("rerank:65", "control rerank:65: allowed is a whole number between 1 and 64"),
        ("mbr:65", "control mbr:65: allowed is a whole number between 1 and 64"),
        ("mbr:2.5", "control 'mbr:2.5': mbr:2.5 is not a whole number"),
        (
            "rerank:4,mbr:8",
            "control rerank:4,mbr:8: rerank and mbr each choose one text among many; leave one of them out",
        ),
        ("rerank:2.5", "control 'rerank:2.5': rerank:2.5 is not a whole number"),
    ],
)
def test_what_cannot_be_meant(text, message):
    with pytest.raises(SettingsError) as caught:
        parse_control(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", CONTROLLERS)
@pytest.mark.parametrize("value", [-1, 1000, math.nan, math.inf])
def test_weights_out_of_range(name, value):
    """Given as numbers too."""
    with pytest.raises(SettingsError, match=f"^control {name}:{value:g}: allowed is [^\n]*between [01] and (100|64)$"):
        Control(**{name: value})


@given(st.text(max_size=30))
def test_any_other_text_is_refused_in_one_line(text):
    with pytest.raises(SettingsError) as caught:
        parse_control(text)
    assert len(str(caught.value).splitlines()) == 1
