"""Faults that exports leave in texts: HTML entities, written-out line breaks, and characters read in a wrong encoding."""

from __future__ import annotations

import html
import re

_ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,31}|#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6});")
_ESCAPE = re.compile(r"""\\(?:r\\n|[nrt"'])""")
_ESCAPED = {r"\t": "\t", r"\"": '"', r"\'": "'"}
_CONTROL = re.compile("[\x80-\x9f]")
# Windows-1252 as browsers read it (WHATWG Encoding Standard): the five unassigned bytes become control characters.
_WESTERN = {byte: bytes([byte]).decode("cp1252", errors="ignore") or chr(byte) for byte in range(0x80, 0x100)}
# Read as Latin-1, bytes from 0x80 to 0x9F became control characters.
_BYTES = {character: byte for byte, character in _WESTERN.items()} | {chr(byte): byte for byte in range(0x80, 0xA0)}
_REST = "[" + "".join(map(re.escape, (character for character, byte in _BYTES.items() if byte < 0xC0))) + "]"
_PUNCTUATION = frozenset("“”‘’…–—‚„‹›«»")


def _leads(first: int, last: int) -> str:
    return "[" + "".join(_WESTERN[byte] for byte in range(first, last + 1)) + "]"


# A letter such as ß may well stand before a quotation mark, so that of two-byte characters below U+0100 alone one will do.
_MOJIBAKE = re.compile(
    f"(?:{_leads(0xC2, 0xC3)}{_REST}|{_leads(0xF0, 0xF4)}{_REST}{{3}}|{_leads(0xE0, 0xEF)}{_REST}{{2}}"
    f"|(?:{_leads(0xC4, 0xDF)}{_REST}){{2,}})+"
)

FAULTS = {
    "wrong encoding": "characters of UTF-8 that were read as Windows-1252",
    "control characters": "control characters where Windows-1252 has punctuation",
    "HTML entities": "HTML entities",
    "written-out escapes": r"line breaks or quotes written out as \n or \"",
    "lost characters": "the sign U+FFFD in place of characters that are lost",
}
"""Kinds of faults, and what a text then holds; all but lost characters can be mended."""


def find_faults(text: str) -> tuple[str, ...]:
    """Return the kinds of faults that a text has, in the order of FAULTS; most texts have none.

    >>> find_faults("Itâ€™s Tom &amp; me"), find_faults("It’s R&D")
    (('wrong encoding', 'HTML entities'), ())
    """
    mended = mend_encoding(text)
    found = {
        "wrong encoding": mended != text,
        "control characters": bool(_CONTROL.search(mended)),
        "HTML entities": "&" in text and html.unescape(text) != text and bool(_ENTITY.search(text)),
        "written-out escapes": "\\" in text and bool(_ESCAPE.search(text)),
        "lost characters": "\ufffd" in text,
    }
    return tuple(kind for kind, holds in found.items() if holds)


def fix_text(text: str) -> str:
    r"""Undo what `find_faults` finds, as far as it can be undone; a text without faults stays as it is.

    >>> fix_text("Donâ€™t &quot;go&quot;, caf&eacute;"), fix_text("Well.\\nSo what?")
    ('Don’t "go", café', 'Well.\nSo what?')
    """
    text = mend_encoding(text)
    text = _CONTROL.sub(lambda match: _WESTERN[ord(match[0])], text)
    while (plain := _ENTITY.sub(lambda match: html.unescape(match[0]), text)) != text:
        text = plain
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[0], "\n"), text)


def mend_encoding(text: str) -> str:
    """Read again as UTF-8 what was read as Windows-1252 or Latin-1.

    >>> mend_encoding("è¿˜å¥½, Ã©tÃ© â€“ Spaß“")
    '还好, été – Spaß“'
    """
    return text if text.isascii() else _MOJIBAKE.sub(_reread, text)


def _reread(match: re.Match[str]) -> str:
    found = match[0]
    if len(found) == 3 and set(found[1:]) <= _PUNCTUATION:
        return found
    try:
        return bytes(_BYTES[character] for character in found).decode("utf-8")
    except UnicodeDecodeError:
        return found
