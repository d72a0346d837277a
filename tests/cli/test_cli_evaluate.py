"""`emogen evaluate`: files in, one table, page or JSON object out, and one line for whatever is wrong."""

import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import torch
from scipy import stats

from emogen.checkpoint.folder import read_confusion, save_classifier, write_confusion
from emogen.cli import main
from emogen.data.fingerprints import fingerprints, write_fingerprints
from emogen.emotions.labels import EKMAN, LabelSet
from emogen.errors import CheckpointError
from emogen.models.classifier import Classifier, ClassifierConfig

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
CLASSIFIERS = (ROOT / "docs" / "classifiers.md").read_text(encoding="utf-8")
TEXTS = [f"it was {('great , we won', 'awful , I cried')[n % 2]} on day {n % 7} ." for n in range(12)]
REFERENCES = [f"on day {n % 5} it was {('great', 'awful')[n % 2]} ." for n in range(12)]
PAIR = LabelSet(("joy", "sadness"))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder with texts, references, and texts with emotions."""
    monkeypatch.chdir(tmp_path)
    lines("ours.txt", TEXTS)
    lines("theirs.txt", reversed(TEXTS))
    lines("refs.txt", REFERENCES)
    rows("asked.jsonl", [{"text": text, "emotion": ("joy", "sadness")[n % 2]} for n, text in enumerate(TEXTS)])
    return tmp_path


def lines(name, texts):
    Path(name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


def rows(name, records):
    lines(name, map(json.dumps, records))


@pytest.fixture
def evaluate(capsys):
    """Runs the command in this process; gives exit status, standard output and standard error."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", *map(str, arguments)])
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return call


@pytest.fixture
def scored(evaluate):
    """Runs the command with --json; gives the object."""

    def call(*arguments):
        status, out, err = evaluate(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)

    return call


def judge_in(name, labels=PAIR, trained_on=("one row",), **config):
    """An untrained classifier's checkpoint."""
    torch.manual_seed(len(name))
    save_classifier(Path(name), labels, Classifier(ClassifierConfig(len(labels), buckets=64, **config)))
    write_fingerprints(Path(name), fingerprints(trained_on))
    return name


def test_json_of_one_system(scored):
    found = scored("ours.txt", "--references", "refs.txt")
    assert set(found["scores"]["bleu"]) == {"value", "low", "high", "signature"}
    assert found["scores"]["bleu"]["value"] == pytest.approx(sacrebleu.corpus_bleu(TEXTS, [REFERENCES]).score)
    assert found["texts"] == 12
    # "it was great , we won on day 0 ." and the like: ten tokens each.
    assert found["lengths"]["mean"] == found["scores"]["mean_length"]["value"] == 10


def test_table_on_stdout_and_notes_on_stderr(evaluate):
    status, out, err = evaluate("ours.txt", "theirs.txt")
    assert status == 0
    assert [line.split(" ")[0] for line in out.splitlines()[:3]] == ["", "ours", "theirs"]
    assert out.split()[:2] == ["texts", "distinct1"]
    assert err.count("distinct2_corrected left out") == 1
    assert "note: all systems: distinct2_corrected left out" in err
    assert "note" not in out


def test_a_note_of_some_systems_names_them(evaluate):
    lines("gaps.txt", [*TEXTS[:-1], ""])
    lines("holes.txt", ["", *TEXTS[1:]])
    _, _, err = evaluate("gaps.txt", "ours.txt", "holes.txt")
    assert "note: gaps, holes: 1 of 12 texts are empty\n" in err


def test_neither_torch_nor_transformers_without_a_model():
    """In a process of its own, to the end of the command."""
    code = (
        "import sys; from emogen.cli import main\n"
        "try: main(['evaluate', 'ours.txt', '--references', 'refs.txt', '--train', 'theirs.txt'])\n"
        "except SystemExit as ended: sys.exit(ended.code or any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_the_same_texts_in_every_format_score_the_same(scored, monkeypatch):
    with gzip.open("zipped.txt.gz", "wt", encoding="utf-8") as handle:
        handle.write("".join(f"{text}\r\n" for text in TEXTS))
    rows("rows.jsonl", [{"output": text} for text in TEXTS])
    Path("table.csv").write_text("answer\n" + "".join(f'"{text}"\n' for text in TEXTS), encoding="utf-8")
    expected = scored("ours.txt")
    assert scored("zipped.txt.gz") == expected
    assert scored("rows.jsonl") == expected
    assert scored("table.csv", "--text-column", "answer") == expected
    for source, chosen in (("ours.txt", []), ("rows.jsonl", ["--format", "jsonl"])):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path(source).read_bytes())))
        assert scored("-", *chosen) == expected


