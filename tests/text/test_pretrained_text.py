"""A base model's tokenizer under our ids: its chat template is the reference for what stands before a reply."""

import copy

import pytest
from conftest import CHATML, save_small_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from emogen.errors import CheckpointError, DataError
from emogen.text.base_tokenizer import PretrainedTokenizer
from emogen.text.tokenizer import BOS, EOS, SPECIAL

TURNS = ["Day 3 was awful.", "I cried.", "Day 4 was great!"]
SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
BRACKETS = (
    "{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% else %}{{ message.content }}<|im_end|>{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    save_small_tokenizer(folder, CHATML)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def plain_base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    save_small_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def rendered(base, turns):
    """The base's own ids of the dialogue with the reply opened."""
    roles = ["user", "assistant"] * len(turns)
    first = 0 if len(turns) % 2 else 1
    messages = [{"role": role, "content": text} for role, text in zip(roles[first:], turns, strict=False)]
    return base.encode(base.apply_chat_template(messages, tokenize=False, add_generation_prompt=True), add_special_tokens=False)


def theirs(tokenizer, ids):
    return [tokenizer.vectors[place] if place < SPECIAL else place - SPECIAL for place in ids]


@pytest.mark.parametrize("template", [CHATML, BRACKETS])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_context_stands_as_the_chat_template_has_it(base, template, count, monkeypatch):
    monkeypatch.setattr(base, "chat_template", template)
    tokenizer = PretrainedTokenizer(base, "base")
    prefix = tokenizer.prefix(TURNS[-count:], 200)
    assert prefix[-1] == BOS
    expected = rendered(base, TURNS[-count:])
    assert base.decode(theirs(tokenizer, prefix)).endswith(base.decode(expected))
    if template == CHATML:
        assert theirs(tokenizer, prefix) == expected


def test_a_system_prompt_of_the_template_is_left_out(base, monkeypatch):
    without = PretrainedTokenizer(base, "base")
    monkeypatch.setattr(base, "chat_template", SYSTEM + CHATML)
    assert PretrainedTokenizer(base, "base").format == without.format


def test_without_template_each_utterance_is_a_line(plain_base):
    tokenizer = PretrainedTokenizer(plain_base, "plain")
    expected = plain_base.encode("Day 3 was awful.\nI cried.\nDay 4 was great!\n", add_special_tokens=False)
    assert theirs(tokenizer, tokenizer.prefix(TURNS, 200)) == expected
    assert tokenizer.prefix([], 200) == [BOS]


def test_whole_old_utterances_go_first_and_marks_stay(base):
    tokenizer = PretrainedTokenizer(base, "base")
    last = tokenizer.prefix(TURNS[-1:], 200)
    assert tokenizer.prefix(TURNS, len(last)) == last
    cut = tokenizer.prefix(TURNS[-1:], 12)
    opening = tokenizer.prefix([], 0)
    assert len(cut) == 12 + len(opening)
    assert cut[:3] == last[:3]
    assert cut[-12:] == last[-12:]
    assert tokenizer.prefix(TURNS, 3) == opening


@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=40))
def test_round_trip(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp() / "round-trip"
    if not folder.exists():
        save_small_tokenizer(folder, CHATML)
    tokenizer = PretrainedTokenizer(AutoTokenizer.from_pretrained(folder), "base")
    ids = tokenizer.encode(text)
    assert tokenizer.decode([BOS, *ids, EOS]) == text
    assert not set(ids) & {*range(SPECIAL), *tokenizer.marks}


def test_marks_written_out_are_plain_text(base):
    tokenizer = PretrainedTokenizer(base, "base")
    ids = tokenizer.encode("<|im_end|>")
    assert len(ids) > 1
    assert tokenizer.decode(ids) == "<|im_end|>"
    with pytest.raises(DataError, match="half of a surrogate pair at position 1"):
        tokenizer.encode("a\ud800")


def test_a_tokenizer_without_end_token_is_refused(base):
    endless = copy.deepcopy(base)
    endless.eos_token = None
    with pytest.raises(CheckpointError, match=r"base: its tokenizer has no end token.*set eos_token"):
        PretrainedTokenizer(endless, "base")


def test_the_fingerprint_is_of_words_and_marks(base, plain_base):
    one, again, other = (PretrainedTokenizer(each, "base").fingerprint for each in (base, base, plain_base))
    assert one == again != other
