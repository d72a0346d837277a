"""Checkpoints in Hugging Face Transformers: the same ids, scores and replies as in emogen itself, and a card for the hub."""

import contextlib
import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

import emogen.hub
from emogen.checkpoint.finding import shipped_folder
from emogen.checkpoint.folder import describe, save_classifier, save_model
from emogen.checkpoint.model import load
from emogen.data.batches import Limits
from emogen.decoding.params import SamplingParams
from emogen.emotions.labels import LabelSet, parse_emotion
from emogen.errors import CheckpointError, DataError, EmogenError, SettingsError
from emogen.models.classifier import Classifier, ClassifierConfig
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.likelihood import reply_nll
from emogen.models.vae import TextVAE, TextVaeConfig
from emogen.text.tokenizer import BOS, EOS, PAD, TURN, SentencePieceTokenizer, train_tokenizer

ROOT = Path(__file__).parents[2]
LABELS = LabelSet(("fear", "joy", "sadness"))
LIMITS = Limits(context_tokens=6, reply_tokens=15)
TOKENIZER = train_tokenizer(["I lost my job.", "We won the match, how good!", "How was your day?", "我很开心。"])
TEXTS = ("I lost my job.", "", "How was your day? I won the match, how good!", "We won!")
CONTEXTS = [[text] if text else [] for text in TEXTS]
HARD = (
    "  two  blanks ",
    "a\u2581b",
    "\u2581",
    "nul\0here\0",
    "🙂👩‍👩‍👧 zażółć",
    "我很开心，你呢？",
    "<s></s><turn><pad><unk>",
    "<0x41>",
    "tab\tline\nfeed\r\n",
    "\u2585 \ufeff\u202e",
    "x" * 300,
)


def sizes(backbone="lstm", latent=0):
    return GeneratorConfig(TOKENIZER.vocabulary, len(LABELS), backbone, width=16, layers=2, heads=2, latent=latent)


def saved(folder, model, dtype=torch.float32):
    """A checkpoint's folder, with the keys in its config that Transformers looks for."""
    save_model(folder, describe(model, LABELS, LIMITS), model, dtype)
    TOKENIZER.save(folder / "tokenizer.model")
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({"model_type": "emogen", **content}), encoding="utf-8")
    return folder


def taught(model):
    """A generator that has learnt a reply by heart for each context and emotion, or nearly so."""
    said = ["Good!", "I lost my match.", "How was your day? We won!", "We lost."]
    pairs = [(TOKENIZER.prefix(context, LIMITS.context_tokens), one) for context in CONTEXTS for one in range(4)]
    rows = [(*prefix, *TOKENIZER.encode(said[(number // 4 + one) % 4]), EOS) for number, (prefix, one) in enumerate(pairs)]
    tokens = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD)
    conditions = torch.eye(4)[[one for _, one in pairs]]
    targets = tokens.masked_fill((tokens == BOS).cumsum(1) - (tokens == BOS).long() == 0, PAD)[:, 1:]
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        scores = model.logits(model(tokens[:, :-1], conditions))
        optimizer.zero_grad()
        cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=PAD).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module", params=["lstm", "transformer"])
def folder(request, tmp_path_factory):
    """An own-backbone generator; read only."""
    torch.manual_seed(3)
    return saved(tmp_path_factory.mktemp(request.param) / "lm", taught(Generator(sizes(request.param))))


@pytest.fixture(scope="module")
def model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from emogen.hub.tokenizer import EmogenTokenizer

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    TOKENIZER.save(path)
    return EmogenTokenizer(str(path))


def batch(tokenizer, texts=TEXTS):
    return tokenizer(list(texts), padding=True, return_tensors="pt")


def replies(tokens, start):
    """The tokens of each row behind the prompts, up to its end token."""
    rows = (row[start:].tolist() for row in tokens)
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]


# ---- imports


def python(code, folder=ROOT):
    """What a fresh interpreter prints and says."""
    options = {"capture_output": True, "text": True, "cwd": folder, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    ended = subprocess.run([sys.executable, "-c", code], **options)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip(), ended.stderr.strip()


def test_importing_emogen_loads_neither_torch_nor_transformers():
    code = "import sys, emogen; print(sorted({'torch', 'transformers', 'huggingface_hub', 'numpy'} & set(sys.modules)))"
    assert python(code) == ("[]", "")


@pytest.mark.parametrize(
    "imports",
    ["import emogen.hub; from transformers import AutoTokenizer", "from transformers import AutoTokenizer; import emogen.hub"],
)
def test_either_may_be_imported_first(imports):
    code = f"{imports}\nprint(type(AutoTokenizer.from_pretrained({str(shipped_folder('default'))!r})).__name__)"
    assert python(code)[0] == "EmogenTokenizer"


@pytest.mark.parametrize("name", ["AutoConfig", "AutoTokenizer", "AutoModelForCausalLM"])
def test_importing_it_again_registers_once(name):
    folder = str(shipped_folder("default"))
    reload = "import importlib, transformers, emogen.hub; importlib.reload(emogen.hub)"
    code = f"{reload}; print(type(transformers.{name}.from_pretrained({folder!r})).__module__)"
    assert python(code)[0].startswith("emogen.hub.")


# ---- tokenizer


@pytest.mark.parametrize("text", HARD)
def test_ids_are_those_of_the_own_tokenizer(tokenizer, text):
    """There and back, and special tokens in a text are text."""
    ids = TOKENIZER.encode(text)
    assert tokenizer(text)["input_ids"] == TOKENIZER.prefix([text], 10_000)
    assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text, split_special_tokens=True)) == ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@given(st.text(max_size=30))
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_rows_of_contexts_and_replies(tokenizer):
    hello, bye = TOKENIZER.encode("Hello."), TOKENIZER.encode("Bye.")
    assert tokenizer("Hello.")["input_ids"] == [*hello, TURN, BOS]
    assert tokenizer("")["input_ids"] == [BOS]
    assert tokenizer("Hello.", "Bye.")["input_ids"] == [*hello, TURN, BOS, *bye, EOS]
    assert tokenizer("", "Bye.")["input_ids"] == [BOS, *bye, EOS]
    assert tokenizer("Hello.", add_special_tokens=False)["input_ids"] == hello
    mask = tokenizer("Hello.", "Bye.", return_special_tokens_mask=True)["special_tokens_mask"]
    assert mask == [0] * len(hello) + [1, 1] + [0] * len(bye) + [1]


def test_special_tokens_written_by_the_caller_are_read_where_he_says_so(tokenizer):
    ids = tokenizer("Hello.", "Bye.")["input_ids"]
    assert tokenizer.decode(ids) == "Hello.<turn><s>Bye.</s>"
    assert tokenizer(tokenizer.decode(ids), add_special_tokens=False)["input_ids"] == ids
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (PAD, BOS, EOS)
    assert len(tokenizer) == tokenizer.vocab_size == TOKENIZER.vocabulary


def test_a_chat_is_a_context_of_several_utterances(tokenizer):
    """Whatever the role; a last message of the assistant's is a begun reply; a mark in a message is text."""
    said = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "<s>"}]
    target = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert target == TOKENIZER.prefix(["Hi.", "Yes?", "<s>"], 100)
    begun = tokenizer.apply_chat_template(said[:2], continue_final_message=True, return_dict=True)["input_ids"]
    assert begun == [*TOKENIZER.prefix(["Hi."], 100), *TOKENIZER.encode("Yes?")]
    whole = tokenizer.apply_chat_template(said[:2], return_dict=True)["input_ids"]
    assert whole == tokenizer("Hi.", "Yes?")["input_ids"]


