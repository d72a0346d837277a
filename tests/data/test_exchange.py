"""Reading and writing exchanges: formats, label sets, and every kind of bad input."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emogen.data.columns import Columns
from emogen.data.exchange import Exchange, Problem, Reading, as_json, infer_labels, read_exchanges, scan, write_exchanges
from emogen.emotions.labels import EKMAN, GOEMOTIONS, Emotion, LabelSet, blend, mixture
from emogen.errors import DataError, EmogenError

JOY = mixture({"joy": 1.0}, EKMAN)

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).map(str.strip).filter(bool)


@st.composite
def mixtures(draw: st.DrawFn, labels: LabelSet = EKMAN) -> Emotion:
    """Any mixture over `labels`."""
    parts = draw(st.lists(st.integers(0, 9), min_size=len(labels), max_size=len(labels)).filter(any))
    return Emotion(labels, tuple(part / sum(parts) for part in parts))


exchanges = st.builds(
    Exchange, st.lists(texts, max_size=3).map(tuple), texts, mixtures(), st.sampled_from(["train", "valid", "test", ""])
)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def only(path: Path, reading: Reading | None = None) -> Exchange:
    (exchange,) = read_exchanges(path, reading)
    return exchange


def problems(path: Path, reading: Reading | None = None) -> list[tuple[int, str]]:
    return [(found.number, found.kind) for found in scan(path, reading) if isinstance(found, Problem)]


# ---- formats


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
@given(rows=st.lists(exchanges, min_size=1, max_size=5))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, name: str, rows: list[Exchange]) -> None:
    path = tmp_path_factory.mktemp("rows") / name
    assert write_exchanges(path, rows) == len(rows)
    assert list(read_exchanges(path, Reading(labels=EKMAN))) == rows


def test_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.jsonl.gz", "two.jsonl.gz"):
        write_exchanges(tmp_path / name, [Exchange((), "So glad!", JOY)])
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()
    # RFC 1952: flags (no name) in byte 3, time in bytes 4 to 7.
    assert (tmp_path / "one.jsonl.gz").read_bytes()[3:8] == bytes(5)


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", "old")
    with pytest.raises(DataError, match="exchange 2 holds half of a surrogate pair"):
        write_exchanges(path, [Exchange((), "Good.", JOY), Exchange((), "\ud83d", JOY)])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(EmogenError, match=r"rows\.jsonl: is no regular file"):
        write_exchanges(tmp_path / "rows.jsonl", [Exchange((), "Good.", JOY)])
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", '{"reply": "Oh, no!", "emotion": "fear", "context": ["Look out", "Now"], "split": "dev"}\n'),
        ("rows.json", '\ufeff{"text": " Oh, no! ", "label": ["fear"], "context": "Look out || Now", "split": "val"}'),
        ("rows.csv", 'text,emotion,context,split\r\n"Oh, no!",fear,Look out||Now,validation\r\n'),
        ("rows.tsv", "\ufefftext\tlabel\tcontext\tsplit\n\nOh, no!\tfear\tLook out||Now\tvalid\n"),
        ("rows.csv", ',text,emotion,context,split\n0,"Oh, no!",fear=1,Look out||Now,valid\n'),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_every_format_gives_the_same_exchange(tmp_path: Path, name: str, content: str, zipped: bool) -> None:
    raw = content.encode()
    path = write(tmp_path / (name + ".gz" * zipped), gzip.compress(raw) if zipped else raw)
    assert only(path) == Exchange(("Look out", "Now"), "Oh, no!", mixture({"fear": 1.0}, EKMAN), "valid")


def test_an_index_column_without_a_name_is_no_context(tmp_path: Path) -> None:
    path = write(tmp_path / "pandas.csv", ",text,emotion\n0,Hello there,joy\n")
    assert only(path) == Exchange((), "Hello there", JOY)


def test_null_is_no_context_and_no_split(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"text": "Hi", "emotion": "joy", "context": null, "split": null}')
    assert only(path) == Exchange((), "Hi", JOY)


def test_a_quoted_cell_may_hold_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", 'text,emotion\n"one\ntwo ""three""",joy\nlast,fear\n')
    lines = [(found[0], found[1].reply) for found in scan(path) if not isinstance(found, Problem)]
    assert lines == [(3, 'one\ntwo "three"'), (4, "last")]


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "utterance,mood,text\nHi,joy,ignored\n")
    assert only(path, Reading(Columns(reply="utterance", emotion="mood"))).reply == "Hi"


