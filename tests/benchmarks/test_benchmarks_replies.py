"""The two reply benchmarks on hand-made sets: sacrebleu and rouge-score give the expected overlap, counting the rest."""

import doctest
import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from click.testing import CliRunner
from rouge_score.rouge_scorer import RougeScorer

from emogen.checkpoint.folder import save_classifier
from emogen.checkpoint.model import load
from emogen.data.exchange import Exchange, Reading, read_exchanges, write_exchanges
from emogen.data.fingerprints import fingerprints, write_fingerprints
from emogen.decoding.control import Control
from emogen.emotions.labels import EKMAN, EMPATHETIC, LabelSet, blend
from emogen.errors import CheckpointError, DataError, SettingsError
from emogen.models.classifier import Classifier, ClassifierConfig
from emogen.recognition.recognizer import load_recognizer


def script(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "evaluate" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


sys.path.insert(0, str(Path(__file__).parents[2] / "evaluate"))
empathetic = script("empathetic_replies")
daily = script("daily_dialog")
reply_memory = sys.modules["reply_memory"]
reply_speakers = script("reply_speakers")

TRIALS = [
    {
        "context": ["i lost my keys again , i can not believe it ."],
        "reference": "oh no ! did you find them ?",
        "emotion": "annoyed",
        "outputs": {"Good": "oh no ! where did you lose them ?", "Dull": "i am sorry to hear that ."},
    },
    {
        "context": ["i passed !", "what did you pass ?", "my driving test ."],
        "reference": "that is great , you should n't stop now .",
        "emotion": "proud",
        "outputs": {"Good": "that is great , you did so well .", "Dull": "i am sorry to hear that ."},
    },
    {
        "context": ["i am home alone tonight ."],
        "reference": "are you afraid of the dark or of people ?",
        "emotion": "terrified",
        "outputs": {"Good": "are you afraid of something ?", "Dull": "i am glad ."},
    },
]
WRITTEN = [
    Exchange(("I lost my keys again, I can not believe it.",), "Oh no! Did you find them?", blend(["sadness"], EKMAN), "test"),
    Exchange(("I passed!", "What did you pass?", "My driving test."), "Great!", blend(["joy"], EKMAN), "test"),
    Exchange(("I'm home alone tonight.",), "From another split", blend(["joy"], EKMAN), "train"),
]
REFERENCES = [trial["reference"] for trial in TRIALS]


@pytest.fixture
def outputs(tmp_path):
    path = tmp_path / "outputs.jsonl"
    path.write_text("".join(json.dumps(trial) + "\n" for trial in TRIALS), encoding="utf-8")
    return path


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "written.jsonl"
    write_exchanges(path, WRITTEN)
    return path


def classifier(folder, labels, rows=()):
    save_classifier(folder, labels, Classifier(ClassifierConfig(len(labels), buckets=64, width=4)))
    write_fingerprints(folder, fingerprints(rows))
    return folder


def run(module, tmp_path, *arguments):
    """The result file and its rows by system and seed."""
    out = tmp_path / "result.json"
    result = CliRunner().invoke(module.main, [*map(str, arguments), "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text(encoding="utf-8"))
    return content, {(row["system"], row["seed"]): row for row in content["rows"]}


@pytest.mark.parametrize("module", [empathetic, daily], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yeah about 10 years ago. It was 100% their fault.", "yeah about 10 years ago . it was 100 % their fault ."),
        ("People really shouldn't drive drunk.", "people really should n't drive drunk ."),
        ('I’m "fine", don\'t worry...', "i am fine , do not worry ..."),
        ("oh no ! i am sorry to hear that .", "oh no ! i am sorry to hear that ."),
        ("  ", ""),
    ],
)
def test_the_references_form(text, expected):
    """The first two are as the authors' preprocessing leaves such sentences, the fourth is in that form already."""
    assert empathetic.as_published(text) == expected


def test_published_systems_are_scored_as_the_outside_tools_do(tmp_path, outputs):
    _, rows = run(empathetic, tmp_path, "--outputs", outputs)
    assert list(rows) == [("human", 0), ("Good", 0), ("Dull", 0)]
    texts = [trial["outputs"]["Good"] for trial in TRIALS]
    assert rows["Good", 0]["bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, [REFERENCES], lowercase=True).score, abs=1e-5)
    scorer = RougeScorer(["rougeL"])
    values = [scorer.score(one, other)["rougeL"].fmeasure for one, other in zip(REFERENCES, texts, strict=True)]
    assert rows["Good", 0]["rougeL"] == pytest.approx(sum(values) / 3, abs=1e-5)
    # Dull: two of three alike; 6 + 2 different bigrams of 6 + 6 + 3 (the full stop is a word, and "i am" is in all).
    assert rows["Dull", 0]["commonest"] == pytest.approx(2 / 3, abs=1e-5)
    assert rows["Dull", 0]["distinct2"] == pytest.approx(8 / 15, abs=1e-5)
    assert "bleu" not in rows["human", 0]
    assert "emotion_accuracy" not in rows["Good", 0]


def test_replies_of_a_file_meet_the_references_in_their_form(tmp_path, outputs):
    natural = ["Oh no! Did you find them?", "That's great, you shouldn't stop now.", "Are you afraid of the dark or of people?"]
    lines, table = tmp_path / "lines.txt", tmp_path / "rows.jsonl"
    lines.write_text("\n".join(natural) + "\n", encoding="utf-8")
    table.write_text("".join(json.dumps({"text": text}) + "\n" for text in REFERENCES), encoding="utf-8")
    content, rows = run(empathetic, tmp_path, "--outputs", outputs, "--replies", lines, "--replies", f"same={table}")
    assert rows["lines", 0]["bleu"] == rows["same", 0]["bleu"] == pytest.approx(100)
    assert {(found["first"], found["second"], found["metric"]) for found in content["comparisons"]} == {
        ("Good", system, metric) for system in ("lines", "same") for metric in ("bleu", "rougeL")
    }
    assert all(found["difference"] > 0 and found["p"] <= found["p_holm"] for found in content["comparisons"])
    assert content["data"].keys() == {"outputs.jsonl", "lines.txt", "rows.jsonl"}


def test_a_checkpoint_replies_to_the_contexts_as_written(tmp_path, outputs, written, tiny_checkpoint):
    trials = empathetic.read_trials(outputs)
    contexts, found = empathetic.restored(trials, str(written))
    assert contexts == [WRITTEN[0].context, WRITTEN[1].context, tuple(TRIALS[2]["context"])]
    assert found == pytest.approx(4 / 5)

    options = ("--checkpoint", f"ours={tiny_checkpoint}", "--corpus", written, "--seeds", 2)
    content, rows = run(empathetic, tmp_path, "--outputs", outputs, *options)
    model = load(tiny_checkpoint)
    drawn = replace(model.default_sampling, temperature=0.7, top_p=0.9, control=Control())
    texts = [reply.text for reply in model.replies(contexts, [None] * 3, sampling=drawn, seed=1 * len(contexts))]
    expected = sacrebleu.corpus_bleu(list(map(empathetic.as_published, texts)), [REFERENCES], lowercase=True).score
    assert rows["ours", 1]["bleu"] == pytest.approx(expected, abs=1e-5)
    assert rows["ours", 0]["emotion"] == "none"
    assert content["utterances_as_written"] == pytest.approx(4 / 5)
    assert "written.jsonl" in content["data"]


def test_samples_are_drawn_once_and_chosen_in_each_way(tmp_path, outputs, written, tiny_checkpoint, monkeypatch):
    """Two trainings of one system, two seeds, and the replies that a second run finds on disk."""
    speakers, kept = classifier(tmp_path / "speakers", EMPATHETIC), tmp_path / "kept"
    with_feelings = tmp_path / "feelings.jsonl"
    rows = [*WRITTEN, Exchange(("I won!", "What?", "A cup."), "Well done!", blend(["proud"], EMPATHETIC), "train")]
    write_exchanges(with_feelings, [replace(row, emotion=blend(["proud"], EMPATHETIC)) for row in rows])
    options = ("--checkpoint", f"ours={tiny_checkpoint}", "--checkpoint", f"ours={tiny_checkpoint}", "--seeds", 2)
    more = ("--speakers", speakers, "--emotion", "recognised", "--candidates", 3, "--neighbours", "--samples", kept)
    content, _ = run(empathetic, tmp_path, "--outputs", outputs, "--corpus", with_feelings, *options, *more)
    cases = [
        (row["case"], row["training"], row["seed"]) for row in content["rows"] if row["system"] == "ours" and "case" in row
    ]
    ways = ["mbr:3", "mbr:3, neighbours", "mbr:3, neighbours, few repeats"]
    assert cases == [(way, training, seed) for training in (0, 1) for seed in (0, 1) for way in ways]
    assert [row["case"] for row in content["rows"] if row["system"] == "neighbours"] == ["mbr, few repeats"]
    assert "--candidates 3 --neighbours" in content["command"]
    monkeypatch.setattr(empathetic.drawn.__globals__["EmotionModel"], "replies", None)
    again, _ = run(empathetic, tmp_path, "--outputs", outputs, "--corpus", with_feelings, *options, *more)
    assert again["rows"] == content["rows"]


def test_samples_go_on_where_they_stopped(tmp_path, tiny_checkpoint, monkeypatch):
    """A part that was cut short is drawn anew; the replies are those of one run, and of a run without a folder."""
    module = sys.modules["reply_samples"]
    monkeypatch.setattr(module, "AT_ONCE", 2)
    model, contexts = load(tiny_checkpoint), [(f"Number {number}.",) for number in range(5)]
    emotions = [model.emotion(None)] * 5
    options = replace(model.default_sampling, n=2, seed=1)
    whole = module.drawn(model, contexts, emotions, options)
    assert [len(texts) for texts in whole] == [2] * 5
    assert len({text for texts in whole for text in texts}) > 5
    assert module.drawn(model, contexts, emotions, options, tmp_path) == whole
    (path,) = tmp_path.iterdir()
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:3]) + '["cut', encoding="utf-8")
    assert module.drawn(model, contexts, emotions, options, tmp_path) == whole
    assert module.drawn(model, contexts, emotions, replace(options, seed=2), tmp_path) != whole


