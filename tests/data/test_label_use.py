"""Labels of the wild: joined spellings, other words, --map, --skip-blank, and messages that name every unknown label once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emogen.data.check import check_file, stats
from emogen.data.exchange import Reading, infer_labels, read_exchanges
from emogen.data.label_use import LabelUse
from emogen.emotions.labels import EKMAN, GOEMOTIONS, LabelSet
from emogen.errors import DataError
from emogen.train.config import RunConfig
from emogen.train.run.folder import run_manifest, saved_data, write_train_file


@pytest.fixture
def table(tmp_path: Path):
    """Writes rows of text and label; gives the file."""

    def write(*rows: tuple[str, str], name: str = "rows.tsv") -> Path:
        path = tmp_path / name
        path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")
        return path

    return write


def labels_in(path: Path, reading: Reading | None = None) -> list[str]:
    return [str(exchange.emotion) for exchange in read_exchanges(path, reading)]


def test_spellings_of_a_label_are_one_label_and_are_told(table) -> None:
    path = table(("a", "Warm"), ("b", "warm"), ("c", "Warm"), ("d", "WARM"), ("e", "cold"))
    assert infer_labels(path, Reading()) == LabelSet(("Warm", "cold"))
    report = check_file(path)
    assert report.counts.labels == {"Warm": 4, "cold": 1}
    assert report.notes == ("label 'Warm' is also read from 'WARM' 1, 'warm' 1 (2 rows)",)
    assert stats(path).notes == report.notes


def test_ekman_in_capitals_is_ekman(table) -> None:
    path = table(("a", "Joy"), ("b", "SADNESS"), ("c", "joy"))
    assert infer_labels(path, Reading()) == EKMAN
    assert labels_in(path) == ["joy", "sadness", "joy"]


def test_two_words_for_one_emotion_stay_two_labels_with_a_hint(table) -> None:
    path = table(("a", "happy"), ("b", "joyful"), ("c", "calm"))
    assert infer_labels(path, Reading()) == LabelSet(("calm", "happy", "joyful"))
    assert check_file(path).notes == ("labels 'happy' and 'joyful' mean the same; join them with --map joyful=happy",)


def test_labels_of_the_wild_are_ekmans(table) -> None:
    path = table(*enumerate(["Angry", "ANGRY", "生气", "happy", "伤心", "Scared", "disgusting", "grateful"]))
    reading = Reading(labels=EKMAN)
    assert labels_in(path, reading) == ["anger", "anger", "anger", "joy", "sadness", "fear", "disgust", "joy"]
    assert labels_in(path, Reading(labels=GOEMOTIONS))[-1] == "gratitude"
    assert "label 'anger' is also read from 'ANGRY' 1, 'Angry' 1, '生气' 1 (3 rows)" in check_file(path, reading).notes


def test_map_goes_before_all_else(table) -> None:
    path = table(("a", "none"), ("b", "Upbeat"), ("c", "upbeat"), ("d", "joy"), ("e", "none"))
    renames = (("none", "neutral"), ("UPBEAT", "joy"), ("gone", "fear"))
    assert infer_labels(path, Reading(renames=renames)) == EKMAN
    assert labels_in(path, Reading(renames=renames)) == ["neutral", "joy", "joy", "joy", "neutral"]
    assert check_file(path, Reading(renames=renames)).notes[-1] == "--map gone=fear: no row has the label 'gone'"


def test_rows_without_text_or_label_are_left_out_when_asked(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [("a", "joy"), ("", "joy"), ("b", ""), ("c", None), (None, "joy"), ("d", []), (" ", "joy"), ("e", "fear")]
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    report = check_file(path, Reading(skip_blank=True))
    assert (report.problems, report.counts.rows) == ((), 2)
    assert report.notes == ("6 rows without a text or a label left out",)
    messages = {finding.message for finding in check_file(path).problems}
    assert "the emotion is empty; fill it in, or pass --skip-blank" in messages
    assert "the reply is empty; fill it in, or pass --skip-blank" in messages


def test_a_column_that_is_missing_is_not_blank(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n')
    assert [finding.kind for finding in check_file(path, Reading(skip_blank=True)).problems] == ["no such column"]


def test_nothing_but_blanks(table) -> None:
    with pytest.raises(DataError, match="none of its 2 rows has both a text and a label"):
        list(read_exchanges(table(("a", ""), ("", "joy")), Reading(skip_blank=True)))


def test_every_unknown_label_is_one_finding(table) -> None:
    path = table(("a", "peckish"), ("b", "joy"), ("c", "sadnes"), ("d", "peckish"), ("e", "peckish"))
    report = check_file(path, Reading(labels=EKMAN))
    assert [(finding.line, finding.last_line, finding.rows) for finding in report.problems] == [(2, 6, 3), (4, 4, 1)]
    assert "'peckish' is not one of anger" in report.problems[0].message
    assert "(did you mean sadness?); map it with --map sadnes=LABEL" in report.problems[1].message


def test_an_unknown_label_ends_reading_with_all_of_them(table) -> None:
    path = table(("a", "peckish"), ("b", "joy"), ("c", "sadnes"), ("d", "peckish"))
    with pytest.raises(DataError) as caught:
        list(read_exchanges(path, Reading(labels=EKMAN)))
    found = "'peckish' in 2 rows from line 2 on, 'sadnes' in 1 row from line 4 on (did you mean sadness?)"
    assert str(caught.value) == (
        f"{path}: 2 names are not one of {', '.join(EKMAN.names)}: {found}; map each with --map NAME=LABEL, or pass --labels"
    )


def test_a_hundred_unknown_labels_are_ten_and_a_number() -> None:
    use = LabelUse()
    for number in range(100):
        use.add([f"label {number}"], number)
    message = use.refusal("rows.csv", EKMAN)
    assert message.count("label ") == 10
    assert " and 90 more; map each" in message


def test_reserved_words_as_labels_are_told(table) -> None:
    path = table(("a", "none"), ("b", "Auto"), ("c", "warm"))
    assert check_file(path).notes == (
        "label 'none' goes before the word none for no emotion, wherever an emotion is asked for",
        "label 'Auto' goes before the word auto for the policy's answer, wherever an emotion is asked for",
    )
    assert not check_file(table(("a", "warm"), ("b", "cold"), name="plain.tsv")).notes


def test_a_resumed_run_reads_as_it_did(tmp_path) -> None:
    reading = Reading(labels=EKMAN, renames=(("none", "neutral"), ("谢", "joy")), skip_blank=True)
    write_train_file(tmp_path, run_manifest("train-lm", ["rows.csv"], reading, RunConfig()))
    assert saved_data(tmp_path) == (("rows.csv",), reading)


# ---- the command line


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["happy"], "--map happy: write NAME=LABEL, or the path of a TOML file with a table [map]"),
        (["a=b=c"], "--map a=b=c: 'b=c' is no name of an emotion; write --map happy=joy"),
        (["=joy"], "--map =joy: '' is no name of an emotion; write --map happy=joy"),
        (["up=joy", "up=fear"], "--map up=fear: 'up' is read as 'joy' already; give one label for it"),
        (["up=jooy"], "--map up=jooy: emotion 'jooy' is not one of anger"),
        (["gone.toml"], "gone.toml: cannot be read as TOML"),
        (["empty.toml"], "--map empty.toml: has no table [map]"),
        (["bad.toml"], "bad.toml: map is no table of names and labels"),
    ],
)
def test_a_map_that_is_none(refusal, tmp_path, monkeypatch, table, given, message) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.toml").write_text("steps = 3\n")
    Path("bad.toml").write_text("[map]\nhappy = 3\n")
    table(("a", "joy"))
    status, line = refusal(
        "data", "check", "rows.tsv", "--labels", "ekman", *[part for each in given for part in ("--map", each)]
    )
    assert (status, line[: len(message)]) == (2, message)


def test_map_and_skip_blank_on_the_command_line(emogen, tmp_path, table) -> None:
    (tmp_path / "names.toml").write_text('[map]\n"à plat" = "sadness"\nUp = "Happy"\n', encoding="utf-8")
    path = table(("a", "à plat"), ("b", "up"), ("c", ""), ("d", "ok"), ("e", "ok"), ("f", "à plat"), ("g", "joy"))
    options = ("--labels", "ekman", "--map", tmp_path / "names.toml", "--map", "ok=neutral", "--skip-blank")
    status, out, err = emogen("data", "split", path, "--out", "-", *options)
    assert status == 0
    assert [json.loads(line)["emotion"] for line in out.splitlines()] == [
        *("sadness", "joy", "neutral"),
        *("neutral", "sadness", "joy"),
    ]
    assert "emogen: note: 1 row without a text or a label left out\n" in err
    status, out, _ = emogen("data", "check", path, *options)
    assert status == 0
    assert "label 'joy' is also read from 'up' 1 (1 row)" in out


def test_one_line_for_each_unknown_label(emogen, table) -> None:
    path = table(*[(number, ("peckish", "joy", "drowsy")[number % 3]) for number in range(30)])
    status, out, _ = emogen("data", "check", path, "--labels", "ekman")
    lines = [line for line in out.splitlines() if "is not one of" in line]
    assert status == 1
    assert len(lines) == 2
    assert lines[0].startswith(f"{path}:2: emotion 'peckish'")
    assert lines[1].startswith(f"{path}:4: emotion 'drowsy'")
    assert all(line.endswith("(10 rows)") for line in lines)
