"""Reports: the promised shape of the JSON, and tables whose columns stand under each other."""

import json
import math
import shlex
import unicodedata

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emogen.errors import DataError
from emogen.evaluate.report import Report, as_json, as_markdown, as_table, command_of
from emogen.evaluate.score import Score
from emogen.evaluate.significance import Comparison

BLEU = Score(3.0512, 2.91, 3.19, "bleu|tok:13a")
DISTINCT = Score(0.01684, 0.0161, 0.0176, "distinct|n:2")
FOUND = Comparison(0.1149, -0.0831, 0.3125, 0.04321, "paired_bootstrap", "bleu|tok:13a|test:paired_bootstrap")
ALIKE = Comparison(0.0, 0.0, 0.0, 1.0, "approximate_randomisation", "distinct|n:2|test:approximate_randomisation")


def two(first="ours", second="theirs"):
    systems = {first: {"bleu": BLEU, "distinct2": DISTINCT}, second: {"distinct2": DISTINCT, "novelty": DISTINCT}}
    comparisons = [(first, second, "bleu", FOUND), (first, second, "distinct2", ALIKE)]
    return Report(systems, {first: 5255, second: 12}, ["novelty: pass --train\nto get it for all"], comparisons)


def one(score=BLEU):
    return Report({"ours": {"bleu": score}}, {"ours": 3})


def test_json_of_one_system_is_the_promised_shape():
    """Written out by hand from the design."""
    expected = {"value": 3.0512, "low": 2.91, "high": 3.19, "signature": "bleu|tok:13a"}
    assert json.loads(as_json(one())) == {"scores": {"bleu": expected}, "texts": 3, "notes": []}


def test_json_of_two_systems_has_comparisons():
    """In the order given, at full precision, with p adjusted for both comparisons."""
    content = json.loads(as_json(two("系统", "b")))
    assert list(content) == ["systems", "comparisons", "notes"]
    assert list(content["systems"]) == ["系统", "b"]
    assert list(content["systems"]["b"]["scores"]) == ["distinct2", "novelty"]
    assert content["systems"]["系统"]["texts"] == 5255
    assert content["comparisons"][0] == {
        "first": "系统",
        "second": "b",
        "metric": "bleu",
        "difference": 0.1149,
        "low": -0.0831,
        "high": 0.3125,
        "p": 0.04321,
        "p_holm": 0.08642,
        "test": "paired_bootstrap",
        "signature": "bleu|tok:13a|test:paired_bootstrap",
    }
    assert "系统" in as_json(two("系统", "b"))


@given(st.floats(allow_nan=False, allow_infinity=False), st.text())
def test_json_gives_back_what_it_was_given(value, signature):
    """Every float and every text."""
    score = Score(value, value, value, signature)
    assert Score(**json.loads(as_json(one(score)))["scores"]["bleu"]) == score


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_are_refused(number):
    """With the system and the metric."""
    for score in (Score(number, 0, 1, ""), Score(0, number, 1, ""), Score(0, 0, number, "")):
        with pytest.raises(DataError, match=f"^ours: bleu has {number}"):
            one(score)
    broken = Comparison(0, 0, 0, number, "test", "")
    with pytest.raises(DataError, match="a and b: bleu has"):
        Report({"a": {}, "b": {}}, {"a": 1, "b": 1}, (), [("a", "b", "bleu", broken)])


def test_a_report_of_nothing_is_refused():
    """A system without scores is a report, no system is none."""
    with pytest.raises(DataError, match="no system to report"):
        Report({}, {})
    assert as_table(Report({"ours": {}}, {"ours": 0})) == "       ours\ntexts  0\n"


def test_table_by_hand():
    """Systems as rows, metrics in the order in which they first come, an empty cell for what is missing, a note on one line."""
    assert as_table(two()) == (
        "        texts  bleu               distinct2                novelty\n"
        "ours    5255   3.05 [2.91, 3.19]  0.0168 [0.0161, 0.0176]\n"
        "theirs  12                        0.0168 [0.0161, 0.0176]  0.0168 [0.0161, 0.0176]\n"
        "\n"
        "metric     first  second  second - first        p      p (Holm)  test\n"
        "bleu       ours   theirs  +0.11 [-0.08, +0.31]  0.043  0.086     paired bootstrap\n"
        "distinct2  ours   theirs  +0 [+0, +0]           1      1         approximate randomisation\n"
        "\n"
        "note: novelty: pass --train to get it for all\n"
    )