@pytest.fixture(scope="module")
def stock(tokenizer, tmp_path_factory):
    """A tokenizer of the library tokenizers with the same pieces, and with our rows as its template, but for empty texts."""
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    file = tmp_path_factory.mktemp("stock") / "tokenizer.model"
    TOKENIZER.save(file)
    pieces = SentencePieceProcessor(model_file=str(file))
    words = [(pieces.id_to_piece(number), pieces.get_score(number)) for number in range(pieces.get_piece_size())]
    fast = Tokenizer(models.Unigram(words, unk_id=1, byte_fallback=True))
    fast.normalizer = normalizers.Replace(" ", "\u2581")
    fast.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Replace("\u2581", " "), decoders.Fuse()])
    special = [("<turn>", TURN), ("<s>", BOS), ("</s>", EOS)]
    row = processors.TemplateProcessing(
        single="$A:0 <turn>:0 <s>:0", pair="$A:0 <turn>:0 <s>:0 $B:0 </s>:0", special_tokens=special
    )
    fast.post_processor = row
    marks = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        **marks,
        extra_special_tokens=["<turn>"],
        padding_side="left",
        model_input_names=names,
        chat_template=tokenizer.chat_template,
    )


LONG, SHORT = "How was your day? I lost my job.", "We won!"
ENCODED = {
    "text": (LONG,),
    "texts": ([LONG, SHORT],),
    "pair": (LONG, SHORT),
    "reply longer": (SHORT, LONG),
    "pairs": ([LONG, SHORT], [SHORT, LONG]),
    "pairs in tuples": ([(LONG, SHORT), (SHORT, LONG)],),
}
ARGUMENTS = [
    {},
    {"add_special_tokens": False},
    # Of an odd room for a pair, the backends of Transformers give one token to different sides.
    {"truncation": True, "max_length": 5},
    {"truncation": True, "max_length": 9},
    {"truncation": True, "max_length": 10, "add_special_tokens": False},
    {"truncation": True, "max_length": 500},
    {"truncation": "only_first", "max_length": 14},
    {"max_length": 60, "padding": "max_length"},
    {"truncation": True, "max_length": 9, "padding": "max_length"},
    {"padding": True, "padding_side": "right"},
    {"padding": True, "pad_to_multiple_of": 8},
    {"truncation": True, "max_length": 13, "padding": "max_length", "padding_side": "right"},
    {"padding": True, "return_special_tokens_mask": True},
    {"padding": True, "return_attention_mask": False, "return_tensors": "np"},
]


def plain(encoded):
    """Names and rows, of whatever kind of sequence; a text or a list of ids as it is."""
    if isinstance(encoded, str | list):
        return encoded
    return {name: np.asarray(rows, dtype=object).tolist() for name, rows in encoded.items()}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("texts", ENCODED)
def test_arguments_do_what_they_do_in_a_stock_tokenizer(tokenizer, stock, texts, side, monkeypatch):
    for each in (tokenizer, stock):
        monkeypatch.setattr(each, "truncation_side", side)
    for arguments in ARGUMENTS:
        if arguments.get("truncation") == "only_first" and texts != "pair":
            # The context alone is too short to be cut so far.
            continue
        ours, theirs = (plain(each(*ENCODED[texts], **arguments)) for each in (tokenizer, stock))
        assert ours == theirs, arguments


