"""Every parser of ours under random bytes: it gives a value, or an error of a user in one line, whatever comes.

`tests/fuzz` holds the inputs that each begins with, among them those that once went wrong; add a file for one that does now.
"""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from emogen.checkpoint.folder import read_confusion, read_description
from emogen.checkpoint.model import load
from emogen.cli.reading import parse_renames, read_renames
from emogen.data.check import check_file
from emogen.data.exchange import Reading, read_exchanges
from emogen.data.outputs import OutputColumns, open_source, read_outputs
from emogen.data.preferences import read_preferences
from emogen.decoding.calibration import read_calibration
from emogen.decoding.control import parse_control
from emogen.decoding.postprocessing import parse_postprocessing
from emogen.dialogue.engine import Engine
from emogen.dialogue.policy import read_policy
from emogen.emotions.labels import EKMAN, named_label_set, parse_emotion
from emogen.emotions.names import normalize_name
from emogen.errors import EmogenError
from emogen.options import read_settings
from emogen.server.app import build_app
from emogen.server.gate import host_of
from emogen.server.settings import ServerSettings, keys_of
from emogen.text.tokenizer import load_tokenizer
from emogen.train.config import GanSettings
from emogen.train.run.folder import read_train_file

CORPUS = Path(__file__).parents[1] / "fuzz"
# The same bytes in every run; `pytest tests/data/test_fuzz.py --hypothesis-seed=random` and more `max_examples` look further.
TRIES = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])

TEXTS = {
    "emotion": lambda text: parse_emotion(text, EKMAN),
    "control": parse_control,
    "post": parse_postprocessing,
    "map": lambda text: parse_renames([text]),
    "labels": named_label_set,
    "name": normalize_name,
    "host": lambda text: host_of(text.encode("utf-8", "surrogatepass")),
    "keys": lambda text: keys_of(ServerSettings(api_key=text)),
}
FILES = {
    "rows.jsonl": lambda path: list(read_exchanges(path, Reading())),
    "rows.csv": lambda path: list(read_exchanges(path, Reading())),
    "rows.tsv": lambda path: list(read_exchanges(path, Reading())),
    "check.jsonl": lambda path: check_file(path, Reading()),
    "outputs.jsonl": lambda path: list(read_outputs(open_source(str(path), "", path.parent), OutputColumns())),
    "pairs.jsonl": lambda path: list(read_preferences(path, EKMAN)),
    "policy.json": read_policy,
    "policy.toml": read_policy,
    "settings.toml": lambda path: read_settings(path, GanSettings, "train-gan"),
    "names.toml": read_renames,
    "config.json": lambda path: read_description(path.parent),
    "train.json": lambda path: read_train_file(path.parent),
    "calibration.json": lambda path: read_calibration(path.parent, EKMAN),
    "confusion.json": lambda path: read_confusion(path.parent, EKMAN),
    "tokenizer.model": load_tokenizer,
}
ROUTES = {"chat": "/v1/chat/completions", "recognize": "/v1/recognize", "feedback": "/v1/feedback"}


# What parsers stumble on.
STONES = (b"", b"\0", b"\xff\xfe", b'"', b"[" * 2000, b"1e999", b"-1", b"NaN", b"null", b"\n")


def seeds(name):
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


@st.composite
def mutated(draw, name):
    """A seed with pieces cut out, doubled, or replaced by bytes that parsers stumble on."""
    content = draw(st.sampled_from(seeds(name)))
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(content)))
        end = min(len(content), begin + draw(st.integers(0, 12)))
        piece = draw(st.sampled_from([*STONES, content[begin:end] * 3]) | st.binary(max_size=6))
        content = content[:begin] + piece + content[end:]
    return content


def trouble(parse, given):
    """What a user is told; nothing where it is parsed."""
    try:
        parse(given)
    except EmogenError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name):
    @TRIES
    @given(mutated(name) | st.text(max_size=30).map(lambda text: text.encode("utf-8", "replace")))
    def holds(content):
        assert "\n" not in trouble(TEXTS[name], content.decode("utf-8", "replace"))

    for seed in seeds(name):
        holds = example(seed)(holds)
    holds()


@pytest.mark.parametrize("name", FILES)
def test_files(name, tmp_path):
    @TRIES
    @given(mutated(name) | st.binary(max_size=60))
    def holds(content):
        path = tmp_path / name
        path.write_bytes(content)
        for line in trouble(FILES[name], path).splitlines():
            # Problems of rows are a line each, with their place.
            assert line.startswith((str(path), "...", "  ", "and ")) or "\n" not in trouble(FILES[name], path)

    for seed in seeds(name):
        holds = example(seed)(holds)
    holds()


@pytest.fixture(scope="module")
def client(tiny_checkpoint):
    with Engine(load(tiny_checkpoint)) as engine:
        yield TestClient(build_app(ServerSettings(most_tokens=2), engine), "http://127.0.0.1", raise_server_exceptions=False)


@pytest.mark.parametrize("name", ROUTES)
def test_bodies(name, client):
    """A status that is no 500, and JSON in one of two shapes."""

    @TRIES
    @given(mutated(name) | st.binary(max_size=60))
    def holds(content):
        answer = client.post(ROUTES[name], content=content, headers={"content-type": "application/json"})
        assert answer.status_code in (200, 400, 404, 413, 429, 501, 503)
        if answer.status_code != 200:
            assert sorted(answer.json()["error"]) == ["code", "message", "param", "type"]

    for seed in seeds(name):
        holds = example(seed)(holds)
    holds()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@TRIES
@given(st.data())
def test_any_value_in_the_place_of_any_other(client, data):
    """Of a chat request that is right in all else."""
    body = json.loads(seeds("chat")[0])
    body[data.draw(st.sampled_from(sorted(body)))] = data.draw(JSON)
    answer = client.post(ROUTES["chat"], content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400, 404, 413, 429, 501, 503)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.model", "config.json", "calibration.json", "head.safetensors"]
)
def test_a_damaged_checkpoint(name, tiny_checkpoint, tmp_path):
    """Bytes of a file are changed, or its end is cut off: it loads all the same, or it is one line."""
    folder = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, folder)
    whole = (folder / name).read_bytes() if (folder / name).exists() else seeds("calibration.json")[0]

    @settings(TRIES, max_examples=30)
    @given(st.integers(0, len(whole) - 1), st.binary(min_size=1, max_size=8), st.booleans())
    def holds(at, piece, is_cut):
        (folder / name).write_bytes(whole[:at] if is_cut else whole[:at] + piece + whole[at + len(piece) :])
        assert "\n" not in trouble(load, folder)

    holds()