def test_standard_input_is_json_lines_and_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO(b'{"text": "Thank you", "emotion": "gratitude"}\n')
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stream))
    (exchange,) = read_exchanges("-")
    assert exchange.emotion == JOY
    assert not stream.closed


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe.jsonl"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=('{"text": "Hi", "emotion": "joy"}\n',))
    writer.start()
    assert only(path) == Exchange((), "Hi", JOY)
    writer.join()


# ---- emotions


@pytest.mark.parametrize(
    ("emotion", "shares"),
    [
        ("joy", {"joy": 1.0}),
        ("joy|fear", {"joy": 0.5, "fear": 0.5}),
        (["joy", "fear"], {"joy": 0.5, "fear": 0.5}),
        ({"joy": 0.75, "fear": 0.25}, {"joy": 0.75, "fear": 0.25}),
        ("joy=0.75,fear=0.25", {"joy": 0.75, "fear": 0.25}),
    ],
)
def test_ways_to_write_an_emotion(tmp_path: Path, emotion: object, shares: dict[str, float]) -> None:
    path = write(tmp_path / "rows.jsonl", json.dumps({"text": "Hi", "emotion": emotion}))
    assert only(path).emotion == mixture(shares, EKMAN)


@pytest.mark.parametrize("emotion", [["gratitude", "fear"], "gratitude,fear", {"gratitude": 0.5, "fear": 0.5}])
def test_fine_labels_become_ekman_when_asked(tmp_path: Path, emotion: object) -> None:
    path = write(tmp_path / "rows.jsonl", json.dumps({"text": "Hi", "emotion": emotion}))
    assert only(path, Reading(labels=EKMAN)).emotion == blend(["joy", "fear"], EKMAN)
    assert only(path, Reading(labels=GOEMOTIONS)).emotion == blend(["gratitude", "fear"], GOEMOTIONS)


def test_labels_are_inferred_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "text,emotion\na,warm\nb,cold|mild\n")
    assert infer_labels(path, Reading()) == LabelSet(("cold", "mild", "warm"))


def test_ekman_is_inferred_where_it_suffices(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "text,emotion\na,joy\n")
    assert infer_labels(path, Reading()) is EKMAN


def test_a_column_of_texts_is_not_taken_for_labels(tmp_path: Path) -> None:
    rows = "".join(f"emotion number {number},text {number}\n" for number in range(1200))
    path = write(tmp_path / "rows.csv", "emotion,text\n" + rows)
    with pytest.raises(DataError, match=r"rows\.csv:1002: column 'emotion' holds more than 1000 emotions"):
        list(read_exchanges(path))


# ---- bad files


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", "holds no rows"),
        ("empty.csv", b"", "holds no rows"),
        ("blank.jsonl", b"\n \n", "holds no rows"),
        ("header.csv", b"text,emotion\n", "holds no rows"),
        ("twice.csv", b"text,emotion,text\na,joy,b\n", "twice.csv:1: the header names the column 'text' twice"),
        ("latin.csv", b"text,\xe9motion\na,joy\n", "latin.csv:1: byte 0xe9 at position 5 is not UTF-8"),
        ("quote.csv", b'"text,emotion\na,joy\n', "quote.csv:2: broken table row"),
        ("mac.csv", b"text,emotion\rHi,joy\r", "mac.csv:1: broken table row .a carriage return alone"),
        ("rows.jsonl.gz", b'{"text": "Hi", "emotion": "joy"}', "cannot be read .Not a gzipped file"),
        ("rows.txt", b"joy\tHi\n", "ending '.txt' is not one of .jsonl, .ndjson, .json, .csv, .tsv"),
        ("rows", b"", "ending '' is not one of"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(read_exchanges(write(tmp_path / name, content)))
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read \(No such file or directory\)"):
        list(read_exchanges(tmp_path / "none.jsonl"))
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match=r"folder\.jsonl: is a folder; give a file"):
        list(read_exchanges(tmp_path / "folder.jsonl"))


@pytest.mark.parametrize("damage", [slice(0, -12), slice(0, 15)])
def test_gzip_cut_short_is_an_error(tmp_path: Path, damage: slice) -> None:
    whole = gzip.compress(b'{"text": "Hi", "emotion": "joy"}\n' * 100)
    with pytest.raises(DataError, match="cannot be read"):
        list(read_exchanges(write(tmp_path / "rows.jsonl.gz", whole[damage])))


