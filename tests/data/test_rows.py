"""Records of files as users have them: encodings, delimiters, documents, quotes, headers."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emogen.data.encodings import guess_encoding
from emogen.data.rows import Problem, Row, detect_layout, find_column, read_lines, read_rows
from emogen.errors import DataError, SettingsError

CHINESE = "老板今天又让我们加班，真的很累。外面下着大雨，我忘了带伞，只好跑回家。"
TRADITIONAL = "老闆今天又讓我們加班，真的很累。外面下著大雨，我忘了帶傘，只好跑回家。"
WESTERN = "It’s a “café” – naïve, isn’t it? 5 € für alle."

words = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"'), min_size=1, max_size=12).filter(
    str.strip
)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def fields(path: Path, **options: str) -> list[dict[str, object]]:
    rows = list(read_rows(path, **options))
    assert not [row for row in rows if isinstance(row, Problem)]
    return [dict(row.fields) for row in rows if isinstance(row, Row)]


def problems(path: Path, **options: str) -> list[Problem]:
    return [row for row in read_rows(path, **options) if isinstance(row, Problem)]


# ---- encodings


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize(
    ("name", "content"), [("rows.csv", f"text,label\r\n{CHINESE},开心\r\n"), ("rows.tsv", "text\tlabel\nĊ \tjoy\n")]
)
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, encoding: str, name: str, content: str) -> None:
    # U+010A holds the byte of a line feed.
    plain = fields(write(tmp_path / f"plain-{name}", content))
    path = write(tmp_path / name, content.encode(encoding))
    assert fields(path) == plain
    layout = detect_layout(path)
    assert layout is not None
    assert bool(layout.notes()) == (encoding != "utf-8-sig")


@pytest.mark.parametrize("encoding", ["gb18030", "big5", "cp1252", "utf-16-le", "utf-16-be", "latin-1"])
def test_a_named_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    text = {"gb18030": CHINESE, "big5": TRADITIONAL, "cp1252": WESTERN}.get(encoding, "Où ça ?")
    for name, line in (("rows.jsonl", json.dumps({"text": text}, ensure_ascii=False)), ("rows.csv", f'text\n"{text}"')):
        path = write(tmp_path / name, (line + "\n").encode(encoding))
        assert fields(path, encoding=encoding) == [{"text": text}]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(CHINESE, "gb18030"), (CHINESE[:6], "gb18030"), (TRADITIONAL, "big5"), (WESTERN, "cp1252"), ("où ça, naïve", "cp1252")],
)
def test_the_likely_encoding_is_named(tmp_path: Path, text: str, encoding: str) -> None:
    path = write(tmp_path / "rows.csv", f"text,label\n{text.replace(',', '')},joy\nplain,joy\n".encode(encoding))
    (found,) = problems(path)
    assert (found.number, found.kind) == (2, "not UTF-8")
    assert f"looks like {encoding.upper()}" in found.message
    assert found.option == f"pass --encoding {encoding}"
    assert fields(path, encoding=encoding)[1] == {"text": "plain", "label": "joy"}


@pytest.mark.parametrize("sample", [b"", b"plain", "naïve".encode() + b"\ncaf\xe9\nplain", "Привет, мир".encode("cp1251")])
def test_no_encoding_is_guessed_without_grounds(sample: bytes) -> None:
    assert guess_encoding(sample) == ""


def test_what_is_in_another_encoding_than_named_is_told(tmp_path: Path) -> None:
    (found,) = problems(write(tmp_path / "rows.csv", b"text\nok\n" + b"\xff\xff\n"), encoding="gb18030")
    assert found.number == 3
    assert "is not GB18030" in found.message
    with pytest.raises(DataError, match=r"rows\.tsv: is not in the encoding"):
        list(read_rows(write(tmp_path / "rows.tsv", "text\tlabel\nHi\tjoy\n".encode("utf-16")[:-1])))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_told_once(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "rows.csv", ("text,label\n" + "Hi,joy\n" * 50).encode(encoding))
    with pytest.raises(DataError, match=rf"looks like {encoding.upper()} without a byte order mark; save the file as UTF-8"):
        list(read_rows(path))


@pytest.mark.parametrize("options", [{"encoding": "rot13"}, {"encoding": "utf-9"}, {"delimiter": "ab"}, {"quoting": "no"}])
def test_impossible_settings_are_refused(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="allowed"):
        list(read_rows(write(tmp_path / "rows.csv", "text\nHi\n"), **options))


def test_lines_of_text_are_read_in_marked_encodings(tmp_path: Path) -> None:
    path = write(tmp_path / "lines.txt", "one\r\n二\n\nlast".encode("utf-16"))
    assert list(read_lines(path)) == ["one", "二", "", "last"]


# ---- delimiters and headers


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
@given(rows=st.lists(st.tuples(words, words), min_size=1, max_size=5))
def test_the_delimiter_is_detected(
    tmp_path_factory: pytest.TempPathFactory, delimiter: str, ending: str, rows: list[tuple[str, str]]
) -> None:
    """Tables of Python's own writer."""
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([("text", "label"), *rows])
    path = write(tmp_path_factory.mktemp("rows") / f"rows.{ending}", out.getvalue())
    assert fields(path) == [{"text": text, "label": label} for text, label in rows]