def test_several_references_are_files_or_lists(scored):
    rows("lists.jsonl", [{"references": [one, two]} for one, two in zip(REFERENCES, TEXTS, strict=True)])
    both = scored("theirs.txt", "--references", "refs.txt", "--references", "ours.txt")["scores"]["bleu"]
    assert both == scored("theirs.txt", "--references", "lists.jsonl")["scores"]["bleu"]
    expected = sacrebleu.corpus_bleu(TEXTS[::-1], [REFERENCES, TEXTS]).score
    assert both["value"] == pytest.approx(expected)


def test_real_texts_give_no_overlap(scored):
    scores = scored("ours.txt", "--real", "refs.txt", "--train", "theirs.txt")["scores"]
    assert "bleu" not in scores
    assert scores["backward_bleu4"]["value"] > 0
    assert scores["copied"]["value"] == 1


def test_output_of_sample_is_taken_as_it_is(scored, tiny_checkpoint, capsys):
    with pytest.raises(SystemExit):
        main(["sample", "--json", "--checkpoint", str(tiny_checkpoint), "-n", "3", "--emotion", "joy=0.7,sadness=0.3"])
    Path("s.jsonl").write_text(capsys.readouterr().out, encoding="utf-8")
    found = scored("s.jsonl", "--judge", judge_in("judge", EKMAN))
    joy = EKMAN.position("joy")
    assert [sum(row) for row in found["confusion"]["judge"]["counts"]] == [3 * (place == joy) for place in range(7)]


def test_every_form_of_emotion_is_its_heaviest_label(scored):
    forms = ["sadness", "joy=0.3,sadness=0.7", {"joy": 0.1, "sadness": 0.9}, ["sadness"], "sadness|joy"]
    rows("forms.jsonl", [{"text": "oh", "mood": form} for form in forms])
    found = scored("forms.jsonl", "--judge", judge_in("judge"), "--emotion-column", "mood")
    assert [sum(row) for row in found["confusion"]["judge"]["counts"]] == [0, 5]


def test_judges_are_named_with_the_hash_of_their_weights(scored, evaluate):
    judges = ["--judge", judge_in("one"), "--judge", judge_in("another", backbone="cnn", multi_label=True)]
    scores = scored("asked.jsonl", *judges)["scores"]
    assert {"emotion_accuracy:one", "emotion_f1:another", "agreement", "kappa"} <= set(scores)
    digest = hashlib.sha256(Path("one/model.safetensors").read_bytes()).hexdigest()
    assert f"|judge:one@{digest[:8]}|leak:unchecked|" in scores["emotion_accuracy:one"]["signature"]
    _, page, _ = evaluate("asked.jsonl", *judges, "--markdown")
    assert "emotion asked for and the one that another found" in page
    assert "| asked \\ judged | joy | sadness |" in page


def test_a_leak_is_refused_and_allowed_is_told(evaluate, scored):
    judge, guide = judge_in("judge", trained_on=["a", "shared"]), judge_in("guide", trained_on=["b", "Shared"], backbone="cnn")
    status, _, err = evaluate("asked.jsonl", "--judge", judge, "--guide", guide)
    assert status == 1
    assert "1 of its 2 training rows" in err
    scores = scored("asked.jsonl", "--judge", judge, "--guide", guide, "--allow-leak")["scores"]
    assert "leak:allowed(guide:1rows)" in scores["emotion_f1"]["signature"]


def test_a_judge_that_knows_its_errors_corrects(scored):
    judge = judge_in("judge")
    write_confusion(Path(judge), PAIR, np.array([[90, 10], [20, 80]]))
    score = scored("asked.jsonl", "--judge", judge)["scores"]["emotion_accuracy_corrected"]
    assert "judge_texts:200" in score["signature"]


