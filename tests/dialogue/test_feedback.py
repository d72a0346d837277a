"""The store of opinions: what it keeps through kills, threads and processes, what it pairs, forgets and refuses."""

import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emogen.data.preferences import Preference, read_preferences
from emogen.dialogue import feedback
from emogen.dialogue.feedback import FeedbackStore, Opinion, preferences
from emogen.emotions.labels import EKMAN, EMPATHETIC, Emotion, LabelSet, no_emotion, parse_emotion
from emogen.errors import DataError, EmogenError, SettingsError

JOY = parse_emotion("joy", EKMAN)
FEAR = parse_emotion("fear", EKMAN)

WRITER = """
import sys
from emogen.dialogue.feedback import FeedbackStore, Opinion
from emogen.emotions.labels import EKMAN, parse_emotion
store, name, most = FeedbackStore(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for number in range(most):
    emotion = parse_emotion("joy", EKMAN)
    store.rate(Opinion(f"{name}-{number}", ("Hello.",), f"text {number}", emotion, "good", session=name))
    print(f"{name}-{number}", flush=True)
"""


def opinion(reply="r1", text="Hello!", verdict="good", context=("Hi.",), emotion=JOY, **more):
    return Opinion(reply, context, text, emotion, verdict, **more)


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(tmp_path / "feedback.db") as opened:
        yield opened


def writer(path, name, most):
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, str(most)], stdout=subprocess.PIPE, text=True)


# ---- what is kept


EMOTIONS = st.sampled_from(
    [
        JOY,
        no_emotion(EKMAN),
        parse_emotion("joy=0.7,fear=0.3", EKMAN, 0.45),
        parse_emotion("lonely", EMPATHETIC),
        Emotion(LabelSet(("开心", "难过")), (1 / 3, 2 / 3), 0.1),
    ]
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(context=st.lists(TEXTS, max_size=3), text=TEXTS, emotion=EMOTIONS, verdict=st.sampled_from(["good", "bad"]))
def test_any_text_and_emotion_comes_back_as_it_was(context, text, emotion, verdict):
    given_one = opinion("id", text, verdict, tuple(context), emotion, model="lm-1", session="me")
    with FeedbackStore(":memory:") as store:
        store.rate(given_one)
        assert store.opinions() == [given_one]


def test_times_are_kept_in_utc(store):
    at = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone(timedelta(hours=8)))
    store.rate(opinion(time=at))
    (found,) = store.opinions()
    assert found.time == at
    assert found.time.tzinfo == UTC


def test_the_last_verdict_on_a_reply_stands(store):
    store.rate(opinion("a", verdict="good"))
    store.rate(opinion("b", verdict="good"))
    store.rate(opinion("a", verdict="bad"))
    assert [(one.reply, one.verdict) for one in store.opinions()] == [("b", "good"), ("a", "bad")]


def test_a_store_opened_again_holds_what_it_held(tmp_path):
    path = tmp_path / "new" / "folder" / "feedback.db"
    with FeedbackStore(path) as store:
        store.rate(opinion())
    with FeedbackStore(f"sqlite:///{path}") as store:
        assert [one.reply for one in store.opinions()] == ["r1"]


def test_an_empty_store(store):
    target = io.StringIO()
    assert (store.opinions(), store.pairs(), store.export(target), target.getvalue()) == ([], [], 0, "")


def test_only_the_owner_reads_the_file(tmp_path):
    FeedbackStore(tmp_path / "feedback.db").close()
    assert (tmp_path / "feedback.db").stat().st_mode & 0o077 == 0


# ---- kills, threads and processes


def test_what_was_acknowledged_survives_a_kill(tmp_path):
    path = tmp_path / "feedback.db"
    process = writer(path, "killed", 1_000_000)
    acknowledged = [process.stdout.readline().strip() for _ in range(25)]
    process.send_signal(signal.SIGKILL)
    acknowledged += process.stdout.read().split("\n")[:-1]
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    with FeedbackStore(path) as store:
        kept = [one.reply for one in store.opinions()]
        store.rate(opinion())
    assert kept[: len(acknowledged)] == acknowledged
    # One may have been committed and not told any more.
    assert len(kept) <= len(acknowledged) + 1


def test_a_commit_waits_for_the_disk(store):
    """What a kill cannot show: the settings under which SQLite survives a loss of power (its documentation: EXTRA is 3)."""
    with store._transaction() as connection:
        pragmas = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("synchronous", "journal_mode")]
    assert pragmas == [3, "delete"]