def test_lengths_of_a_stock_tokenizer(tokenizer, stock):
    for pair in (False, True):
        assert tokenizer.num_special_tokens_to_add(pair) == stock.num_special_tokens_to_add(pair)
    assert tokenizer.max_len_single_sentence == stock.max_len_single_sentence
    assert tokenizer.max_len_sentences_pair == stock.max_len_sentences_pair
    # Behind an empty context stands no mark, which leaves room for one token more.
    assert len(tokenizer("", LONG, truncation=True, max_length=7)["input_ids"]) == 7
    assert tokenizer("", truncation=True, max_length=4)["input_ids"] == [BOS]


def test_tokens_that_are_added_are_those_of_a_stock_tokenizer(tokenizer, stock):
    both = copy.deepcopy(tokenizer), copy.deepcopy(stock)
    for each in both:
        each.add_tokens(["NAME", "NAME2", "(x)"])
    for text in ("My day with NAME and NAME2 was good(x)NAME", "NAME", "no name"):
        for options in ({}, {"add_special_tokens": False}):
            ours, theirs = (each(text, **options)["input_ids"] for each in both)
            assert ours == theirs
            assert both[0].decode(ours, skip_special_tokens=True) == both[1].decode(theirs, skip_special_tokens=True) == text


SPOKEN = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": SHORT}]
PARTS = [
    {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i."}]},
    {"role": "assistant", "content": "Yes?", "refusal": None, "tool_calls": None},
    {"role": "assistant", "content": None},
    {"role": "user", "content": [{"type": "text", "text": SHORT}]},
]


@pytest.mark.parametrize("said", [SPOKEN, PARTS], ids=["texts", "parts"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"add_generation_prompt": True},
        {"return_dict": False},
        {"add_generation_prompt": True, "truncation": True, "max_length": 7},
        {"padding": "max_length", "max_length": 70, "return_tensors": "np"},
        {"tokenizer_kwargs": {"return_special_tokens_mask": True}},
        {"tokenize": False, "add_generation_prompt": True},
        {"tokenize": False, "continue_final_message": True},
        {"chat_template": "{{ messages[0]['role'] }}", "tokenize": False},
        {"sanitize_control_tokens": False},
    ],
    ids=str,
)
def test_a_chat_is_rendered_as_by_a_stock_tokenizer(tokenizer, stock, said, arguments):
    ours, theirs = (each.apply_chat_template(said, **arguments) for each in (tokenizer, stock))
    assert (ours if isinstance(ours, str | list) else plain(ours)) == (
        theirs if isinstance(theirs, str | list) else plain(theirs)
    )


