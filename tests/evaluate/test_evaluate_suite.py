"""The suite: which metrics come from what is given, that streams give what lists give, and what is left out."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from emogen.errors import DataError, SettingsError
from emogen.evaluate.distribution import frechet
from emogen.evaluate.diversity import distinct
from emogen.evaluate.emotion import Confusion, emotion_accuracy, emotion_f1
from emogen.evaluate.inputs import Encoding, Fluency, Judging, Options, Resources, System
from emogen.evaluate.similarity import bertscore
from emogen.evaluate.suite import compare, evaluate, evaluate_texts, plan_scores
from emogen.evaluate.training_overlap import novelty

TEXTS = [f"the {('cat', 'dog', 'old man')[n % 3]} sat on {('a', 'the')[n % 2]} mat {n % 7} times ." for n in range(60)]
REFERENCES = [[f"the {('cat', 'bird')[n % 2]} sat on the mat {n % 5} times .", "a cat sat ."] for n in range(60)]
LABELS = ("joy", "sadness")
ASKED = [LABELS[n % 2] for n in range(60)]
OVERLAP = ["bleu", "chrf", "ter", "rouge1", "rouge2", "rougeL"]
DIVERSITY = ["distinct1", "distinct2", "distinct2_corrected", "self_bleu4", "entropy2", "unique", "commonest", "mean_length"]


class Again:
    """Texts without a length or places, which can be gone through again: a file, in short."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def judge(name="judge", wrong=3, **more):
    """Says joy of every text about a cat, and of every `wrong`th else."""

    def probabilities(texts):
        joy = np.array([0.9 if "cat" in text or len(text) % wrong == 0 else 0.2 for text in texts])
        return np.stack([joy, 1 - joy], axis=1)

    return Judging(name, LABELS, probabilities, f"{name}@01234567", **more)


def letters(texts):
    return np.array([[text.count(letter) + 1.0 for letter in "aest"] for text in texts])


ENCODER = Encoding("letters", letters, lambda texts: [letters([*text]) for text in texts])
MODEL = Fluency("uniform", lambda texts: [2.0 * len(text) for text in texts])


def test_scoring_needs_no_model_library():
    """In a process of its own."""
    code = "import sys, emogen.evaluate.suite; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("system", "means", "expected"),
    [
        (System("s", TEXTS), Resources(), DIVERSITY),
        (System("s", TEXTS, REFERENCES), Resources(), [*OVERLAP, *DIVERSITY, "backward_bleu4"]),
        (System("s", TEXTS), Resources(real=TEXTS), [*DIVERSITY, "backward_bleu4"]),
        (System("s", TEXTS), Resources(training=TEXTS), [*DIVERSITY, "novelty", "copied"]),
        (
            System("s", TEXTS),
            Resources(language_model=MODEL),
            [*DIVERSITY, "perplexity", "nats_per_character", "nats_per_sentence"],
        ),
        (System("s", TEXTS, target=ASKED), Resources(judges=(judge(),)), [*DIVERSITY, "emotion_accuracy", "emotion_f1"]),
    ],
)
def test_what_is_given_decides_what_is_computed(system, means, expected):
    found = evaluate(system, means)
    assert plan_scores(system, means) == expected
    # 60 texts have fewer than 1,000 bigrams.
    assert list(found.scores) == [name for name in expected if name != "distinct2_corrected"]
    assert [note.partition(" ")[0] for note in found.notes] == ["distinct2_corrected"]


