"""Blind sheets: nothing on them tells the systems apart, and scores go back to the right ones."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[2] / "evaluate"))
from blind import main

CONTEXTS = [["I lost my keys ."], ["We won!", "Really?", "Yes!"], ["It rains."]]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    contexts = write(tmp_path / "contexts.jsonl", [{"context": context} for context in CONTEXTS])
    emotions = ["joy", "fear", "joy"]
    systems = []
    for name in ("Good", "Bad"):
        rows = [{"text": f"{name} says {number} .", "emotion": emotion} for number, emotion in enumerate(emotions)]
        systems.append(f"{name}={write(tmp_path / name, rows)}")
    found = CliRunner().invoke(main, ["sheet", str(contexts), *systems, "--folder", str(tmp_path / "out")])
    assert found.exit_code == 0, found.output
    return tmp_path / "out"


def rate(folder, name, ratings):
    key = json.loads((folder / "key.json").read_text())
    return write(
        folder / name, [{"item": item, "fit": ratings[origin["system"]], "emotion": "joy"} for item, origin in key.items()]
    )


def test_each_system_gets_its_own_ratings(folder):
    """Two readers: the mean over both, whatever the order on the sheet."""
    sheet = [json.loads(line) for line in (folder / "sheet.jsonl").read_text().splitlines()]
    key = json.loads((folder / "key.json").read_text())
    for item in sheet:
        for letter, text in item["replies"].items():
            assert text == f"{key[str(item['id']) + letter]['system'].lower()} says {item['id']}."
    readers = [rate(folder, "one", {"Good": 5, "Bad": 1}), rate(folder, "two", {"Good": 4, "Bad": 2})]
    out = folder / "result.json"
    found = CliRunner().invoke(main, ["score", str(folder), *map(str, readers), "--out", str(out)])
    assert found.exit_code == 0, found.output
    content = json.loads(out.read_text())
    assert {row["system"]: (row["fit"], row["fit_interval"]) for row in content["rows"]} == {
        "Good": (4.5, [4.5, 4.5]),
        "Bad": (1.5, [1.5, 1.5]),
    }
    # Read as joy throughout, where two of three were asked for it.
    assert [row["emotion_read"] for row in content["rows"]] == pytest.approx([2 / 3, 2 / 3], abs=1e-5)
    assert len(content["ratings"]) == 12
    assert "says" not in out.read_text()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"item": "9z", "fit": 3}, "1: item '9z' is not on the sheet"),
        ({"item": "0a", "fit": 6}, "1: fit 6 is not a number from 1 to 5"),
        ({"item": "0a", "fit": "good"}, "1: fit 'good' is not a number from 1 to 5"),
    ],
)
def test_ratings_that_cannot_be_are_refused(folder, line, message):
    path = write(folder / "odd", [line])
    found = CliRunner().invoke(main, ["score", str(folder), str(path), "--out", str(folder / "result.json")])
    assert message in str(found.exception)
    assert not (folder / "result.json").exists()