def test_a_chat_as_a_text(tokenizer):
    """What it holds, and that it is read as the ids are; whichever way the argument is passed."""
    text = tokenizer.apply_chat_template(SPOKEN, tokenize=False, add_generation_prompt=True)
    assert text == f"Hi.<turn>Yes?<turn>{SHORT}<turn><s>"
    assert text == tokenizer.apply_chat_template(SPOKEN, None, None, None, True, False, False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == tokenizer.apply_chat_template(SPOKEN, add_generation_prompt=True)["input_ids"]
    assert tokenizer.apply_chat_template([SPOKEN, PARTS], tokenize=False) == [f"Hi.<turn>Yes?<turn>{SHORT}<turn>"] * 2
    refused = [SPOKEN[0], {"role": "assistant", "content": None, "refusal": "No."}]
    assert tokenizer.apply_chat_template(refused, tokenize=False) == "Hi.<turn><s>No.</s>"
    with pytest.raises(Exception, match="reads parts of type text alone, not image"):
        tokenizer.apply_chat_template([{"role": "user", "content": [{"type": "image", "url": "a.png"}]}])


def test_padding_stands_in_front(tokenizer):
    rows = batch(tokenizer)
    assert rows["input_ids"][:, -1].tolist() == [BOS] * len(TEXTS)
    assert (rows["attention_mask"] == (rows["input_ids"] != PAD)).all()


def test_half_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(DataError, match="half of a surrogate pair at position 1"):
        tokenizer("a\ud800")


def test_the_tokenizer_survives_saving_and_copying(tokenizer, folder, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    shutil.copy(folder / "config.json", tmp_path)
    # Passed on to processes and kept in files.
    others = [AutoTokenizer.from_pretrained(tmp_path), copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))]
    for other in (*others, AutoTokenizer.from_pretrained(folder)):
        assert type(other) is type(tokenizer)
        for text in HARD:
            assert other(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert other.get_vocab() == tokenizer.get_vocab()
        assert other.chat_template == tokenizer.chat_template


# ---- scores


def test_scores_are_the_generators_own(folder, model, tokenizer):
    ours = load(folder)
    ids = batch(tokenizer, ["I lost my job."])["input_ids"]
    target = parse_emotion("joy=0.7,fear=0.3", LABELS, 0.5)
    with torch.no_grad():
        expected = ours.generator.logits(ours.generator(ids, torch.tensor([target.condition])))
        assert torch.equal(model(ids, emotion="joy=0.7,fear=0.3", strength=0.5).logits, expected)
        assert torch.equal(model(ids, emotion=target).logits, expected)
        assert torch.equal(model(ids, emotion=torch.tensor([target.condition])).logits, expected)
        none = ours.generator.logits(ours.generator(ids, torch.tensor([[0.0, 0.0, 0.0, 1.0]])))
        assert torch.equal(model(ids).logits, none)
        assert (none - expected).abs()[..., EOS:].max() > 0.1
        assert model(ids, return_dict=False)[0].equal(none)


def test_padding_changes_no_score(model, tokenizer):
    """In front, behind, with and without a mask: each row as alone, and with its own emotion."""
    rows, emotions = batch(tokenizer), ["joy", "fear", None, "sadness"]
    behind = tokenizer(list(TEXTS), padding=True, return_tensors="pt", padding_side="right")
    with torch.no_grad():
        in_front = model(**rows, emotion=emotions).logits
        assert torch.equal(model(rows["input_ids"], emotion=emotions).logits, in_front)
        after = model(**behind, emotion=emotions).logits
        for number, (text, emotion) in enumerate(zip(TEXTS, emotions, strict=True)):
            alone = model(**batch(tokenizer, [text]), emotion=emotion).logits[0]
            torch.testing.assert_close(in_front[number, -len(alone) :], alone, atol=1e-4, rtol=1e-5)
            torch.testing.assert_close(after[number, : len(alone)], alone, atol=1e-4, rtol=1e-5)


def test_the_loss_counts_replies(model, tokenizer):
    """The mean of -log p over the tokens behind BOS, computed here from the scores of each row alone."""
    pairs = (["I lost my job.", ""], ["We won!", "How good!"])
    rows = tokenizer(*pairs, padding=True, return_tensors="pt")
    loss = model(**rows, labels=rows["input_ids"], emotion="joy").loss
    parts = []
    for context, reply in zip(*pairs, strict=True):
        row = tokenizer(context, reply, return_tensors="pt")["input_ids"]
        start = len(tokenizer(context)["input_ids"])
        scores = model(row, emotion="joy").logits[0, start - 1 : -1]
        parts.append(cross_entropy(scores, row[0, start:], reduction="none"))
    torch.testing.assert_close(loss, torch.cat(parts).mean())
    loss.backward()
    assert model.generator.inject.weight.grad.abs().sum() > 0
    model.zero_grad()


def test_what_is_remembered_changes_no_score(model, tokenizer):
    """Token by token, past the room that is made at first."""
    row = torch.tensor([[*TOKENIZER.prefix(["We won!"], 100), *([270, 265, 268] * 40)]])
    with torch.no_grad():
        whole = model(row, emotion="joy").logits
        known = model(row[:, :3], emotion="joy", use_cache=True)
        torch.testing.assert_close(known.logits, whole[:, :3], atol=1e-4, rtol=1e-5)
        more = model(row[:, 3:], past_key_values=known.past_key_values, use_cache=True)
    torch.testing.assert_close(more.logits, whole[:, 3:], atol=1e-4, rtol=1e-5)


# ---- generation


@pytest.mark.parametrize("cached", [True, False])
def test_greedy_replies_are_those_of_emogen(folder, model, tokenizer, cached):
    """Token for token, contexts of different lengths and emotions in one batch, the longest beyond the model's limit."""
    ours, emotions = load(folder), ["joy", "fear=0.4,sadness=0.6", None, "sadness"]
    rows = batch(tokenizer)
    assert rows["input_ids"].shape[1] > LIMITS.context_tokens + 1
    found = model.generate(**rows, emotion=emotions, do_sample=False, use_cache=cached)
    written = replies(found, rows["input_ids"].shape[1])
    expected = ours.replies(CONTEXTS, emotions, sampling=SamplingParams(temperature=0, max_tokens=LIMITS.reply_tokens + 1))
    assert [tokenizer.decode(row, skip_special_tokens=True).strip() for row in written] == [one.text for one in expected]
    assert [len(row) for row in written] == [one.tokens for one in expected]
    assert len({one.text for one in expected}) > 2
    assert any(one.finished for one in expected)
    for number, (text, emotion) in enumerate(zip(TEXTS, emotions, strict=True)):
        alone = model.generate(**batch(tokenizer, [text]), emotion=emotion, do_sample=False, use_cache=cached)
        assert tokenizer.decode(alone[0], skip_special_tokens=True).endswith(
            tokenizer.decode(written[number], skip_special_tokens=True)
        )


def test_emotions_without_context(model):
    """A row for each emotion; one where none is named; strength 0 is no emotion."""
    assert model.generate(max_new_tokens=2).shape[0] == 1
    assert (model.generate(emotion=["joy", "fear", "sadness"], max_new_tokens=3)[:, 0] == BOS).all()
    none = model.generate(max_new_tokens=5, do_sample=False)
    assert torch.equal(model.generate(emotion="joy", strength=0.0, max_new_tokens=5, do_sample=False), none)


@pytest.mark.parametrize("beams", [1, 3])
def test_beams_remember_their_own(model, tokenizer, beams):
    """With and without what is remembered, the same sequences; several for each row keep its emotion."""
    options = {"num_beams": beams, "do_sample": False, "num_return_sequences": beams, "emotion": ["joy", "fear", "joy", "fear"]}
    rows = batch(tokenizer)
    found = model.generate(**rows, **options)
    assert torch.equal(found, model.generate(**rows, **options, use_cache=False))
    assert len(found) == beams * len(TEXTS)


def test_sampling_follows_the_emotion(model):
    """First tokens of 3,000 draws against the model's own probabilities: each within 4.5 deviations."""
    torch.manual_seed(0)
    draws = model.generate(emotion="joy", do_sample=True, top_k=0, max_new_tokens=1, num_return_sequences=3000)[:, 1]
    with torch.no_grad():
        expected = model(torch.tensor([[BOS]]), emotion="joy").logits[0, -1].softmax(0)
    found = torch.bincount(draws, minlength=len(expected)) / 3000
    assert ((found - expected).abs() <= 4.5 * (expected * (1 - expected) / 3000).sqrt() + 1 / 3000).all()


def test_processors_streamers_and_lengths(model, tokenizer):
    from transformers import LogitsProcessor, LogitsProcessorList, TextIteratorStreamer

    class Only(LogitsProcessor):
        def __call__(self, input_ids, scores):
            kept = torch.full_like(scores, -float("inf"))
            kept[:, 270] = 0
            return kept

    rows = batch(tokenizer, ["We won!"])
    forced = model.generate(**rows, logits_processor=LogitsProcessorList([Only()]), max_new_tokens=4)
    assert replies(forced, rows["input_ids"].shape[1]) == [[270] * 4]
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    found = model.generate(**rows, emotion="joy", do_sample=False, streamer=streamer)
    assert "".join(streamer) == tokenizer.decode(replies(found, rows["input_ids"].shape[1])[0], skip_special_tokens=True)
    assert model.generate(**rows, max_length=rows["input_ids"].shape[1] + 2, eos_token_id=[]).shape == (
        1,
        rows["input_ids"].shape[1] + 2,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"emotion": "hunger"}, "emotion 'hunger' is not one of fear, joy, sadness"),
        ({"emotion": ["joy", "fear"]}, "2 emotions for 4 rows; give one, or one for each row"),
        ({"emotion": torch.ones(4, 3)}, r"emotion of shape \[4, 3\]: \[rows, 4\] is needed"),
        ({"emotion": torch.full((4, 4), torch.nan)}, "emotion holds nan in row 0, column 0"),
        ({"emotion": parse_emotion("a", LabelSet(("a", "b")))}, "is over other labels than the model's: fear, joy, sadness"),
        ({"emotion": "joy", "strength": 2.0}, "strength 2 is not between 0 and 1"),
    ],
)
def test_emotions_that_cannot_be(model, tokenizer, options, message):
    with pytest.raises(SettingsError, match=message) as caught:
        model.generate(**batch(tokenizer), **options)
    assert "\n" not in str(caught.value)


