"""The owners' formats of the public corpora, in tiny files made by hand."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter

import pytest

from emogen.data.formats import (
    Dialogue,
    Turn,
    parse_dailydialog,
    parse_dair_emotion,
    parse_empatheticdialogues,
    parse_esconv,
    parse_goemotions,
    parse_image_coco,
    parse_meld,
    parse_mr,
    parse_smp2020,
    parse_tweeteval,
    parse_xdailydialog,
    parse_zh_multi_emotion,
)
from emogen.errors import DataError

GOEMOTIONS = {
    "emotions.txt": b"admiration\namusement\nanger\n",
    "train.tsv": '"Quoted, and\u0085odd\t0,2\tid1\r\nFine work\t0\tid2\n'.encode(),
    "dev.tsv": b"Ha\t1\tid3\n",
    "test.tsv": b"Grr\t2\tid4\n\n",
}
TWEETEVAL = {
    "mapping.txt": b"0\tanger\n1\tjoy\n",
    "train_text.txt": b"what a day \nnot again",
    "train_labels.txt": b"1\n0",
    "val_text.txt": b"sunny\n",
    "val_labels.txt": b"1\n",
    "test_text.txt": b"rainy\n",
    "test_labels.txt": b"0\n",
}
MELD_HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
MELD = {
    "train_sent_emo.csv": (
        MELD_HEADER
        + '2,"Well, hello!",Ann,joy,positive,0,1,1,1,"0:1,2","0:1,3"\n'
        + "1,Who\x92s there?,Bob,neutral,neutral,0,0,1,1,x,y\n"
        + "3,Nobody.,Ann,Sadness,negative,10,0,1,1,x,y\n"
        + "4,Right.,Ann,neutral,neutral,9,0,1,1,x,y\n"
    ).encode(),
    "dev_sent_emo.csv": (MELD_HEADER + "1,Boo!,Bob,surprise,negative,0,0,1,1,x,y\n").encode(),
    "test_sent_emo.csv": (MELD_HEADER + "1,Ugh.,Bob,disgust,negative,0,0,1,1,x,y\n").encode(),
}
EMPATHETIC_HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags\n"
EMPATHETIC = {
    "train.csv": (
        EMPATHETIC_HEADER
        + 'c:1,1,proud,I ran_comma_ far,7,I ran ten miles_comma_ "alone".,5|5|5_2|2|5,\n'
        + "c:1,2,proud,I ran_comma_ far,3,All of them?,5|5|5_2|2|5,\n"
        + "c:1,3,proud,I ran_comma_ far,7,Yes.,5|5|5_2|2|5,\n"
        + "c:2,1,lonely,Quiet,3,Nobody called.,5|5|5_2|2|5,\n"
        + "c:2,2,lonely,Quiet,7,I am here.,5|5|5_2|2|5,\n"
    ).encode(),
    "valid.csv": (EMPATHETIC_HEADER + "c:3,1,sad,x,1,Rain.,5,<tag>,one_comma_ two|three\n").encode(),
    "test.csv": (EMPATHETIC_HEADER + 'c:4,1,sad,x,1,"Quoted" and ""doubled.,5,\n').encode(),
}
DAIR_JSON = {
    "train.jsonl": b'{"text": "rain again", "label": 0}\n{"text": "odd noise", "label": 5}\n',
    "validation.jsonl": b'{"text": "my dog", "label": 2}\n',
    "test.jsonl": b'{"text": "late bus", "label": 3}\n',
}
DAIR_TEXT = {
    "train.txt": b"rain again;sadness\nodd noise;surprise",
    "val.txt": b"my dog;love\n",
    "test.txt": b"late bus;anger\n",
}
SMP_PARTS = [f"{topic}_{part}.txt" for part in ("train", "eval_labeled", "test_labeled") for topic in ("usual", "virus")]
SMP = {name: json.dumps([{"id": 1, "content": name, "label": "happy"}]).encode() for name in SMP_PARTS}
MR = {"rt-polarity.pos": "a charming clich\u00e9 \u2014 twice \n".encode(), "rt-polarity.neg": b"dull . \n"}
ZH_SIMPLIFIED = "Simplified_Chinese_Multi-Emotion_Dialogue_Dataset.csv"
CAPTIONS = {"image_coco.txt": b"a boat on a lake.\n", "test_coco.txt": b"two cups\n"}


def turn(text: str, *emotions: str, answers: bool = True) -> Turn:
    return Turn(text, emotions, answers)


def daily_text(train: str, held_out: str, codes: str) -> dict[str, bytes]:
    return {
        "dialogues_train.txt": train.encode(),
        "dialogues_emotion_train.txt": b"0 4 \n6 5 1 \n",
        "dialogues_validation.txt": held_out.encode(),
        "dialogues_emotion_validation.txt": codes.encode(),
        "dialogues_test.txt": held_out.encode(),
        "dialogues_emotion_test.txt": codes.encode(),
    }


TRAIN = "Tea ? __eou__ Yes , please . __eou__\nOh ! __eou__ I am late . __eou__ Hurry . __eou__\n"
NEW = "Coffee ? __eou__ No . __eou__\n"


def test_goemotions() -> None:
    assert list(parse_goemotions(GOEMOTIONS)) == [
        Dialogue("train", (turn('"Quoted, and\u0085odd', "admiration", "anger"),)),
        Dialogue("train", (turn("Fine work", "admiration"),)),
        Dialogue("valid", (turn("Ha", "amusement"),)),
        Dialogue("test", (turn("Grr", "anger"),)),
    ]


def test_goemotions_is_quoted_as_pandas_writes_it() -> None:
    texts = ['He said "no', '"All quoted"', "a\ttab", 'two "" quotes', "plain, with 'quotes'", '"']
    table = pandas_like_table([(text, "1", f"id{place}") for place, text in enumerate(texts)])
    found = [found.turns[0].text for found in parse_goemotions({**GOEMOTIONS, "dev.tsv": table}) if found.split == "valid"]
    assert found == texts


def pandas_like_table(rows: list[tuple[str, ...]]) -> bytes:
    """What `DataFrame.to_csv(sep="\\t", header=False, index=False)` writes: Python's own CSV writer, quotes where needed."""
    out = io.StringIO()
    csv.writer(out, delimiter="\t", lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def test_tweeteval() -> None:
    assert [(found.split, found.turns[0].text.strip(), *found.turns[0].emotions) for found in parse_tweeteval(TWEETEVAL)] == [
        ("train", "what a day", "joy"),
        ("train", "not again", "anger"),
        ("valid", "sunny", "joy"),
        ("test", "rainy", "anger"),
    ]


def test_meld_is_in_the_order_of_its_numbers() -> None:
    train = [found for found in parse_meld(MELD) if found.split == "train"]
    assert train == [
        Dialogue("train", (turn("Who’s there?", "neutral"), turn("Well, hello!", "joy"))),
        Dialogue("train", (turn("Right.", "neutral"),)),
        Dialogue("train", (turn("Nobody.", "sadness"),)),
    ]
    assert [found.split for found in parse_meld(MELD)][3:] == ["valid", "test"]


def test_dailydialog_of_its_owners() -> None:
    found = list(parse_dailydialog(daily_text(TRAIN, NEW, "0 0\n")))
    assert [dialogue.split for dialogue in found] == ["train", "train", "valid", "test"]
    assert [(part.text.strip(), *part.emotions) for part in found[1].turns] == [
        ("Oh !", "surprise"),
        ("I am late .", "sadness"),
        ("Hurry .", "anger"),
    ]


def test_dailydialog_of_parlai() -> None:
    words = ["no_emotion", "anger", "disgust", "fear", "happiness", "sadness", "surprise"]
    talk = {"fold": "train", "topic": "t", "dialogue": [{"emotion": word, "act": "inform", "text": word} for word in words]}
    other = {"dialogue": [{"emotion": "anger", "act": "inform", "text": "New ."}]}
    files = {"train.json": json.dumps(talk).encode(), **dict.fromkeys(("valid.json", "test.json"), json.dumps(other).encode())}
    found, *_ = parse_dailydialog(files)
    assert [part.emotions for part in found.turns] == [
        (name,) for name in ("neutral", "anger", "disgust", "fear", "joy", "sadness", "surprise")
    ]


@pytest.mark.parametrize(
    ("held_out", "codes", "kept"),
    [
        ("Tea ? __eou__ yes, please __eou__\n", "0 0\n", False),
        ("Tea ? __eou__ Oh ! __eou__ Hurry . __eou__ I am late . __eou__ New . __eou__\n", "0 0 0 0 0\n", False),
        ("Tea ? __eou__ Oh ! __eou__ Hurry . __eou__ New . __eou__\n", "0 0 0 0\n", True),
    ],
)
def test_held_out_dialogues_that_stand_in_train_are_left_out(held_out: str, codes: str, kept: bool) -> None:
    splits = {dialogue.split for dialogue in parse_dailydialog(daily_text(TRAIN, held_out, codes))}
    assert splits == ({"train", "valid", "test"} if kept else {"train"})


def test_fewer_labels_than_utterances_cut_the_dialogue() -> None:
    found = list(parse_dailydialog(daily_text(TRAIN, NEW, "4\n")))
    assert [part.text.strip() for part in found[-1].turns] == ["Coffee ?"]


def test_xdailydialog_and_its_leaks() -> None:
    line = "喝茶吗？__eou__好。__eou__\t1\t2 1\t0 4\n"
    files = {"zh_train_human.txt": line, "zh_dev_human.txt": line, "zh_test_human.txt": "走吧。__eou__\t1\t3\t6\n"}
    assert list(parse_xdailydialog({name: text.encode() for name, text in files.items()})) == [
        Dialogue("train", (turn("喝茶吗？", "neutral"), turn("好。", "joy"))),
        Dialogue("test", (turn("走吧。", "surprise"),)),
    ]


def test_empatheticdialogues_tells_speaker_from_listener() -> None:
    found = list(parse_empatheticdialogues(EMPATHETIC))
    assert found[0].turns == (
        turn('I ran ten miles, "alone".', "proud", answers=False),
        turn("All of them?", "proud"),
        turn("Yes.", "proud", answers=False),
    )
    assert found[1].turns[1] == turn("I am here.", "lonely")
    # The owners split at commas, so that quotes are the speakers' own.
    assert found[3].turns == (turn('"Quoted" and ""doubled.', "sad", answers=False),)
    assert [dialogue.split for dialogue in found] == ["train", "train", "valid", "test"]


def esconv(count: int) -> bytes:
    talk = [{"speaker": "seeker", "content": "No sleep.\n", "annotation": {}}, {"speaker": "supporter", "content": "Why?"}]
    return json.dumps(
        [
            {"emotion_type": "anxiety", "dialog": [*talk, {"speaker": "seeker", "content": str(number)}]}
            for number in range(count)
        ]
    ).encode()


def test_esconv_is_split_by_hash_in_eight_one_one() -> None:
    found = list(parse_esconv({"ESConv.json": esconv(2000)}))
    assert found[0].turns[:2] == (turn("No sleep.\n", "anxiety", answers=False), turn("Why?", "anxiety"))
    splits = [dialogue.split for dialogue in found]
    assert splits == [dialogue.split for dialogue in parse_esconv({"ESConv.json": esconv(2000)})]
    # Binomial(2000, 0.1): three standard deviations are 40.
    assert abs(splits.count("valid") - 200) < 40
    assert abs(splits.count("test") - 200) < 40


@pytest.mark.parametrize("files", [DAIR_JSON, DAIR_TEXT])
def test_dair_emotion_in_either_form(files: dict[str, bytes]) -> None:
    assert list(parse_dair_emotion(files)) == [
        Dialogue("train", (turn("rain again", "sadness"),)),
        Dialogue("train", (turn("odd noise", "surprise"),)),
        Dialogue("valid", (turn("my dog", "love"),)),
        Dialogue("test", (turn("late bus", "anger"),)),
    ]


def test_smp2020_joins_both_topics() -> None:
    assert [(found.split, found.turns[0].text) for found in parse_smp2020(SMP)] == [
        *(("train", name) for name in SMP_PARTS[:2]),
        *(("valid", name) for name in SMP_PARTS[2:4]),
        *(("test", name) for name in SMP_PARTS[4:]),
    ]
    assert {found.turns[0].emotions for found in parse_smp2020(SMP)} == {("happy",)}


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_mr_is_read_in_either_encoding(encoding: str) -> None:
    files = {name: content.decode().encode(encoding) for name, content in MR.items()}
    assert [(part.text.strip(), *part.emotions) for found in parse_mr(files) for part in found.turns] == [
        ("a charming clich\u00e9 \u2014 twice", "positive"),
        ("dull .", "negative"),
    ]


def test_mr_is_split_by_place_whatever_the_text() -> None:
    found = list(parse_mr({"rt-polarity.pos": b"good\n" * 25, "rt-polarity.neg": b"bad\n" * 25}))
    held_out = {
        (emotion, part): [place for place, dialogue in enumerate(rows) if dialogue.split == part]
        for emotion, rows in (("pos", found[:25]), ("neg", found[25:]))
        for part in ("valid", "test")
    }
    # The last decimal digit, 8 or 9, of `printf mr-pos-1 | sha1sum` and its like.
    assert held_out == {
        **{("pos", "valid"): [1, 5, 8, 10, 20, 22], ("pos", "test"): [7, 9, 17, 18, 24]},
        **{("neg", "valid"): [3, 21], ("neg", "test"): [2, 14, 24]},
    }


def test_zh_multi_emotion_has_one_split_in_both_scripts() -> None:
    traditional = {"data.csv": "text,emotion\n" + "下雨了,平淡語氣\n真的嗎,疑問語調\n" * 1000}
    simplified = {ZH_SIMPLIFIED: "text,label\n" + "下雨了,平静\n真的吗,疑问\n" * 1000}
    old = list(parse_zh_multi_emotion({name: text.encode("utf-8-sig") for name, text in traditional.items()}))
    new = list(parse_zh_multi_emotion({name: text.encode() for name, text in simplified.items()}))
    assert old[:2] == [Dialogue("train", (turn("下雨了", "neutral"),)), Dialogue("train", (turn("真的嗎", "confusion"),))]
    assert new[1].turns == (turn("真的吗", "confusion"),)
    assert [found.split for found in old] == [found.split for found in new]
    shares = Counter(found.split for found in new)
    # Binomial(2000, 0.1): three standard deviations are 40.
    assert abs(shares["valid"] - 200) < 40
    assert abs(shares["test"] - 200) < 40


def test_every_label_of_zh_multi_emotion_has_a_name_in_both_scripts() -> None:
    names = ["neutral", "joy", "caring", "anger", "surprise", "sadness", "disgust", "confusion"]
    # The owner's data page, and the table of the page of the conversion.
    traditional = ["平淡語氣", "開心語調", "關切語調", "憤怒語調", "驚奇語調", "悲傷語調", "厭惡語調", "疑問語調"]
    simplified = ["平静", "开心", "关心", "生气", "惊讶", "伤心", "厌恶", "疑问"]
    for name, column, labels in (("data.csv", "emotion", traditional), (ZH_SIMPLIFIED, "label", simplified)):
        rows = "".join(f"嗯,{label}\n" for label in labels)
        found = parse_zh_multi_emotion({name: f"text,{column}\n{rows}".encode()})
        assert [dialogue.turns[0].emotions for dialogue in found] == [(one,) for one in names]


@pytest.mark.parametrize("names", [("image_coco.txt", "test_coco.txt"), ("image_coco_train.txt", "image_coco_test.txt")])
def test_captions_are_neutral_under_either_name(names: tuple[str, str]) -> None:
    assert list(parse_image_coco(dict(zip(names, CAPTIONS.values(), strict=True)))) == [
        Dialogue("train", (turn("a boat on a lake.", "neutral"),)),
        Dialogue("test", (turn("two cups", "neutral"),)),
    ]


@pytest.mark.parametrize(
    ("parse", "files", "name", "content", "message"),
    [
        (parse_goemotions, GOEMOTIONS, "dev.tsv", None, "dev.tsv: missing, found emotions.txt, test.tsv, train.tsv"),
        (parse_goemotions, GOEMOTIONS, "dev.tsv", b"Ha\t1\n", "dev.tsv:1: 2 cells with tabs between them, 3 expected"),
        (parse_goemotions, GOEMOTIONS, "dev.tsv", b"Ha\t7\tx\n", "dev.tsv:1: emotion '7' is not one of 0, 1, 2"),
        (parse_goemotions, GOEMOTIONS, "dev.tsv", b"\xff\t1\tx\n", "dev.tsv: byte 0 is not UTF-8"),
        (parse_tweeteval, TWEETEVAL, "val_labels.txt", b"1\n1\n", "val_text.txt: 1 lines where val_labels.txt has 2"),
        (parse_tweeteval, TWEETEVAL, "val_labels.txt", b"joy\n", "val_labels.txt:1: emotion 'joy' is not one of 0, 1"),
        (parse_meld, MELD, "dev_sent_emo.csv", b"Utterance,Emotion\n", "dev_sent_emo.csv:1: no column 'Dialogue_ID'"),
        (parse_meld, MELD, "dev_sent_emo.csv", b"", "dev_sent_emo.csv: is empty; get the file again"),
        (parse_meld, MELD, "dev_sent_emo.csv", MELD_HEADER.encode(), "dev_sent_emo.csv: has no row; get the file again"),
        (
            parse_meld,
            MELD,
            "dev_sent_emo.csv",
            (MELD_HEADER + "1,Hi,Bob,joy,positive,one,0,1,1,x,y\n").encode(),
            "dev_sent_emo.csv: 'one' is not a dialogue or utterance number",
        ),
        (parse_empatheticdialogues, EMPATHETIC, "valid.csv", b"a,b\n", "valid.csv:1: no column 'conv_id', found 'a,b'"),
        (
            parse_empatheticdialogues,
            EMPATHETIC,
            "valid.csv",
            EMPATHETIC_HEADER.encode() + b"c,1,sad\n",
            "valid.csv:2: 3 cells where the header has 8",
        ),
        (parse_esconv, {}, "ESConv.json", b"{}]", "ESConv.json: not as its owners write it"),
        (parse_esconv, {}, "ESConv.json", b'[{"dialog": []}]', "ESConv.json: not as its owners write it .*emotion_type"),
        (parse_dailydialog, {}, "train.json", b"[]", "train.json:1: no dialogue as ParlAI writes it"),
        (
            parse_dailydialog,
            {},
            "train.json",
            b'{"dialogue": [{"text": "Hi", "emotion": "rage"}]}',
            "train.json:1: emotion 'rage' is not one of no_emotion",
        ),
        (parse_xdailydialog, {}, "zh_train_human.txt", b"a__eou__\t1\n", "zh_train_human.txt:1: 2 cells"),
        (parse_dair_emotion, DAIR_JSON, "test.jsonl", b'{"text": "x", "label": 6}', "test.jsonl:1: emotion '6' is not one"),
        (parse_dair_emotion, DAIR_JSON, "test.jsonl", b'{"text": "x"}', "test.jsonl:1: no record with text and label"),
        (parse_dair_emotion, DAIR_JSON, "test.jsonl", b"{", r"test.jsonl:1: broken JSON \(Expecting"),
        (parse_dair_emotion, DAIR_TEXT, "val.txt", b"text;label\n", "val.txt:1: emotion 'label' is not one of sadness, joy"),
        (parse_dair_emotion, {}, "val.txt", b"", "train.txt: missing, found val.txt"),
        (parse_smp2020, SMP, "virus_train.txt", None, "virus_train.txt: missing"),
        (parse_smp2020, SMP, "virus_train.txt", b"{}", "virus_train.txt: a JSON list is expected, found dict"),
        (parse_smp2020, SMP, "virus_train.txt", b"[{}]\n[{}]", r"virus_train.txt: broken JSON \(Extra data: line 2"),
        (parse_smp2020, SMP, "virus_train.txt", b"[[]]", "virus_train.txt: record 1: no record with content and label"),
        (parse_smp2020, SMP, "usual_train.txt", b'[{"content": null, "label": "sad"}]', "usual_train.txt: record 1: no record"),
        (parse_mr, MR, "rt-polarity.neg", None, "rt-polarity.neg: missing, found rt-polarity.pos"),
        (parse_zh_multi_emotion, {}, "data.csv", b"text,label\n", "data.csv:1: no column 'emotion', found text, label"),
        (parse_zh_multi_emotion, {}, "data.csv", b"text,emotion\nx,joy\n", "data.csv: row 1: emotion 'joy' is not one of"),
        (parse_image_coco, CAPTIONS, "test_coco.txt", None, "test_coco.txt: missing, found image_coco.txt"),
    ],
)
def test_malformed_files_are_told_with_file_and_line(parse, files, name, content, message) -> None:  # type: ignore[no-untyped-def]
    damaged = {key: value for key, value in {**files, name: content}.items() if value is not None}
    with pytest.raises(DataError, match=message):
        list(parse(damaged))
