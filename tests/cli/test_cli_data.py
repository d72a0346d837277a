"""`emogen data`."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from emogen.cli.data import data
from emogen.cli.reading import reading_options
from emogen.data.columns import Columns
from emogen.data.exchange import Reading, read_exchanges
from emogen.emotions.labels import GOEMOTIONS, LabelSet
from emogen.errors import DataError, SettingsError

ROWS = "".join(
    json.dumps({"reply": f"Reply {number}", "emotion": ["joy", "fear"][number % 2], "split": "train"}) + "\n"
    for number in range(40)
)


def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(data, arguments, input=stdin)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "cache"))
    (tmp_path / "rows.jsonl").write_text(ROWS)
    return tmp_path


def test_check_of_a_good_file() -> None:
    result = run("check", "rows.jsonl")
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert lines["problems"].split() == ["problems", "0"]
    assert lines["labels"].endswith("fear 20, joy 20")
    assert lines["splits"].endswith("train 40")


def test_check_of_a_bad_file_tells_every_line_and_exits_with_one(folder: Path) -> None:
    (folder / "bad.csv").write_text("text,emotion\nHi,hunger\nHi,joy\nHi\nHi\n")
    result = run("check", "bad.csv", "--labels", "ekman")
    assert result.exit_code == 1
    first, second, *_ = result.stdout.splitlines()
    assert first.startswith("bad.csv:2: emotion 'hunger' is not one of anger")
    assert second.startswith("bad.csv:4-5: 1 cells where the header has 2")


def test_check_as_json(folder: Path) -> None:
    (folder / "bad.jsonl").write_text(ROWS + "{\n")
    result = run("check", "bad.jsonl", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [(problem["line"], problem["kind"]) for problem in found["problems"]] == [(41, "broken JSON")]
    assert found["counts"]["labels"] == {"fear": 20, "joy": 20}
    assert found["kinds"] == [{"kind": "broken JSON", "rows": 1, "line": 41, "last_line": 41}]
    keys = {"path", "problems", "kinds", "counts", "duplicates", "overlap", "single", "notes", "layout", "faults"}
    assert set(found) == keys


def test_check_of_a_thousand_faulty_rows_fits_on_a_screen(folder: Path) -> None:
    labels = ["", ', "label": %d', ', "label": "rage%d"', ', "label": "joy"']
    rows = ["{", *('{"text": "Hi"' + label + "}" for label in labels)]
    lines = [row % number if "%d" in row else row for number in range(200) for row in rows]
    (folder / "bad.jsonl").write_text("\n".join(lines))
    result = run("check", "bad.jsonl", "--labels", "ekman")
    assert result.exit_code == 1
    shown = result.stdout.splitlines()
    assert len(shown) <= 24
    assert sum(line.endswith("and 198 more rows like these, the last in line 998") for line in shown) == 1
    assert sum("more rows like these" in line for line in shown) == 4
    assert "problems     800" in shown
    found = json.loads(run("check", "bad.jsonl", "--labels", "ekman", "--json").stdout)
    assert [(kind["kind"], kind["rows"], kind["line"]) for kind in found["kinds"]] == [
        ("broken JSON", 200, 1),
        ("no such column", 200, 2),
        ("no emotion", 200, 3),
        ("unknown emotion", 200, 4),
    ]


def test_a_way_out_is_told_once(folder: Path) -> None:
    (folder / "bad.csv").write_text("text,label\n" + "".join(f"Hi,0.{number}1\n" for number in range(1, 9)))
    result = run("check", "bad.csv")
    assert result.stdout.count("where numbers stand for classes") == 1
    assert result.stdout.splitlines()[:4] == [
        *(f"bad.csv:{line}: emotion 0.{line - 1}1 is a number, not a name" for line in (2, 3, 4)),
        "bad.csv: and 5 more rows like these, the last in line 9",
    ]


def test_check_tells_layout_and_faults_of_texts(folder: Path) -> None:
    (folder / "rows.csv").write_text('Text;Label\r\n"A &amp; B";joy\r\nlost \ufffd;joy\r\n', encoding="utf-16")
    result = run("check", "rows.csv")
    assert result.exit_code == 0
    assert "layout       the file is in UTF-16" in result.stdout
    assert "layout       cells are separated by ';'" in result.stdout
    assert "texts        1 row holds HTML entities, the first in line 2; pass --fix-text to mend them" in result.stdout
    assert "texts        1 row holds the sign U+FFFD" in result.stdout
    assert "HTML entities" not in run("check", "rows.csv", "--fix-text").stdout
    found = json.loads(run("check", "rows.csv", "--json").stdout)
    assert len(found["layout"]) == 2
    assert [fault["kind"] for fault in found["faults"]] == ["HTML entities", "lost characters"]


def test_many_labels_and_lone_ones_are_cut(folder: Path) -> None:
    (folder / "rows.csv").write_text("text,label\n" + "".join(f"Hi,mood{number}\n" for number in range(300)))
    shown = run("check", "rows.csv").stdout.splitlines()
    assert len(shown) < 30
    assert any(line.endswith(", and 280 labels more") for line in shown)
    assert "single row   and 290 labels more" in shown


def test_check_reads_standard_input() -> None:
    assert run("check", "-", stdin=ROWS).exit_code == 0
    table = "mood\twords\njoy\tHi\njoy\tHo\n"
    result = run("check", "-", "--format", "tsv", "--emotion-column", "mood", "--reply-column", "words", "--json", stdin=table)
    assert json.loads(result.stdout)["counts"]["labels"] == {"joy": 2}


def test_stats_as_text_and_as_json() -> None:
    assert "words        80, 41 distinct" in run("stats", "rows.jsonl").stdout
    found = json.loads(run("stats", "rows.jsonl", "--json").stdout)
    assert (found["words"], found["distinct_words"], found["words_by_label"]) == (80, 41, {"fear": 40, "joy": 40})


def test_output_is_utf8_whatever_the_terminal(folder: Path) -> None:
    (folder / "zh.jsonl").write_text('{"text": "很好", "emotion": "joy"}\n' * 2, encoding="utf-8")
    result = CliRunner(charset="latin-1").invoke(data, ["split", "zh.jsonl", "--out", "-"])
    assert json.loads(result.stdout_bytes.splitlines()[0].decode("utf-8"))["reply"] == "很好"


def test_split_writes_a_file_and_tells_counts_on_stderr(folder: Path) -> None:
    result = run("split", "rows.jsonl", "--out", "out.jsonl.gz", "--valid", "0.2", "--test", "0.2", "--seed", "3")
    assert (result.exit_code, result.stdout) == (0, "")
    found = list(read_exchanges(folder / "out.jsonl.gz"))
    assert len(found) == 40
    counts = {name: sum(row.split == name for row in found) for name in ("train", "valid", "test")}
    assert all(f"{name} {count}" in result.stderr for name, count in counts.items())
    assert result.stderr.startswith("out.jsonl.gz: ")


def test_split_to_standard_output_is_the_same(folder: Path) -> None:
    run("split", "rows.jsonl", "--out", "out.jsonl")
    assert run("split", "rows.jsonl", "--out", "-").stdout == (folder / "out.jsonl").read_text()


def test_split_onto_its_own_file(folder: Path) -> None:
    assert run("split", "rows.jsonl", "--out", "rows.jsonl").exit_code == 0
    assert len(list(read_exchanges(folder / "rows.jsonl"))) == 40


def test_impossible_shares_are_wrong_settings() -> None:
    result = run("split", "rows.jsonl", "--out", "out.jsonl", "--valid", "0.6", "--test", "0.6")
    assert isinstance(result.exception, SettingsError)
    assert run("split", "rows.jsonl", "--out", "out.jsonl", "--valid", "2").exit_code == 2


def test_list_names_licence_home_and_state(folder: Path) -> None:
    rows = json.loads(run("list", "--json").stdout)
    assert [row["name"] for row in rows][:2] == ["starter", "septet"]
    assert next(row for row in rows if row["name"] == "goemotions")["path"] is None
    text = run("list").stdout
    assert "CC BY-NC-SA 4.0" in text
    assert "https://github.com/declare-lab/MELD  (not fetched)" in text


def test_fetch_prints_the_path_and_the_name_then_works(folder: Path) -> None:
    (folder / "raw").mkdir()
    rows = '{"text": "So kind of you", "emotion": ["gratitude", "joy"], "split": "train"}\n'
    (folder / "raw" / "goemotions.jsonl.gz").write_bytes(gzip.compress(rows.encode() * 2))
    result = run("fetch", "goemotions", "--from", "raw")
    assert result.exit_code == 0
    assert Path(result.stdout.strip()) == folder / "cache" / "goemotions.jsonl.gz"
    assert "CC BY 4.0" in result.stderr
    found = json.loads(run("stats", "goemotions", "--json").stdout)
    assert found["counts"]["labels"] == {"gratitude": 2, "joy": 2}
    elsewhere = run("fetch", "goemotions", "--from", "raw", "--to", "there")
    assert Path(elsewhere.stdout.strip()) == Path("there/goemotions.jsonl.gz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "none.jsonl"], "none.jsonl: cannot be read"),
        (["check", "meld"], "fetch it with: emogen data fetch meld"),
        (["stats", "word"], "'word' is neither a file nor a corpus"),
        (["fetch", "word"], "corpus 'word' is not one of starter"),
        (["fetch", "meld", "--from", "."], "neither meld.jsonl.gz nor train_sent_emo.csv"),
    ],
)
def test_mistakes_are_errors_of_one_line(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, DataError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


# ---- reading options


def read_with(*arguments: str) -> Reading:
    found: list[Reading] = []

    @click.command()
    @click.argument("file")
    @reading_options
    @click.option("--steps", type=int, default=1)
    def command(file: str, reading: Reading, steps: int) -> None:
        assert (file, steps) == ("rows", 1)
        found.append(reading)

    result = CliRunner().invoke(command, ["rows", *arguments], standalone_mode=False)
    if result.exception:
        raise result.exception
    return found[0]


def test_reading_options_default_to_those_of_reading() -> None:
    assert read_with() == Reading()


def test_every_reading_option_reaches_its_field() -> None:
    columns = ["--reply-column", "a", "--emotion-column", "b", "--context-column", "c", "--split-column", "d"]
    assert read_with(*columns, "--labels", "goemotions", "--max-words", "9", "--format", "csv") == Reading(
        Columns("a", "b", "c", "d"), GOEMOTIONS, 9, "csv"
    )
    assert read_with("--labels", "warm,cold").labels == LabelSet(("warm", "cold"))
    layout = ["--delimiter", "semicolon", "--encoding", "GB18030", "--header", "text,label", "--quoting", "none"]
    assert read_with(*layout, "--fix-text", "--class-names", "goemotions", "--emotion-columns", "joy,fear") == Reading(
        Columns(emotions="joy,fear"),
        delimiter=";",
        encoding="gb18030",
        header="text,label",
        quoting="none",
        fix_text=True,
        class_names="goemotions",
    )


@pytest.mark.parametrize(
    "arguments",
    [("--delimiter", "ab"), ("--encoding", "utf-9"), ("--class-names", "warm")],
)
def test_impossible_layouts_are_wrong_settings(arguments: tuple[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"allowed|give ekman"):
        read_with(*arguments)


@pytest.mark.parametrize("arguments", [("--max-words", "0"), ("--format", "xml"), ("--quoting", "some")])
def test_impossible_reading_options_are_wrong_usage(arguments: tuple[str, str]) -> None:
    with pytest.raises(click.BadParameter):
        read_with(*arguments)
    with pytest.raises(SettingsError, match="give ekman"):
        read_with("--labels", "warm")


def test_no_model_library_is_imported() -> None:
    code = "import sys, emogen.cli.data; print({'torch', 'transformers', 'sentencepiece'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout.strip() == "set()"
