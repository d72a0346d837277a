"""How emotions are spelled: which texts can be a name, which spellings are one name, and which words mean the same emotion.

Names are compared without regard to case and width (Unicode's compatibility caseless match), blanks, hyphens and underscores.
Words for the same emotion are looked up in `synonyms.toml`; nothing is ever guessed from how similar two words look: that only
makes a suggestion in a message.
"""

from __future__ import annotations

import difflib
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

NONE = "none"
"""The word that asks for no emotion, unless a label of the model has that name."""
AUTO = "auto"
"""The word that leaves the emotion to the policy, unless a label of the model has that name."""
MARKS = ",=|"
_JOINERS = "\u200c\u200d"
_TAGS = range(0xE0020, 0xE0080)
_REFUSED = ("Cc", "Cf", "Cs", "Zl", "Zp")
_CLOSENESS = 0.75


def is_name(text: str) -> bool:
    """Return whether `text` can name an emotion.

    Letters of any script and emoji can, with the joiners that Persian spelling and emoji need between their characters. What
    cannot: an empty text, blanks around it, a mark that stands between names (`, = |`), control characters and line breaks,
    and marks of direction or of width zero, which nobody sees.
    """
    if not text or text != text.strip() or any(mark in text for mark in MARKS) or text[0] in _JOINERS or text[-1] in _JOINERS:
        return False
    return all(is_visible(character) for character in text)


def is_visible(character: str) -> bool:
    """Return whether a character neither controls what shows it nor hides in it; joiners inside words and emoji are let be."""
    # Tags spell the region of a flag, as joiners put emoji together.
    return unicodedata.category(character) not in _REFUSED or character in _JOINERS or ord(character) in _TAGS


def normalize_name(text: str) -> str:
    """Return a name as it is stored: composed characters (NFC), no blanks around it.

    >>> normalize_name(" de\u0301gou\u0302t ")
    'dégoût'
    """
    return unicodedata.normalize("NFC", text).strip()


@lru_cache(maxsize=4096)
def fold_name(text: str) -> str:
    """Return what all spellings of a name share: case, width, and the kind of blank or hyphen between words are left out.

    >>> fold_name(" No_Emotion"), fold_name("ＪＯＹ")
    ('no emotion', 'joy')
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    spaced = "".join(" " if character in "_-" else character for character in folded)
    # A name may be a mark alone.
    return " ".join(spaced.split()) or folded


@dataclass(frozen=True)
class _Meaning:
    """Words for one emotion, and the names of the meanings that stand in where a label set has no word for it."""

    words: tuple[str, ...]
    near: tuple[str, ...]


def find_synonyms(word: str) -> Iterator[tuple[str, ...]]:
    """Yield the folded words that mean what `word` means, `word` among them, then those of each nearly equal meaning.

    >>> "furious" in next(find_synonyms("rage"))
    True
    """
    meanings, by_word = _table()
    own = by_word.get(fold_name(word))
    if own is not None:
        yield meanings[own].words
        yield from (meanings[near].words for near in meanings[own].near)


@cache
def _table() -> tuple[Mapping[str, _Meaning], Mapping[str, str]]:
    """Return meanings by name, and the meaning of each word."""
    content = tomllib.loads(files("emogen").joinpath("synonyms.toml").read_text(encoding="utf-8"))
    meanings = {
        name: _Meaning(tuple(fold_name(word) for word in entry["words"].split(",")), tuple(entry.get("near", ())))
        for name, entry in content.items()
    }
    return meanings, {word: name for name, meaning in meanings.items() for word in meaning.words}


def read_words() -> Iterator[str]:
    """Yield every word of `synonyms.toml`, folded."""
    yield from _table()[1]


def suggest_name(name: str, known: Mapping[str, str]) -> str:
    """Return the end of a message about an unknown name: ` (did you mean happiness, read as joy?)`, or nothing.

    Args:
        name: that is unknown.
        known: folded words that lead to a label, each with that label.
    """
    # A column of numbers may hold a hundred thousand names.
    is_word = any(map(str.isalpha, name))
    close = difflib.get_close_matches(fold_name(name), known, n=1, cutoff=_CLOSENESS) if is_word else []
    if not close:
        return ""
    (word,) = close
    label = known[word]
    return f" (did you mean {label if fold_name(label) == word else f'{word}, read as {label}'}?)"