def test_confusion_comes_back_as_it_was_written(folder):
    counts = np.array([[3, 1], [0, 5]])
    assert read_confusion(folder, PAIR) is None
    write_confusion(folder, PAIR, counts)
    assert json.loads((folder / "confusion.json").read_text()) == {"labels": ["joy", "sadness"], "counts": [[3, 1], [0, 5]]}
    np.testing.assert_array_equal(read_confusion(folder, PAIR), counts)
    with pytest.raises(CheckpointError, match="is of joy, sadness, the classifier has joy, fear"):
        read_confusion(folder, LabelSet(("joy", "fear")))


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"labels": ["joy", "sadness"], "counts": [[1, 2]]}',
        '{"labels": ["joy", "sadness"], "counts": [[1, -2], [0, 1]]}',
    ],
)
def test_a_broken_confusion_is_refused(folder, content):
    (folder / "confusion.json").write_text(content)
    with pytest.raises(CheckpointError, match="confusion"):
        read_confusion(folder, PAIR)


def test_compared_files_are_systems_and_tested(scored, evaluate):
    found = scored("--compare", "ours.txt", "theirs.txt", "--references", "refs.txt")
    assert set(found["systems"]) == {"ours", "theirs"}
    by_metric = {row["metric"]: row for row in found["comparisons"]}
    values = [found["systems"][system]["scores"]["bleu"]["value"] for system in ("ours", "theirs")]
    assert by_metric["bleu"]["difference"] == pytest.approx(values[1] - values[0])
    assert by_metric["bleu"]["p_holm"] >= by_metric["bleu"]["p"] > 0
    # The same texts in another order are as diverse.
    assert by_metric["unique"]["p"] == 1
    _, out, _ = evaluate("--compare", "ours.txt", "theirs.txt")
    assert "p (Holm)" in out


def test_systems_and_temperatures_are_columns_and_points(scored, evaluate, folder):
    hot = [
        {"system": name, "temperature": t, "text": f"{text} {n * t}"}
        for name in ("mle", "gan")
        for t in (0.5, 1)
        for n, text in enumerate(TEXTS[:6])
    ]
    rows("hot.jsonl", hot)
    lines("refs4.txt", REFERENCES[:6] * 4)
    options = ["--references", "refs4.txt", "--frontier", "plots/f", "--diversity", "distinct2"]
    assert list(scored("hot.jsonl", *options)["systems"]) == ["mle t=0.5", "mle t=1", "gan t=0.5", "gan t=1"]
    assert (folder / "plots/f.png").stat().st_size > 0
    assert "distinct2" in (folder / "plots/f.svg").read_text(encoding="utf-8")
    status, out, err = evaluate("hot.jsonl", *options[:4])
    assert (status, "distinct1" in out) == (1, True)
    assert "no frontier is drawn" in err


def seeded(name, seeds, column="seed", shift=0, **more):
    """Twelve rows a seed; how many of the texts repeat depends on the seed."""
    kept = [[TEXTS[n % (3 + seed + shift)] for n in range(12)] for seed in range(seeds)]
    rows(name, [{"text": text, column: seed, **more} for seed, texts in enumerate(kept) for text in texts])
    return [len(set(texts)) / 12 for texts in kept]


def test_rows_of_several_training_seeds_are_not_pooled_silently(evaluate, scored):
    seeded("gan.jsonl", 3)
    status, out, err = evaluate("gan.jsonl")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "gan.jsonl: system 'gan' has rows of 3 seeds (0, 1, 2)" in err
    assert "--seed-column" in err
    assert "--pool-seeds" in err
    assert scored("gan.jsonl", "--pool-seeds")["texts"] == 36
    seeded("named.jsonl", 2, "training_seed")
    assert evaluate("named.jsonl")[0] == 1


def test_a_score_over_training_seeds_is_their_mean_with_its_t_interval(scored):
    """The interval by SciPy."""
    values = seeded("gan.jsonl", 4)
    found = scored("gan.jsonl", "--seed-column", "seed")
    score = found["scores"]["unique"]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (score["value"], score["low"], score["high"]) == pytest.approx((np.mean(values), low, high), rel=1e-4)
    assert "|training_seeds:4|interval:t" in score["signature"]
    assert found["by_seed"]["unique"] == values
    assert found["texts"] == 48


