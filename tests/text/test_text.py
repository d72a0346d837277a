"""The tokenizer: exact round trips, sizes, files."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from emogen.errors import CheckpointError, DataError, SettingsError
from emogen.text.tokenizer import EOS, PAD, TURN, SentencePieceTokenizer, fitting_vocabulary, load_tokenizer, train_tokenizer

WORDS = re.findall(
    r"\w+", "so happy sad today the dog ran home we lost keys again what surprise my friend never called me back"
)
ENGLISH = [" ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 8)) + "." for i in range(150)]
CHINESE = ["我今天很开心", "你为什么难过？", "狗跑回家了。", "我们又丢了钥匙"] * 10
TOKENIZER = train_tokenizer(ENGLISH + CHINESE)

AWKWARD = [
    "",
    " ",
    "  two  blanks  ",
    "\u2581",
    "a\u2581 \u2581b",
    "\u2585",
    "\u2047",
    "\0",
    "a\0b",
    "line\r\nline\n\r",
    "tab\tstop",
    "👩\u200d👩\u200d👧 👍🏽",
    "我很开心！",
    "e\u0301 é ﬁ ①",
    "\ufeffmark",
    "\U0010ffff\uffff\ufffd",
    "<turn><s></s><pad><unk><0x41>",
]


def round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert all(TURN < piece < tokenizer.vocabulary for piece in ids)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_texts_come_back(text):
    """Exactly, and no special id among their tokens."""
    round_trip(TOKENIZER, text)


@given(st.text())
@example("\u2581\0\r\n")
def test_any_text_comes_back(text):
    """Exactly, and no special id among its tokens."""
    round_trip(TOKENIZER, text)


@given(st.lists(st.sampled_from([*WORDS, " ", "\u2581", "\0", "\n", "我", "开心", "👍"])).map("".join))
def test_texts_of_known_pieces_come_back(text):
    """Whole pieces with blanks and marks anywhere between them."""
    round_trip(TOKENIZER, text)


def test_known_words_take_few_tokens():
    """A word of the corpus is not spelt out in bytes."""
    assert len(TOKENIZER.encode("today")) < len("today")
    assert len(TOKENIZER.encode("我很开心")) < len("我很开心".encode())


def test_special_ids_stand_for_nothing():
    """Padding, end and turn marks leave no trace, also between the bytes of one character."""
    ids = TOKENIZER.encode("我 𝔸")
    assert TOKENIZER.decode([token for id_ in ids for token in (id_, TURN, EOS, PAD)]) == "我 𝔸"


def test_broken_bytes_become_the_replacement_character():
    """What a model writes need not be UTF-8."""
    assert TOKENIZER.decode(TOKENIZER.encode("\U0001f600")[:-1]) == "\ufffd"


def test_half_a_surrogate_pair_is_an_error():
    """It is no character."""
    with pytest.raises(DataError, match="position 1"):
        TOKENIZER.encode("a\ud800")


def test_chosen_vocabulary_fits():
    """No more than the formula says, and at least bytes and special ids."""
    assert 261 < TOKENIZER.vocabulary <= fitting_vocabulary(ENGLISH + CHINESE)


def test_given_vocabulary_is_kept():
    """To the id."""
    assert train_tokenizer(ENGLISH, vocabulary=300).vocabulary == 300


@pytest.mark.parametrize("vocabulary", [-1, 0, 10, 100_000])
def test_impossible_vocabulary(vocabulary):
    """One line that names the option and its value."""
    with pytest.raises(SettingsError, match=f"^--vocabulary {vocabulary}: .*[Ll]eave it out") as caught:
        train_tokenizer(ENGLISH, vocabulary=vocabulary)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("texts", [[], [""], [" ", "\u2581\n"]])
def test_nothing_to_train_on(texts):
    """Blank texts are none."""
    with pytest.raises(DataError, match="no text"):
        train_tokenizer(texts)


@pytest.mark.parametrize("texts", [["word " * 3000], ["\u2585 word"] * 5, ["\t"] + ["a\tb"] * 5, ["好"], ["a"]])
def test_odd_corpora_can_be_trained_on(texts):
    """Lines longer than SentencePiece takes, or with its own marks, or of a single character."""
    tokenizer = train_tokenizer(texts)
    for text in [*texts, *AWKWARD]:
        round_trip(tokenizer, text)


def test_training_is_deterministic():
    """The same model to the byte; other texts give another."""
    assert train_tokenizer(ENGLISH + CHINESE).fingerprint == TOKENIZER.fingerprint
    assert train_tokenizer(ENGLISH).fingerprint != TOKENIZER.fingerprint


def test_save_and_load(tmp_path):
    """The same fingerprint and tokens."""
    TOKENIZER.save(tmp_path / "tokenizer.model")
    loaded = load_tokenizer(tmp_path / "tokenizer.model")
    assert loaded.fingerprint == TOKENIZER.fingerprint
    assert loaded.encode(ENGLISH[3]) == TOKENIZER.encode(ENGLISH[3])


def first_pieces(model, count):
    """Cut a model behind a whole piece, where it still parses."""
    at = 0
    for _ in range(count):
        at += 2 + model[at + 1]
    return model[:at]


def test_broken_files(tmp_path, capfd):
    """Missing, empty, no model, or cut short anywhere."""
    path = tmp_path / "tokenizer.model"
    TOKENIZER.save(path)
    model = path.read_bytes()
    path.unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
        load_tokenizer(path)
    broken = [b"", b"garbage", model[:100], model[:-1], first_pieces(model, 3), first_pieces(model, 265)]
    for content in broken:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"tokenizer\.model: no readable SentencePiece model") as caught:
            load_tokenizer(path)
        assert "\n" not in str(caught.value)


def test_fitting_vocabulary_grows():
    """With the text's length, up to 16,000."""
    sizes = [fitting_vocabulary(["abcd efgh"] * count) for count in (1, 10, 1000, 10_000)]
    assert sizes == sorted(set(sizes))
    assert fitting_vocabulary(["abcdefghij" * 1_000_000] * 2) == 16_000


def test_fitting_vocabulary_by_hand():
    """Five special ids, 256 bytes, 2 characters, and 4 * sqrt(100)."""
    assert fitting_vocabulary(["ab" * 50]) == 5 + 256 + 2 + 40


def test_a_tokenizer_is_made_of_its_bytes(tmp_path):
    """Nothing else decides what it does."""
    TOKENIZER.save(tmp_path / "model")
    assert SentencePieceTokenizer((tmp_path / "model").read_bytes()).encode("dog") == TOKENIZER.encode("dog")