def test_gzip_with_broken_blocks_is_an_error(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(bytes(range(256)) * 50))
    whole[10:20] = b"\xff" * 10
    with pytest.raises(DataError, match="cannot be read"):
        list(read_exchanges(write(tmp_path / "rows.jsonl.gz", bytes(whole))))


def test_unknown_format_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'xml' is not one of jsonl, csv, tsv"):
        list(read_exchanges(write(tmp_path / "rows.jsonl", "{}"), Reading(format="xml")))


# ---- bad rows

GOOD = '{"text": "Hi", "emotion": "joy"}'


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"{", "broken JSON"),
        (b"[1, 2]", "broken JSON"),
        (b'{"text": ' + b"9" * 5000 + b"}", "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
        (b'{"text": "caf\xe9", "emotion": "joy"}', "not UTF-8"),
        (b'{"text": "\\ud83d", "emotion": "joy"}', "not UTF-8"),
        (b'{"text": "Hi", "emotion": "joy", "context": ["\\udc00"]}', "not UTF-8"),
        (b'{"text": "", "emotion": "joy"}', "empty reply"),
        (b'{"text": 5, "emotion": "joy"}', "reply is no text"),
        (b'{"words": "Hi", "emotion": "joy"}', "no such column"),
        (b'{"text": "Hi"}', "no such column"),
        (b'{"text": "Hi", "emotion": "hunger"}', "unknown emotion"),
        (b'{"text": "Hi", "emotion": ["joy", "hunger"]}', "unknown emotion"),
        (b'{"text": "Hi", "emotion": 3}', "no emotion"),
        (b'{"text": "Hi", "emotion": []}', "no emotion"),
        (b'{"text": "Hi", "emotion": ["joy", ""]}', "no emotion"),
        (b'{"text": "Hi", "emotion": "\\ud83d"}', "no emotion"),
        (b'{"text": "Hi", "emotion": {"joy": 0.3}}', "no emotion"),
        (b'{"text": "Hi", "emotion": {"joy": 1' + b"0" * 400 + b"}}", "no emotion"),
        (b'{"text": "Hi", "emotion": "joy=0.4"}', "no emotion"),
        (b'{"text": "Hi", "emotion": "joy=x"}', "no emotion"),
        (b'{"text": "Hi", "emotion": "joy", "context": 7}', "context is no text"),
        (b'{"text": "Hi", "emotion": "joy", "context": ["a", ""]}', "empty context"),
        (b'{"text": "Hi", "emotion": "joy", "split": "dress"}', "unknown split"),
        (b'{"text": "Hi", "emotion": "joy", "split": ["train"]}', "unknown split"),
        (b'{"text": "' + b"word " * 10_000 + b'", "emotion": "joy"}', "too long"),
        (b'{"text": "' + "好".encode() * 1001 + b'", "emotion": "joy"}', "too long"),
    ],
)
def test_a_bad_row_is_told_with_its_line_and_the_rest_is_read(tmp_path: Path, line: bytes, kind: str) -> None:
    path = write(tmp_path / "rows.jsonl", GOOD.encode() + b"\n\n" + line + b"\n" + GOOD.encode())
    found = list(scan(path, Reading(labels=EKMAN)))
    assert [part if isinstance(part, Problem) else part[0] for part in found] == [1, found[1], 4]
    assert isinstance(found[1], Problem)
    assert (found[1].number, found[1].kind) == (3, kind)
    assert len(found[1].message) < 400
    with pytest.raises(DataError, match=r"rows\.jsonl:3: "):
        list(read_exchanges(path, Reading(labels=EKMAN)))


def test_an_error_names_value_allowed_values_and_way_out(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "text,emotion\nHi,hunger\n")
    with pytest.raises(DataError) as caught:
        list(read_exchanges(path, Reading(labels=EKMAN)))
    allowed = "anger, disgust, fear, joy, neutral, sadness, surprise"
    way_out = "map it with --map hunger=LABEL, or pass --labels"
    assert str(caught.value) == f"{path}:2: emotion 'hunger' is not one of {allowed}; {way_out}"


def test_wrong_column_names_those_that_are_there(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "text,mood\nHi,joy\n")
    with pytest.raises(DataError, match="no column 'emotion' or 'label', found text, mood; name it with --emotion-column"):
        list(read_exchanges(path))