def test_a_row_without_beginning_is_refused(model, tokenizer):
    with pytest.raises(SettingsError, match=r"^row 0 of input_ids holds no <s>; "):
        model.generate(**tokenizer("We won!", add_special_tokens=False, return_tensors="pt"))


def greedy(model, words, **options):
    """The reply to `LONG`, whole, as text."""
    rows = batch(words, [LONG])
    found = model.generate(**rows, emotion="joy", do_sample=False, **options)
    return words.decode(found[0, rows["input_ids"].shape[1] :], skip_special_tokens=True)


def test_a_stop_string_ends_a_reply(model, tokenizer):
    """Right behind the first token that makes it whole; from options and from a config."""
    from transformers import GenerationConfig

    whole = greedy(model, tokenizer)
    for stop in (whole[4:7], whole[2]):
        for target in ({"stop_strings": [stop]}, {"generation_config": GenerationConfig(stop_strings=stop, max_new_tokens=16)}):
            cut = greedy(model, tokenizer, tokenizer=tokenizer, **target)
            assert whole.startswith(cut)
            assert stop in cut
            assert stop not in tokenizer.decode(tokenizer(cut, add_special_tokens=False)["input_ids"][:-1])
    assert greedy(model, tokenizer, tokenizer=tokenizer, stop_strings=["no such words"]) == whole
    with pytest.raises(ValueError, match="must pass the model's tokenizer"):
        greedy(model, tokenizer, stop_strings=["x"])


def test_lengths_that_are_asked_for_replace_the_models_own(model, tokenizer):
    from transformers import GenerationConfig

    rows = batch(tokenizer, [LONG])
    start = rows["input_ids"].shape[1]
    for length in ({"max_length": start + 3}, {"max_new_tokens": 3}):
        for options in (length, {"generation_config": GenerationConfig(**length)}):
            assert model.generate(**rows, eos_token_id=[], **options).shape == (1, start + 3)
    assert model.generate(**rows, eos_token_id=[]).shape == (1, start + LIMITS.reply_tokens + 1)


def test_arguments_by_place_and_what_is_for_the_loops_alone(model, tokenizer):
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    rows, config = batch(tokenizer, [LONG, SHORT]), GenerationConfig(max_new_tokens=3, do_sample=False)
    ids = rows["input_ids"]
    expected = model.generate(**rows, max_new_tokens=3, emotion="joy")
    by_place = model.generate(ids, config, LogitsProcessorList(), StoppingCriteriaList(), None, False, emotion="joy")
    assert by_place.equal(expected)
    positions = (rows["attention_mask"].cumsum(1) - 1).clamp(min=0)
    assert model.generate(**rows, generation_config=config, emotion="joy", tokenizer=tokenizer, position_ids=positions).equal(
        expected
    )
    with pytest.raises(ValueError, match="max_new_token"):
        model.generate(**rows, max_new_token=3)