def test_systems_are_compared_over_training_seeds(scored, evaluate):
    """The p-value by SciPy's exact permutation test; rows of one seed count as one value, however many they are."""
    first, second = seeded("gan.jsonl", 4, system="gan"), seeded("mle.jsonl", 4, shift=2, system="mle")
    found = scored("--compare", "gan.jsonl", "mle.jsonl", "--seed-column", "seed")
    (row,) = [row for row in found["comparisons"] if row["metric"] == "unique"]
    expected = stats.permutation_test((first, second), lambda a, b: np.mean(b) - np.mean(a), n_resamples=np.inf)
    assert row["difference"] == pytest.approx(np.mean(second) - np.mean(first))
    assert row["p"] == pytest.approx(expected.pvalue)
    assert row["test"] == "exact_permutation"
    seeded("two.jsonl", 2)
    seeded("one.jsonl", 1)
    _, _, err = evaluate("--compare", "two.jsonl", "gan.jsonl", "--seed-column", "seed")
    assert "2 and 4 training seeds: p cannot be below 0.067" in err
    status, out, err = evaluate("--compare", "two.jsonl", "one.jsonl", "--seed-column", "seed")
    assert (status, out) == (1, "")
    assert "each needs at least two" in err
    assert "a single training seed (0)" in evaluate("one.jsonl", "--seed-column", "seed")[2]


@pytest.mark.parametrize(
    "records",
    [
        # What `emogen sample --json` prints with several seeds of decoding, a seed for each row, and no seed at all.
        [{"text": t, "log_probability": -1.0, "tokens": 3, "finished": True, "seed": n % 2} for n, t in enumerate(TEXTS)],
        [{"text": t, "seed": n} for n, t in enumerate(TEXTS)],
        [{"text": t, "seed": None} for t in TEXTS],
        [{"text": t, "seed": 7} for t in TEXTS],
    ],
)
def test_seeds_of_decoding_are_no_training_seeds(scored, records):
    rows("decoded.jsonl", records)
    assert scored("decoded.jsonl")["scores"]["unique"] == scored("ours.txt")["scores"]["unique"]


def test_empty_texts_count_and_are_told(evaluate):
    lines("gaps.txt", ["a b", "", " ", "c"])
    status, out, err = evaluate("gaps.txt")
    assert status == 0
    assert out.splitlines()[1].split() == ["texts", "4"]
    assert "2 of 4 texts are empty" in err


def test_files_of_one_name_are_told_apart(scored, folder):
    (folder / "b").mkdir()
    lines("b/ours.txt", TEXTS)
    assert list(scored("ours.txt", "b/ours.txt")["systems"]) == ["ours", "b/ours.txt: ours"]


