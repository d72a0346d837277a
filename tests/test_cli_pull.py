"""`emogen pull`."""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from emogen.models import bases


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(bases, "find_spec", lambda name: None)
    return tmp_path / "cache" / "models"


def test_the_folder_is_printed_and_the_rest_is_said(emogen, bert_folder, cache):
    status, out, err = emogen("pull", "mine", "--from", bert_folder)
    assert (status, out) == (0, f"{cache / 'mine'}\n")
    assert load_file(cache / "mine" / "model.safetensors")
    revision = bases.find_base("mine").revision
    assert err == f"copying {bert_folder} ...\nmine: licence unknown, revision {revision[:12]}\n"
    # At hand: nothing more to say than what it is.
    assert emogen("pull", "mine") == (0, out, err.splitlines()[1] + "\n")
    assert emogen("pull", "mine", "--check") == (0, out, err.splitlines()[1] + "\n")


def test_the_check_reads_every_byte(emogen, refusal, bert_folder, cache):
    emogen("pull", "mine", "--from", bert_folder)
    path = cache / "mine" / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    status, line = refusal("pull", "mine", "--check")
    assert status == 1
    assert line.startswith(f"{path}: was changed after it was pulled")


def test_the_check_pulls_nothing(refusal):
    assert refusal("pull", "mine", "--check") == (1, "mine: is not at hand; get it with: emogen pull mine")


def test_the_list_tells_what_is_at_hand(emogen, bert_folder, cache):
    emogen("pull", "mine", "--from", bert_folder)
    status, out, err = emogen("pull")
    assert (status, err) == (0, "")
    first, second, third = out.splitlines()
    assert first.split()[:4] == ["smollm2", "Apache-2.0", "273", "MB"]
    assert first.endswith("not at hand; get it with: emogen pull smollm2")
    assert second.split()[0] == "all-MiniLM-L6-v2"
    assert third.split()[:2] == ["mine", "unknown"]
    assert third.endswith(f"at hand: {cache / 'mine'}")
    (cache / "mine" / "config.json").unlink()
    _, out, _ = emogen("pull")
    assert f"config.json: is missing; pull it again with: emogen pull mine --from {bert_folder}" in out


def test_an_unreadable_record_is_listed_too(emogen, bert_folder, cache):
    emogen("pull", "mine", "--from", bert_folder)
    (cache / "mine" / "base.json").write_text("{")
    assert emogen("pull")[1].splitlines()[2].endswith("base.json: cannot be read; pull it again with: emogen pull mine")


@pytest.mark.parametrize("arguments", [["--check"], ["--from", "x"], ["mine", "--from", "x", "--check"]])
def test_options_that_do_not_go_together(emogen, arguments):
    status, out, err = emogen("pull", *arguments)
    assert (status, out) == (2, "")
    assert "--check takes a NAME alone" in err


def test_a_folder_that_is_not_there(refusal):
    assert refusal("pull", "mine", "--from", "nowhere") == (
        1,
        "nowhere: no such folder; give one that holds config.json and model.safetensors, or FOLDER:FILE.gguf",
    )


@pytest.mark.parametrize("arguments", [["--help"], ["pull", "--help"], ["pull"]])
def test_help_and_list_import_no_model_library(arguments, tmp_path):
    code = (
        "import sys\nfrom emogen.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    top = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=top, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "smollm2" in done.stdout or "pull" in done.stdout
