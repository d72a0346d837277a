"""Benchmark scripts on the command line: whatever a user gets wrong ends in one line, never in a traceback."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from emogen.errors import DataError, SettingsError

FOLDER = Path(__file__).parents[2] / "evaluate"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
# What a script cannot do without, beside data.
NEEDED = {
    "backbone": ["--work", "work"],
    "blind": ["sheet", "contexts.jsonl", "a=b.jsonl", "--folder", "work"],
    "captions": ["--work", "work"],
    "conditional": ["--work", "work"],
    "control": ["--work", "work"],
    "correction": ["goemotions", "--judge", "."],
    "emotion_text": ["goemotions", "--work", "work"],
    "empathetic_replies": ["--outputs", "outputs.jsonl", "--checkpoint", "nowhere"],
    "latent": ["--work", "work"],
    "load": ["--checkpoint", "nowhere"],
    "metrics": ["--outputs", "outputs.jsonl"],
    "oracle": ["--oracle", "outputs.jsonl", "--work", "work"],
    "reply_speakers": ["out.jsonl"],
    "soak": ["--checkpoint", "nowhere"],
}
# These try the toolkit itself and need nothing that could be missing.
WITHOUT_DATA = {"house", "kills", "septet", "speed", "startup", "threads"}


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    """A folder without corpora, and with one file of replies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "data"))
    monkeypatch.syspath_prepend(str(FOLDER))
    trial = {"context": ["a"], "reference": "b", "emotion": "joyful", "outputs": {"Other": "c"}}
    (tmp_path / "outputs.jsonl").write_text(json.dumps(trial) + "\n")
    return tmp_path


@pytest.fixture
def ended(monkeypatch, capsys):
    """Runs a script's command in this process; gives its exit status and what it said last on standard error."""

    def call(name, *arguments):
        module = importlib.import_module(name)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        with pytest.raises(SystemExit) as stopped:
            module.run(module.main, f"{name}.py")
        return stopped.value.code, capsys.readouterr().err

    return call


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_runs_its_command_in_the_one_way(name):
    assert f'if __name__ == "__main__":\n    run(main, "{name}.py")\n' in (FOLDER / f"{name}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("arguments", [("--no-such-option",), ("--out",)])
def test_wrong_usage(ended, name, arguments):
    status, said = ended(name, *arguments)
    assert status == 2
    assert said.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("name", sorted(set(SCRIPTS) - WITHOUT_DATA))
def test_missing_data_is_one_line(ended, name):
    """A corpus that was not fetched, a model that is not there, a page to write into, a repository to clone."""
    status, said = ended(name, *NEEDED.get(name, []))
    assert status == 1
    assert said.splitlines()[-1].startswith(f"{name}.py: ")
    assert "Traceback" not in said


@pytest.mark.parametrize("name", SCRIPTS)
def test_one_less_than_the_least_is_refused(ended, name):
    """Of each option that says how small its number may be."""
    for option in importlib.import_module(name).main.params:
        if isinstance(option.type, click.IntRange) and option.type.min is not None:
            status, said = ended(name, *NEEDED.get(name, []), option.opts[0], str(option.type.min - 1))
            assert (status, "Invalid value" in said) == (2, True), option.opts


@pytest.mark.parametrize(
    ("name", "option"),
    [
        *(("captions", f"--{option}") for option in ("steps", "width", "seeds", "samples", "gan-steps")),
        *((script, "--threads") for script in ("classifiers", "conditional", "control", "latent", "oracle", "speed")),
        *(("oracle", f"--{option}") for option in ("seeds", "rows", "epochs", "sampled", "length", "steps")),
        *(("speed", f"--{option}") for option in ("rollouts", "tokens", "vocabulary", "repetitions", "chunk")),
        *(("correction", f"--{option}") for option in ("texts", "seeds", "concentration")),
        *(("load", f"--{option}") for option in ("turns", "rounds", "kills")),
        ("emotion_text", "--each"),
        ("startup", "--runs"),
    ],
)
def test_numbers_below_zero_are_refused(ended, name, option):
    status, said = ended(name, *NEEDED.get(name, []), option, "-1")
    assert (status, "Invalid value" in said) == (2, True)


@pytest.mark.parametrize(
    ("name", "arguments", "status", "line"),
    [
        ("load", ["--loads", "1,x"], 2, "--loads 1,x: allowed are whole numbers"),
        ("load", ["--loads", "0"], 2, "--loads 0: allowed"),
        ("metrics", ["--outputs", "outputs.jsonl"], 1, "outputs.jsonl: has no outputs of Transformer, but those of Other"),
        ("speed", ["--rows", "7"], 2, "--rows 7: allowed is an even number"),
        ("emotion_text", ["goemotions", "--work", "w", "--checkpoint", "m"], 2, "--checkpoint m: allowed is CORPUS=DIR"),
        ("oracle", ["--oracle", "outputs.jsonl", "--work", "w"], 1, "outputs.jsonl: is no oracle"),
        ("startup", ["--out", "outputs.jsonl/x"], 1, ""),
    ],
)
def test_mistakes_of_single_scripts(ended, monkeypatch, name, arguments, status, line):
    if name == "startup":
        monkeypatch.setattr(importlib.import_module("startup"), "timed", lambda _: (0.0, 0.0))
    found, said = ended(name, *arguments)
    assert found == status
    assert said.splitlines()[-1].startswith(f"{name}.py: {line}")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (SettingsError("--x 1: allowed is 2"), 2, "--x 1: allowed is 2"),
        (DataError("a.jsonl:3: is no row"), 1, "a.jsonl:3: is no row"),
        (FileNotFoundError(2, "No such file or directory", "b"), 1, "b: No such file or directory"),
        (EOFError("Compressed file ended"), 1, "a compressed file ends early or is broken (Compressed file ended)"),
        (subprocess.CalledProcessError(3, ["git", "clone", "a b"]), 1, "git clone 'a b': ended with exit status 3"),
    ],
)
def test_each_kind_of_mistake_is_one_line(capsys, error, status, line):
    from emogen.cli import run

    def main():
        raise error

    with pytest.raises(SystemExit) as stopped:
        run(main, "s.py")
    assert (stopped.value.code, capsys.readouterr().err) == (status, f"s.py: {line}\n")


def test_a_fault_of_the_benchmark_stays_whole():
    from emogen.cli import run

    with pytest.raises(KeyError):
        run(lambda: {}["missing"], "s.py")


def test_a_broken_result_file_is_named(empty):
    from emogen.evaluate.report import read_json

    (empty / "result.json").write_text("{")
    with pytest.raises(DataError, match=r"result\.json: is no JSON"):
        read_json(empty / "result.json")