def memory(*said, feelings=None):
    rows = [reply_memory.Turn(text, opens, f"reply {at}", 0) for at, (text, opens) in enumerate(said)]
    return reply_memory.remember(
        [replace(row, feeling=one) for row, one in zip(rows, feelings or [0] * len(rows), strict=True)]
    )


def test_similar_conversations_are_those_of_alike_words():
    """The cosine of tf-idf vectors, by hand: `dog` stands in two of three turns, `cat` in one, `ran` in one."""
    found = reply_memory.cosines(memory(("dog dog", True), ("dog cat", True), ("ran", True)), "dog cat")
    dog, cat = (math.log(4 / (1 + number)) + 1 for number in (2, 1))
    assert found == pytest.approx([dog / math.hypot(dog, cat), 1.0, 0.0])
    assert reply_memory.cosines(memory(("dog", True)), "unknown words").tolist() == [0.0]


def test_openings_are_compared_with_openings_and_feelings_count():
    kept = memory(("my dog ran", True), ("my dog ran off", False), ("my dog sat", True), ("a cup", True), feelings=[0, 0, 1, 1])
    nothing = np.zeros(2)
    assert reply_memory.remembered(kept, "my dog ran off", True, nothing).references == ["reply 0", "reply 2", "reply 3"]
    assert reply_memory.remembered(kept, "my dog ran off", False, nothing).references == ["reply 1"]
    one = reply_memory.remembered(kept, "hm", True, np.array([0.0, 1.0]))
    assert set(one.references[:2]) == {"reply 2", "reply 3"}
    assert one.weights == pytest.approx([1.0, math.exp(-1e-4), math.exp(-4e-4)])


