"""The encoding of a file: given, marked, or guessed from its first bytes."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from emogen.errors import DataError, SettingsError

_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}


_WIDE_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


_NULL_SHARE = 0.3


_COMMON_SHARE = 0.9


_LONGEST_WESTERN_RUN = 2


def known_encoding(name: str) -> str:
    """Return the usual spelling of an encoding's name; empty stays empty; raise SettingsError."""
    if not name:
        return ""
    try:
        # Refuses rot13 and the like, which are codecs, but of no text.
        "a".encode(name)
        return codecs.lookup(name).name
    except (LookupError, ValueError):
        raise SettingsError(
            f"--encoding {name!r}: unknown; allowed are utf-8, utf-16, gb18030, big5, cp1252 and others"
        ) from None


def guess_encoding(sample: bytes) -> str:
    """Guess the encoding of bytes that are not UTF-8, of those that occur with English and Chinese; empty without grounds.

    Nearly all characters of a Chinese text are of the first level of GB 2312 (3,755 characters) or Big5 (5,401), or are
    signs; in a Western text bytes above 127 stand between letters, hardly ever three in a row.
    """
    lines = [line for line in sample.splitlines() if not line.isascii()]
    if any(_decodes(line, "utf-8") for line in lines[:-1]):
        return ""
    whole = b"\n".join(lines)
    runs = [len(run) for run in re.findall(rb"[\x80-\xff]+", whole)]
    if not runs:
        return ""
    for encoding, common, last in (("gb18030", "gb2312", 0xD7), ("big5", "big5", 0xC6)):
        if max(runs) > 1 and _common_share(whole, encoding, common, last) >= _COMMON_SHARE:
            return encoding
    western = sum(run <= _LONGEST_WESTERN_RUN for run in runs) >= _COMMON_SHARE * len(runs)
    return "cp1252" if western and _decodes(whole, "cp1252") else ""


def _common_share(text: bytes, encoding: str, common: str, last: int) -> float:
    """Return the share of characters above 127 whose first byte in `common` is at most `last`; 0 if `text` does not decode."""
    try:
        found = [character for character in codecs.getincrementaldecoder(encoding)().decode(text) if ord(character) > 127]
    except UnicodeError:
        return 0.0
    codes = [character.encode(common, "ignore") for character in found]
    return sum(bool(code) and code[0] <= last for code in codes) / max(len(found), 1)


def _decodes(text: bytes, encoding: str) -> bool:
    try:
        text.decode(encoding)
    except UnicodeError:
        return False
    return True


def marked_encoding(path: str | Path, head: bytes) -> str:
    """Return the encoding that the first bytes of a file are marked with; empty where they bear no mark."""
    # The mark of UTF-32 begins with that of UTF-16.
    for mark, encoding in (*_MARKS.items(), *_WIDE_MARKS.items()):
        if head.startswith(mark):
            return encoding
    for begin, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(head) > 3 and head[begin::2].count(0) > _NULL_SHARE * len(head) > 0 and not head[1 - begin :: 2].count(0):
            raise DataError(f"{path}: looks like {encoding.upper()} without a byte order mark; save the file as UTF-8")
    return "utf-8"


def holds_no_utf8(head: bytes) -> bool:
    """Tell whether bytes cannot be the beginning of a UTF-8 text."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeError:
        return True
    return False
