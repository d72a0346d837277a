"""Checking, counting and splitting a file of exchanges."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emogen.data import check
from emogen.data.check import Finding, Lengths, Repeats, check_file, split_exchanges, stats
from emogen.data.exchange import Reading, write_exchanges
from emogen.emotions.labels import EKMAN
from emogen.errors import DataError, EmogenError, SettingsError

Row = tuple[list[str], str, str, str]


def file_of(path: Path, rows: list[Row]) -> Path:
    records = [
        {"context": context, "reply": reply, "emotion": emotion, "split": split} for context, reply, emotion, split in rows
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


ROWS: list[Row] = [
    ([], "Good morning to you", "joy", "train"),
    (["How are you?"], "I am sad, I am.", "sadness", "train"),
    (["How are you?"], "I am sad, I am.", "joy", "train"),
    ([], "我很好！", "joy", "valid"),
    (["Well?", "Tell me."], "GOOD  morning to you", "fear", "test"),
    ([], "Good morning to you", "joy", ""),
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return file_of(tmp_path / "rows.jsonl", ROWS)


def test_report_of_a_small_file(rows: Path) -> None:
    report = check_file(rows)
    assert report.problems == ()
    assert report.counts.rows == 6
    assert report.counts.labels == {"joy": 4, "fear": 1, "sadness": 1}
    assert report.counts.splits == {"train": 3, "valid": 1, "test": 1, "": 1}
    assert report.counts.reply_words == Lengths(3, 3, 4, 4, 5, 5, 5)
    assert report.counts.context_words == Lengths(3, 3, 3, 3, 3, 3, 3)
    assert report.counts.rows_with_context == 3
    assert report.duplicates == Repeats(2, ((3, 2), (6, 1)))
    assert report.overlap == Repeats(1, ((5, 1),))
    assert report.single == {"fear": 5, "sadness": 2}


def test_every_problem_is_told_and_runs_of_one_are_joined(tmp_path: Path) -> None:
    good = '{"reply": "Hi", "emotion": "joy"}'
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(["{", good, '{"text": 1}', "", '{"text": 1}', '{"text": 1}', good, '{"text": 1}']))
    report = check_file(path, Reading(labels=EKMAN))
    assert [(found.line, found.last_line, found.rows, found.kind) for found in report.problems] == [
        (1, 1, 1, "broken JSON"),
        (3, 6, 3, "reply is no text"),
        (8, 8, 1, "reply is no text"),
    ]
    assert report.counts.rows == 2
    assert report.problems[1] == Finding(3, 6, 3, "reply is no text", "reply 1 is no text")


def test_a_file_of_problems_alone_has_empty_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n" + "1,2\n" * 500)
    report = check_file(path)
    assert [(found.line, found.last_line, found.rows) for found in report.problems] == [(2, 501, 500)]
    assert (report.counts.rows, report.counts.reply_words) == (0, Lengths(0, 0, 0, 0, 0, 0, 0))
    assert report.overlap == report.duplicates == Repeats(0, ())


def test_a_file_without_rows_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    for reader in (check_file, stats):
        with pytest.raises(DataError, match="holds no rows"):
            reader(tmp_path / "rows.jsonl")


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_quantiles_are_those_of_numpy(lengths: list[int]) -> None:
    expected = np.quantile(lengths, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1], method="inverted_cdf")
    assert check._lengths(Counter(lengths)) == Lengths(*expected.tolist())


triples = st.tuples(st.sampled_from("abcd"), st.sampled_from("pqPQ"), st.sampled_from(["train", "valid", "test", ""]))


@given(st.lists(triples))
def test_repeats_are_those_of_a_plain_count(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]) -> None:
    rows = [*rows, ("z", "z", "")]
    records: list[Row] = [([one], two, "joy", split) for one, two, split in rows]
    path = file_of(tmp_path_factory.mktemp("rows") / "rows.jsonl", records)
    first: dict[tuple[str, str], int] = {}
    train: dict[str, int] = {}
    again = []
    for line, (one, two, split) in enumerate(rows, 1):
        if first.setdefault((one, two), line) != line:
            again.append((line, first[one, two]))
        if split == "train":
            train.setdefault(two.casefold(), line)
    leaks = [
        (line, train[two.casefold()])
        for line, (_, two, split) in enumerate(rows, 1)
        if split in ("valid", "test") and two.casefold() in train
    ]
    report = check_file(path)
    assert report.duplicates == Repeats(len(again), tuple(again))
    assert report.overlap == Repeats(len(leaks), tuple(leaks[:10]))


def test_checking_keeps_no_text(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        rows: list[Row] = [([f"{n}"], f"{n} " + "word" * 400, "joy", "train") for n in range(count)]
        path = file_of(tmp_path / f"{count}.jsonl", rows)
        tracemalloc.start()
        assert check_file(path).counts.rows == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    # A row has some 1,500 characters here; fingerprints and the arrays that compare them take about 100 bytes.
    assert peak(3500) - peak(1500) < 2000 * 300


def test_stats_of_a_small_file(rows: Path) -> None:
    found = stats(rows)
    assert found.counts == check_file(rows).counts
    assert found.words == 4 + 5 + 5 + 3 + 4 + 4
    assert found.distinct_words == len({"good", "morning", "to", "you", "i", "am", "sad", "我", "很", "好"})
    assert found.words_by_label == {"joy": 4 + 5 + 3 + 4, "sadness": 5, "fear": 4}
    assert (found.opening, found.opening_rows) == ("good morning to", 3)


def test_stats_stop_at_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"reply": "Hi", "emotion": "joy"}\n{}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2: no column 'reply' or 'text'"):
        stats(tmp_path / "rows.jsonl")


def test_commonest_opening_survives_the_forgetting_of_rare_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(check, "_MAX_OPENINGS", 20)
    rows: list[Row] = [([], "we are all here" if n % 5 == 0 else f"word{n} and more", "joy", "") for n in range(500)]
    found = stats(file_of(tmp_path / "rows.jsonl", rows))
    assert (found.opening, found.opening_rows) == ("we are all", 100)


# ---- splits


def many(count: int) -> list[Row]:
    return [([], f"Reply number {n}", "joy" if n % 3 else "fear", "train") for n in range(count)]


def test_split_has_the_shares_asked_for_in_every_label(tmp_path: Path) -> None:
    path = file_of(tmp_path / "rows.jsonl", many(6000))
    found = Counter((row.emotion.name, row.split) for row in split_exchanges(path, shares=(0.7, 0.2, 0.1)))
    # Binomial: four standard deviations.
    for label, total in (("joy", 4000), ("fear", 2000)):
        for split, share in (("train", 0.7), ("valid", 0.2), ("test", 0.1)):
            rows = sum(count for key, count in found.items() if key == (label, split))
            assert abs(rows - share * total) < 4 * (share * (1 - share) * total) ** 0.5


def test_split_depends_on_reply_and_seed_alone(tmp_path: Path) -> None:
    path = file_of(tmp_path / "rows.jsonl", many(300))
    reverse = file_of(tmp_path / "reverse.jsonl", many(300)[::-1])
    splits = {row.reply: row.split for row in split_exchanges(path)}
    assert splits == {row.reply: row.split for row in split_exchanges(reverse)}
    assert splits != {row.reply: row.split for row in split_exchanges(path, seed=1)}


@given(st.lists(st.sampled_from(["yes", "Yes", " YES ", "no", "No\n", "maybe  so", "Maybe so"]), min_size=2), st.integers())
def test_no_reply_straddles_splits(tmp_path_factory: pytest.TempPathFactory, replies: list[str], seed: int) -> None:
    rows: list[Row] = [([str(n)], reply, "joy", "") for n, reply in enumerate(replies)]
    path = file_of(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows)
    out = path.with_name("out.jsonl")
    assert write_exchanges(out, split_exchanges(path, shares=(0.4, 0.3, 0.3), seed=seed)) == len(replies)
    assert check_file(out).overlap.rows == 0
    assert "" not in check_file(out).counts.splits


def test_a_label_with_a_single_row_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = file_of(tmp_path / "rows.jsonl", [*many(10), ([], "Ugh", "disgust", ""), *many(10)])
    with pytest.raises(DataError) as caught:
        write_exchanges(tmp_path / "out.jsonl", split_exchanges(path))
    message = f"{path}:11: emotion 'disgust' has only this row, which cannot be split"
    assert str(caught.value) == f"{message}; rename it, merge it with another, or drop it"
    assert not (tmp_path / "out.jsonl").exists()


def test_split_stops_at_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"reply": "Hi", "emotion": "joy"}\nnothing\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2: broken JSON"):
        list(split_exchanges(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize("shares", [(0.8, 0.3, 0.1), (1.1, -0.1, 0.0), (0.0, 0.5, 0.5)])
def test_shares_that_are_none_are_refused(tmp_path: Path, shares: tuple[float, float, float]) -> None:
    with pytest.raises(SettingsError, match="shares"):
        split_exchanges(tmp_path / "rows.jsonl", shares=shares)


def test_nothing_but_a_regular_file_is_replaced(tmp_path):
    pipe, link, target = tmp_path / "pipe", tmp_path / "link.jsonl", tmp_path / "target.jsonl"
    os.mkfifo(pipe)
    target.write_text("old")
    link.symlink_to(target)
    for path in (pipe, tmp_path):
        with pytest.raises(EmogenError, match="is no regular file"):
            write_exchanges(path, [])
    write_exchanges(link, [])
    assert link.is_symlink()
    assert target.read_text() == ""