def test_nothing_to_compare_with():
    with pytest.raises(DataError, match="no training conversation is as long as one that begins 'hm': the corpus needs"):
        reply_memory.remembered(memory(("my dog", True)), "hm", False, np.zeros(2))


def test_the_crowded_count_less():
    """Four alike turns are near to each other, the fifth to none; copies of a turn do not crowd it."""
    said = ["a big red dog", "a big red cat", "a big red cup", "a big red hat", "zebra"]
    found = memory(*((text, True) for text in said)).crowding
    assert found[4] == 0
    assert min(found[:4]) > 0.1
    assert memory(("a dog", True), ("a dog", True)).crowding.tolist() == [0.0, 0.0]


def test_what_was_given_before_loses():
    """The second time the better one still wins, the third time no more."""
    valued = [{"Fine.": 0.5, "Good.": 0.485}] * 4
    assert empathetic.most_useful(valued, 0.0) == ["Fine."] * 4
    assert empathetic.most_useful(valued, 0.01) == ["Fine.", "Fine.", "Good.", "Fine."]


def test_the_likest_to_similar_replies_is_the_most_useful():
    """Nine tenths of a utility are likeness to those, one tenth to the samples; no two of these texts share a word."""
    memory_of = reply_memory.Remembered(["So sorry"], ["Oh dear", "Really great"], [1.0, 0.0])
    found = empathetic.utilities_of(memory_of, ["Oh dear", "Really great"])
    alike = 2 / 4  # Of four orders of n-grams a text of two words has two.
    assert found["Oh dear"] == pytest.approx(0.9 * alike + 0.1 * alike / 2)
    assert found["Really great"] == pytest.approx(0.1 * alike / 2)
    assert found["So sorry"] == pytest.approx(0.011)
    assert empathetic.utilities_of(memory_of, ()) == {"So sorry": 0.0}