@pytest.mark.parametrize("name", ["output_attentions", "output_hidden_states", "token_healing"])
def test_options_that_cannot_be_served_are_told(model, tokenizer, name):
    from transformers import GenerationConfig

    for options in ({name: True}, {"generation_config": GenerationConfig(**{name: True})}):
        with pytest.raises(SettingsError, match=rf"^{name}: EmogenForCausalLM does not have that; leave it out$"):
            model.generate(**batch(tokenizer, [LONG]), tokenizer=tokenizer, **options)


def test_checks_of_rows_do_not_break_a_compiled_graph(model, tokenizer):
    if model.config.model["backbone"] == "lstm":
        pytest.skip("PyTorch compiles no LSTM into one graph")
    rows = batch(tokenizer)
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)(**rows).logits
        torch.testing.assert_close(compiled, model(**rows).logits)


# ---- log-likelihoods of continuations, as evaluation harnesses compute them


def harness(model, tokenizer, context, continuation, special=None):
    """Encode context and continuation as one text, cut the ids where the context's end, and add up what follows.

    As in the harnesses that know a model by its tokenizer alone: blanks at the end of a context belong to the continuation, a
    context that is empty is BOS, and the last token is not read.
    """
    options = {} if special is None else {"add_special_tokens": special}
    blanks = len(context) - len(context.rstrip())
    context, continuation = context[: len(context) - blanks], context[len(context) - blanks :] + continuation
    if context:
        before = tokenizer.encode(context, **options)
        after = tokenizer.encode(context + continuation, **options)[len(before) :]
    else:
        before, after = [tokenizer.bos_token_id], tokenizer.encode(continuation, add_special_tokens=False)
    row = torch.tensor([[*before, *after]])
    with torch.no_grad():
        scores = model(row[:, :-1]).logits.log_softmax(-1)[0, -len(after) :]
    return float(scores.gather(1, torch.tensor(after)[:, None]).sum())


@pytest.mark.parametrize("continuation", ["Good!", " We lost.", "🙂 我"])
@pytest.mark.parametrize("talk", [[LONG], [LONG, "Yes?", SHORT], []], ids=["one", "three", "none"])
def test_log_likelihoods_of_continuations_are_the_generators_own(folder, model, tokenizer, talk, continuation):
    messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(talk)]
    context = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) if talk else ""
    ids, prefix = TOKENIZER.encode(continuation), TOKENIZER.prefix(talk, 10_000)
    tokens, none = torch.tensor([[*prefix, *ids]]), torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    nats, mask = reply_nll(load(folder).generator, tokens, torch.tensor([len(prefix)]), none)
    assert int(mask.sum()) == len(ids)
    assert harness(model, tokenizer, context, continuation, special=False) == pytest.approx(-nats.sum().item(), abs=1e-3)
    whole = tokenizer.encode(context + continuation, add_special_tokens=False)
    assert whole[: len(whole) - len(ids)] == (prefix if talk else [])


@pytest.mark.parametrize(
    ("context", "special", "message"),
    [
        (LONG, None, r"row 0 of input_ids holds <turn> at place \d+, in its reply behind <s>; .*add_special_tokens=False"),
        (f"{LONG}<turn><s>", None, "row 0 of input_ids holds <turn> at place"),
        (LONG, False, "row 0 of input_ids holds no <s>, behind which a reply stands; .*chat template"),
        (f"{LONG}<turn><s>Good!<turn><s>", False, "row 0 of input_ids holds <turn>"),
    ],
)
def test_rows_whose_likelihood_would_mean_nothing_are_refused(model, tokenizer, context, special, message):
    with pytest.raises(SettingsError, match=message):
        harness(model, tokenizer, context, " We won the match.", special)


def test_marks_where_nothing_stands_are_no_mistake(model, tokenizer):
    rows = batch(tokenizer, [LONG])
    tokens = torch.cat([rows["input_ids"], torch.tensor([[TURN, BOS]])], 1)
    mask = torch.cat([rows["attention_mask"], torch.zeros(1, 2).long()], 1)
    with torch.no_grad():
        found = model(tokens, attention_mask=mask).logits[:, :-2]
        torch.testing.assert_close(found, model(**rows).logits, atol=1e-4, rtol=1e-5)


# ---- pipeline


def test_pipeline(folder):
    """A reply behind the prompt, a reply alone, a chat; greedy replies are emogen's, one by one and in a batch."""
    from transformers import pipeline

    write = pipeline("text-generation", model=str(folder))
    expected = [
        one.text
        for one in load(folder).replies(
            CONTEXTS, ["sadness"] * 4, sampling=SamplingParams(temperature=0, max_tokens=LIMITS.reply_tokens + 1)
        )
    ]
    alone = write(list(TEXTS), emotion="sadness", do_sample=False, return_full_text=False)
    assert [one[0]["generated_text"].strip() for one in alone] == expected
    together = write(list(TEXTS), emotion=["sadness"] * 4, batch_size=4, do_sample=False, return_full_text=False)
    assert together == alone
    whole = write(TEXTS[0], emotion="sadness", do_sample=False)[0]["generated_text"]
    assert whole == TEXTS[0] + alone[0][0]["generated_text"]
    chat = write([{"role": "user", "content": TEXTS[0]}], emotion="sadness", do_sample=False)[0]["generated_text"]
    assert chat[-1] == {"role": "assistant", "content": alone[0][0]["generated_text"]}


