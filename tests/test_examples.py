"""Every example runs: the demo with seconds for its training, the recipe of the default model on hand-made corpora."""

import importlib.util
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from emogen.checkpoint import load, load_classifier
from emogen.data.exchange import Exchange, read_exchanges, write_exchanges
from emogen.emotions import EKMAN, EMPATHETIC, GOEMOTIONS, blend
from emogen.judges.leak import refuse_leaks

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "data"))
    return tmp_path


def test_the_demo_ends_with_its_table(workplace, capsys):
    example("demo").main(["--vae-minutes", "0.02", "--gan-minutes", "0.02"], standalone_mode=False)
    output = capsys.readouterr().out
    assert [line.split()[0] for line in output.splitlines() if line.startswith(("people", "MLE", "adversarial"))] == [
        "people",
        "MLE",
        "adversarial",
    ]
    assert sum(line.startswith("joy\t") for line in output.splitlines()) == 2
    load(workplace / "checkpoints" / "demo-gan")


def corpus(labels, names, context):
    return [
        Exchange(context, f"{name} word{number} {split} and more of it , isn ' t it", blend([name], labels), split)
        for number in range(12)
        for name in names
        for split in ("train", "valid", "test")
    ]


def test_the_recipe_prepares_disjoint_corpora(workplace):
    recipe = example("default_model")
    data = workplace / "data"
    write_exchanges(data / "goemotions.jsonl.gz", corpus(GOEMOTIONS, ["joy", "grief", "anger"], ()))
    write_exchanges(data / "dailydialog.jsonl.gz", corpus(EKMAN, ["neutral", "fear"], ("Well ?",)))
    write_exchanges(data / "empatheticdialogues.jsonl.gz", corpus(EMPATHETIC, ["proud", "sad"], ("I won .",)))
    result = CliRunner().invoke(recipe.recipe, ["prepare", "--work", str(workplace)], catch_exceptions=False)
    assert result.exit_code == 0
    replies = list(read_exchanges(workplace / "replies.jsonl.gz"))
    judged = {row.reply for row in read_exchanges(workplace / "judge.jsonl.gz")}
    assert judged
    assert not judged & {row.reply for row in replies if row.split == "train"}
    assert all("isn't it" in row.reply for row in replies)
    assert refuse_leaks(workplace / "judge", [workplace / "guide"]) == "none"
    shipping = ["ship-classifier", "--model", str(workplace / "judge"), "--to", str(workplace / "shipped")]
    assert CliRunner().invoke(recipe.recipe, shipping, catch_exceptions=False).exit_code == 0
    _, labels = load_classifier(workplace / "shipped")
    assert labels == EKMAN
    assert refuse_leaks(workplace / "shipped", [workplace / "guide"]) == "none"
    kept, whole = ((workplace / name / "model.safetensors").stat().st_size for name in ("shipped", "judge"))
    assert kept < 0.6 * whole