def test_ragged_rows_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "text,emotion\nOh, dear,fear\nHi,joy\nHi\n\nHi,joy\n")
    assert problems(path) == [(2, "wrong number of cells"), (4, "wrong number of cells")]


def test_a_quote_left_open_does_not_swallow_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", 'emotion,text\njoy,"Hi\njoy,there\njoy,again\n')
    (found,) = scan(path)
    assert isinstance(found, Problem)
    assert found.number == 4
    assert "the row begins in line 2: a quote left open?" in found.message


def test_text_behind_a_quoted_cell_is_told_and_reading_goes_on(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.tsv", 'text\temotion\n"Hi" she said\tjoy\nHello\tjoy\n')
    assert problems(path) == [(2, "broken table row")]
    assert sum(not isinstance(found, Problem) for found in scan(path)) == 1


def test_bytes_that_are_not_utf8_are_told_in_tables_too(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", b"text,emotion\ncaf\xe9,joy\nHi,joy\n\xff\n")
    assert problems(path) == [(2, "not UTF-8"), (4, "not UTF-8")]


# ---- structure in cells


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("cell", "shares"),
    [
        ("['fear', 'joy']", {"fear": 0.5, "joy": 0.5}),
        ('["sadness"]', {"sadness": 1.0}),
        ("['anger' 'fear']", {"anger": 0.5, "fear": 0.5}),
        ("('joy',)", {"joy": 1.0}),
        ("{'fear'}", {"fear": 1.0}),
        ("[joy, anger]", {"joy": 0.5, "anger": 0.5}),
        ("{'joy': 0.25, 'fear': 0.75}", {"joy": 0.25, "fear": 0.75}),
        ('{"anger": 1}', {"anger": 1.0}),
        ("joy; fear", {"joy": 0.5, "fear": 0.5}),
        ("joy，fear、anger；disgust", {"joy": 0.25, "fear": 0.25, "anger": 0.25, "disgust": 0.25}),
    ],
)
def test_a_list_or_table_written_out_is_several_labels(
    tmp_path: Path, ending: str, cell: str, shares: dict[str, float]
) -> None:
    path = table(tmp_path / f"rows.{ending}", [{"text": "Hi", "label": cell}])
    assert only(path).emotion == mixture(shares, EKMAN)


def table(path: Path, rows: list[dict[str, str]]) -> Path:
    """JSON lines or a table of Python's own writer, as the name says."""
    with path.open("w", newline="", encoding="utf-8") as handle:
        if path.suffix == ".jsonl":
            handle.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(handle, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("cell", ["[]", "['joy'", "[['joy']]", "{'joy': 'much'}", "[None]", '["joy", 3', "[joy} "])
def test_other_structure_is_no_label(tmp_path: Path, cell: str) -> None:
    path = table(tmp_path / "rows.csv", [{"text": "Hi", "label": cell}])
    assert [kind for _, kind in problems(path)] == ["no emotion"]
    assert infer_labels(path, Reading()) is EKMAN


@pytest.mark.parametrize("cell", ["nan", "NaN", "NULL", "None", "N/A", "<NA>", " null ", "#N/A"])
def test_missing_values_of_tables_are_told_as_such(tmp_path: Path, cell: str) -> None:
    """The words that pandas reads as missing, from its page on `read_csv`."""
    rows = [{"text": cell, "label": "joy"}, {"text": "Hi", "label": cell}]
    path = table(tmp_path / "rows.csv", rows)
    assert problems(path) == [(2, "empty reply"), (3, "missing emotion")]
    with pytest.raises(DataError, match=f"the reply is missing, written '{cell}'; fill it in"):
        list(read_exchanges(path))
    # JSON has null, so that a text there is a text.
    assert problems(table(tmp_path / "rows.jsonl", rows)) == [(2, "missing emotion")]


def test_missing_context_and_split_of_a_table_are_none(tmp_path: Path) -> None:
    path = table(tmp_path / "rows.tsv", [{"text": "Hi", "label": "joy", "context": "NaN", "split": "nan"}])
    assert only(path) == Exchange((), "Hi", JOY)


def test_null_is_missing(tmp_path: Path) -> None:
    lines = ('{"text": "Hi", "label": null}', '{"text": "Hi", "label": NaN}', '{"text": null, "label": "joy"}')
    path = write(tmp_path / "rows.jsonl", "\n".join(lines))
    assert problems(path) == [(1, "missing emotion"), (2, "missing emotion"), (3, "empty reply")]


def test_a_context_may_be_a_list_written_out(tmp_path: Path) -> None:
    rows = [{"text": "Hi", "label": "joy", "context": context} for context in ("['One', 'two || three']", "[sighs] || Oh")]
    found = list(read_exchanges(table(tmp_path / "rows.csv", rows)))
    assert [row.context for row in found] == [("One", "two || three"), ("[sighs]", "Oh")]


def test_a_list_written_out_is_no_reply(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "joy"} for text in ("['One', 'two']", "[laughs]", "(well)", "{}", "3", "[1]")]
    path = table(tmp_path / "rows.csv", rows)
    assert problems(path) == [(2, "reply is no text"), (5, "reply is no text"), (7, "reply is no text")]


@pytest.mark.parametrize("values", [["0.31", "-2", "1e-3"], ["1", "2", "10"]])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_numbers_are_no_labels(tmp_path: Path, values: list[str], ending: str) -> None:
    rows = [{"text": "Hi", "label": json.loads(value) if ending == "jsonl" else value} for value in values]
    path = table(tmp_path / f"rows.{ending}", rows)
    assert infer_labels(path, Reading()) is EKMAN
    assert [kind for _, kind in problems(path)] == ["no emotion"] * 3
    with pytest.raises(DataError, match=r"is a number, not a name; where numbers stand for classes, name them"):
        list(read_exchanges(path))


def test_numbers_are_labels_where_the_user_says_so(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": [0, 1]}\n{"text": "c", "label": 0.0}'
    )
    digits = LabelSet(("0", "1"))
    assert [row.emotion.weights for row in read_exchanges(path, Reading(labels=digits))] == [(0, 1), (0.5, 0.5), (1, 0)]


def test_numbers_of_classes_get_the_classes_names(tmp_path: Path) -> None:
    # Row 17 of GoEmotions' emotions.txt, counted from 0, is joy; 27 is neutral.
    path = write(tmp_path / "rows.csv", "text,labels\na,[17]\nb,[27 17]\nc,2\n")
    reading = Reading(Columns(emotion="labels"), class_names="goemotions")
    first, second, third = read_exchanges(path, reading)
    assert (first.emotion.name, third.emotion.name) == ("joy", "anger")
    assert second.emotion == blend(["neutral", "joy"], EKMAN)
    other = Reading(Columns(emotion="labels"), class_names="warm,cold,mild")
    assert problems(path, other) == [(2, "no emotion"), (3, "no emotion")]
    assert infer_labels(path, other) == LabelSet(("mild",))
    with pytest.raises(DataError, match=r"rows\.csv:2: emotion 17 is not one of the numbers 0 to 2 of --class-names"):
        list(read_exchanges(path, other))


# ---- one column an emotion

ONE_HOT = "ID\tTweet\tanger\tFear\tjoy\n1\tSun\t0\t0\t1\n2\tHelp\t1\t1.0\t0\n3\tHm\t0\t0\t0\n4\tOh\t0\t2\t0\n"


def test_columns_of_zeros_and_ones_are_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.tsv", ONE_HOT)
    reading = Reading(Columns(reply="tweet", emotions="anger, fear,joy"), labels=LabelSet(("anger", "Fear", "joy")))
    good = [found[1].emotion.weights for found in scan(path, reading) if not isinstance(found, Problem)]
    assert good == [(0, 0, 1), (0.5, 0.5, 0)]
    assert problems(path, reading) == [(4, "missing emotion"), (5, "no emotion")]
    assert infer_labels(path, Reading(Columns(reply="tweet", emotions="joy"))) is EKMAN


def test_columns_of_zeros_and_ones_are_proposed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name them with --reply-column Tweet and --emotion-columns anger,Fear,joy"):
        list(read_exchanges(write(tmp_path / "rows.tsv", ONE_HOT)))
    with pytest.raises(DataError, match="no column 'hope', found ID, Tweet, anger, Fear, joy; name it with --emotion-columns"):
        list(read_exchanges(tmp_path / "rows.tsv", Reading(Columns(reply="Tweet", emotions="joy,hope"))))


# ---- columns


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            Columns(reply="b", emotion="context"),
            "'context' is read both as emotion and as context; .* with --context-column ''",
        ),
        (Columns(reply="b", emotion="B"), "'b' is read both as reply and as emotion; name another with --emotion-column"),
        (Columns(reply="b", emotion="a", split="a"), "'a' is read both as emotion and as split; .*none with --split-column ''"),
        (Columns(reply="b", emotions="a,b"), "'b' is read both as reply and as emotion"),
    ],
)
def test_one_column_is_not_two_things(tmp_path: Path, columns: Columns, message: str) -> None:
    path = write(tmp_path / "rows.csv", "context,b,a\njoy,Hi,joy\n")
    with pytest.raises(DataError, match=message):
        list(read_exchanges(path, Reading(columns)))