def test_overlap_equals_the_kept_libraries():
    """Sacrebleu and rouge-score, called directly."""
    scores = evaluate_texts(TEXTS, REFERENCES)
    columns = [list(column) for column in zip(*REFERENCES, strict=True)]
    assert scores["bleu"].value == pytest.approx(sacrebleu.corpus_bleu(TEXTS, columns).score, abs=1e-9)
    assert scores["chrf"].value == pytest.approx(sacrebleu.corpus_chrf(TEXTS, columns).score, abs=1e-9)
    assert scores["ter"].value == pytest.approx(sacrebleu.corpus_ter(TEXTS, columns).score, abs=1e-9)
    scorer = RougeScorer(["rougeL"])
    pairs = zip(REFERENCES, TEXTS, strict=True)
    rouge = [scorer.score_multi(listed, text)["rougeL"].fmeasure for listed, text in pairs]
    assert scores["rougeL"].value == pytest.approx(np.mean(rouge), abs=1e-9)


def test_lowercase_is_in_the_signature():
    options = Options(lowercase=True)
    assert "case:lc" in evaluate_texts(TEXTS, REFERENCES, options=options)["bleu"].signature
    assert "case:mixed" in evaluate_texts(TEXTS, REFERENCES)["bleu"].signature


def test_streams_give_what_lists_give():
    means = Resources(training=TEXTS[:9], judges=(judge(),))
    streams = Resources(training=Again(TEXTS[:9]), judges=(judge(),))
    system = System("s", Again(TEXTS), Again(REFERENCES), Again(ASKED))
    assert dict(evaluate(system, streams).scores) == evaluate_texts(TEXTS, REFERENCES, ASKED, means)


def test_more_texts_than_a_chunk_are_one_tally(monkeypatch):
    """Equal to the metrics on whole lists, number of texts in the signature included."""
    monkeypatch.setattr("emogen.evaluate.tasks._CHUNK", 7)
    monkeypatch.setattr("emogen.evaluate.tasks._JUDGED_AT_ONCE", 11)
    scores = evaluate_texts(TEXTS, target=ASKED, means=Resources(judges=(judge(),)))
    judged = [LABELS[row.argmax()] for row in judge().probabilities(TEXTS)]
    assert scores["emotion_f1"].value == pytest.approx(emotion_f1(ASKED, judged, LABELS).value)
    assert (scores["emotion_f1"].low, scores["emotion_f1"].high) == pytest.approx(
        (emotion_f1(ASKED, judged, LABELS).low, emotion_f1(ASKED, judged, LABELS).high)
    )
    assert scores["emotion_accuracy"].value == emotion_accuracy(ASKED, judged).value
    assert "|texts:60|" in scores["emotion_f1"].signature
    assert "|texts:60|" in scores["mean_length"].signature


def test_a_sample_is_said_and_overlap_takes_all():
    found = evaluate(System("s", TEXTS, REFERENCES), options=Options(sample=20))
    assert "texts:20|" in found.scores["unique"].signature
    assert "seen:60" in found.scores["unique"].signature
    assert found.scores["bleu"] == evaluate_texts(TEXTS, REFERENCES)["bleu"]
    assert found.texts == 60
    assert any("20 of 60 texts" in note for note in found.notes)
    assert any(note.startswith("real texts") and "20 of 120" in note for note in found.notes)


def test_sampled_texts_keep_their_references_and_emotions():
    """Each text equals its own reference and no other: only then are all cosines 1."""
    texts = ["".join(letter * (n >> 3 * place & 7) for place, letter in enumerate("aest")) for n in range(50)]
    system = System("s", texts, [[text] for text in texts])
    scores = evaluate(system, Resources(encoder=ENCODER), Options(sample=10)).scores
    assert scores["similarity"].value == pytest.approx(1)
    assert "best:cosine|seen:50" in scores["similarity"].signature


def test_the_nearest_reference_counts():
    scores = evaluate_texts(["aaa", "eee"], [["ttt", "aaa"], ["eee", "ttt"]], means=Resources(encoder=ENCODER))
    assert scores["similarity"].value == pytest.approx(1)
    assert scores["bertscore"].value == pytest.approx(1)
    assert scores["frechet"].value > 0