@pytest.mark.parametrize("name", ["tab", "\\t", "\t"])
def test_a_delimiter_may_be_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "rows.csv", "a,b\tlabel\nx,y\tjoy\n")
    assert fields(path, delimiter=name) == [{"a,b": "x,y", "label": "joy"}]


def test_the_line_that_tells_spreadsheets_the_delimiter_is_no_header(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "sep=;\r\ntext;label\r\nOh, dear;joy\r\n")
    (row,) = read_rows(path)
    assert row == Row(3, {"text": "Oh, dear", "label": "joy"}, is_table=True)


def test_a_table_without_a_header_gets_its_names(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.tsv", "Rain again\tsadness\nSun\tjoy\n")
    assert fields(path, header="text, label") == [{"text": "Rain again", "label": "sadness"}, {"text": "Sun", "label": "joy"}]


def test_rows_of_blank_cells_are_left_out_as_blank_lines_are(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "text,label\r\n\r\n,\r\nHi,joy\r\n , \r\n")
    assert fields(path) == [{"text": "Hi", "label": "joy"}]


@pytest.mark.parametrize(
    ("names", "wanted", "found"),
    [
        (["Text", "TEXT", "text"], "text", "text"),
        (["ID", " Text "], "reply|text", " Text "),
        (["Text", "TEXT"], "text", None),
        (["", "text"], "", None),
        (["text", "Reply"], "reply|text", "Reply"),
    ],
)
def test_columns_are_found_whatever_their_case(names: list[str], wanted: str, found: str | None) -> None:
    assert find_column(names, wanted) == found


# ---- quotes


def test_rows_that_a_quote_joins_are_told_in_a_tsv(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.tsv", 'text\tlabel\nfirst\tjoy\n"Who is there\tfear\nNobody"\tjoy\nlast\tjoy\n')
    (found,) = problems(path)
    assert (found.number, found.kind) == (4, "rows joined by a quote")
    assert "a quote that opens in line 3 makes lines 3 to 4 one row" in found.message
    plain = fields(path, quoting="none")
    assert [row["text"] for row in plain] == ["first", '"Who is there', 'Nobody"', "last"]


def test_a_quoted_cell_of_a_tsv_may_hold_line_ends_and_tabs(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.tsv", 'text\tlabel\tid\n"one\ntwo"\tjoy\t1\n"tab\there"\tjoy\t2\n')
    assert [row["text"] for row in fields(path)] == ["one\ntwo", "tab\there"]


# ---- JSON


@given(
    st.lists(st.dictionaries(st.sampled_from(["text", "label"]), words | st.none() | st.floats(allow_nan=False)), min_size=1)
)
@pytest.mark.parametrize("indent", [None, 0, 2])
def test_an_array_is_read_as_its_objects(
    tmp_path_factory: pytest.TempPathFactory, indent: int | None, rows: list[dict[str, object]]
) -> None:
    path = write(tmp_path_factory.mktemp("rows") / "rows.json", "\n " + json.dumps(rows, indent=indent))
    assert fields(path) == rows


def test_objects_over_several_lines_are_read_one_after_the_other(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{\n  "text": "a"\n}\n{\n  "text": "b"\n}\n')
    assert list(read_rows(path)) == [Row(3, {"text": "a"}), Row(6, {"text": "b"})]
    layout = detect_layout(path)
    assert layout is not None
    assert "one JSON document" in layout.notes()[0]


def test_lines_of_an_array_are_those_where_its_objects_end(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.json", '[{"text": "a"},\n {"text":\n  "b"}, 3,\n\n {"text": "c"}]')
    found = list(read_rows(path))
    assert [row.number for row in found] == [1, 3, 3, 5]
    assert isinstance(found[2], Problem)


@pytest.mark.parametrize(
    ("content", "lines", "message"),
    [
        ('[\n{"text": "a"},\n{"text": "b"\n', [4], "the rest is not read"),
        ('[{"text": "a"}\n{"text": "b"}]', [2], "',' or ']' expected"),
        ("[1]\n[2]\n", [1, 1], "after the array stands '[2]'"),
        ("[" * 5000, [1], "broken JSON"),
    ],
)
def test_a_broken_document_is_told_in_few_lines(tmp_path: Path, content: str, lines: list[int], message: str) -> None:
    found = problems(write(tmp_path / "rows.json", content))
    assert [problem.number for problem in found] == lines
    assert message in found[-1].message


@given(st.text(max_size=60), st.sampled_from(["csv", "tsv"]), st.sampled_from(["utf-16", "utf-32", "gb18030", "utf-8"]))
def test_any_text_gives_rows_or_problems_in_any_encoding(
    tmp_path_factory: pytest.TempPathFactory, text: str, ending: str, encoding: str
) -> None:
    content = text.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")
    path = write(tmp_path_factory.mktemp("any") / f"rows.{ending}", content)
    for given_encoding in ("", encoding):
        with contextlib.suppress(DataError):
            assert all(isinstance(row, Row | Problem) for row in read_rows(path, encoding=given_encoding))