def test_no_column_is_read_for_an_empty_name(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", ",context,b\n7,joy,Hi\n")
    assert only(path, Reading(Columns(reply="b", emotion="context", context=""))) == Exchange((), "Hi", JOY)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("Utterance,EMOTIONS", "--reply-column Utterance and --emotion-column EMOTIONS"),
        ("It was a long day today,sadness", "has no header, name its columns, as in --header text,label"),
        ("今天真的太开心了,开心", "has no header, name its columns"),
        ("prompt,chosen,rejected", "pairs of a better and a worse reply are read by emogen train-feedback"),
        (",".join(f"c{place}" for place in range(30)), "c19, and 10 more; name them with"),
    ],
)
def test_missing_columns_are_told_with_a_way_out(tmp_path: Path, header: str, message: str) -> None:
    path = write(tmp_path / "rows.csv", f"{header}\n{','.join('x' for _ in header.split(','))}\n")
    with pytest.raises(DataError, match=message):
        list(read_exchanges(path))


@pytest.mark.parametrize(
    ("name", "split"), [("Train", "train"), ("DEV", "valid"), ("testing", "test"), (" validation ", "valid")]
)
def test_splits_have_their_usual_names(tmp_path: Path, name: str, split: str) -> None:
    assert only(table(tmp_path / "rows.csv", [{"Text": "Hi", "LABEL": "joy", "Split": name}])).split == split