@pytest.mark.parametrize("real", [None, [f"real {n}" for n in range(9)]])
@pytest.mark.parametrize("at_once", [True, False])
def test_an_encoder_reads_every_text_once(real, at_once):
    """For Fréchet distance, similarity and BERTScore together: in one pass, or in one for each kind of vector."""
    read = {"sentences": [], "tokens": [], "both": []}

    def sentences(texts):
        read["sentences"] += texts
        return letters(texts)

    def tokens(texts):
        read["tokens"] += texts
        return ENCODER.tokens(texts)

    def both(texts):
        read["both"] += texts
        return letters(texts), ENCODER.tokens(texts)

    texts = [f"{'ab' * n} text {n}" for n in range(70)]
    references = [[f"reference {n}", f"another {n * n}"][: 1 + n % 2] for n in range(70)]
    given = Resources(encoder=Encoding("counted", sentences, tokens, both if at_once else None), real=real)
    found = evaluate_texts(texts, references, means=given)
    everything = sorted([*texts, *(text for listed in references for text in listed)])
    assert sorted(read["both" if at_once else "tokens"]) == everything
    assert sorted(read["sentences"]) == sorted([*([] if at_once else everything), *(real or [])])
    plain = evaluate_texts(texts, references, means=Resources(encoder=replace(ENCODER, name="counted"), real=real))
    for name in ("frechet", "similarity", "bertscore"):
        assert found[name] == plain[name]
    own = np.array([letters([text])[0] for text in texts])
    others = np.array([letters([text])[0] for text in (real or [text for listed in references for text in listed])])
    assert found["frechet"].value == pytest.approx(frechet(own, others).value)
    assert found["bertscore"].value == pytest.approx(bertscore(texts, references, ENCODER.tokens, "x").value)


def test_an_encoder_that_forgets_a_text_is_told():
    short = replace(ENCODER, tokens=lambda texts: ENCODER.tokens(texts)[1:])
    with pytest.raises(DataError, match="encoder letters gave 2 sentence vectors and the tokens of 1 texts for 2 texts"):
        evaluate_texts(["a"], [["b"]], means=Resources(encoder=short))


def test_real_texts_take_the_place_of_references():
    given = evaluate_texts(TEXTS, REFERENCES, means=Resources(real=TEXTS))
    assert given["backward_bleu4"].value > evaluate_texts(TEXTS, REFERENCES)["backward_bleu4"].value
    assert "references:60" in given["backward_bleu4"].signature


def test_diversity_and_novelty_are_those_of_the_modules():
    scores = evaluate_texts(TEXTS, means=Resources(training=TEXTS[:9]), options=Options(seed=3))
    assert scores["distinct2"] == distinct.statistic(TEXTS, 2).score(3)
    assert scores["novelty"] == novelty(TEXTS, TEXTS[:9], seed=3)


def test_reverse_perplexity_trains_on_the_texts_and_tests_on_the_real_ones():
    trained = []

    def train(texts):
        trained.extend(texts)
        return MODEL

    scores = evaluate_texts(TEXTS, means=Resources(real=["a b"], reverse=train))
    assert trained == TEXTS
    # Two nats a character over two words and an end.
    assert scores["reverse_perplexity"].value == pytest.approx(np.exp(6 / 3))
    assert "trained_on:60" in scores["reverse_perplexity"].signature


def test_several_judges_are_told_apart():
    own = Confusion(np.array([[80, 20], [10, 90]]), LABELS)
    judges = (judge("one", own=own), judge("two", wrong=2, leak="none"))
    found = evaluate(System("s", TEXTS, target=ASKED), Resources(judges=judges))
    names = ["emotion_accuracy:one", "emotion_f1:one", "emotion_accuracy_corrected:one"]
    names += ["emotion_accuracy:two", "emotion_f1:two", "agreement", "kappa"]
    assert list(found.scores)[-7:] == names
    assert "judge:one@01234567|leak:unchecked" in found.scores["emotion_accuracy:one"].signature
    assert "judge:two@01234567|leak:none" in found.scores["emotion_f1:two"].signature
    assert found.confusions["one"].counts.sum() == 60


