"""How OpenMP's threads wait: what stands in the environment, and what OpenMP itself says that it read."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOW = "import os; print(*(os.environ.get(name) for name in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME')))"

COMMAND = "from emogen.cli import main; main(['recognize', 'I won!'])"


def python(code, **variables):
    """What a fresh interpreter prints on standard output and error; nothing about OpenMP is set but `variables`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    options = {"capture_output": True, "text": True, "cwd": ROOT, "check": True, "env": environment | variables}
    done = subprocess.run([sys.executable, "-c", code], **options)
    return done.stdout.strip(), done.stderr


@pytest.mark.parametrize("code", ["import emogen", "import emogen.evaluate", "from emogen.cli import main"])
def test_threads_sleep_in_a_program_that_has_not_loaded_torch(code):
    assert python(f"{code}; {SHOW}")[0] == "PASSIVE None None"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None None"),
        ({"GOMP_SPINCOUNT": "7"}, "None 7 None"),
        ({"KMP_BLOCKTIME": "200"}, "None None 200"),
    ],
)
def test_the_environment_of_the_user_wins(given, kept):
    assert python(f"import emogen; {SHOW}", **given)[0] == kept


def test_nothing_is_set_once_torch_is_loaded():
    """OpenMP would not read it, and programs that this one starts would."""
    assert python(f"import torch, emogen; {SHOW}")[0] == "None None None"


@pytest.mark.parametrize(
    "code", ["import emogen, torch", "import emogen; emogen.load", COMMAND], ids=["torch", "load", "command"]
)
def test_openmp_reads_it(code):
    """OpenMP prints its settings where OMP_DISPLAY_ENV asks for them, at the time at which PyTorch loads it."""
    _, said = python(code, OMP_DISPLAY_ENV="TRUE")
    if "OMP_WAIT_POLICY" not in said:
        pytest.skip("this PyTorch computes without OpenMP")
    assert re.search(r"OMP_WAIT_POLICY\s*=\s*'PASSIVE'", said)
