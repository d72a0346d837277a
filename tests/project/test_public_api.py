"""What a user finds who looks at the package from Python: the public names, with their signatures, and no machinery."""

import hashlib
import importlib
import inspect
import pydoc
import subprocess
import sys

import numpy as np
import pytest

import emogen


def test_help_shows_the_public_names_with_their_signatures():
    page = pydoc.render_doc(emogen, renderer=pydoc.plaintext)
    assert "__getattr__" not in page
    assert "register_with_transformers" not in page
    assert "load(path: " in page
    assert "class EmotionModel" in page
    assert all(name in page for name in emogen.__all__ if name != "__version__")


def test_dir_lists_every_public_name_without_loading_pytorch():
    """In a process of its own."""
    code = (
        "import sys, emogen; names = dir(emogen); assert set(emogen.__all__) <= set(names);"
        "assert not any(name.startswith('_') and not name.startswith('__') for name in names);"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", [name for name in emogen.__all__ if name != "__version__"])
def test_every_public_name_is_there_and_documented(name):
    found = getattr(emogen, name)
    assert (inspect.getdoc(found) or "").strip()
    assert inspect.signature(found)


def test_an_unknown_name_is_refused_with_what_python_needs_for_a_suggestion():
    with pytest.raises(AttributeError, match="no attribute 'laod'") as refused:
        _ = emogen.laod
    assert (refused.value.name, refused.value.obj) == ("laod", emogen)


PATHS = {
    "emogen.files": ("sha256", "write_text"),
    "emogen.checkpoint.finding": ("find_checkpoint", "mark_latest"),
    "emogen.checkpoint.folder": (
        *("read_confusion", "read_description", "read_head", "read_weights"),
        *("save_classifier", "save_head", "save_model", "write_confusion"),
    ),
    "emogen.checkpoint.model": ("load", "load_classifier"),
    "emogen.data.check": ("check_file", "stats"),
    "emogen.data.corpora": ("locate",),
    "emogen.data.fetching": ("fetch",),
    "emogen.data.exchange": ("infer_labels", "read_exchanges", "read_rows", "write_exchanges"),
    "emogen.data.fingerprints": ("read_fingerprints", "write_fingerprints"),
    "emogen.data.preferences": ("read_preferences", "write_preferences"),
    "emogen.decoding.calibration": ("read_calibration", "write_calibration"),
    "emogen.dialogue.policy": ("read_policy", "write_policy"),
    "emogen.evaluate.frontier": ("draw",),
    "emogen.evaluate.report": ("write_result",),
    "emogen.recognition.leak": ("find_leak", "refuse_leaks"),
    "emogen.recognition.recognizer": ("load_recognizer",),
    "emogen.options": ("read_settings",),
    "emogen.text.tokenizer": ("load_tokenizer",),
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in PATHS.items() for name in names])
def test_paths_may_be_strings(module, name):
    """By the annotations, which mypy holds the functions to: no parameter takes a Path and refuses a str."""
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters.values()
    taken = [str(parameter.annotation) for parameter in parameters if "Path" in str(parameter.annotation)]
    assert taken
    assert all("str" in annotation for annotation in taken)


def test_strings_do_what_paths_do(tmp_path, tiny_checkpoint):
    """A few of them, at work."""
    from emogen.checkpoint.folder import read_confusion, read_description, write_confusion
    from emogen.data.exchange import Exchange, read_exchanges, write_exchanges
    from emogen.data.fingerprints import fingerprints, read_fingerprints, write_fingerprints
    from emogen.dialogue.policy import find_policy, read_policy, write_policy
    from emogen.emotions.labels import EKMAN, parse_emotion
    from emogen.files import sha256, write_text

    place = str(tmp_path)
    write_text(f"{place}/text", "so it is")
    assert sha256(f"{place}/text") == hashlib.sha256(b"so it is").hexdigest()
    assert read_description(str(tiny_checkpoint)) == read_description(tiny_checkpoint)
    write_confusion(place, EKMAN, np.eye(7, dtype=np.int64))
    assert read_confusion(place, EKMAN).tolist() == np.eye(7).tolist()
    write_fingerprints(place, fingerprints(["a row"]))
    assert len(read_fingerprints(place)) == 1
    write_exchanges(f"{place}/rows.jsonl", [Exchange((), "I won!", parse_emotion("joy", EKMAN), "train")])
    assert [row.reply for row in read_exchanges(f"{place}/rows.jsonl")] == ["I won!"]
    soothe = find_policy("soothe", EKMAN, EKMAN)
    write_policy(f"{place}/policy.json", soothe)
    assert read_policy(f"{place}/policy.json") == soothe
