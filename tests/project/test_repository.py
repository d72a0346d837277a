"""What must hold of the tree itself."""

import configparser
import json
import re
from pathlib import Path

import pytest

from emogen.checkpoint.finding import shipped_folder
from emogen.checkpoint.model import load
from emogen.evaluate import Score
from emogen.evaluate.report import write_result

TOP = Path(__file__).parents[2]
PAGES = [path for folder in (".", "docs", "evaluate", "checkpoints") for path in (TOP / folder).glob("*.md")]
MEGABYTE = 1_000_000


def test_the_benchmarks_are_no_package():
    """A top-level package `evaluate` would hide Hugging Face's for everybody in this folder."""
    assert not (TOP / "evaluate" / "__init__.py").exists()


def test_every_package_ships():
    """`setup.cfg` lists packages by hand; one that it lacks is missing from what is installed."""
    listed = configparser.ConfigParser()
    listed.read(TOP / "setup.cfg")
    folders = [path.parent.relative_to(TOP) for path in (TOP / "emogen").rglob("__init__.py")]
    assert {".".join(folder.parts) for folder in folders} <= set(listed["options"]["packages"].split())


def test_script_names_are_unique():
    names = [path.name for folder in ("evaluate", "examples", "tests") for path in (TOP / folder).glob("*.py")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages_tell_the_right_distribution_and_link_to_what_is_there(page):
    """`emogen` on the package index is somebody else's."""
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"pip install (-U )?emogen\b(?!-toolkit)", text)
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), link


def test_the_default_model_is_small_and_ships_with_its_card():
    folder = shipped_folder("default")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 25 * MEGABYTE
    assert "licen" in (folder / "README.md").read_text(encoding="utf-8").lower()
    assert load(folder).labels.names == ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")


@pytest.mark.parametrize("path", sorted((TOP / "evaluate" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_committed_results_have_the_common_shape(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert set(content) >= {"benchmark", "command", "versions", "machine", "data", "rows"}
    assert content["benchmark"] == path.stem
    assert all({"system", "seed"} <= set(row) for row in content["rows"])
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in content["data"].values())


def test_results_hold_intervals_and_hashes(tmp_path):
    data = tmp_path / "rows.txt"
    data.write_text("abc")
    rows = [{"system": "ours", "seed": 3, "bleu": Score(0.5, 0.4, 0.6, "bleu|v:1")}]
    write_result(tmp_path / "toy.json", "python toy.py", [data], rows)
    content = json.loads((tmp_path / "toy.json").read_text())
    assert content["rows"] == [{"system": "ours", "seed": 3, "bleu": 0.5, "bleu_interval": [0.4, 0.6]}]
    # NIST's test vector of SHA-256 for "abc".
    assert content["data"] == {"rows.txt": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
