"""Septet: the package's files are those of its sources, groups are whole, and nothing comes twice."""

import importlib.util
import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from test_starter import closest, fourgrams

from emogen.data.check import check_file
from emogen.data.corpora import corpus_named, locate
from emogen.data.exchange import read_exchanges
from emogen.data.rows import read_rows
from emogen.emotions.labels import EKMAN
from emogen.text.words import language_of, words

SOURCES = Path(__file__).parents[2] / "corpus" / "septet"
LANGUAGES = ("en", "zh")


def script(name):
    spec = importlib.util.spec_from_file_location(name, SOURCES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows():
    return [row.fields for row in read_rows(locate("septet"))]


def test_the_package_holds_what_the_sources_hold(rows):
    build = script("build")
    made = [json.loads(json.dumps(row)) for language in LANGUAGES for row in build.exchanges(language)]
    assert rows == made
    for language in LANGUAGES:
        own = [row.fields for row in read_rows(locate(f"septet-{language}"))]
        assert own == [row for row in rows if row["language"] == language]


def test_the_sources_keep_the_rules():
    """Form, lengths, no reply that names its emotion, no opening worn out."""
    check = script("check")
    faults = [
        (path.name, fault)
        for path in sorted(SOURCES.glob("*/*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
        for fault in check.faults_of(json.loads(line))
    ]
    assert faults == []


def test_every_context_is_answered_in_each_emotion(rows):
    found = defaultdict(list)
    for row in rows:
        if row["kind"] == "reply":
            found[row["group"]].append(row)
    for group in found.values():
        assert [row["emotion"] for row in group] == list(EKMAN.names)
        assert len({json.dumps(row["context"]) for row in group}) == 1


def test_a_group_stands_in_one_split_and_two_domains_in_the_test_alone(rows):
    splits, domains = defaultdict(set), defaultdict(set)
    for row in rows:
        splits[row["group"]].add(row["split"])
        domains[row["language"], row["domain"]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    for language, names in script("build").TEST_DOMAINS.items():
        assert all(domains.get((language, name), {"test"}) == {"test"} for name in names)


def test_it_is_read_as_every_corpus_is(rows):
    found = list(read_exchanges(locate("septet")))
    assert len(found) == len(rows)
    report = check_file(locate("septet"))
    assert report.problems == ()
    assert corpus_named("septet-en").licence == "Apache-2.0"
    assert {language_of([*row.context, row.reply]) for row in read_exchanges(locate("septet-zh"))} == {"zh"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_two_rows_are_nearly_alike(language):
    """The replies alone, since contexts come seven times: none shares more than three in five 4-grams with another."""
    found = list(read_exchanges(locate(f"septet-{language}")))
    replies = [fourgrams(type(row)((), row.reply, row.emotion)) for row in found]
    long = [grams for grams in replies if len(grams) > 3]
    share, one, other = closest(long)
    assert share <= 0.6, (one, other)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_opening_is_worn_out(language):
    replies = [row.reply for row in read_exchanges(locate(f"septet-{language}"))]
    openings = Counter(" ".join(words(reply)[:3]) for reply in replies)
    assert openings.most_common(1)[0][1] <= 0.005 * len(replies)
