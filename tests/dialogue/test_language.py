"""Which scripts a model writes, and messages in others."""

import pytest

from emogen.dialogue.language import WrittenScripts
from emogen.text.tokenizer import SPECIAL

WORDS = [f"{first}{second}" for first in ("re", "un", "aus", "é") for second in ("do", "late", "hören", "mi", " a", "ß")]
HAN = [chr(0x4E00 + number) for number in range(400)]
KANA = [a + b for a in "かきくけこさしすせそ" for b in "たちつてと"] + [a + b for a in "カキクケコ" for b in "タチツテトナ"]
SIGNS = ["a", "b", "Z", "П", "р", "ש", "\ufffd", "\ufffd", " ", "12", "...", "😢"]
PIECES = {
    "english": [*WORDS * 10, *HAN[:4], *SIGNS * 9],
    "chinese": [*HAN, *(HAN[at] + HAN[-at] for at in range(50)), "OK", "iPhone", *SIGNS * 9],
    "both": [*WORDS * 3, *HAN, *SIGNS],
    "japanese": [*KANA, *HAN[:100], *SIGNS],
    "toy": [*WORDS, *SIGNS],
}


class Vocabulary:
    """A tokenizer with these pieces behind the special ids."""

    def __init__(self, pieces):
        self.pieces, self.read = pieces, 0
        self.vocabulary = SPECIAL + len(pieces)

    def decode(self, ids):
        self.read += 1
        return "".join(self.pieces[number - SPECIAL] for number in ids)


@pytest.fixture
def scripts():
    return {name: WrittenScripts(Vocabulary(pieces)) for name, pieces in PIECES.items()}


@pytest.mark.parametrize(
    ("model", "written"),
    [
        ("english", {"LATIN"}),
        ("chinese", {"CJK"}),
        ("both", {"LATIN", "CJK"}),
        ("japanese", {"CJK", "HIRAGANA", "KATAKANA"}),
        ("toy", set()),
    ],
)
def test_scripts_of_a_vocabulary(scripts, model, written):
    assert set(scripts[model].names) == written


@pytest.mark.parametrize(
    ("model", "text", "found"),
    [
        ("english", "I lost my job.", ""),
        ("english", "Perdí mi trabajo, ¿qué hago?", ""),
        ("english", "", ""),
        ("english", "😢😢 123 ...", ""),
        ("english", "ｆｕｌｌ ｗｉｄｔｈ", ""),
        ("english", "My friend 小明 left me.", ""),
        ("english", "我今天丢了工作。", "Chinese characters"),
        ("english", "OK，我今天丢了工作。", "Chinese characters"),
        ("english", "Я потерял работу.", "Cyrillic letters"),
        ("english", "ฉันตกงาน", "Thai letters"),
        ("chinese", "我今天丢了工作。", ""),
        ("chinese", "I lost my job.", "Latin letters"),
        ("both", "我今天丢了工作。", ""),
        ("both", "I lost my job.", ""),
        ("both", "나는 직장을 잃었다", "Hangul letters"),
        ("japanese", "カメラをなくしました", ""),
        ("toy", "我今天丢了工作。", ""),
    ],
)
def test_a_message_in_another_script_is_told(scripts, model, text, found):
    sentence = scripts[model].describe_mismatch(text)
    assert (f"the message is in {found}," in sentence) if found else not sentence


def test_the_models_that_ship_write_english():
    from emogen.checkpoint.finding import shipped_folder
    from emogen.text.tokenizer import load_tokenizer

    scripts = WrittenScripts(load_tokenizer(shipped_folder("default") / "tokenizer.model"))
    assert scripts.names == ("LATIN",)


def test_a_large_vocabulary_is_sampled():
    large = Vocabulary([*WORDS, *HAN] * 300)
    assert WrittenScripts(large).names == ("CJK", "LATIN")
    assert large.read <= 5_000
