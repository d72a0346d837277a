"""What is done to a text after it was generated: an ordered list of pure steps, each a function from text to text."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from os.path import commonprefix
from typing import NamedTuple

from emogen.decoding.privacy import BLANK, HAN, LETTER, SIGN, WIDE_MARK, apply_until_settled, personal
from emogen.errors import SettingsError, on_one_line
from emogen.files import read_text

_BLANKS = rf"(?<!{BLANK}){BLANK}++"
_CLOSERS = r"\"'”’)\]}»」』】）》"

_EMOJI = (
    r"(?:[\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff][\ufe0f\u200d\u20e3\U000e0020-\U000e007f]*"
    rf"|[:;=]['-]?[()DP](?!\w)|<3|\[[{HAN}]{{1,6}}\])"
)
_MARK = re.compile(
    rf"(?P<marks>[.!?…。！？｡]++)(?P<closers>[{_CLOSERS}]*+)(?P<signs>(?:{BLANK}*+{_EMOJI})*+)(?=(?P<next>\s*+\S?))"
)
_SIGNED_OFF = re.compile(rf"(?:{_EMOJI}|[~～])$")
_LIST_NUMBER = re.compile(r"(?:^|\n)\s*\d{1,3}$")
_LAST_WORD = re.compile(rf"{LETTER}+(?:[.'’]{LETTER}+)*$")
# A name follows a title and an example follows "e.g.": no sentence ends there.
_TITLE = re.compile("mr|mrs|ms|mx|messrs|dr|prof|rev|hon|gen|col|capt|lt|sgt|gov|sen|rep|mt|vs|cf|fig|e\\.g|i\\.e|viz|approx")
# These may end a sentence: they do where no lower-case letter follows.
_SHORT_FORM = re.compile(
    "etc|inc|ltd|co|corp|jr|sr|st|ave|dept|est|vol|al|jan|feb|apr|aug|sept|oct|nov|[ap]\\.m|u\\.[sk]|ph\\.d"
)


def detokenise(text: str) -> str:
    """Put back together what a tokeniser took apart: contractions, marks, brackets, quotes, Chinese characters.

    >>> detokenise("I do n't know , he said ( twice ) : 我 不 知道 。")
    "I don't know, he said (twice): 我不知道。"
    """
    return apply_until_settled(_join_tokens, text)


def fix_spacing(text: str) -> str:
    """Return one blank where there are several, none at the ends, and one behind a mark that two words are glued to.

    A run of blanks with a line break in it becomes one line break. Tokens with `/`, `@`, `=` or `www.` are left alone.

    >>> fix_spacing(" Wait!What  is on example.com?  ")
    'Wait! What is on example.com?'
    """
    single = re.sub(r"\s+", lambda run: "\n" if re.search(r"[\r\n]", run[0]) else " ", text.strip())
    return re.sub(r"\S+", lambda token: _unglue(token[0]), single)


def case(text: str) -> str:
    """Capital letters for the first word of a sentence and for the pronoun I; nothing is ever lower-cased.

    Words with a capital letter or a full stop inside (iPhone, example.com) stay, and so do sentences with Chinese in them.

    >>> case("i'm here. iPhone or not, i know! it works... for now.")
    "I'm here. iPhone or not, I know! It works... for now."
    """
    pieces = []
    fresh = True
    for piece, end in _sentences(_PRONOUN.sub("I", text)):
        pieces.append(_capitalise(piece) if fresh else piece)
        # Not behind an ellipsis or a Chinese mark.
        fresh = end is not None and set(end["marks"]) <= set(".!?") and ".." not in end["marks"]
    return "".join(pieces)


def sentence(text: str) -> str:
    """Cut what stands behind the last finished sentence; a text without one stays.

    A text that ends in an emoji, an emoticon or a tilde is signed off and stays, too.

    >>> sentence("I met Dr. Lee at 3.5 km. Then we")
    'I met Dr. Lee at 3.5 km.'
    """
    ends = _ends(text)
    return text[: ends[-1].end("signs")] if ends and not _SIGNED_OFF.search(text.rstrip()[-20:]) else text


def repeats(text: str) -> str:
    """Drop repetition: of characters, of words and phrases in a row, of whole sentences.

    At most three times in a row: one or two characters, one or two words. At most twice: phrases of three to eight words.
    A sentence of three words or more (five characters in Chinese) stands once, a shorter one up to three times. In Chinese
    each character counts as a word. Digits, and words with digits in them, stay.

    >>> repeats("Nooooo no no no no! I am sorry. So I am sorry. I am sorry.")
    'Nooo no no no! I am sorry. So I am sorry.'
    """
    return apply_until_settled(lambda one: _fewer_sentences(_fewer_phrases(_CHARACTERS.sub(r"\1\1\1", one))), text)


def block(text: str, words: tuple[str, ...]) -> str:
    """Put a * for every character of every listed word or phrase.

    Args:
        text: any text.
        words: found whatever their case and however many blanks a phrase has between its words, at word borders in scripts with
            blanks and anywhere in Chinese. An entry of stars alone hides nothing.

    >>> block("Damn, damnation! 他妈的", ("damn", "妈的"))
    '****, damnation! 他**'
    """
    pattern = _compile_words(words)
    return apply_until_settled(lambda one: pattern.sub(lambda hit: "*" * len(hit[0]), one), text) if pattern else text


# Every step that needs no file; "block" is the other one.
_PLAIN: dict[str, Callable[[str], str]] = {
    "detokenise": detokenise,
    "spacing": fix_spacing,
    "case": case,
    "sentence": sentence,
    "repeats": repeats,
    "personal": personal,
}
_ALLOWED = f"steps are {', '.join(_PLAIN)}, block:FILE"


@dataclass(frozen=True)
class TextStep:
    """One step by name; `file` and the `words` read from it belong to `block` alone."""

    name: str
    file: str = ""
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in (*_PLAIN, "block"):
            raise SettingsError(f"{self.name!r} is no step of post-processing; {_ALLOWED}")
        if self.name == "block" and not self.words:
            raise SettingsError(f"block needs a word list, one entry a line: block:words.txt; {_ALLOWED}")
        if self.name != "block" and (self.file or self.words):
            raise SettingsError(f"{self.name} takes no file, write {self.name} alone; {_ALLOWED}")

    def __call__(self, text: str) -> str:
        """Return the text after this step."""
        return block(text, self.words) if self.name == "block" else _PLAIN[self.name](text)

    def __str__(self) -> str:
        return f"block:{self.file}" if self.name == "block" else self.name


@dataclass(frozen=True)
class PostProcessing:
    """Steps in the order in which they are done; none changes nothing. `str` gives what `parse_postprocessing` reads."""

    steps: tuple[TextStep, ...] = ()

    def __post_init__(self) -> None:
        name, times = Counter(step.name for step in self.steps).most_common(1)[0] if self.steps else ("", 0)
        if times > 1:
            raise SettingsError(f"{name} is there {times} times in {str(self)!r}; name it once; {_ALLOWED}")

    def __call__(self, text: str) -> str:
        """Return the text after all steps."""
        for step in self.steps:
            text = step(text)
        return text

    def __str__(self) -> str:
        return ",".join(map(str, self.steps))


def parse_postprocessing(text: str) -> PostProcessing:
    """Read a list of steps such as `detokenise,case,block:words.txt`; a blank text is the empty list.

    Args:
        text: names with commas between them. The file of `block` holds an entry a line in UTF-8; from a `#` at the start of a
            line or behind a blank on, a line is a comment.

    Raises:
        SettingsError: an unknown step, one that is there twice, or a word list that is missing, unreadable or empty.
    """
    return PostProcessing(tuple(_parse_step(part.strip()) for part in text.split(",")) if text.strip() else ())


def _parse_step(text: str) -> TextStep:
    name, _, file = (part.strip() for part in text.partition(":"))
    return TextStep(name, file, _read_words(file) if name == "block" and file else ())


def _read_words(file: str) -> tuple[str, ...]:
    try:
        lines = read_text(file, "utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", None) or str(error)
        raise SettingsError(
            f"block:{on_one_line(file)}: cannot read the word list ({why}); give a UTF-8 file; {_ALLOWED}"
        ) from error
    words = tuple(filter(None, (re.split(r"(?:^|\s)#", line)[0].strip() for line in lines)))
    if not _compile_words(words):
        raise SettingsError(
            f"block:{on_one_line(file)}: no words in it; write one entry a line, or leave block out; {_ALLOWED}"
        )
    return words


def _ends(text: str) -> list[re.Match[str]]:
    """Return what finishes sentences: marks, closing quotes and emoji (group `signs` ends behind all of them)."""
    return [found for found in _MARK.finditer(text) if _finishes(text, found)]


def _finishes(text: str, found: re.Match[str]) -> bool:
    if re.search("[。！？｡]", found["marks"]):
        return True
    is_glued = not found["signs"] and re.match(rf"[^\s{HAN}{WIDE_MARK}]", found["next"])
    goes_on = found["closers"] and found["next"].strip().islower()
    return not (is_glued or goes_on or (found["marks"] == "." and _is_short_form(text, found)))


def _is_short_form(text: str, found: re.Match[str]) -> bool:
    """Tell whether a full stop belongs to an abbreviation, an initial or the number of a list item."""
    before, follows = text[max(0, found.start() - 24) : found.start()], found["next"].strip()
    last = _LAST_WORD.search(before)
    word = last[0].casefold() if last else ""
    if _LIST_NUMBER.search(before) or _TITLE.fullmatch(word):
        return True
    return bool(follows) if len(word) == 1 and word != "i" else bool(_SHORT_FORM.fullmatch(word)) and follows.islower()


def _sentences(text: str) -> Iterator[tuple[str, re.Match[str] | None]]:
    """Yield the sentences with the blanks behind them, together the text, and what finishes each (None: unfinished)."""
    start = 0
    for end in _ends(text):
        behind = end.end("next") - len(end["next"].strip())
        yield text[start:behind], end
        start = behind
    if start < len(text):
        yield text[start:], None


_PRONOUN = re.compile(
    r"(?<![^\s\"'“‘(*—…,!?;:])i(?=['’](?:m|ll|ve|d|s|ma)(?!\w)|[,!?;:…\"”—](?!\w)|\.+(?!\.|\w)|\s|$)(?![:;][()])"
)


def _capitalise(sentence: str) -> str:
    body = sentence.lstrip(" \t\r\n\"'“‘(¡¿")
    rest = re.split(r"\s", body, maxsplit=1)[0][1:]
    is_mixed = rest != rest.lower() or re.search(r"(?<!\.)[./@_\\=]\w|:/|\d", rest)
    upper = body[:1].upper()
    if is_mixed or len(upper) != 1 or re.search(f"[{HAN}{WIDE_MARK}]", sentence):
        return sentence
    return sentence[: len(sentence) - len(body)] + upper + body[1:]


_GLUED = re.compile(rf"(?P<before>{LETTER})(?P<mark>[!?]++|[,.])(?=(?P<after>{LETTER})(?P<next>{LETTER}?))")


def _unglue(token: str) -> str:
    return token if re.search(r"[/@=\\]|www\.", token) else _GLUED.sub(lambda found: found[0] + " " * _is_glued(found), token)


def _is_glued(found: re.Match[str]) -> bool:
    """Tell whether a blank is missing; a full stop must stand between a small and a capital letter that begins a word."""
    if found["mark"] != ".":
        return True
    begins = found["next"].islower() or (found["after"] in "AI" and not found["next"])
    return found["before"].islower() and found["after"].isupper() and begins


_JOINS = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"``|''", '"'),
        (r"-L[RS]B-", "("),
        (r"-R[RS]B-", ")"),
        (rf"(?<=[a-z]){_BLANKS}(?=n['’]t(?!\w))", ""),
        (rf"(?<=n){_BLANKS}(['’]){_BLANKS}(?=t(?![\w'’]))", r"\1"),
        (rf"(?<=[a-z]){_BLANKS}(['’]){BLANK}*+(?=(?:s|m|d|re|ve|ll)(?![\w'’]))", r"\1"),
        (rf"\b(gon|wan){_BLANKS}(?=na\b)", r"\1"),
        (rf"\b(got){_BLANKS}(?=ta\b)", r"\1"),
        (rf"\b(gim|lem){_BLANKS}(?=me\b)", r"\1"),
        (rf"(?<=\S){_BLANKS}(?=[,.!?…]+(?:\s|$|[{_CLOSERS}])|[;:](?:\s|$))", ""),
        (rf"(?<=\d){_BLANKS}(?=%)", ""),
        (rf"([$£]){_BLANKS}(?=\d)", r"\1"),
        (rf"(?<![:;=8'-])([(\[]){_BLANKS}", r"\1"),
        (rf"(?<=\S){_BLANKS}(?=[)\]”])", ""),
        (rf"([“‘]){_BLANKS}", r"\1"),
        (rf'(?<!\S)"{BLANK}++([^"\s](?:[^"\n]*[^"\s])?){BLANK}+"(?![^\s.,!?;:)])', r'"\1"'),
        (rf"(?<=[{HAN}“”‘’…—]){_BLANKS}(?=[{HAN}])|(?<=[{HAN}]){_BLANKS}(?=[“”‘’…—])", ""),
        (rf"{_BLANKS}(?=[{WIDE_MARK}])|(?<=[{WIDE_MARK}]){_BLANKS}", ""),
    )
)


def _join_tokens(text: str) -> str:
    for pattern, replacement in _JOINS:
        text = pattern.sub(replacement, text)
    return text


_CHARACTERS = re.compile(r"([^\W\d]{1,2}?|[^\w\s*][\ufe0f\U0001f3fb-\U0001f3ff]?)\1{3,}")
_WORD = re.compile(rf"[{HAN}]|{SIGN}+(?:['’]{SIGN}+)*")
_JOINER = re.compile(r"[\s,，、~～-]*")
_LONGEST_PHRASE = 8


class _Word(NamedTuple):
    text: str
    end: int
    may_repeat: bool


def _words(text: str) -> list[_Word]:
    """Return the words; one may repeat another if no digit is in it and only blanks, commas or dashes stand in front of it."""
    found: list[_Word] = []
    for word in _WORD.finditer(text):
        is_joined = bool(found) and _JOINER.fullmatch(text, found[-1].end, word.start()) is not None
        found.append(_Word(word[0].casefold(), word.end(), is_joined and not any(map(str.isdigit, word[0]))))
    return found


def _fewer_phrases(text: str) -> str:
    words = _words(text)
    for period in range(1, _LONGEST_PHRASE + 1):
        most = 3 if period <= 2 else 2
        pieces, start, run = [], 0, 0
        for place in range(period, len(words) + 1):
            if place < len(words) and words[place].may_repeat and words[place].text == words[place - period].text:
                run += 1
                continue
            first, copies = place - run - period, 1 + run // period
            if copies > most:
                pieces.append(text[start : words[first + most * period - 1].end])
                start = words[first + copies * period - 1].end
            run = 0
        fewer = "".join(pieces) + text[start:]
        if fewer != text:
            text, words = fewer, _words(fewer)
    return text


def _fewer_sentences(text: str) -> str:
    seen: Counter[tuple[str, ...]] = Counter()
    kept = []
    for piece, end in _sentences(text):
        words = _WORD.findall(piece.casefold())
        key = (*words, "?" if end and re.search("[?？]", end["marks"]) else "")
        seen[key] += 1
        is_short = len(words) <= (4 if re.search(f"[{HAN}]", piece) else 2)
        if not words or seen[key] <= (3 if is_short else 1):
            kept.append(piece)
    fewer = "".join(kept)
    return fewer if fewer == text else fewer.rstrip()


@lru_cache(maxsize=16)
def _compile_words(words: tuple[str, ...]) -> re.Pattern[str] | None:
    """Return what finds any of the words; None if there is nothing to find."""
    letter = rf"(?:{SIGN}|[\u0300-\u036f])"
    borders: dict[tuple[str, str], list[str]] = {}
    for word in {" ".join(word.split()) for word in words if re.search(r"[^\s*]", word)}:
        before = rf"(?<!{letter})" if re.match(letter, word) else ""
        after = rf"(?!{letter})" if re.match(letter, word[-1]) else ""
        borders.setdefault((before, after), []).append(word)
    found = (before + _any_of(borders[before, after]) + after for before, after in sorted(borders, reverse=True))
    return re.compile("|".join(found), re.IGNORECASE) if borders else None


def _any_of(words: list[str]) -> str:
    """Return a pattern for any of the words, longer ones first; common beginnings stand once, so that long lists are fast."""
    groups = [list(group) for _, group in groupby(sorted(words, reverse=True), key=lambda word: word[:1])]
    starts = [commonprefix(group) for group in groups]  # noqa: RUF071  # characters are meant
    branches = (
        re.escape(start).replace("\\ ", r"\s+") + (_any_of([word[len(start) :] for word in group]) if start else "")
        for start, group in zip(starts, groups, strict=True)
    )
    return f"(?:{'|'.join(branches)})"