def test_a_judge_without_held_out_texts_of_a_label_corrects_nothing():
    own = Confusion(np.array([[80, 20], [0, 0]]), LABELS)
    found = evaluate(System("s", TEXTS, target=ASKED), Resources(judges=(judge(own=own),)))
    assert "emotion_accuracy_corrected" not in found.scores
    assert any(note.startswith("emotion_accuracy_corrected left out") for note in found.notes)


def test_what_cannot_be_computed_is_a_note_and_no_number():
    found = evaluate(
        System("s", ["我很好"], target=["joy"]), Resources(encoder=ENCODER, real=["x", "y"]), Options(lexicon=True)
    )
    left_out = {note.partition(" left out")[0] for note in found.notes}
    assert left_out == {"distinct2_corrected", "self_bleu4", "frechet", "polarity_agreement"}
    assert all(np.isfinite([score.value, score.low, score.high]).all() for score in found.scores.values())


@pytest.mark.parametrize(
    "texts",
    [["hi", "ok"], ["🙂", "😢"], ["ありがとう。", "うん"], ["ขอบคุณ", "ดี"], ["អរគុណ", "បាទ"], ["...", "!"], ["a b", "c d"]],
)
@pytest.mark.parametrize("language", ["auto", "en", "zh", "char"])
def test_identical_texts_score_full_marks_or_a_note(texts, language):
    """BLEU, chrF and ROUGE against themselves are never 0: a metric that finds no token to compare is left out."""
    found = evaluate(System("s", texts, [[text] for text in texts]), options=Options(language=language))
    full = {"bleu": 100, "chrf": 100, "ter": 0, "rouge1": 1, "rouge2": 1, "rougeL": 1}
    for name, value in full.items():
        if name in found.scores:
            assert found.scores[name].value > 0 or name == "ter"
            assert name == "rouge2" or found.scores[name].value == pytest.approx(value)
        else:
            assert any(note.startswith(f"{name} left out") for note in found.notes)
    assert {"bleu", "chrf", "ter"} <= set(found.scores)
    assert all(found.scores[name].value > 0 for name in ("distinct1", "distinct2") if name in found.scores)


def test_how_a_script_without_blanks_is_parted_is_said():
    texts = ["ฉันดีใจมากที่ได้พบคุณ"]
    found = evaluate(System("s", texts, [texts]))
    assert "bleu and ter compare characters, since Thai has no blanks between words" in found.notes
    found = evaluate(System("s", texts, [texts]), options=Options(language="en"))
    assert any("'en' does not part Thai" in note for note in found.notes)
    assert any("eff:yes" in note for note in found.notes)
    assert "|eff:yes|" in found.scores["bleu"].signature


@pytest.mark.parametrize(
    ("means", "said"),
    [
        (
            Resources(encoder=replace(ENCODER, sentences=lambda texts: np.full((len(texts), 4), np.nan)), real=TEXTS),
            "not finite",
        ),
        (Resources(real=[]), "no real texts"),
        (Resources(real=TEXTS, reverse=lambda _: Fluency("m", lambda texts: [np.nan] * len(texts))), "nan"),
    ],
)
def test_mistakes_are_no_notes(means, said):
    """A metric that the texts do not allow is left out; data or a model that is broken ends the evaluation."""
    with pytest.raises(DataError, match=said):
        evaluate(System("s", TEXTS), means)


@pytest.mark.parametrize("texts", [[""], ["", ""], ["👍🏽"], ["", "a b c d e", "我 很好 a"]])
def test_odd_texts_score_finitely(texts):
    scores = evaluate_texts(texts, [["a b c"]] * len(texts))
    assert set(OVERLAP) <= set(scores)
    assert all(np.isfinite([score.value, score.low, score.high]).all() for score in scores.values())


