"""Personal data in a text, found by its form and hidden: addresses, numbers, names."""

from __future__ import annotations

import re
from collections.abc import Callable

HAN = r"\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"


WIDE_MARK = r"\u3001-\u3003\u3008-\u3011\u3014-\u301f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"


# A letter or digit, and a letter, of scripts that have blanks between words.
SIGN = rf"[^\W{HAN}]"


LETTER = rf"[^\W\d_{HAN}]"


BLANK = r"[^\S\r\n]"


def personal(text: str) -> str:
    """Hide personal data that can be told by its form: [mail], [user], [address], [phone], [number], [name].

    Names are found by what stands in front of them alone (docs/postprocessing.md has the list); dates, years and prices stay.

    >>> personal("My name is Ann Lee, +44 20 7946 0958 or ann@example.com, since 2019-05-01.")
    'My name is [name], [phone] or [mail], since 2019-05-01.'
    """
    return apply_until_settled(_hide, text)


def apply_until_settled(change: Callable[[str], str], text: str) -> str:
    """Apply a change until it changes nothing; each of those here removes or masks something, so that it ends."""
    while (changed := change(text)) != text:
        text = changed
    return text


_LEFT = rf"(?<!{SIGN})(?<!\d[.-])(?<![$€£¥])"


_RIGHT = rf"(?!{SIGN})(?![.-]\d)"


_END = rf"(?:-\d{{1,5}})?{_RIGHT}"


_BYTE = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"


_NAME = rf"(?:{LETTER}\.|{LETTER}(?:(?:-|['’](?!s\b))?{LETTER})*+)"


# The hundred commonest surnames of China, four of two characters, and what nicknames begin with.
_SURNAME = (
    "(?:欧阳|诸葛|司马|上官|[王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈"
    "姚卢姜崔钟谭陆汪范金石廖贾夏韦傅方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤小阿])"
)


_ADDRESSES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"(?<!{SIGN})(?<![.%+-])(?:{SIGN}|[.%+-])++@(?=(?:{SIGN}|[.-])*\.{SIGN})(?:{SIGN}|[.-])*{SIGN}", "[mail]"),
        (rf"(?<!{SIGN})@(?![我你他她它咱]|大家|所有人)\w++(?:[.@-]++\w++)*", "[user]"),
        (rf"(?<!{SIGN})(?<!\.)(?:{_BYTE}\.){{3}}{_BYTE}(?!{SIGN}|\.\d)", "[address]"),
    )
)


_GAP = r"[ \u00a0\u202f.-]"


_IBAN = re.compile(rf"(?<!{SIGN})[A-Za-z]{{2}}\d\d(?:{_GAP}?[A-Za-z0-9]){{11,30}}")


# As it is printed: groups of four, of which the last may be shorter; or without any gap.
_IBAN_FORM = re.compile(
    rf"[A-Z]{{2}}\d\d(?:(?:{_GAP}[A-Z0-9]{{4}}){{2,7}}(?:{_GAP}[A-Z0-9]{{1,4}})?|[A-Z0-9]{{11,30}})(?!{SIGN})"
)


_CARD = re.compile(rf"{_LEFT}\d{{3,}}(?:{_GAP}\d{{3,}})*(?:{_GAP}\d{{1,2}})?{_RIGHT}")


_YEARS = re.compile(rf"(?:(?:19|20)\d\d{_GAP}){{2}}")


_AREA_CODE = re.compile(rf"(?<!{SIGN})(?:\d[ -]?)?\((?!(?:19|20)\d\d\))\d{{2,5}}\)[ -]?\d{{2,5}}(?:[ -]\d{{2,5}})*{_END}")


_TRUNK = re.compile(rf"{_LEFT}0\d{{1,5}}(?:[ ./-]\d{{2,}})+{_RIGHT}")


_DATE = re.compile(r"\d\d?([./-])\d\d?\1(?:19|20)?\d\d(?!\d)|0\d(?:[./-]\d\d?)?(?:[./-]| - )(?:19|20)\d\d")


_LED = re.compile(
    rf"((?:\b(?i:tel|telephone|phone|mobile|cell|fax|call|dial|ring|text|whatsapp)\b|电话|手机|座机|拨打|传真)"
    rf"(?:{BLANK}+(?i:me|us|him|her|them|number|no|is|at|on))*+[.:：是号]*+{BLANK}*+)"
    rf"(\(?\d(?:[ ()./-]{{0,2}}\d){{6,14}})(?!\d|{_GAP}\d)"
)


def _iban_end(text: str, found: re.Match[str]) -> int:
    """Tell where the IBAN ends.

    At the last word border up to which its check digits hold, else behind what is printed like one.

    Source: ISO 13616, with the check digits of ISO 7064, modulus 97.
    """
    for end in range(found.end(), found.start() + 14, -1):
        if not (text[end : end + 1].isascii() and text[end : end + 1].isalnum()) and text[end - 1].isalnum():
            signs = re.sub(_GAP, "", text[found.start() : end])
            if len(signs) >= 15 and int("".join(str(int(sign, 36)) for sign in signs[4:] + signs[:4])) % 97 == 1:
                return end
    form = _IBAN_FORM.match(text, found.start())
    return form.end() if form and sum(map(str.isdigit, form[0])) >= 10 else 0


