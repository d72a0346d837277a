"""What programs write into one cell: lists and tables of labels, missing values, numbers, 0 and 1."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings

_MISSING = frozenset(
    (
        *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
        *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    )
)
"""How pandas reads a missing value (`read_csv`, `na_values`), apart from an empty cell."""

_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_BETWEEN_ITEMS = re.compile(r"""(?<=['"])\s+(?=['"])|(?<=[\d.])\s+(?=[-+.\d])""")
_BETWEEN_NAMES = re.compile("[,|;，、；]")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")


def is_missing(value: object) -> bool:
    """Tell whether a value stands for none: null, NaN, a blank text, or what programs write into a table for it.

    >>> is_missing(" n/a "), is_missing(None), is_missing(0)
    (True, True, False)
    """
    if isinstance(value, str):
        return not value.strip() or value.strip() in _MISSING
    return value is None or value != value


def parse_structure(text: str) -> object:
    """Return a list or table that a program wrote into a cell as such, any other text as it is, without blanks around it.

    Read are JSON, Python's lists, tuples, sets and dicts, and NumPy's arrays, which have blanks between items.

    >>> parse_structure("['joy' 'fear']"), parse_structure("[0 17]"), parse_structure("[sighs]")
    (['joy', 'fear'], [0, 17], '[sighs]')
    >>> parse_structure("{'joy': 0.75, 'fear': 0.25}"), parse_structure(" joy ")
    ({'joy': 0.75, 'fear': 0.25}, 'joy')
    """
    text = text.strip()
    if len(text) < 2 or _BRACKETS.get(text[0]) != text[-1]:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Python would take 'joy' 'fear' for one text.
            value = ast.literal_eval(_BETWEEN_ITEMS.sub(", ", text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return list(value) if isinstance(value, tuple | set) else value


def split_names(text: str) -> list[str]:
    """Return the names that a text lists, with commas, semicolons or bars between them, Chinese ones included.

    >>> split_names("joy, fear"), split_names("开心，难过"), split_names("[joy; fear]")
    (['joy', 'fear'], ['开心', '难过'], ['joy', 'fear'])
    """
    listed = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
    return [name.strip() for name in _BETWEEN_NAMES.split(listed) if name.strip()]


def parse_number(text: str) -> float | None:
    """Return the number that a text is, or None.

    >>> parse_number(" 1e-3 "), parse_number("joy")
    (0.001, None)
    """
    # float() also takes underscores, other digits and words such as "infinity".
    return float(text) if _NUMBER.fullmatch(text.strip()) else None


def name_of_number(value: float) -> str:
    """Write a number as the name of a class, whole ones without a point.

    >>> name_of_number(3.0), name_of_number(0.25)
    ('3', '0.25')
    """
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(value)


def parse_flag(value: object) -> bool | None:
    """Read a cell with 0 or 1, or false or true; None of any other.

    >>> parse_flag("1.0"), parse_flag(False), parse_flag("maybe")
    (True, False, None)
    """
    folded = str(value).strip().casefold()
    return {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}.get(folded)