def test_processes_write_at_the_same_time(tmp_path):
    path, processes, each = tmp_path / "feedback.db", 3, 12
    running = [writer(path, f"p{number}", each) for number in range(processes)]
    conditioning = [line for process in running for line in process.communicate()[0].split()]
    assert [process.returncode for process in running] == [0] * processes
    with FeedbackStore(path) as store:
        found = {one.reply for one in store.opinions()}
    assert found == set(conditioning) == {f"p{number}-{at}" for number in range(processes) for at in range(each)}


def test_threads_write_the_same_ids(store):
    """Each id is written by all threads; one row of each stands, and reading meanwhile does no harm."""
    failures = []

    def work(name):
        try:
            for number in range(10):
                store.rate(opinion(f"r{number}", text=name))
                store.opinions()
        except EmogenError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sorted(one.reply for one in store.opinions()) == [f"r{number}" for number in range(10)]


# ---- pairs


def test_every_good_reply_against_every_bad_one_of_its_context_and_emotion(store):
    rated = [("g1", "good"), ("g2", "good"), ("b1", "bad"), ("b2", "bad"), ("g1", "bad"), ("b1", "bad")]
    for number, (text, verdict) in enumerate(rated):
        store.rate(opinion(f"r{number}", text, verdict))
    store.rate(opinion("other-context", "b3", "bad", context=("Bye.",)))
    store.rate(opinion("other-emotion", "b4", "bad", emotion=FEAR))
    store.rate(opinion("other-strength", "b5", "bad", emotion=parse_emotion("joy", EKMAN, 0.5)))
    expected = {("g1", "b1"), ("g1", "b2"), ("g2", "b1"), ("g2", "b2"), ("g2", "g1")}
    found = store.pairs()
    assert {(pair.better, pair.worse) for pair in found} == expected
    assert len(found) == len(expected)
    assert found[0] == Preference(("Hi.",), JOY, "g1", "b1")


@given(rated=st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from("abc"), st.sampled_from(["good", "bad"])), max_size=12))
def test_pairs_are_those_of_the_definition(rated):
    given_ones = [opinion(f"{at}", text, verdict, (context,)) for at, (context, text, verdict) in enumerate(rated)]
    expected = {
        (one.context, one.text, other.text)
        for one in given_ones
        for other in given_ones
        if one.context == other.context and one.verdict == "good" and other.verdict == "bad" and one.text != other.text
    }
    found = [(pair.context, pair.better, pair.worse) for pair in preferences(given_ones)]
    assert set(found) == expected
    assert len(found) == len(expected)


# ---- privacy


def test_a_session_is_forgotten_and_nothing_of_it_stays_in_the_file(tmp_path):
    path = tmp_path / "feedback.db"
    with FeedbackStore(path) as store:
        for number in range(40):
            session = ("me", "you")[number % 2]
            store.rate(opinion(f"r{number}", f"secret of {session} " * 20, session=session))
        assert b"secret of me" in path.read_bytes()
        assert store.forget(session="me") == 20
        assert store.forget(session="me") == 0
        assert store.forget(reply="r1") == 1
        assert len(store.opinions()) == 19
    assert b"secret of me" not in path.read_bytes()
    assert [each.name for each in tmp_path.iterdir()] == ["feedback.db"]


@pytest.mark.parametrize("names", [{}, {"reply": "a", "session": "b"}])
def test_forget_takes_one_of_the_two(store, names):
    with pytest.raises(SettingsError, match="one of them"):
        store.forget(**names)


def test_export_holds_all_that_is_stored(store):
    at = datetime(2026, 1, 2, tzinfo=UTC)
    store.rate(opinion(text="你好", emotion=parse_emotion("joy=0.5,fear=0.5", EKMAN), model="lm", session="s", time=at))
    target = io.StringIO()
    assert store.export(target) == 1
    assert json.loads(target.getvalue()) == {
        "reply": "r1",
        "verdict": "good",
        "time": "2026-01-02T00:00:00.000000+00:00",
        "session": "s",
        "model": "lm",
        "context": ["Hi."],
        "text": "你好",
        "labels": list(EKMAN.names),
        "weights": [0, 0, 0.5, 0.5, 0, 0, 0],
        "strength": 1.0,
    }
    assert "你好" in target.getvalue()


