"""`emogen pull`."""

import subprocess
import sys
from pathlib import Path

import pytest

from emogen.pretrained.bases import KNOWN_BASES, find_base


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def test_the_folder_is_printed_and_the_rest_is_said(emogen, bert_folder, cache):
    status, out, err = emogen("pull", "mine", "--from", bert_folder)
    assert (status, out) == (0, f"{cache / 'mine'}\n")
    said = f"mine: licence unknown, revision {find_base('mine').revision[:12]}\n"
    assert err == f"pulling mine ...\n{said}"
    assert emogen("pull", "mine", "--check") == (0, out, f"checking mine ...\n{said}")


def test_the_check_pulls_nothing(refusal):
    assert refusal("pull", "mine", "--check") == (1, "mine: is not at hand; get it with: emogen pull mine")


def test_the_check_takes_no_source(emogen):
    status, out, err = emogen("pull", "mine", "--from", "x", "--check")
    assert (status, out) == (2, "")
    assert "--check takes a NAME alone" in err


def test_help_names_the_short_names_and_imports_no_model_library():
    code = (
        "import sys\nfrom emogen.cli import main\n"
        "try:\n    main(['pull', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    top = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=top, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(known.name in done.stdout for known in KNOWN_BASES)