def test_the_model_that_ships():
    """Half precision on disk; the same greedy replies as emogen's, through the classes that the README names."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = shipped_folder("default")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.float32
    emotions = ["joy", "sadness"]
    rows = tokenizer(["They called. I got the job."] * 2, return_tensors="pt")
    found = model.generate(**rows, emotion=emotions, do_sample=False)
    texts = tokenizer.batch_decode(found[:, rows["input_ids"].shape[1] :], skip_special_tokens=True)
    ours = load(folder)
    greedy = SamplingParams(temperature=0)
    prompts = [ours.replies(["They called. I got the job."], [emotion], sampling=greedy) for emotion in emotions]
    assert [text.strip() for text in texts] == [one.text for (one,) in prompts]
    assert texts[0] != texts[1]
    half = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16)
    assert half.dtype == torch.float16


# ---- folders


def test_what_transformers_saves_emogen_loads(folder, model, tokenizer, tmp_path):
    """Weights by the same names, config and tokenizer; and both read it again."""
    from transformers import AutoModelForCausalLM

    model.save_pretrained(tmp_path)
    ours, again = load(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    assert ours.labels == LABELS
    assert ours.description == load(folder).description
    for name, tensor in load(folder).generator.state_dict().items():
        assert torch.equal(ours.generator.state_dict()[name], tensor)
        assert torch.equal(again.generator.state_dict()[name], tensor)
    assert (tmp_path / "tokenizer.model").read_bytes() == (folder / "tokenizer.model").read_bytes()
    options = {"emotion": "fear", "do_sample": False}
    rows = batch(tokenizer)
    assert torch.equal(again.generate(**rows, **options), model.generate(**rows, **options))


def test_half_precision_serves_both(tmp_path, folder):
    from transformers import AutoModelForCausalLM

    half = saved(tmp_path, load(folder).generator, torch.float16)
    model, ours = AutoModelForCausalLM.from_pretrained(half), load(half)
    for name, tensor in ours.generator.state_dict().items():
        assert torch.equal(model.generator.state_dict()[name], tensor)


def test_a_fresh_model_from_a_config(folder):
    """Its weights are those that a generator gives itself."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(5)
    fresh = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    torch.manual_seed(5)
    expected = Generator(fresh.generator.config).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in fresh.generator.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("vae", "is a vae, which Transformers does not load; use emogen.load("),
        ("latent", "is a generator with a latent, which Transformers does not load; use emogen.load("),
        ("pretrained", "is a generator with a pretrained backbone, which Transformers does not load; use emogen.load("),
        ("classifier", "is a classifier, which Transformers does not load; use emogen.recognition.recognizer.load_recognizer("),
    ],
)
def test_other_checkpoints_say_how_they_are_loaded(tmp_path, kind, message):
    """In one line, by whichever way they come in."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, pipeline

    if kind == "vae":
        saved(tmp_path, TextVAE(TextVaeConfig(sizes(latent=3), encoder_layers=1, encoder_heads=2)))
    elif kind == "classifier":
        saved(tmp_path, Classifier(ClassifierConfig(emotions=3)))
    else:
        saved(tmp_path, Generator(sizes(latent=3 if kind == "latent" else 0)))
    if kind == "pretrained":
        path = tmp_path / "config.json"
        path.write_text(path.read_text(encoding="utf-8").replace('"lstm"', '"pretrained"'), encoding="utf-8")
    for way in (AutoConfig.from_pretrained, AutoModelForCausalLM.from_pretrained, AutoTokenizer.from_pretrained):
        with pytest.raises(CheckpointError) as caught:
            way(tmp_path)
        assert str(caught.value) == f"{tmp_path}: {message}'{tmp_path}')"
    with pytest.raises(CheckpointError):
        pipeline("text-generation", model=str(tmp_path))


# ---- hub


@pytest.fixture
def hub(monkeypatch):
    """What would have gone to the hub: by repository, the text of each file's name and the card."""
    import huggingface_hub

    sent = {}

    def create_repo(repo_id, **options):
        sent[repo_id] = {"private": options["private"]}
        return f"https://hub.example/{repo_id}"

    def upload_folder(*, repo_id, folder_path, ignore_patterns):
        everything = [str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file()]
        kept = huggingface_hub.utils.filter_repo_objects(everything, ignore_patterns=ignore_patterns)
        sent[repo_id] |= {"files": sorted(kept), "card": (Path(folder_path) / "README.md").read_text(encoding="utf-8")}

    monkeypatch.setattr(huggingface_hub, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload_folder)
    return sent


GIVEN = {"licence": "cc-by-4.0", "languages": ["en"], "datasets": ["go_emotions", "my: rows"]}


def test_a_missing_card_is_written_from_the_template(tiny_checkpoint, tmp_path, hub):
    """All that the folder knows of itself, a header that YAML reads, and nothing private goes out."""
    import huggingface_hub

    from emogen.hub.upload import publish

    place = Path(shutil.copytree(tiny_checkpoint, tmp_path / "lm"))
    (place / "README.md").unlink()
    (place / ".lock").touch()
    assert publish(place, "me/sad-and-glad", **GIVEN, private=True) == "https://hub.example/me/sad-and-glad"
    sent = hub["me/sad-and-glad"]
    assert sent["private"] is True
    assert set(sent["files"]) == {
        "README.md", "config.json", "model.safetensors", "rows.npy", "tokenizer.model", "train.json"
    }  # fmt: skip
    header = huggingface_hub.metadata_load(place / "README.md")
    assert (header["license"], header["language"], header["datasets"]) == ("cc-by-4.0", ["en"], ["go_emotions", "my: rows"])
    assert header["pipeline_tag"] == "text-generation"
    run = json.loads((place / "train.json").read_text(encoding="utf-8"))
    weights = sum(tensor.numel() for tensor in load(place).generator.state_dict().values())
    for known in ("joy", f"{weights:,} weights", "32 train", *run["sources"].values(), "batch_size = 8", "nll"):
        assert known in sent["card"]
    assert "$" not in sent["card"]
    assert str(tmp_path) not in sent["card"].partition("## Data")[0]


