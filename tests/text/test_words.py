"""Where the words of a text stand; how it is split is tested with the diversity that counts them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emogen.text.words import word_spans, words

UNTIMED = settings(deadline=None, max_examples=100)


@UNTIMED
@given(st.text())
def test_spans_lose_nothing_but_blanks(text):
    """In order, without overlap, with blanks alone between them."""
    spans = word_spans(text)
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), len(text)]
    assert all(not text[end:start].strip() for end, start in zip(ends, starts, strict=True))
    assert all(end <= start for end, start in zip(ends, starts, strict=True))
    assert all(start < end for start, end in spans)


@UNTIMED
@given(st.text(alphabet="aBİÉé\u0301ß'’我か \n!1🙂👍🏽\u200d가"))
def test_spans_are_the_words_as_written(text):
    """Each span is one token, the same that `words` has in its place."""
    assert [token for start, end in word_spans(text) for token in words(text[start:end])] == words(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I DON’T know...", ["I", "DON’T", "know", ".", ".", "."]),
        ("Cafe\u0301 我爱か\u3099 Python!", ["Cafe\u0301", "我", "爱", "か\u3099", "Python", "!"]),
        ("ฉันรู้ว่า น้ำ 5%", ["ฉั", "น", "รู้", "ว่", "า", "น้", "ำ", "5", "%"]),
        ("ခြေ ទឹក ນ້ຳ", ["ခြေ", "ទឹ", "ក", "ນ້", "ຳ"]),
        (" \t\u3000\n", []),
    ],
)
def test_spans_by_hand(text, expected):
    """Case, curly apostrophes and decomposed accents stay."""
    assert [text[start:end] for start, end in word_spans(text)] == expected
