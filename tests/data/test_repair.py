"""Faults of texts and their repair, against Python's own codecs and HTML escapes."""

from __future__ import annotations

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emogen.data.repair import FAULTS, find_faults, fix_text

SENTENCES = [
    "C’était l’été à Saint-Étienne – « déjà ».",
    "Straße, Fußgänger, Öl",
    "今天天气很好，我们去公园吧！",
    "Привет, как дела?",
    "Καλημέρα, τι κάνεις;",
    "so happy 😀🎉",
    "“Quoted” … 5 €",
]
GOOD = [
    "„Spaß“ »Fuß« Größe…",
    "Ã la carte? Åse’s Øl™",
    "plain ASCII, R&D; AT&T",
    "café…” she said",
    "你好，世界",
    "100 °C ± 5 µm",
    "path C:\\data",
    "ÀÉÎÕÜ àéîõü ß»",
]


def misread(text: str, encoding: str) -> str:
    """UTF-8 read as Windows-1252 (its five unassigned bytes as control characters) or Latin-1."""
    return "".join(bytes([byte]).decode(encoding, errors="ignore") or chr(byte) for byte in text.encode())


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize("text", SENTENCES)
def test_utf8_that_was_misread_is_found_and_mended(text: str, encoding: str) -> None:
    assert "wrong encoding" in find_faults(misread(text, encoding))
    assert fix_text(misread(text, encoding)) == text


@pytest.mark.parametrize("text", [*SENTENCES, *GOOD])
def test_good_texts_are_left_alone(text: str) -> None:
    assert find_faults(text) == ()
    assert fix_text(text) == text


@given(st.text(st.characters(codec="ascii", exclude_characters="\\", exclude_categories=["Cc"])))
def test_html_escapes_are_undone(text: str) -> None:
    once = html.escape(text)
    assert fix_text(once) == fix_text(html.unescape(once))
    assert ("HTML entities" in find_faults(once)) == (html.unescape(once) != once)


def test_each_fault_has_its_name() -> None:
    texts = ["CrÃ¨me", "a\x93b\x94", "&lt;3 &amp;quot;", r"one\r\ntwo \"three\"", "lost \ufffd"]
    assert [find_faults(text) for text in texts] == [(kind,) for kind in FAULTS]
    assert [fix_text(text) for text in texts] == ["Crème", "a“b”", '<3 "', 'one\ntwo "three"', "lost \ufffd"]


@given(st.text())
def test_mending_ends_and_mends_once(text: str) -> None:
    assert set(find_faults(text)) <= set(FAULTS)
    assert isinstance(fix_text(text), str)