def test_the_code_of_a_card_runs(folder, tmp_path, hub, monkeypatch, capsys):
    """On the folder in place of the hub."""
    import huggingface_hub

    from emogen.hub.upload import publish

    place = Path(shutil.copytree(folder, tmp_path / "lm"))
    publish(place, "me/lm", **GIVEN)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo: str(place))
    own, through_transformers = hub["me/lm"]["card"].split("```python\n")[1:]
    exec(own.partition("```")[0], {})
    assert len(capsys.readouterr().out.splitlines()) >= 3
    exec(through_transformers.partition("```")[0].replace("me/lm", str(place)), {})
    assert "generated_text" in capsys.readouterr().out


def test_a_card_that_stands_there_is_kept(folder, tmp_path, hub):
    """Its text stays; what is given goes into its header."""
    import huggingface_hub

    from emogen.hub.upload import publish

    place = Path(shutil.copytree(folder, tmp_path / "lm"))
    card = place / "README.md"
    card.write_text("---\nlicense: mit\nlanguage: zh\ndatasets: [one]\n---\n# Mine\n", encoding="utf-8")
    before = card.read_text(encoding="utf-8")
    publish(place, "me/lm")
    assert hub["me/lm"]["card"] == before
    publish(place, "me/lm", licence="cc0-1.0")
    assert huggingface_hub.metadata_load(card) == {"license": "cc0-1.0", "language": "zh", "datasets": ["one"]}
    assert card.read_text(encoding="utf-8").endswith("# Mine\n")
    card.write_text("# No header\n", encoding="utf-8")
    publish(place, "me/lm", **GIVEN)
    assert huggingface_hub.metadata_load(card)["language"] == ["en"]
    assert card.read_text(encoding="utf-8").endswith("# No header\n")


def test_a_card_without_licence_goes_nowhere(folder, tmp_path, hub):
    from emogen.hub.upload import publish

    place = Path(shutil.copytree(folder, tmp_path / "lm"))
    with pytest.raises(SettingsError, match=r"README.md: its header names no license, no datasets; write them there, or pass "):
        publish(place, "me/lm", languages=["en"])
    assert not (place / "README.md").exists()
    assert not hub


def test_a_classifiers_card(tmp_path, hub):
    from emogen.hub.upload import publish

    save_classifier(tmp_path, LABELS, Classifier(ClassifierConfig(emotions=3)))
    publish(tmp_path, "me/judge", **GIVEN)
    assert "pipeline_tag: text-classification" in hub["me/judge"]["card"]
    assert "load_recognizer" in hub["me/judge"]["card"]


def test_a_hub_that_refuses(folder, tmp_path, hub, monkeypatch):
    import huggingface_hub

    from emogen.hub.upload import publish

    def refuse(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "upload_folder", refuse)
    place = Path(shutil.copytree(folder, tmp_path / "lm"))
    with pytest.raises(
        EmogenError, match=r"^me/lm: cannot be uploaded \(no route\); check the name, and log in with"
    ) as caught:
        publish(place, "me/lm", **GIVEN)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError):
        publish(tmp_path / "nothing", "me/lm", **GIVEN)


def test_push_to_hub_sends_a_whole_folder(model, tmp_path, monkeypatch):
    """As Transformers does it: what is uploaded, `emogen.load` reads."""
    from transformers.utils import hub as transformers_hub

    class Api:
        def create_repo(self, repo_id, **_):
            return type("Repo", (), {"repo_id": repo_id})

        def create_commit(self, *, operations, **_):
            for one in operations:
                shutil.copy(one.path_or_fileobj, tmp_path / one.path_in_repo)

    from huggingface_hub import ModelCard

    monkeypatch.setattr(transformers_hub, "hf_api", Api)
    monkeypatch.setattr(transformers_hub, "create_and_tag_model_card", lambda *_, **__: ModelCard("# Mine\n"))
    model.push_to_hub("me/lm")
    assert emogen.load(tmp_path).labels == LABELS
    assert isinstance(emogen.load(tmp_path).tokenizer, SentencePieceTokenizer)


# ---- guide


def test_the_guides_code_runs(capsys, tiny_base, tmp_path):
    """Every Python block of docs/hub.md that uploads nothing, one after another, with a small model for one of the hub."""
    from transformers import AutoTokenizer

    other = shutil.copytree(tiny_base, tmp_path / "other")
    AutoTokenizer.from_pretrained(other, model_input_names=["input_ids", "attention_mask"]).save_pretrained(other)
    text = (ROOT / "docs" / "hub.md").read_text(encoding="utf-8")
    text = text.replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(other))
    blocks = [part.partition("```")[0] for part in text.split("```python\n")[1:]]
    known = {}
    with contextlib.chdir(ROOT):
        for block in blocks:
            if "me/" not in block:
                exec(block, known)
    assert len(blocks) >= 5
    assert "generated_text" in capsys.readouterr().out