BAD = {
    "short.txt": b"one\n",
    "empty.txt": b"",
    "latin.txt": b"fine\ncaf\xe9\n",
    "number.jsonl": b'{"text": "x"}\n{"text": 3}\n',
    "half.jsonl": b'{"text": "\\ud83d"}\n',
    "hot.jsonl": b'{"text": "x", "temperature": "hot"}\n',
    "hope.jsonl": b'{"text": "x", "emotion": "joy"}\n{"text": "x", "emotion": "hope"}\n',
    "share.jsonl": b'{"text": "x", "emotion": {"joy": NaN}}\n',
    "none.jsonl": b'{"reference": []}\n',
    "cut.txt.gz": gzip.compress(b"x\n" * 99)[:-9],
    "what.doc": b"x\n",
}


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ("", 2, "name a file of texts"),
        ("ours.txt --references short.txt", 1, "ours.txt has 12 texts but short.txt has 1 rows"),
        ("ours.txt --references none.jsonl", 1, "none.jsonl:1: reference []"),
        ("ours.txt --references no.txt", 1, "no.txt: no such file"),
        ("empty.txt", 1, "empty.txt: holds no texts"),
        ("ours.txt --train empty.txt", 1, "empty.txt: holds no texts"),
        ("latin.txt", 1, "latin.txt:2: byte 0xe9 at position 3 is not UTF-8"),
        ("number.jsonl", 1, "number.jsonl:2: text 3 is no text"),
        ("half.jsonl", 1, "half.jsonl:1: the text holds half"),
        ("hot.jsonl", 1, "hot.jsonl:1: temperature 'hot'"),
        ("cut.txt.gz", 1, "cut.txt.gz: cannot be read"),
        ("what.doc", 1, "ending '.doc' is not one of .txt, "),
        ("asked.jsonl --text-column answer", 1, "asked.jsonl:1: no column 'answer', found text, emotion"),
        ("hope.jsonl --judge judge", 1, "hope.jsonl:2: emotion 'hope' is no label of judge judge: joy, sadness"),
        ("asked.jsonl --judge judge --emotion-column mood", 1, "no column 'mood'"),
        ("share.jsonl --judge judge", 1, "share.jsonl:1: emotion {'joy': nan}"),
        ("ours.txt --judge judge", 1, "lines of text name no emotion"),
        ("asked.jsonl --judge nobody", 1, "nobody"),
        ("asked.jsonl --judge judge --judge judge", 2, "twice"),
        ("ours.txt --guide judge", 2, "--guide needs a --judge"),
        ("ours.txt --compare ours.txt short.txt", 1, "ours.txt has 12 texts but short.txt has 1"),
        ("ours.txt --frontier f", 2, "--frontier needs a quality"),
        ("ours.txt --frontier f --quality fame", 2, "--quality 'fame' is not one of the metrics computed here: distinct1"),
        ("ours.txt --frontier f --quality unique", 1, "has a column 'temperature'"),
        ("ours.txt --quality unique", 2, "--quality needs --frontier"),
        ("ours.txt --mauve", 2, "--mauve needs --encoder"),
        ("ours.txt --reverse", 2, "--reverse needs"),
        ("ours.txt --json --markdown", 2, "take one of them"),
        ("- --references -", 2, "standard input"),
        ("ours.txt --seed-column seed", 1, "lines of text name no seed"),
        ("number.jsonl --seed-column run", 1, "number.jsonl:1: no column 'run', found text; name it with --seed-column"),
        ("number.jsonl --seed-column s --pool-seeds", 2, "take one of them"),
        ("ours.txt --real latin.txt", 1, "latin.txt:2: byte 0xe9"),
        ("ours.txt --real asked.jsonl --text-column answer", 1, "asked.jsonl:1: no column 'answer', found text, emotion"),
        ("ours.txt --real number.jsonl", 1, "number.jsonl:2: text 3 is no text"),
        ("ours.txt --real empty.txt", 1, "empty.txt: holds no texts"),
        ("ours.txt --real cut.txt.gz", 1, "cut.txt.gz: cannot be read"),
        ("ours.txt --references refs.txt --real what.doc", 1, "ending '.doc'"),
        ("ours.txt --train hope.jsonl --text-column answer", 1, "hope.jsonl:1: no column 'answer'"),
        ("ours.txt --reference-column r", 2, "--reference-column needs --references"),
    ],
)
def test_mistakes_are_one_line_and_nothing_else(evaluate, arguments, status, said):
    for name, content in BAD.items():
        Path(name).write_bytes(content)
    judge_in("judge")
    found, out, err = evaluate(*arguments.split())
    assert (found, out) == (status, "")
    (line,) = err.splitlines()
    assert line.startswith("emogen: ")
    assert said in line


def test_a_judge_that_answers_nan_is_named(evaluate):
    judge = judge_in("judge")
    broken = Classifier(ClassifierConfig(2, buckets=64))
    torch.nn.init.constant_(broken.head.bias, float("nan"))
    save_classifier(Path(judge), PAIR, broken)
    status, out, err = evaluate("asked.jsonl", "--judge", judge)
    assert (status, out) == (1, "")
    assert "judge judge, texts from asked.jsonl:1 on: probabilities[0]: joy is nan" in err


def test_without_matplotlib_the_frontier_is_refused_before_anything_is_read(evaluate, monkeypatch):
    monkeypatch.setattr("emogen.cli.evaluating.find_spec", lambda _: None)
    status, _, err = evaluate("nowhere.txt", "--frontier", "f")
    assert status == 2
    assert "needs matplotlib" in err


@pytest.mark.parametrize(("option", "package"), [("--mauve", "mauve"), ("--lexicon", "vaderSentiment")])
def test_a_missing_package_is_told_before_anything_is_read(evaluate, monkeypatch, option, package):
    monkeypatch.setattr("emogen.cli.evaluating.find_spec", lambda name: None if name == package else object())
    more = ["--encoder", "hf:x", "--real", "nowhere.txt"] if option == "--mauve" else []
    status, out, err = evaluate("nowhere.txt", option, *more)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert package.lower() in err.lower()