@pytest.mark.parametrize(
    ("texts", "references", "target", "means", "said"),
    [
        ([], None, None, Resources(), "no texts"),
        (["a"], [["a"], ["b"]], None, Resources(), "1 hypotheses"),
        (["a"], [[]], None, Resources(), r"references\[0\]"),
        (
            ["a", "b"],
            None,
            ["joy", "hope"],
            Resources(judges=(judge(),)),
            r"texts\[1\]: emotion 'hope' is no label of judge judge",
        ),
        (["a", "b"], None, ["joy"], Resources(judges=(judge(),)), "emotions asked for"),
        (
            ["a"],
            None,
            ["joy"],
            Resources(judges=(Judging("j", LABELS, lambda _: np.array([[0.1, np.nan]])),)),
            "j, .*sadness is nan",
        ),
        (["a"], None, ["joy"], Resources(judges=(Judging("j", LABELS, lambda _: np.zeros((3, 2))),)), "3 rows .* 1 texts"),
        (["a"], None, None, Resources(training=[]), "no training texts"),
        (["a"], None, None, Resources(language_model=Fluency("m", lambda _: [np.nan])), "nan"),
    ],
)
def test_mistakes_are_one_line(texts, references, target, means, said):
    with pytest.raises(DataError, match=said) as refused:
        evaluate_texts(texts, references, target, means)
    assert "\n" not in str(refused.value)


def test_a_judge_without_emotions_asked_for_is_refused():
    with pytest.raises(SettingsError, match="which emotion"):
        evaluate_texts(TEXTS, means=Resources(judges=(judge(),)))
    with pytest.raises(SettingsError, match="sample is 0"):
        Options(sample=0)


def test_comparison_finds_the_better_system_and_not_a_difference_to_itself():
    better = evaluate(System("b", [listed[0] for listed in REFERENCES], REFERENCES))
    worse = evaluate(System("w", TEXTS, REFERENCES))
    found, notes = compare(worse, better)
    assert notes == []
    assert list(found) == list(worse.scores)
    assert found["bleu"].difference == pytest.approx(better.scores["bleu"].value - worse.scores["bleu"].value)
    assert found["bleu"].p < 0.01
    same, _ = compare(worse, worse)
    assert all(comparison.p == 1 and comparison.difference == 0 for comparison in same.values())


def test_a_system_of_short_texts_is_compared_in_bleu():
    """Its n-grams are the effective ones, which change nothing for the other system."""
    short, long = evaluate(System("s", ["it was"] * 60, REFERENCES)), evaluate(System("l", TEXTS, REFERENCES))
    assert "|eff:yes|" in short.scores["bleu"].signature
    assert "|eff:no|" in long.scores["bleu"].signature
    found, notes = compare(short, long)
    assert notes == []
    assert found["bleu"].difference == pytest.approx(long.scores["bleu"].value - short.scores["bleu"].value)


def test_what_was_computed_in_another_way_is_not_compared():
    first = evaluate(System("a", TEXTS), Resources(training=TEXTS[:5]))
    second = evaluate(System("b", TEXTS), Resources(training=TEXTS[:6]))
    found, notes = compare(first, second)
    assert "novelty" not in found
    assert [note.partition(" ")[0] for note in notes] == ["novelty", "copied"]
    with pytest.raises(DataError, match="60 texts of the first but 59"):
        compare(first, evaluate(System("c", TEXTS[1:])))


def test_long_loops_are_watched():
    seen = []

    def watch(items, what, total):
        seen.append((what, total))
        return items

    evaluate(System("ours", TEXTS, REFERENCES, ASKED), Resources(judges=(judge(),)), watch=watch)
    assert {("bleu", 60), ("rouge", 60), ("judging", 60), ("ours", len(OVERLAP) - 2 + len(DIVERSITY) + 2)} <= set(seen)