def test_markdown_by_hand():
    """Signatures once each, as code; signs that Markdown would read are marked."""
    assert as_markdown(two("a|b", "*c*")) == (
        "|  | texts | bleu | distinct2 | novelty |\n"
        "|---|---|---|---|---|\n"
        "| a\\|b | 5255 | 3.05 [2.91, 3.19] | 0.0168 [0.0161, 0.0176] |  |\n"
        "| \\*c\\* | 12 |  | 0.0168 [0.0161, 0.0176] | 0.0168 [0.0161, 0.0176] |\n"
        "\n"
        "| metric | first | second | second - first | p | p (Holm) | test |\n"
        "|---|---|---|---|---|---|---|\n"
        "| bleu | a\\|b | \\*c\\* | +0.11 [-0.08, +0.31] | 0.043 | 0.086 | paired bootstrap |\n"
        "| distinct2 | a\\|b | \\*c\\* | +0 [+0, +0] | 1 | 1 | approximate randomisation |\n"
        "\n"
        "- novelty: pass --train to get it for all\n"
        "\n"
        "How computed:\n"
        "\n"
        "- `bleu|tok:13a`\n"
        "- `distinct|n:2`\n"
        "- `bleu|tok:13a|test:paired_bootstrap`\n"
        "- `distinct|n:2|test:approximate_randomisation`\n"
    )


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (Score(36.94, 36.12, 37.7, ""), "36.9 [36.1, 37.7]"),
        (Score(0.872, 0.8651, 0.879, ""), "0.872 [0.865, 0.879]"),
        (Score(1.0, 0.9962, 1.0, ""), "1.000 [0.996, 1.000]"),
        (Score(1.0, 1.0, 1.0, ""), "1.00 [1.00, 1.00]"),
        (Score(0.001427, 0.001427, 0.001427, ""), "0.00143 [0.00143, 0.00143]"),
        (Score(1234.5, 1201.2, 1266.9, ""), "1234 [1201, 1267]"),
        (Score(0.0, 0.0, 0.0, ""), "0 [0, 0]"),
        (Score(0.0, 0.0, 0.004, ""), "0.000 [0.000, 0.004]"),
        (Score(1e-155, 0.0, 1e-155, ""), "0.000000 [0.000000, 0.000000]"),
        (Score(-2.5, -3.5, -1.5, ""), "-2.50 [-3.50, -1.50]"),
    ],
)
def test_digits_fit_the_scale(score, expected):
    """Three of the value, and enough to tell the ends of the interval from each other."""
    assert as_table(one(score)).splitlines()[2] == f"bleu   {expected}"


def columns(text):
    """Terminal columns by the Unicode property, for text without marks."""
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text)


@given(
    st.lists(
        st.text("ab中文ＡＢ🙂한 ", min_size=1).filter(str.strip),
        min_size=2,
        max_size=4,
        unique_by=lambda name: " ".join(name.split()),
    )
)
def test_wide_names_align(names):
    """The last column begins at the same terminal column in each line."""
    systems = {name: {"bleu": BLEU} for name in names}
    head, *rows = as_table(Report(systems, dict.fromkeys(names, 7))).splitlines()
    starts = {columns(head) - columns("bleu"), *(columns(row) - columns("3.05 [2.91, 3.19]") for row in rows)}
    assert len(starts) == 1


@pytest.mark.parametrize("width", [1, 40, 52, 60, 500])
def test_a_table_too_wide_is_continued_below(width):
    """No line is wider than the terminal, except where a single column is; every metric comes once, behind the systems."""
    systems = {name: {f"metric{n}": DISTINCT for n in range(7)} for name in ("ours", "theirs")}
    blocks = as_table(Report(systems, {"ours": 3, "theirs": 4}), width).rstrip("\n").split("\n\n")
    heads = [name for block in blocks for name in block.splitlines()[0].split()]
    assert heads == ["texts", *(f"metric{n}" for n in range(7))]
    for block in blocks:
        assert [line.split()[0] for line in block.splitlines()[1:]] == ["ours", "theirs"]
        assert max(map(len, block.splitlines())) <= width or len(block.splitlines()[0].split()) == 1
    assert len(blocks) == {1: 8, 40: 7, 52: 7, 60: 4, 500: 1}[width]


def test_marks_and_joiners_take_no_column():
    """An accent on its own and the parts that join an emoji; control characters do not reach the terminal."""
    head, first, second = as_table(
        Report({"e\u0301\u200d": {"bleu": BLEU}, "b\x1b[1m\n": {}}, {"e\u0301\u200d": 1, "b\x1b[1m\n": 2})
    ).splitlines()
    assert head.index("texts") == first.index("1") - 2 == second.index("2")
    assert second.startswith("b [1m")


def test_a_command_reads_back_as_it_was_given():
    typed = ["--work", "/some/where/else/runs", "--base", "", "--controls", "guidance:{}=1,2", "--seed", "0", "--seed", "1"]
    found = []

    @click.command()
    @click.option("--work")
    @click.option("--base")
    @click.option("--controls")
    @click.option("--seed", multiple=True, type=int)
    @click.option("--each", default=5)
    @click.pass_context
    def script(context, **_):
        found.append(command_of("script", context))

    script.main(typed, standalone_mode=False)
    words = shlex.split(found[0])
    assert words[:2] == ["python", "evaluate/script.py"]
    assert words[2:] == ["--work", "else/runs", *typed[2:]]