def test_a_language_model_of_our_own_gives_perplexity(scored, tiny_checkpoint):
    scores = scored("ours.txt", "--language-model", tiny_checkpoint)["scores"]
    assert scores["perplexity"]["value"] > 1
    assert scores["nats_per_sentence"]["value"] > scores["nats_per_character"]["value"] > 0


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", GUIDE + CLASSIFIERS, flags=re.DOTALL))
def test_python_of_the_guide_runs(code, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    exec(code, {})
    assert capsys.readouterr().out


def test_the_guide_names_every_option_and_every_score():
    from emogen.cli.evaluating import evaluate_command
    from emogen.evaluate.inputs import Options, Resources, System
    from emogen.evaluate.suite import plan_scores

    assert {name for option in evaluate_command.params for name in option.opts if name.startswith("--")} <= set(
        re.findall(r"--[a-z-]+", GUIDE)
    )
    everything = Resources(training=(), real=(), encoder=True, language_model=True, reverse=True)
    names = plan_scores(System("s", (), (), ()), everything, Options(mauve=True))
    assert {name for name in names if f"`{name}`" not in GUIDE} == set()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"text": "a", "temperature": ' + "9" * 400 + "}", "is no number of at least 0"),
        ('{"text": "a", "temperature": true}', "temperature True is no number"),
        ('{"text": "a", "system": ["b"]}', "system ['b'] is neither a name nor a number"),
        ('{"text": "a", "emotion": {"joy": 1e999}}', "finite shares"),
    ],
)
def test_rows_with_impossible_values(evaluate, row, said):
    lines("row.jsonl", [row])
    status, out, err = evaluate("row.jsonl", "--emotion-column", "emotion") if "emotion" in row else evaluate("row.jsonl")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("emogen: row.jsonl:1: ")
    assert said in err


def test_a_system_may_be_called_0(scored):
    rows("named.jsonl", [{"text": "a b", "system": 0}, {"text": "c d", "system": 1}])
    assert set(scored("named.jsonl")["systems"]) == {"0", "1"}


@pytest.mark.parametrize("place", [".", "ours.txt/plot"])
def test_a_place_where_no_plot_can_be_is_refused_before_scoring(evaluate, place):
    status, out, err = evaluate("nobody-reads-this.txt", "--frontier", place)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"emogen: --frontier {place!r}: " if place == "." else f"emogen: --frontier {place}: ")


@pytest.mark.parametrize("option", ["--encoder", "--language-model", "--frontier"])
def test_empty_names_are_refused(evaluate, option):
    status, out, err = evaluate("ours.txt", option, "")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert option in err


def test_folders_that_are_not_there_are_named(evaluate):
    status, _, err = evaluate("asked.jsonl", "--judge", "nope")
    assert (status, err) == (1, "emogen: nope: no classifier there (no config.json); train one, or name another folder\n")
    judge = judge_in("judge")
    status, _, err = evaluate("asked.jsonl", "--judge", judge, "--guide", "nope", "--allow-leak")
    assert status == 1
    assert err.startswith("emogen: nope: no such folder; --guide names")


def test_emotions_are_asked_for_in_other_words(scored, evaluate):
    """The judge's joy and sadness by any name score as they do by their own; a note says how they were read."""
    judge_of = judge_in("judge")
    words = {"joy": ("Happy", "JOY", "开心"), "sadness": ("难过", "sad", "Sadness")}
    plain = [{"text": text, "emotion": ("joy", "sadness")[n % 2]} for n, text in enumerate(TEXTS)]
    rows("words.jsonl", [{**row, "emotion": words[row["emotion"]][n % 3]} for n, row in enumerate(plain)])
    rows("odd.jsonl", [{**row, "emotion": {"joy": "up", "sadness": "down"}[row["emotion"]]} for row in plain])
    expected = scored("asked.jsonl", "--judge", judge_of)
    for name, options in (("words", ()), ("odd", ("--map", "up=joy", "--map", "Down=sad"))):
        found = scored(f"{name}.jsonl", "--judge", judge_of, *options)
        assert found["scores"]["emotion_accuracy"]["value"] == expected["scores"]["emotion_accuracy"]["value"]
        assert found["confusion"] == expected["confusion"]
    assert any("'Happy' as 'joy'" in note for note in scored("words.jsonl", "--judge", judge_of)["notes"])
    status, out, err = evaluate("odd.jsonl", "--judge", judge_of)
    assert (status, out) == (1, "")
    assert "emotion 'up' (6 texts) is no label of judge" in err
    assert "nor is 'down' (6); rename it (--map up=LABEL)" in err