# ---- what is refused


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"verdict": "fine"}, "verdict 'fine' is not one of good, bad"),
        ({"reply": ""}, "reply id '' is empty"),
        ({"reply": "x" * 256}, "reply of 256 characters: 255 at most"),
        ({"session": "a\nb"}, "not printable"),
        ({"text": "\ud800"}, "surrogate"),
        ({"context": ("fine", "a\udfff")}, "surrogate pair at position 1"),
        ({"time": datetime(2026, 1, 1)}, "has no time zone"),
    ],
)
def test_an_opinion_that_is_none(fields, said):
    with pytest.raises(DataError, match=said):
        opinion(**fields)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("", "address is empty"),
        ("nosuch://user:hunter2@host/base", "nosuch"),
        ("mysql://user:hunter2@host:port/base", "no address of a database"),
        ("postgresql+nosuch://user:hunter2@host/base?password=hunter2", "nosuch"),
        ("/proc/nowhere/feedback.db", "cannot be made a store"),
        ("/", "cannot be made a store"),
    ],
)
def test_an_address_that_cannot_be_opened_is_one_line_without_its_password(address, said):
    with pytest.raises(EmogenError, match=said) as refused:
        FeedbackStore(address)
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_password_in_the_words_of_the_database_is_not_shown(tmp_path):
    """Such as in `unable to open "...password=..."`; here the words are another's, with the secret in them."""
    store = FeedbackStore(tmp_path / "feedback.db")
    store._url = store._url.set(drivername="postgresql", username="user", password="hunter2", host="host")
    assert store._reason(ValueError("no user:hunter2 here\nDETAIL: secret")) == "no user:*** here"
    store.close()


def test_a_file_that_is_no_database(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no database at all, only words\n" * 50, encoding="utf-8")
    with pytest.raises(EmogenError, match=r"notes\.txt: file is not a database"):
        FeedbackStore(path)
    assert path.read_text(encoding="utf-8").startswith("no database")


def test_a_missing_file_is_not_made_where_it_must_exist(tmp_path):
    with pytest.raises(EmogenError, match="no such file"):
        FeedbackStore(tmp_path / "feedback.db", create=False)
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_database_tells_no_text_of_a_user(tmp_path):
    path = tmp_path / "feedback.db"
    with FeedbackStore(path) as store:
        with sqlite3.connect(path) as connection:
            connection.execute("DROP TABLE emogen_feedback")
        connection.close()
        with pytest.raises(EmogenError, match="no such table") as refused:
            store.rate(opinion(text="a secret"))
    assert "a secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_row_that_is_no_opinion_is_named(tmp_path):
    path = tmp_path / "feedback.db"
    with FeedbackStore(path) as store:
        store.rate(opinion())
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE emogen_feedback SET content = '{}'")
        connection.close()
        with pytest.raises(DataError, match="row 1 is no opinion"):
            store.opinions()


def test_a_full_disk_is_one_line(tmp_path):
    """SQLite itself is told to take no more pages (SQLITE_FULL)."""
    with FeedbackStore(tmp_path / "feedback.db") as store:
        store.rate(opinion())
        with store._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count=1")
        with pytest.raises(EmogenError, match="full"):
            store.rate(opinion("r2", "x" * 100_000))
        assert [one.reply for one in store.opinions()] == ["r1"]


def test_without_sqlalchemy_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(feedback, "sql", None)
    with pytest.raises(SettingsError, match=r"\.\[feedback\]"):
        FeedbackStore(":memory:")


def test_the_rest_of_the_module_needs_no_sqlalchemy():
    """In a process in which the package cannot be imported."""
    code = "import sys; sys.modules['sqlalchemy'] = None; import emogen.dialogue.feedback as f; assert f.sql is None"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


# ---- the guide

GUIDE = (Path(__file__).parents[2] / "docs" / "feedback.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL))
def test_python_of_the_guide_runs(code):
    exec(code, {})


def test_the_pair_of_the_guide_is_read(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(re.search(r"```json\n(.*?)```", GUIDE, flags=re.DOTALL)[1], encoding="utf-8")
    (found,) = read_preferences(path, EKMAN)
    assert (found.better, found.emotion) == ("Great! Who played?", JOY)


@pytest.mark.parametrize("command", re.findall(r"^emogen (train-feedback|feedback \w+) (.*)$", GUIDE, flags=re.MULTILINE))
def test_options_of_the_guide_are_known(command, emogen):
    """Without what stands behind a mark of the shell."""
    name, options = command
    status, out, _ = emogen(*name.split(), *options.partition(" >")[0].split(), "--help")
    assert status == 0
    assert all(option in out for option in re.findall(r"--[a-z]+", options))
