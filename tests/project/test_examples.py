"""Every example runs: the demo with a few updates, the recipe of the default model on hand-made corpora."""

import dataclasses
import importlib.util
import re
import runpy
import sys
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import TINY

from emogen.checkpoint.model import load_classifier
from emogen.data.exchange import Exchange, Reading, read_exchanges, write_exchanges
from emogen.data.fingerprints import fingerprint, write_fingerprints
from emogen.emotions.labels import EKMAN, EMPATHETIC, GOEMOTIONS, blend
from emogen.errors import CheckpointError, SettingsError
from emogen.recognition.leak import refuse_leaks
from emogen.train.config import LmSettings
from emogen.train.fit import fit_lm
from emogen.train.run.folder import read_train_file

EXAMPLES = Path(__file__).parents[2] / "examples"


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


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return example("demo")


def demo_of_seconds(*more):
    return ["--vae-steps", "1", "--gan-steps", "2", "--out", "there", *more]


def test_the_demo_shows_its_models_before_and_after_and_leaves_the_default_alone(demo, workplace, monkeypatch, capsys):
    """From the default model, with few rows: an update leaves it as good as it was, far above chance."""
    groups = defaultdict(list)
    for row in demo.english_rows():
        groups[row.split, row.emotion.name].append(row)
    monkeypatch.setattr(demo, "english_rows", lambda *splits: [row for rows in groups.values() for row in rows[:2]])
    monkeypatch.setattr(demo, "TEMPERATURES", (demo.READING.temperature, 1.0))
    demo.main(demo_of_seconds(), standalone_mode=False)
    output = capsys.readouterr().out
    for model in ("start", "VAE", "adversarial"):
        lines = [line[10:] for line in output.splitlines() if line[12:].startswith(f"{model} ")]
        assert len(lines) == len(EKMAN.names)
        assert all(line.removeprefix(f"  {model}").strip() for line in lines)
    table = output[output.index("emotion accuracy") :].splitlines()
    assert [line.split()[0] for line in table[1:5]] == ["people", "start", "VAE", "adversarial"]
    assert "CC BY-NC-SA 4.0" in output
    page = (workplace / "there" / "demo.html").read_text(encoding="utf-8")
    assert page.count("<svg") == page.count("</svg>") == 1
    assert "adversarial" in page
    assert "src=" not in page
    assert (workplace / "there" / "demo.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert read_train_file(workplace / "there" / "gan")["start"] == str(Path("there") / "vae")
    assert not (workplace / "checkpoints").exists()
    # Trained again in the same folder, as `make demo` a second time does.
    assert demo.begin_folder(Path("there")) is None
    assert not (workplace / "there" / "vae").exists()


def test_a_demo_at_chance_fails(workplace, monkeypatch, capsys):
    """A model of five updates knows no emotion yet, and neither does what is trained from it."""
    write_exchanges(workplace / "rows.jsonl", corpus(EKMAN, list(EKMAN.names), ("Well ?",)))
    start = fit_lm(["rows.jsonl"], Reading(labels=EKMAN), LmSettings(**TINY, out=str(workplace / "untrained")))
    capsys.readouterr()
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "argv", ["demo.py", *demo_of_seconds("--contexts", "35", "--init", str(start))])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(EXAMPLES / "demo.py"), run_name="__main__")
    assert stopped.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"demo\.py: VAE: emotion accuracy .* is no better than chance \(0\.14\)", last)
    assert (workplace / "there" / "demo.html").exists()


def test_a_demo_without_matplotlib_says_so_before_it_trains(demo, workplace, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingsError, match="matplotlib"):
        demo.main(demo_of_seconds(), standalone_mode=False)
    assert not (workplace / "there").exists()


def test_a_demo_deletes_nothing_of_others(demo, workplace):
    mine = workplace / "there" / "vae" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"^there: holds something else than an earlier demo"):
        demo.main(demo_of_seconds(), standalone_mode=False)
    assert mine.read_text(encoding="utf-8") == "mine"


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
        **TINY
        | {"steps": 2, "backbone": f"hf:{tiny_base}", "out": str(workplace / "lm"), "context_tokens": 20, "reply_tokens": 64}
    )
    fit_lm([str(workplace / "adapter.jsonl.gz")], Reading(labels=EKMAN), settings)
    assert invoke(["ship", "--work", str(workplace), "--model", "lm", "--to", "shipped"]).exit_code == 0
    judge = ["--judge", str(workplace / "adapter-guide")]
    assert invoke(["make", "--work", str(workplace), "--writer", "shipped", "--count", "30", *judge]).exit_code == 0
    made = list(read_exchanges(workplace / "made.jsonl.gz"))
    assert len({fingerprint(row.reply) for row in made}) == len(made)
    assert {row.split for row in made} <= {"train"}


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
