"""The benchmark of load: a run from end to end with a tiny model, and what counts as equal and as lost."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

TOP = Path(__file__).parents[2]


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(TOP / "evaluate"))
    names = ("load", "load_client", "load_rude", "load_server", "load_talks")
    import load

    yield load
    for name in names:
        sys.modules.pop(name, None)


def test_a_reply_is_equal_where_text_and_tokens_are(load):
    from load_client import Heard
    from load_talks import Answered

    tally, expected = load.Tally(), Answered("well", 3)
    for heard in (
        Heard(200, "well", 3, first=0.5),
        Heard(200, "well", 4),
        Heard(200, "Well", 3),
        Heard(503, error="busy"),
        Heard(200, "we", 1, error="closed"),
    ):
        tally.add(heard, expected)
    assert (tally.equal, len(tally.others), len(tally.refused), tally.first) == (1, 2, 2, [0.5])


def test_what_is_said_depends_on_seed_and_number_alone(load, tiny_checkpoint):
    from load_talks import talks

    from emogen.checkpoint.model import load as load_model

    model = load_model(tiny_checkpoint)
    few, many, others = talks(model, 2, 3, 1), talks(model, 9, 3, 1), talks(model, 9, 3, 2)
    assert few == many[:2]
    assert many != others
    assert len({turn.seed for talk in many for turn in talk}) == 27
    assert few[0][0].body(["a", ""])["messages"][1] == {"role": "assistant", "content": "..."}


def test_from_end_to_end(load, tiny_checkpoint, tmp_path):
    out = tmp_path / "load.json"
    options = ["--checkpoint", str(tiny_checkpoint), "--loads", "2", "--turns", "2", "--rounds", "1", "--kills", "1"]
    ran = CliRunner().invoke(load.main, [*options, "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    rows = {row["system"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["2 sessions"]["equal"] == rows["2 sessions"]["replies"] == 4
    assert rows["2 sessions among 24 clients that misbehave"]["equal"] == 4
    killed = rows["2 sessions, server killed 1 times"]
    assert (killed["not_equal"], killed["acknowledged_and_lost"]) == (0, 0)
    assert killed["equal"] >= 4
    assert killed["acknowledged"] >= 4
    assert rows["2 sessions, guided to unguided"]["ratio"] > 0
    assert rows["stopped by SIGTERM"]["exit_status"] == 0