def test_the_emotion_asked_for_is_judged(tmp_path, outputs, written, tiny_checkpoint):
    judge = classifier(tmp_path / "judge", EKMAN)
    options = ("--checkpoint", f"ours={tiny_checkpoint}", "--corpus", written, "--greedy", "--emotion", "speaker")
    content, rows = run(empathetic, tmp_path, "--outputs", outputs, *options, "--judge", judge)
    assert [seed for system, seed in rows if system == "ours"] == [0]
    model = load(tiny_checkpoint)
    emotions = empathetic.target(model, empathetic.read_trials(outputs), "speaker")
    assert [emotion.name for emotion in emotions] == ["anger", "joy", "fear"]
    assert 0 <= rows["ours", 0]["emotion_accuracy"] <= 1
    assert content["leak"] == "unchecked"


def test_recognition_reads_what_the_speaker_said(tmp_path, outputs, written):
    folder = classifier(tmp_path / "reader", EMPATHETIC)
    _, rows = run(empathetic, tmp_path, "--outputs", outputs, "--classifier", folder, "--corpus", written)
    said = [WRITTEN[0].context[0], "I passed! My driving test.", TRIALS[2]["context"][0]]
    found = [guess.label for guess in load_recognizer(folder).recognize(said)]
    hits = sum(label == trial["emotion"] for label, trial in zip(found, TRIALS, strict=True))
    assert rows["reader", 0]["recognition_accuracy"] == pytest.approx(hits / 3, abs=1e-5)


def test_rows_for_a_classifier_of_the_speaker(tmp_path):
    """What the speaker said, his feeling, and the row's part."""
    rows = [replace(row, emotion=blend(["proud"], EMPATHETIC)) for row in WRITTEN]
    write_exchanges(tmp_path / "rows.jsonl", [*rows, Exchange((), "opens", blend(["proud"], EMPATHETIC), "train")])
    arguments = ["--corpus", str(tmp_path / "rows.jsonl"), str(tmp_path / "out.jsonl")]
    assert CliRunner().invoke(reply_speakers.main, arguments, catch_exceptions=False).exit_code == 0
    found = list(read_exchanges(str(tmp_path / "out.jsonl"), Reading(labels=EMPATHETIC)))
    assert [row.reply for row in found] == [
        "I lost my keys again, I can not believe it.",
        "I passed! My driving test.",
        "I'm home alone tonight.",
    ]
    assert [(row.context, row.emotion.name, row.split) for row in found] == [((), "proud", row.split) for row in rows]


