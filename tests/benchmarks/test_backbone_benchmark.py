"""The backbone benchmark end to end on a random two-layer base and invented corpora; its figures against closed forms."""

import doctest
import importlib.util
import json
import math
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emogen.checkpoint.folder import save_classifier
from emogen.checkpoint.model import load
from emogen.data.exchange import Exchange, write_exchanges
from emogen.data.fingerprints import fingerprint, fingerprints, write_fingerprints
from emogen.emotions.labels import EKMAN, blend
from emogen.errors import CheckpointError, DataError, SettingsError
from emogen.files import sha256
from emogen.models.classifier import Classifier, ClassifierConfig
from emogen.models.device import probe_bfloat16
from emogen.pretrained.bases import find_base
from emogen.recognition.recognizer import load_recognizer
from emogen.train.loops.mle import held_out_nll

sys.path.insert(0, str(Path(__file__).parents[2] / "evaluate"))

import backbone_heldout
import backbone_plan
import backbone_prompt
import backbone_speed
import backbone_texts

WORDS = (
    "<end>",
    "<unknown>",
    "we",
    "won",
    "today",
    ".",
    "so",
    "happy",
    "sad",
    "no",
    "it",
    "was",
    "you",
    "hello",
    "day",
    "friend",
)
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ' : ' + message['content'] + ' <end> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant :' }}{% endif %}"
)
SMALL = ["--samples", 4, "--seeds", 2, "--dev", 2, "--batch", 8, "--max-tokens", 6, "--replies", 5]


