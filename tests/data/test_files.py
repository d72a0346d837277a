"""Files that a user names: what is none is told at once, and what is in them stays within bounds."""

import json
import os
import shutil
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emogen import files
from emogen.checkpoint.folder import read_confusion, read_description
from emogen.checkpoint.model import load
from emogen.cli.reading import read_renames
from emogen.data.rows import read_rows
from emogen.decoding.calibration import read_calibration
from emogen.decoding.postprocessing import parse_postprocessing
from emogen.dialogue.policy import read_policy
from emogen.emotions.labels import EKMAN
from emogen.errors import EmogenError
from emogen.files import open_data, parse_json, parse_toml, read_bytes, read_text
from emogen.options import read_settings
from emogen.server.settings import ServerSettings, keys_of
from emogen.text.tokenizer import load_tokenizer
from emogen.train.config import LmSettings
from emogen.train.run.folder import read_train_file

POSIX = pytest.mark.skipif(os.name != "posix", reason="named pipes and devices are of POSIX")
DEEP = "[" * 200_000


def special(kind, path):
    """Something in the place of a file."""
    if kind == "folder":
        path.mkdir()
    elif kind == "named pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        # A short name: the path of a socket has few letters.
        with socket.socket(socket.AF_UNIX) as place:
            place.bind(path.name)


@POSIX
@pytest.mark.parametrize("kind", ["folder", "named pipe", "device", "socket"])
def test_what_is_no_regular_file_is_told_at_once(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    special(kind, tmp_path / "it")
    # A socket cannot be opened at all.
    with pytest.raises(OSError, match=rf"is a {kind}, not a regular file|No such device or address"):
        read_bytes(tmp_path / "it")


READERS = {
    "config.json": read_description,
    "train.json": read_train_file,
    "calibration.json": lambda folder: read_calibration(folder, EKMAN),
    "confusion.json": lambda folder: read_confusion(folder, EKMAN),
    "tokenizer.model": lambda folder: load_tokenizer(folder / "tokenizer.model"),
    "words.txt": lambda folder: parse_postprocessing(f"block:{folder / 'words.txt'}"),
    "policy.json": lambda folder: read_policy(folder / "policy.json"),
    "policy.toml": lambda folder: read_policy(folder / "policy.toml"),
    "settings.toml": lambda folder: read_settings(folder / "settings.toml", LmSettings, "train-lm"),
    "map.toml": lambda folder: read_renames(folder / "map.toml"),
    "keys": lambda folder: keys_of(ServerSettings(api_key_file=str(folder / "keys"))),
    "rows.jsonl": lambda folder: list(read_rows(folder / "rows.jsonl")),
}


@POSIX
@pytest.mark.parametrize("name", READERS)
def test_a_pipe_in_the_place_of_a_file_ends_in_one_line(tmp_path, name, monkeypatch):
    """Every reader says so, with the file's name, and waits for nobody."""
    monkeypatch.setattr(files, "_PIPE_SECONDS", 0)
    os.mkfifo(tmp_path / name)
    if name in ("confusion.json", "calibration.json"):
        # A checkpoint may lack them, and only a regular file is one.
        assert READERS[name](tmp_path) is None
        return
    with pytest.raises(EmogenError) as refused:
        READERS[name](tmp_path)
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith(("json", "toml"))])
@pytest.mark.parametrize("content", [DEEP, '{"a":' * 200_000, "a = " + DEEP, "\x00", "{", '{"format": 1e400}', "a = 1e400\n"])
def test_whatever_is_in_a_file_of_ours_ends_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(EmogenError) as refused:
        READERS[name](tmp_path)
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_large_file_is_not_read(tmp_path):
    with (tmp_path / "large").open("wb") as handle:
        handle.truncate(files.MOST_TEXT_BYTES + 1)
    with pytest.raises(OSError, match=r"has 268,435,457 bytes, more than 268,435,456"):
        read_text(tmp_path / "large")


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_text_is_what_python_reads(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("text") / "file"
    path.write_bytes(text.encode())
    assert read_text(path) == path.read_text(encoding="utf-8")


def test_numbers_that_are_none():
    for text in ("NaN", "Infinity", "-Infinity", "1e400", '{"a": [1, -1e999]}'):
        with pytest.raises(ValueError, match="is not finite, or too large"):
            parse_json(text)
    for text in ("a = nan", "a = inf", "a = 1e400"):
        with pytest.raises(ValueError, match="is not finite, or too large"):
            parse_toml(text)
    assert parse_json('[1, 2.5, "NaN"]') == [1, 2.5, "NaN"]


@POSIX
def test_a_pipe_is_data_once_somebody_writes_into_it(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writing = threading.Thread(target=lambda: path.write_text("abc"))
    writing.start()
    with open_data(path) as handle:
        assert handle.read() == b"abc"
    writing.join()


def numbers_in(content, at=()):
    """Where numbers stand in a JSON value."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from numbers_in(value, (*at, key))
    elif isinstance(content, list):
        for place, value in enumerate(content):
            yield from numbers_in(value, (*at, place))
    elif isinstance(content, int | float) and not isinstance(content, bool):
        yield at


def trouble(folder):
    """What a user is told of a checkpoint; nothing where it replies."""
    try:
        load(folder).reply("hello", "joy=0.6,fear=0.4", seed=1)
    except EmogenError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("number", [0, -1, 10**30, 1e308, 0.5, True, None, "7", [], {}])
@pytest.mark.parametrize("name", ["config.json", "calibration.json"])
def test_numbers_out_of_range_end_in_one_line(tiny_checkpoint, tmp_path, name, number):
    """In each place of a number in turn: the model is loaded all the same, or it is one line."""
    folder = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, folder)
    calibration = {
        "labels": list(EKMAN.names),
        "control": "guidance:1.5",
        "strengths": [[0.0, 0.5, 1.0]] * 7,
        "sharpness": 1.5,
        "preference": [0.1] * 7,
        "signature": "",
    }
    content = json.loads((folder / name).read_text()) if name == "config.json" else calibration
    seen = set()
    for at in numbers_in(content):
        kind = tuple(part for part in at if isinstance(part, str))
        if kind in seen:
            continue
        seen.add(kind)
        changed = json.loads(json.dumps(content))
        place = changed
        for part in at[:-1]:
            place = place[part]
        place[at[-1]] = number
        (folder / name).write_text(json.dumps(changed))
        assert "\n" not in trouble(folder)
