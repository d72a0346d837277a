"""Every block of the README runs: Python as it stands, commands with the smallest settings that they take."""

import json
import re
import shlex
from pathlib import Path

import pytest

from emogen.cli import main
from emogen.data.exchange import Reading, read_exchanges

TOP = Path(__file__).parents[2]
README = (TOP / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands():
    lines = "".join(blocks("console")).splitlines()
    return [line[2:].partition("   #")[0].strip() for line in lines if line.startswith("$ emogen ")]


def run(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(command)[1:])
    captured = capsys.readouterr()
    assert stopped.value.code == 0, captured.err
    return captured.out


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code, capsys):
    exec(code, {})
    assert len(capsys.readouterr().out.splitlines()) == 2


WRITERS = ("emogen sample", "emogen reply", "emogen recognize")


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith(WRITERS) and ">" not in line])
def test_a_command_prints_as_many_lines_as_the_readme_shows(command, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shown = re.split(rf"^\$ {re.escape(command)}(?: +#.*)?\n", README, maxsplit=1, flags=re.MULTILINE)[1]
    lines = re.split(r"^\$|^```", shown, maxsplit=1, flags=re.MULTILINE)[0].splitlines()
    assert len(run(command, capsys).splitlines()) == max(len(lines), 1)


def test_texts_are_recognised_and_scored(capsys, monkeypatch, tmp_path):
    """In the README's order; what a command writes to a file, the next one reads. Fewer texts than there."""
    (tmp_path / "checkpoints").symlink_to(TOP / "checkpoints")
    monkeypatch.chdir(tmp_path)
    for name in ("ours", "theirs", "references"):
        Path(f"{name}.txt").write_text(f"i am {name}\nso glad\n", encoding="utf-8")
    chosen = [line for line in commands() if line.startswith(("emogen recognize", "emogen evaluate")) or ">" in line]
    assert len(chosen) == 4
    for command in chosen:
        line, _, target = command.replace("-n 200", "-n 7").partition(" > ")
        found = run(line, capsys)
        assert found
        if target:
            Path(target).write_text(found, encoding="utf-8")


@pytest.mark.parametrize("command", [line for line in commands() if re.match("emogen train-(lm|vae|gan|classifier) ", line)])
def test_training_options_are_known(command, capsys):
    assert "learning_rate" in run(f"{command} --show-config", capsys)


def test_own_columns_are_checked(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("my.csv").write_text("answer,mood\nsee you at six,neutral\nhurray we won,joy\n", encoding="utf-8")
    (command,) = [line for line in commands() if line.startswith("emogen data check")]
    assert "joy" in run(command, capsys)


def test_the_example_row_is_read(tmp_path):
    path = tmp_path / "row.jsonl"
    path.write_text("".join(blocks("json")), encoding="utf-8")
    (exchange,) = read_exchanges(path, Reading())
    assert exchange.emotion.name == json.loads(blocks("json")[0])["emotion"]