def script():
    spec = importlib.util.spec_from_file_location("backbone", Path(__file__).parents[2] / "evaluate" / "backbone.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["backbone"] = module
    spec.loader.exec_module(module)
    return module


backbone = script()


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    """A causal model of two layers with random weights, a tokenizer of whole words and a chat template; read only."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("base") / "small-gpt"
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unknown>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(3)
    sizes = {"n_positions": 256, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(WORDS), bos_token_id=0, eos_token_id=0, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """A judge and a guide that know nothing; the judge was trained on one of the test rows."""
    folders = []
    for name, rows in (("judge", ["goemotions joy test 0"]), ("guide", [])):
        folder = tmp_path_factory.mktemp("classifiers") / name
        save_classifier(folder, EKMAN, Classifier(ClassifierConfig(len(EKMAN), buckets=64, width=4)))
        write_fingerprints(folder, fingerprints(rows))
        folders.append(folder)
    return folders


def corpus_rows(corpus):
    """Four rows of each emotion in each held-out split; those of the dialogues have a context of two utterances."""
    for split in ("train", "valid", "test"):
        for emotion in EKMAN.names:
            for number in range(4):
                context = () if corpus == "goemotions" else ("hello friend", f"it was day {number} of {emotion} {split}")
                yield Exchange(context, f"{corpus} {emotion} {split} {number}", blend([emotion], EKMAN), split)


@pytest.fixture
def corpora(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    for corpus in ("goemotions", "dailydialog", "empatheticdialogues"):
        write_exchanges(tmp_path / "data" / f"{corpus}.jsonl.gz", corpus_rows(corpus))
    return tmp_path


@pytest.fixture
def options(corpora, base_folder, classifiers, tiny_checkpoint, monkeypatch):
    """What the benchmark is called with; a guide is sure of anything here."""
    monkeypatch.setattr(backbone_texts, "SURE", 0.0)
    judge, guide = classifiers
    folders = {"base": base_folder, "adapter": tiny_checkpoint, "default": tiny_checkpoint, "judge": judge, "guide": guide}
    return [*(part for name, folder in folders.items() for part in (f"--{name}", folder)), "--work", corpora / "work", *SMALL]


def run(options, out, *more):
    backbone.main([str(argument) for argument in (*options, "--out", out, *more)], standalone_mode=False)
    return json.loads(out.read_text(encoding="utf-8"))


def test_examples_in_docstrings():
    assert doctest.testmod(backbone).failed == 0


def test_every_system_writes_and_is_scored(options, corpora, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(
        backbone_texts, "forms_for", lambda tokenizer: {"turns": backbone_prompt.as_turns, "list": backbone_prompt.as_list}
    )
    content = run(options, corpora / "backbone.json", "--parts", "texts", "--before", tiny_checkpoint)
    rows = content["rows"]
    writers = [(name, seed) for name in ("prompt", "adapter", "default", "default_before") for seed in (0, 1)]
    assert [(row["system"], row["seed"]) for row in rows] == [("real", 0), *writers]
    needed = {"emotion_accuracy", "emotion_accuracy_interval", "perplexity", "perplexity_interval", "mean_length", "n"}
    assert all(set(row) >= needed for row in rows)
    assert all(set(row) >= {"bleu", "rougeL", "tokens_per_second", "temperature", "copied_examples"} for row in rows[1:])
    assert {(row["n"], row["n_replies"]) for row in rows[1:]} == {(28, 14)}
    part = content["parts"]["texts"]
    chosen = max(part["prompts"], key=part["prompts"].__getitem__)
    assert {row["prompt"] for row in rows[1:3]} == {chosen}
    assert list(part["prompts"]) == [f"{form}, examples {letter}" for form in ("turns", "list") for letter in "AB"]
    assert part["leak"] == "none"
    # One checkpoint under three names writes the same.
    same = [{name: value for name, value in row.items() if name not in ("system", "tokens_per_second")} for row in rows]
    assert same[3] == same[5] == same[7]
    assert same[3] != same[4]


def test_samples_are_written_once(options, base_folder):
    target, plan = [backbone_plan.Ask("joy", "hello " * number) for number in range(20)], plan_of(options, base_folder)
    calls = []

    def write(part, seed):
        calls.append((len(part), seed))
        return ["" if ask.context.count("hello") == 3 else str(ask.context.count("hello")) for ask in part]

    author = backbone_plan.Author("so and so", "first", write)
    texts = backbone_texts.in_order(backbone_texts.written(author, 2, target, plan))
    assert texts == [str(number) if number != 3 else "." for number in range(20)]
    assert calls == [(8, 200_000), (8, 200_001), (4, 200_002)]
    assert backbone_texts.in_order(backbone_texts.written(author, 2, target, plan)) == texts
    assert len(calls) == 3
    others = [replace(plan, temperature=0.9), replace(plan, max_tokens=7)]
    found = [
        *(backbone_texts.written(author, 2, target, other) for other in others),
        backbone_texts.written(author, 2, target[1:], plan),
    ]
    found += [
        backbone_texts.written(replace(author, identity="second"), 2, target, plan),
        backbone_texts.written(author, 1, target, plan),
    ]
    assert len(calls) == 3 * (1 + len(found))


def test_a_rate_is_the_median_of_full_batches(corpora, base_folder):
    """Three full batches of 2, 3 and 9 tokens and their ends in a second each; the rest does not count."""
    base = backbone_prompt.causal(find_base(str(base_folder)))
    texts = (("we won", ""), ("so", "we won"), ("we " * 4, "no " * 5))
    rounds = [backbone_plan.Round([0, 1], pair, 1.0) for pair in texts] + [backbone_plan.Round([6], ["so " * 50], 1.0)]
    assert backbone_texts.tokens_per_second(rounds, 2, base) == 5


def test_parts_join_in_one_file(options, corpora, base_folder, monkeypatch):
    out = corpora / "backbone.json"
    before = run(options, out, "--parts", "heldout")
    row = {"system": "speed", "case": "ready", "seed": 1, "seconds": 2.5}
    monkeypatch.setattr(backbone, "speed_part", lambda plan: backbone_plan.Found([row], {"note": "quick"}))
    for _ in range(2):
        content = run(options, out, "--parts", "speed", "--runs", "2")
        assert content["rows"] == [*before["rows"], {"part": "speed", **row}]
    assert content["command"].split(" && ") == [before["command"], f"{before['command'].replace('heldout', 'speed')} --runs 2"]
    assert content["parts"]["heldout"] == before["parts"]["heldout"]
    assert content["parts"]["speed"]["note"] == "quick"
    assert content["parts"]["heldout"]["weights"]["base"] == sha256(base_folder / "model.safetensors")
    with pytest.raises(SettingsError, match="'text' is not one of texts, heldout, speed"):
        run(options, out, "--parts", "text")


def test_held_out_replies_have_a_row_for_each_format(options, corpora):
    rows = run(options, corpora / "backbone.json", "--parts", "heldout")["rows"]
    cases = ["base, chat", "base, lines", "base, speakers", "adapter"]
    corpora_of = [(row["corpus"], row["case"]) for row in rows]
    assert corpora_of == [(corpus, case) for corpus in ("dailydialog", "empatheticdialogues") for case in cases]
    for four in (rows[:4], rows[4:]):
        best = min(row["perplexity"] for row in four[:3])
        assert min(row["ratio"] for row in four[:3]) == 1
        assert four[3]["ratio"] == pytest.approx(four[3]["perplexity"] / best, rel=1e-4)


def test_speed_has_waits_and_pairs(options, corpora, monkeypatch):
    monkeypatch.setattr(backbone_speed, "to_first_line", lambda arguments: float(len(arguments)))
    rows = run(options, corpora / "backbone.json", "--parts", "speed", "--runs", "1", "--fixed", "3")["rows"]
    assert [row["seconds"] for row in rows[:2]] == [3.0, 9.0]
    # Beside the adapter the base in float32, and in bfloat16 where the processor is faster in it.
    contenders = 3 if probe_bfloat16(torch.device("cpu")).is_faster else 2
    assert len(rows) == 2 + 2 * contenders
    assert all(row["tokens_per_second"] > 0 for row in rows[2:])
    for race in (rows[2 : 2 + contenders], rows[2 + contenders :]):
        assert race[0]["ratio"] == pytest.approx(
            race[0]["tokens_per_second"] / max(row["tokens_per_second"] for row in race[1:]), rel=1e-3
        )


def test_no_row_ends_before_its_fixed_number_of_tokens(options, corpora, tiny_checkpoint, base_folder, monkeypatch):
    """Time is a second here, so that a rate is a number of tokens."""
    clock = iter(range(1000))
    monkeypatch.setattr(backbone_speed.time, "perf_counter", lambda: next(clock))
    plan = plan_of(options, base_folder)
    target = [backbone_plan.Ask("joy"), backbone_plan.Ask("fear", "hello friend"), backbone_plan.Ask("anger", "no")]
    own = backbone_speed.own_speed(load(tiny_checkpoint), target, plan, 5)
    base = backbone_speed.base_speed(backbone_prompt.causal(plan.base).pretrained, target, plan, 5)
    assert [timed(seed) for timed in (own, base) for seed in range(3)] == [15.0] * 6
    assert backbone_speed.own_speed(load(tiny_checkpoint), target, plan, 0)(0) <= 3 * plan.max_tokens


def plan_of(options, base_folder):
    context = backbone.main.make_context("backbone", [str(argument) for argument in options])
    given = {name: value for name, value in context.params.items() if name not in ("parts", "out", "base")}
    return backbone_plan.Plan(base=find_base(str(base_folder)), **given)


def test_likelihood_of_replies_is_that_of_a_plain_loop(corpora, base_folder):
    """Token by token, each with all before it and nothing else, in whichever batch."""
    base = backbone_prompt.causal(find_base(str(base_folder))).pretrained
    rows = [([2, 3], [4, 0]), ([5], [6, 7, 8, 0]), ([9, 10, 11, 12, 13], [0])]
    expected = []
    for before, reply in rows:
        total = 0.0
        for at, token in enumerate(reply):
            scores = base.model(input_ids=torch.tensor([[*before, *reply[:at]]])).logits[0, -1].double()
            total -= float(scores.log_softmax(-1)[token].detach())
        expected.append(total)
    np.testing.assert_allclose(backbone_heldout.reply_nats(base, rows), expected, rtol=1e-5)


def test_likelihood_under_the_adapter_is_held_out_nll(tiny_checkpoint, tmp_path):
    from emogen.data.batches import batches, token_arrays
    from emogen.emotions.labels import no_emotion

    adapter = load(tiny_checkpoint)
    nothing = no_emotion(adapter.labels)
    rows = [Exchange((f"How was day {at}?",) * (at % 2), f"Day {at} was great, we won.", nothing, "train") for at in range(20)]
    arrays = token_arrays("rows", lambda: rows, adapter.tokenizer, adapter.labels, adapter.description.limits, tmp_path)
    found = held_out_nll(adapter.generator, [next(batches(arrays["train"], 20, 0))])["nll_reply"]
    assert backbone_heldout.adapter_nats(adapter, rows).mean() == pytest.approx(found, rel=1e-5)


def test_both_models_read_a_context_that_fits(tiny_checkpoint):
    adapter = load(tiny_checkpoint)
    utterance = "we won today and it was great. " * 3
    found = backbone_heldout.newest([utterance, "How was day 3?", "Great."], adapter)
    assert found[-1] == "Great."
    assert backbone_heldout.fits(found, adapter)
    (end,) = backbone_heldout.newest([utterance * 9], adapter)
    assert (utterance * 9).split()[-len(end.split()) :] == end.split()
    assert backbone_heldout.fits((end,), adapter)


def test_accuracy_is_the_mean_over_emotions():
    """joy 1 of 2, fear 1 of 1: .75, where the share of texts would be 2 of 3."""
    sums = np.zeros(14)
    for name, hits, texts in (("joy", 1, 2), ("fear", 1, 1)):
        sums[EKMAN.position(name)], sums[7 + EKMAN.position(name)] = hits, texts
    assert backbone_texts.mean_recall(sums) == 0.75
    assert backbone_texts.by_emotion(["joy", "joy", "fear"], ["joy", "fear", "fear"]) == {"fear": 1.0, "joy": 0.5}


def test_perplexity_is_a_token():
    score = backbone_texts.perplexity(np.array([3.0, 6.0]) * math.log(20), [3, 6], "uniform over 20 tokens")
    assert score.value == pytest.approx(20)


def test_real_rows_are_test_rows_first_and_half_replies():
    rows = [row for corpus in ("goemotions", "dailydialog") for row in corpus_rows(corpus) if row.split != "train"]
    for each, expected in ((4, {"test reply": 2, "test alone": 2}), (9, {"test reply": 4, "test alone": 4, "valid": 1})):
        found = backbone_texts.real_rows(rows, each)
        assert Counter(row.emotion.name for row in found) == dict.fromkeys(EKMAN.names, each)
        kinds = Counter(kind for row in found for kind in ("valid" * (row.split == "valid"), kind_of(row)) if kind)
        assert {kind: kinds[kind] for kind in expected} == {kind: 7 * count for kind, count in expected.items()}


def kind_of(row):
    return f"{row.split} {'reply' if row.context else 'alone'}"


def test_texts_of_the_judge_are_no_real_texts(options, corpora, base_folder):
    found = backbone_texts.unseen_real(plan_of([*options, "--samples", "100"], base_folder))
    assert len(found) == 2 * 2 * 7 * 4 - 1
    assert fingerprint("goemotions joy test 0") not in {fingerprint(row.reply) for row in found}


def test_asks_are_half_replies_to_test_contexts(options, classifiers):
    found = backbone_texts.asks("test", 6, load_recognizer(classifiers[1]))
    assert Counter(ask.emotion for ask in found) == dict.fromkeys(EKMAN.names, 6)
    assert Counter(bool(ask.context) for ask in found) == {True: 21, False: 21}
    assert all(ask.context.split()[-1] == "test" and " test " in ask.reference for ask in found if ask.context)
    assert found == backbone_texts.asks("test", 6, load_recognizer(classifiers[1]))


@pytest.mark.parametrize("form", ["turns", "requests", "system", "fields", "list"])
def test_a_prompt_holds_emotion_examples_and_context(base_folder, corpora, form):
    tokenizer = backbone_prompt.causal(find_base(str(base_folder))).pretrained.tokenizer
    render = backbone_prompt.forms_for(tokenizer)[form]
    examples = [backbone_plan.Example(*pair) for pair in backbone_plan.EXAMPLES["fear"][:3]]
    for context in ("", "We leave at noon."):
        prompt = render(tokenizer, "fear", examples, context)
        assert "fear" in prompt
        assert all(one.reply in prompt for one in examples)
        assert all((one.context in prompt) == bool(context) for one in examples)
        assert context in prompt
        assert not prompt.endswith(" ")
    tokenizer.chat_template = None
    assert list(backbone_prompt.forms_for(tokenizer)) == ["fields", "list"]


def test_an_answer_is_a_line_without_its_quotation_marks(base_folder, corpora):
    class Letters:
        def decode(self, ids, skip_special_tokens):
            return "".join(map(chr, ids))

    assert backbone_prompt.answer(list(map(ord, ' "So  happy!"\nJoy:')), Letters()) == "So happy!"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (["--base", "no/such/base"], CheckpointError, "no such folder"),
        (["--base", "smollm3"], CheckpointError, "emogen pull smollm3"),
        (["--adapter", "no/such/adapter"], CheckpointError, "no checkpoint there"),
        (["--judge", "no/such/judge"], CheckpointError, "no classifier there"),
    ],
)
def test_what_is_missing_ends_in_one_line(options, corpora, given, error, message, monkeypatch, capsys):
    with pytest.raises(error, match=message):
        run(options, corpora / "backbone.json", *given)
    monkeypatch.setattr(sys, "argv", ["backbone.py", *map(str, (*options, *given))])
    with pytest.raises(SystemExit) as ended:
        backbone.run(backbone.main, "backbone.py")
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert said.startswith("backbone.py: ")
    assert said.count("\n") == 1


def test_a_corpus_that_was_not_fetched_is_named(options, corpora):
    (corpora / "data" / "goemotions.jsonl.gz").unlink()
    with pytest.raises(DataError, match="emogen data fetch goemotions"):
        run(options, corpora / "backbone.json", "--parts", "texts")
