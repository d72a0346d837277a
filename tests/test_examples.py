"""Every example runs: the demo with seconds for its training, the recipe of the default model on hand-made corpora."""

import dataclasses
import importlib.util
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import TINY

from emogen.checkpoint import load, load_classifier
from emogen.data.exchange import Exchange, Reading, read_exchanges, write_exchanges
from emogen.data.fingerprints import fingerprint, write_fingerprints
from emogen.emotions import EKMAN, EMPATHETIC, GOEMOTIONS, blend
from emogen.errors import EmogenError
from emogen.evaluate import Score
from emogen.judges.leak import refuse_leaks
from emogen.train.config import LmSettings
from emogen.train.fit import fit_lm

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


def test_the_demo_ends_with_texts_a_table_and_a_page(workplace, capsys):
    """Where no command looks for a model, so that what a user does next is not written by the demo's."""
    small = ["--vae-steps", "2", "--gan-steps", "22", "--minutes", "1", "--rows", "14"]
    example("demo").main(small, standalone_mode=False)
    output = capsys.readouterr().out
    for name in ("people", "start", "VAE", "adversarial"):
        assert sum(line.startswith(f"{name} ") for line in output.splitlines()) == 1
    assert sum(line.startswith("joy ") for line in output.splitlines()) == 2
    page = (workplace / "runs" / "demo" / "demo.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 1
    assert page.count("<th>") == 3 + len(EKMAN)
    assert (workplace / "runs" / "demo" / "demo.png").stat().st_size > 10_000
    load(workplace / "runs" / "demo" / "gan")
    assert not (workplace / "checkpoints").exists()


def test_a_demo_at_chance_fails():
    demo = example("demo")
    high, low = Score(0.5, 0.4, 0.6, "signature"), Score(0.2, 0.1, 0.3, "signature")
    demo.require_above_chance({"VAE": high})
    with pytest.raises(EmogenError, match=r"VAE: emotion accuracy 0\.20 \(0\.10 to 0\.30\) is not above chance, 0\.14"):
        demo.require_above_chance({"VAE": low})


def corpus(labels, names, context):
    return [
        Exchange(context, f"{name} word{number} {split} and more of it , isn ' t it", blend([name], labels), split)
        for number in range(12)
        for name in names
        for split in ("train", "valid", "test")
    ]


def test_the_adapters_recipe_prepares_ships_and_writes(workplace, tiny_base, tmp_path_factory):
    """With a small base and a small guide: rare emotions are repeated, made texts are new to the judge and to each other."""
    example("default_model")
    recipe = example("smollm2_adapter")
    recipe.GUIDE = dataclasses.replace(recipe.GUIDE, backbone="ngrams", epochs=2)
    recipe.LEAST_LIKELY = recipe.LEAST_SURE = 0.0
    recipe.LEAST_ROWS, recipe.MOST_ROWS = 20, 60
    data = workplace / "data"
    write_exchanges(data / "goemotions.jsonl.gz", corpus(GOEMOTIONS, list(GOEMOTIONS.names), ()))
    write_exchanges(data / "dailydialog.jsonl.gz", corpus(EKMAN, list(EKMAN.names), ("Well ?",)))
    write_exchanges(data / "empatheticdialogues.jsonl.gz", corpus(EMPATHETIC, ["proud", "sad"], ("I won .",)))
    invoke = partial(CliRunner().invoke, recipe.recipe, catch_exceptions=False)
    guard = workplace / "judge"
    texts = (f"joy word{number} train and more of it, isn't it" for number in range(12))
    judged = next(text for text in texts if recipe.share_of(text) >= recipe.JUDGE_SHARE)
    write_fingerprints(guard, [fingerprint(judged)])
    assert invoke(["prepare", "--work", str(workplace), "--judge", str(guard)]).exit_code == 0
    rows = [row for row in read_exchanges(workplace / "adapter.jsonl.gz") if row.split == "train"]
    counts = Counter(row.reply for row in rows)
    assert 1 < max(counts.values()) <= recipe.MOST_COPIES
    assert judged not in counts
    settings = LmSettings(
        **TINY | {"steps": 2, "backbone": f"hf:{tiny_base}", "out": str(workplace / "lm"), "context_tokens": 20}
    )
    fit_lm([str(workplace / "adapter.jsonl.gz")], Reading(labels=EKMAN), settings)
    assert invoke(["ship", "--work", str(workplace), "--model", "lm", "--to", "shipped"]).exit_code == 0
    judge = ["--judge", str(workplace / "adapter-guide")]
    assert invoke(["make", "--work", str(workplace), "--writer", "shipped", "--count", "30", *judge]).exit_code == 0
    made = list(read_exchanges(workplace / "made.jsonl.gz"))
    assert len({fingerprint(row.reply) for row in made}) == len(made)
    assert {row.split for row in made} <= {"train"}


def test_the_recipe_prepares_the_recognisers_rows(workplace):
    """First utterances alone, without the feelings that stand between families; half of the neutral training rows."""
    recipe = example("default_model")
    talk = [*corpus(EMPATHETIC, ["sad", "jealous"], ()), *corpus(EMPATHETIC, ["angry"], ("Why ?",))]
    write_exchanges(workplace / "all" / "empatheticdialogues.jsonl.gz", talk)
    for name in ("dailydialog", "dailydialog_zh"):
        write_exchanges(workplace / "data" / f"{name}.jsonl.gz", corpus(EKMAN, ["neutral", "fear"], ("Well ?",)))
    arguments = ["prepare-recognizer", "--work", str(workplace)]
    assert CliRunner().invoke(recipe.recipe, arguments, catch_exceptions=False).exit_code == 0
    openings = list(read_exchanges(workplace / "openings.jsonl.gz"))
    assert {row.emotion.name for row in openings} == {"sad"}
    assert len(openings) == 36
    for name in ("dailydialog", "dailydialog_zh"):
        rows = Counter((row.emotion.name, row.split) for row in read_exchanges(workplace / f"{name}.jsonl.gz"))
        assert {rows[key] for key in rows if key != ("neutral", "train")} == {12}
        assert 0 < rows["neutral", "train"] < 12


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


NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_help_starts_nothing(name, monkeypatch):
    """No server, no training, no download: the usage and nothing else."""
    pytest.importorskip("gradio" if name == "gradio_chat" else "langchain_core" if name == "langchain_model" else "click")
    module = example(name)
    command = getattr(module, "recipe", None) or module.main
    monkeypatch.setattr("emogen.load", lambda *_, **__: pytest.fail("a model is loaded"))
    shown = CliRunner().invoke(command, ["--help"])
    assert shown.exit_code == 0
    assert shown.output.startswith("Usage: ")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("customer_service", ["--checkpoint", "nowhere"]),
        ("evaluate_another_model", ["--model", "nowhere"]),
        ("gradio_chat", ["--checkpoint", "nowhere"]),
        ("own_data", ["nowhere.csv"]),
    ],
)
def test_a_mistake_in_an_example_is_one_line(name, arguments, workplace, monkeypatch, capsys):
    if name == "gradio_chat":
        pytest.importorskip("gradio")
    module = example(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        module.run(module.main, f"{name}.py")
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{name}.py: nowhere")
