"""Text to words: the one tokenisation of diversity metrics and bag-of-words classifiers."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Literal

WORDS_VERSION = "v2"

_HAN = r"\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA_AND_BOPOMOFO = r"\u3031-\u3035\u3041-\u312f\u31a0-\u31bf\u31f0-\u31ff\uff66-\uff9f"
# Scripts without blanks between words that only a dictionary parts: Unicode's line-breaking class SA.
_NO_BLANKS = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\ua9e0-\ua9ff\uaa60-\uaadf"
_LETTER = rf"[^\W_{_HAN}{_KANA_AND_BOPOMOFO}{_NO_BLANKS}]"
# Vowel signs and accents are no letters to `re`, nor are the joiners of Persian and Indic words.
_MARKS = "".join(chr(code) for code in range(0x300, 0x20D0) if unicodedata.category(chr(code))[0] == "M")
_PART = rf"{_LETTER}+(?:[{_MARKS}\u200c\u200d]+{_LETTER}*)*"
_WORD = rf"{_PART}(?:'{_PART})*"
_KEYCAP = r"[0-9#*]\ufe0f?\u20e3"
_FLAG = r"[\U0001f1e6-\U0001f1ff]{2}"
_MODIFIERS = rf"[{_MARKS}\u3099\u309a\ufe00-\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f\U000e0100-\U000e01ef]*"
_CHARACTER = rf"\S{_MODIFIERS}(?:\u200d[^\w\s]{_MODIFIERS})*"
_TOKEN = re.compile("|".join([_KEYCAP, _FLAG, _WORD, _CHARACTER]))
_HAN_TOKEN = re.compile(rf"[{_HAN}]")
_UNSPACED_TOKEN = re.compile(rf"[{_KANA_AND_BOPOMOFO}{_NO_BLANKS}]")


def words(text: str) -> list[str]:
    """Split a text into lower-cased words, CJK characters, punctuation marks and emoji.

    A word is a run of letters and digits with apostrophes inside (the curly one counts as the straight one). Every
    Han, kana, bopomofo, Thai, Lao, Burmese and Khmer character is a token of its own, together with its vowel signs and tone
    marks, and so is every other sign; an emoji keeps its skin tone, its variation selector and what it is joined to.

    Returns:
        The tokens in order; empty only if the text is blank.

    >>> words("I don't know... 我很开心!👍🏽")
    ['i', "don't", 'know', '.', '.', '.', '我', '很', '开', '心', '!', '👍🏽']
    """
    return _TOKEN.findall(unicodedata.normalize("NFC", text.lower()).replace("’", "'"))


def word_spans(text: str) -> list[tuple[int, int]]:
    """Tell where the words of a text stand in it, as it is written.

    Every character that is not blank is in one span. A few rare letters outside the Latin, Greek, Cyrillic, Han and kana
    scripts that Unicode writes with two characters are two spans here and one token of `words`.

    Returns:
        [start, end) of each token in order.

    >>> text = "I DON’T know!"
    >>> [text[start:end] for start, end in word_spans(text)]
    ['I', 'DON’T', 'know', '!']
    """
    return [found.span() for found in _TOKEN.finditer(text.replace("’", "'"))]


def unspaced_script(texts: Iterable[str]) -> str:
    """Name the script of texts that have no blanks between words and are not Chinese; empty for all other texts.

    A tenth of kana among Han characters makes a text Japanese: its prose is about half kana, and Chinese has hardly any.

    >>> unspaced_script(["今日はとても楽しい。"]), unspaced_script(["我很开心。"]), unspaced_script(["so happy"])
    ('Hiragana', '', '')
    """
    tokens = [token for text in texts for token in words(text) if token[0].isalnum()]
    unspaced = [token for token in tokens if _UNSPACED_TOKEN.match(token)]
    han = sum(_HAN_TOKEN.match(token) is not None for token in tokens)
    if 2 * (len(unspaced) + han) <= len(tokens) or 10 * len(unspaced) <= len(unspaced) + han:
        return ""
    return Counter(unicodedata.name(token[0], "UNKNOWN").split()[0].title() for token in unspaced).most_common(1)[0][0]


def language_of(texts: Iterable[str]) -> Literal["en", "zh"]:
    """Return `zh` if the texts hold more Han characters than words of other scripts, else `en`."""
    tokens = [token for text in texts for token in words(text) if token[0].isalnum()]
    han = sum(_HAN_TOKEN.match(token) is not None for token in tokens)
    return "zh" if han > len(tokens) - han else "en"


def scripts_of(texts: Iterable[str]) -> Counter[str]:
    """Count the letters of each script, which is named by the first word of its letters' names in Unicode.

    >>> scripts_of(["Привет, 世界!"])
    Counter({'CYRILLIC': 6, 'HAN': 2})
    """
    letters: Counter[str] = Counter()
    for text in texts:
        letters.update(filter(str.isalpha, unicodedata.normalize("NFKC", text)))
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        name = unicodedata.name(letter, "unknown").partition(" ")[0]
        scripts["HAN" if name == "CJK" else name] += count
    return scripts
