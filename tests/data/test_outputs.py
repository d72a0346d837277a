"""Texts to score, in files as systems write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emogen.data.outputs import Output, OutputColumns, open_source, read_outputs, records
from emogen.errors import DataError

COLUMNS = OutputColumns(emotion="emotion|label")


def outputs(path: Path, *references: Path, columns: OutputColumns = COLUMNS) -> list[Output]:
    folder = path.parent
    sources = [open_source(str(reference), "", folder) for reference in references]
    return list(read_outputs(open_source(str(path), "", folder), columns, sources))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("out.csv", "TEXT;Emotion\r\nOui, bien sûr;joy\r\n"),
        ("out.tsv", "text\temotion\nOui, bien sûr\t['joy', 'fear']\n"),
        ("out.json", json.dumps([{"text": "Oui, bien sûr", "emotion": "{'joy': 0.7, 'fear': 0.3}"}], indent=1)),
    ],
)
def test_layouts_are_detected(tmp_path: Path, encoding: str, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode(encoding))
    (found,) = outputs(path)
    assert (found.text, found.target) == ("Oui, bien sûr", "joy")


def test_lines_in_utf16_are_read(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_bytes("one\r\n二\r\n".encode("utf-16"))
    assert [row.text for row in outputs(path, columns=OutputColumns())] == ["one", "二"]


@pytest.mark.parametrize("name", ["out.txt", "out.csv"])
def test_another_encoding_is_named_without_options_that_are_not_there(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes("text\n天气很好，我们去公园吧\n".encode("gb18030"))
    with pytest.raises(DataError, match=rf"{name}:2: .* not UTF-8; the file looks like GB18030; save the file as UTF-8$"):
        list(records(open_source(str(path), "", tmp_path)))


def test_references_may_be_a_list_written_out_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("one\ntwo\n")
    (tmp_path / "ref.csv").write_text("reference\n\"['eins', 'uno']\"\n[sighs]\n")
    found = outputs(tmp_path / "out.txt", tmp_path / "ref.csv", columns=OutputColumns())
    assert [row.references for row in found] == [("eins", "uno"), ("[sighs]",)]


@pytest.mark.parametrize("cell", ["nan", "None", "", "[]"])
def test_a_missing_emotion_is_no_emotion(tmp_path: Path, cell: str) -> None:
    (tmp_path / "out.tsv").write_text(f"text\temotion\nHi\t{cell}\n")
    with pytest.raises(DataError, match=r"out\.tsv:2: emotion '.*' is neither a name"):
        outputs(tmp_path / "out.tsv")


def test_one_column_is_not_text_and_emotion(tmp_path: Path) -> None:
    (tmp_path / "out.tsv").write_text("Text\temotion\nHi\tjoy\n")
    with pytest.raises(DataError, match="column 'Text' is read both as text and as emotion; name another"):
        outputs(tmp_path / "out.tsv", columns=OutputColumns(emotion="text"))