def _hide_card(found: re.Match[str]) -> str:
    """Return a card has 13 to 19 digits, of which the last is Luhn's check digit (ISO/IEC 7812)."""
    digits = [int(sign) for sign in found[0] if sign.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    is_card = 13 <= len(digits) <= 19 and (sum(doubled) + sum(digits[-1::-2])) % 10 == 0
    return "[number]" if is_card and not _YEARS.match(found[0]) else found[0]


def _hide_phone(found: re.Match[str]) -> str:
    """Return what has the form of a telephone number and as many digits; a date has fewer, or begins like one."""
    return "[phone]" if 8 <= sum(map(str.isdigit, found[0])) <= 15 and not _DATE.match(found[0]) else found[0]


# In this order: a rule must not find its number inside of a longer one.
_NUMBERS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (_CARD, _hide_card),
    (re.compile(rf"(?:\+|{_LEFT}00)\d(?:[ ()./-]{{0,2}}\d){{6,14}}{_END}"), "[phone]"),
    (_AREA_CODE, _hide_phone),
    (_TRUNK, _hide_phone),
    (_LED, r"\1[phone]"),
)


_HIDDEN = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"{_LEFT}(?:86[ -]?)?1[3-9]\d(?:[ -]?\d{{4}}){{2}}{_END}", "[phone]"),
        (rf"{_LEFT}(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])\d{{3}}[ .-]\d{{4}}{_END}", "[phone]"),
        (rf"{_LEFT}[2-9]\d\d[2-9]\d{{6}}{_END}", "[phone]"),
        (rf"{_LEFT}\(?0\d{{1,4}}\)?[ -]?\d{{3,4}}[ -]?\d{{3,4}}{_END}", "[phone]"),
        (rf"{_LEFT}0\d(?:[ .-]\d\d){{4}}{_END}", "[phone]"),
        (rf"{_LEFT}(?:8[ -]?)?\d{{3}}[ -]\d{{3}}[ -]\d\d[ -]\d\d{_END}", "[phone]"),
        (rf"{_LEFT}1[38]00[ -]\d{{3}}[ -]\d{{3}}{_END}|{_LEFT}[6-9]\d{{4}}[ -]\d{{5}}{_END}", "[phone]"),
        # Ranges such as 500-1000 have this form as well; few telephone numbers end in 00.
        (rf"{_LEFT}[2-9]\d\d-(?!\d\d00)\d{{4}}{_RIGHT}", "[phone]"),
        (rf"{_LEFT}\d{{12,}}+[xX]?{_RIGHT}|{_LEFT}\d{{3}}-\d\d-\d{{4}}{_RIGHT}", "[number]"),
        (rf"{_LEFT}(?!(?:(?:19|20)\d\d[ -]){{3}})\d{{4}}(?:[ -]\d{{4}}){{3}}{_RIGHT}", "[number]"),
        (rf"{_LEFT}\d{{4}}[ -]\d{{6}}[ -]\d{{5}}{_RIGHT}", "[number]"),
        (
            rf"((?:我的名字[叫是]|我名?叫[做作]?)\s*)(?:{_SURNAME}(?:[{HAN}]{{1,2}}?(?![{HAN}])|[{HAN}]{{1,2}}?"
            rf"(?=[今是来在的从很也和我你住])|[{HAN}]{{1,2}})|[A-Za-z]+(?: [A-Z][a-z]+)*)",
            r"\1[name]",
        ),
    )
)


_MY_NAME = rf"(?i:my{BLANK}+name(?:['’]s|{BLANK}+is){BLANK}+)"


_I_AM_CALLED = rf"(?i:I(?:['’]m|{BLANK}+am){BLANK}+called{BLANK}+)"


_TITLED = rf"(?:[Mm]rs?|[Mm]s|Mx|[Dd]r|[Pp]rof)(?:\.{BLANK}*+|{BLANK}++)"


_CAPITALISED = tuple(re.compile(rf"\b({lead})({_NAME}(?:{BLANK}{_NAME}){{0,2}})") for lead in (_TITLED, _MY_NAME, _I_AM_CALLED))


# In small letters: one word alone, in front of a mark or the end.
_SMALL = re.compile(rf"\b({_MY_NAME})(?!(?i:mrs?|ms|mx|dr|prof|not|what)\b){_NAME}(?={BLANK}*+(?:[,.!?;，。！？\n]|$|and\b))")


_NO_NAME = re.compile("mrs?|ms|mx|dr|prof|not|what|i", re.IGNORECASE)


def _hide(text: str) -> str:
    for pattern, replacement in _ADDRESSES:
        text = pattern.sub(replacement, text)
    pieces, done, start = [], 0, 0
    while found := _IBAN.search(text, start):
        end = _iban_end(text, found)
        if end:
            pieces += [text[done : found.start()], "[number]"]
            done = end
        start = end or found.start() + 1
    text = "".join([*pieces, text[done:]])
    for number, hidden in (*_NUMBERS, *_HIDDEN):
        text = number.sub(hidden, text)
    for lead in _CAPITALISED:
        text = lead.sub(_hide_capitalised, text)
    return _SMALL.sub(r"\1[name]", text)


def _hide_capitalised(found: re.Match[str]) -> str:
    end = 0
    for word in re.finditer(r"\S+", found[2]):
        if not word[0][0].isupper() or _NO_NAME.fullmatch(re.split("['’.]", word[0])[0]):
            break
        end = word.end()
    return found[1] + "[name]" * bool(end) + found[2][end:]