def test_mistakes_are_said_in_one_line(tmp_path, outputs, written, tiny_checkpoint):
    short = tmp_path / "short.txt"
    short.write_text("one\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"short\.txt: 1 replies for 3 contexts"):
        run(empathetic, tmp_path, "--outputs", outputs, "--replies", short)
    with pytest.raises(SettingsError, match="two systems are called 'Good'"):
        run(empathetic, tmp_path, "--outputs", outputs, "--replies", f"Good={short}")
    with pytest.raises(SettingsError, match="need a classifier of the speaker's emotion: --speakers DIR"):
        run(empathetic, tmp_path, "--outputs", outputs, "--neighbours")
    with pytest.raises(SettingsError, match="pass --emotion"):
        run(empathetic, tmp_path, "--outputs", outputs, "--judge", tiny_checkpoint)
    reader = classifier(tmp_path / "seven", EKMAN)
    with pytest.raises(SettingsError, match="not the 32 of the speakers"):
        run(empathetic, tmp_path, "--outputs", outputs, "--classifier", reader, "--corpus", written)
    with pytest.raises(SettingsError, match="'hunger' is not one of anger"):
        run(
            empathetic,
            tmp_path,
            "--outputs",
            outputs,
            "--checkpoint",
            tiny_checkpoint,
            "--corpus",
            written,
            "--emotion",
            "hunger",
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"emotion": "hunger"}, r":2: emotion 'hunger' is not one of afraid"),
        ({"context": []}, r":2: expected are context"),
        ({"outputs": {}}, r":2: expected are context"),
        ({"context": [3]}, r":2: an utterance"),
        ({"outputs": {"Good": "yes"}}, r":2: has outputs of other systems"),
    ],
)
def test_a_row_that_is_no_trial_is_named(tmp_path, change, message):
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps(TRIALS[0]) + "\n" + json.dumps({**TRIALS[1], **change}) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        empathetic.read_trials(path)


def dialogues(names=("neutral",) * 8 + ("joy", "joy", "sadness")):
    return [
        Exchange((f"What about number {number} ?",), f"Number {number} isn ’ t here .", blend([name], EKMAN), "test")
        for number, name in enumerate(names)
    ]


@pytest.fixture
def dialogue_file(tmp_path):
    path = tmp_path / "dialogues.jsonl"
    others = [
        Exchange((), "Opens a dialogue .", blend(["fear"], EKMAN), "test"),
        Exchange(("Hm ?",), "Was trained on .", blend(["fear"], EKMAN), "train"),
    ]
    write_exchanges(path, [*others, *dialogues()])
    return path


def test_the_two_sets_of_daily_dialog():
    found = daily.test_set(dialogues(), limit=6, each=2, language="en")
    assert len(found.everyday) == 6
    assert sorted(found.target(found.balanced)) == ["joy", "joy", "neutral", "neutral", "sadness"]
    assert len({row.reply for row in found.rows}) == len(found.rows)
    assert {*found.everyday, *found.balanced} == set(range(len(found.rows)))


def test_daily_dialog_end_to_end(tmp_path, dialogue_file, tiny_checkpoint):
    judge = classifier(tmp_path / "judge", EKMAN)
    options = ("--corpus", dialogue_file, "--judge", judge, "--each", 2, "--seeds", 2)
    content, rows = run(daily, tmp_path, "--checkpoint", f"ours={tiny_checkpoint}", *options)
    assert list(rows) == [("real", 0), ("ours", 0), ("ours", 1)]
    assert content["replies"] == {"neutral": 8, "joy": 2, "sadness": 1}
    assert content["replies_balanced"] == {"neutral": 2, "joy": 2, "sadness": 1}
    assert rows["real", 0]["n_balanced"] == 5
    reader = load_recognizer(judge)
    hits = sum(reader.recognize([daily.closed_up(row.reply)])[0].label == row.emotion.name for row in dialogues())
    assert rows["real", 0]["emotion_accuracy"] == pytest.approx(hits / 11, abs=1e-5)
    assert rows["real", 0]["mean_length"] == 5  # number N isn't here .
    assert rows["ours", 0]["unique"] <= 1
    assert {"bleu", "rougeL", "chrf", "ter"} <= rows["ours", 1].keys()
    assert content["leak"] == "unchecked"