# ---- other faults of files


def test_rows_that_a_quote_joins_are_told_in_a_csv_by_their_emotions(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", 'text,label\n"Not again,fear\nSun,joy\nOh no",anger\n"Hi, all\nbye, all",joy\n')
    assert problems(path) == [(4, "rows joined by a quote")]
    assert problems(path, Reading(quoting="none")) == [(6, "wrong number of cells")]


def test_texts_are_fixed_when_asked(tmp_path: Path) -> None:
    row = {"text": "It\u00e2\u20ac\u2122s R&amp;D\\nnow", "label": "joy", "context": "caf&eacute;"}
    path = table(tmp_path / "rows.jsonl", [row])
    assert only(path).reply == row["text"]
    assert only(path, Reading(fix_text=True)) == Exchange(("café",), "It’s R&D\nnow", JOY)


def test_file_options_reach_the_reader(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.txt", 'Où;fear\n"Hé;joy\n'.encode("latin-1"))
    reading = Reading(format="csv", delimiter=";", encoding="latin-1", header="text,label", quoting="none")
    assert [row.reply for row in read_exchanges(path, reading)] == ["Où", '"Hé']


@given(st.binary(max_size=200), st.sampled_from(["jsonl", "csv", "tsv"]))
def test_no_bytes_raise_anything_but_a_data_error(tmp_path_factory: pytest.TempPathFactory, content: bytes, kind: str) -> None:
    path = write(tmp_path_factory.mktemp("any") / f"rows.{kind}", content)
    with contextlib.suppress(DataError):
        assert list(scan(path))


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(json_values)
def test_any_json_value_is_an_exchange_or_a_problem(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    row = {"text": value, "emotion": value, "context": value, "split": value}
    path = write(tmp_path_factory.mktemp("any") / "rows.jsonl", json.dumps(row))
    (found,) = scan(path, Reading(labels=EKMAN))
    assert isinstance(found, Problem)


def test_reading_and_writing_hold_a_row_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    rows = (Exchange((f"{number} " * 200,), f"{number}" * 200, JOY) for number in range(4000))
    tracemalloc.start()
    write_exchanges(path, rows)
    assert sum(1 for _ in read_exchanges(path)) == 4000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(gzip.decompress(path.read_bytes())) > 5 << 20
    assert peak < 1 << 20


@given(exchanges)
def test_json_of_an_exchange_is_one_line(exchange: Exchange) -> None:
    assert "\n" not in as_json(exchange)


def test_json_lines_are_not_written_under_a_table_s_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name the file"):
        write_exchanges(tmp_path / "rows.csv.gz", [Exchange((), "Good.", JOY)])