def test_each_control_has_rows_of_its_own(tmp_path, dialogue_file, tiny_checkpoint):
    judge = classifier(tmp_path / "judge", EKMAN)
    options = ("--corpus", dialogue_file, "--judge", judge, "--each", 2, "--seeds", 1)
    controls = ("--control", "none", "--control", "mbr:4")
    content, _ = run(daily, tmp_path, "--checkpoint", f"ours={tiny_checkpoint}", *options, *controls)
    plain, chosen = (row for row in content["rows"] if row["system"] == "ours")
    assert ("case" in plain, chosen["case"]) == (False, "mbr:4")
    assert plain["mean_length"] != chosen["mean_length"]
    assert "--control none --control mbr:4 --language en" in content["command"]


def test_replies_and_contexts_are_as_people_type(dialogue_file):
    rows = list(daily.replies_to_contexts(str(dialogue_file), Reading(labels=EKMAN)))
    assert rows[0].context == ("What about number 0?",)
    assert [row.reply for row in rows] == [f"Number {number} isn't here." for number in range(11)]


def test_chinese_is_compared_by_characters(tmp_path):
    rows = [Exchange(("你好吗？",), reply, blend(["joy"], EKMAN), "test") for reply in ("我今天很开心。", "天气真好，是不是？")]
    found = daily.test_set(rows, limit=2, each=2, language="zh")
    texts = [row.reply for row in found.rows]
    judging = daily.suitable_judge(classifier(tmp_path / "judge", EKMAN), "none")
    # The same, but for one word that neither tokenisation may lose.
    scores = daily.figures(found, "ours", [texts[0], texts[1] + "是"], judging)
    assert scores["bleu"].value == pytest.approx(
        sacrebleu.corpus_bleu([texts[0], texts[1] + "是"], [texts], tokenize="zh").score
    )
    assert 0.9 < scores["rougeL"].value < 1


def test_a_judge_that_knows_the_guides_rows_is_refused(tmp_path, dialogue_file):
    judge = classifier(tmp_path / "judge", EKMAN, ["a shared row", "mine"])
    guide = tmp_path / "guide"
    save_classifier(guide, EKMAN, Classifier(ClassifierConfig(7, backbone="cnn", buckets=64, width=4, filters=2)))
    write_fingerprints(guide, fingerprints(["A shared  row"]))
    options = ("--corpus", dialogue_file, "--judge", judge, "--guide", guide)
    with pytest.raises(CheckpointError, match="1 of its 2 training rows"):
        run(daily, tmp_path, *options)
    content, _ = run(daily, tmp_path, *options, "--allow-leak")
    assert content["leak"] == "allowed(guide:1rows)"
    assert "|judge:judge|leak:allowed(guide:1rows)|" in content["signatures"]["emotion_accuracy"]


def test_unsuitable_judges_and_names(tmp_path, dialogue_file, tiny_checkpoint):
    with pytest.raises(SettingsError, match="the judge that ships reads English"):
        run(daily, tmp_path, "--language", "zh", "--corpus", dialogue_file)
    other = classifier(tmp_path / "other", LabelSet(("good", "bad")))
    with pytest.raises(SettingsError, match="judges good, bad; needed are anger"):
        run(daily, tmp_path, "--corpus", dialogue_file, "--judge", other)
    with pytest.raises(SettingsError, match="two systems are called 'real'"):
        daily.named([f"real={tiny_checkpoint}"])
    with pytest.raises(DataError, match="0 test replies"):
        daily.test_set([], 10, 10, "en")
