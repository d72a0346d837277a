"""The formats in which the public corpora's owners publish them, each read into dialogues.

Quotes mean what they mean to the owners. Tables that they write and read as CSV are unquoted: GoEmotions (TSV), MELD and
Chinese Multi-Emotion. In all other files a quote is a plain character: EmpatheticDialogues has commas written out
(`_comma_`) in place of quoting, and XDailyDialog, TweetEval, DailyDialog, dair-ai's `text;label`, sentence polarity and the
captions have one text a line. An empty file is an error everywhere.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from emogen.data.exchange import Split
from emogen.emotions.labels import EKMAN
from emogen.errors import DataError

Files = Mapping[str, bytes]
"""Contents by file name, archives unpacked, folders left out."""

_LEAK_SHARE = 0.8
_CP1252 = {code: bytes([code]).decode("cp1252", errors="ignore") for code in range(0x80, 0xA0)}


@dataclass(frozen=True)
class Turn:
    """One utterance; `answers` is false where its speaker is the one whose feeling the label names."""

    text: str
    emotions: tuple[str, ...]
    answers: bool = True


@dataclass(frozen=True)
class Dialogue:
    """Utterances in order; a single text is a dialogue of one."""

    split: Split
    turns: tuple[Turn, ...]


def _content(files: Files, name: str) -> bytes:
    if name not in files:
        raise DataError(f"{name}: missing, found {', '.join(sorted(files)) or 'nothing'}")
    if not files[name].strip():
        raise DataError(f"{name}: is empty; get the file again")
    return files[name]


def _text(files: Files, name: str) -> str:
    try:
        return _content(files, name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: byte {error.start} is not UTF-8; get the file again") from None


def _western(files: Files, name: str) -> str:
    """Return a text in UTF-8 or, where it is none, in Windows-1252."""
    content = _content(files, name)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1").translate(_CP1252)


def _lines(files: Files, name: str) -> list[str]:
    return _lines_of(_text(files, name))


def _lines_of(text: str) -> list[str]:
    # Not splitlines: these texts hold other characters that Python takes for line ends.
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]


def _number_lines(files: Files, name: str) -> Iterator[tuple[str, str]]:
    """Return lines that are not blank, each after its place for messages."""
    return ((f"{name}:{number}", line) for number, line in enumerate(_lines(files, name), 1) if line.strip())


def _splits(train: str, valid: str, test: str) -> tuple[tuple[Split, str], ...]:
    return ("train", train), ("valid", valid), ("test", test)


def _cells(line: str, count: int, where: str) -> list[str]:
    cells = line.split("\t")
    if len(cells) != count:
        raise DataError(f"{where}: {len(cells)} cells with tabs between them, {count} expected")
    return cells


def _quoted_cells(line: str, count: int, where: str) -> list[str]:
    """Return the cells of a CSV-quoted line; where its quoting is broken, quotes are plain characters."""
    try:
        cells = next(csv.reader([line], delimiter="\t", strict=True))
    except csv.Error:
        return _cells(line, count, where)
    return cells if len(cells) == count else _cells(line, count, where)


def _decode_label(code: str, names: Sequence[str] | Mapping[str, str], where: str) -> str:
    by_code = names if isinstance(names, Mapping) else {str(number): name for number, name in enumerate(names)}
    if code.strip() not in by_code:
        raise DataError(f"{where}: emotion {code!r} is not one of {', '.join(by_code)}")
    return by_code[code.strip()]


def _pair_lines(files: Files, first: str, second: str) -> Iterator[tuple[int, str, str]]:
    left, right = _lines(files, first), _lines(files, second)
    if len(left) != len(right):
        raise DataError(f"{first}: {len(left)} lines where {second} has {len(right)}")
    yield from ((number, *pair) for number, pair in enumerate(zip(left, right, strict=True), 1))


def parse_goemotions(files: Files) -> Iterator[Dialogue]:
    """Yield GoEmotions: `text TAB label numbers TAB id`, CSV-quoted as pandas writes it.

    The numbers being lines of emotions.txt.
    """
    names = [line.strip() for line in _lines(files, "emotions.txt")]
    for split, name in _splits("train.tsv", "dev.tsv", "test.tsv"):
        for where, line in _number_lines(files, name):
            text, codes, _ = _quoted_cells(line, 3, where)
            emotions = tuple(_decode_label(code, names, where) for code in codes.split(","))
            yield Dialogue(split, (Turn(text, emotions),))


def parse_tweeteval(files: Files) -> Iterator[Dialogue]:
    """TweetEval: one tweet a line, its label's number in the same line of another file, names in mapping.txt."""
    rows = [_cells(line, 2, where) for where, line in _number_lines(files, "mapping.txt")]
    names = {code.strip(): name.strip() for code, name in rows}
    for split, stem in _splits("train", "val", "test"):
        for number, text, code in _pair_lines(files, f"{stem}_text.txt", f"{stem}_labels.txt"):
            emotion = _decode_label(code, names, f"{stem}_labels.txt:{number}")
            yield Dialogue(split, (Turn(text, (emotion,)),))


def parse_meld(files: Files) -> Iterator[Dialogue]:
    """MELD: CSV with Utterance, Emotion, Dialogue_ID, Utterance_ID; some quotes are Windows-1252 gone astray."""
    for split, stem in _splits("train", "dev", "test"):
        name = f"{stem}_sent_emo.csv"
        wanted = ("Dialogue_ID", "Utterance_ID", "Utterance", "Emotion")
        rows = sorted(_csv_rows(files, name, wanted), key=lambda row: (_whole(row[0], name), _whole(row[1], name)))
        for _, dialogue in groupby(rows, key=lambda row: row[0]):
            turns = (Turn(text.translate(_CP1252), (emotion.strip().lower(),)) for _, _, text, emotion in dialogue)
            yield Dialogue(split, tuple(turns))


def _csv_rows(files: Files, name: str, wanted: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    reader = csv.DictReader(io.StringIO(_text(files, name), newline=""))
    lacking = [column for column in wanted if column not in (reader.fieldnames or ())]
    if lacking:
        raise DataError(f"{name}:1: no column {lacking[0]!r}, found {', '.join(reader.fieldnames or ()) or 'none'}")
    row = None
    try:
        for row in reader:
            yield tuple(row[column] or "" for column in wanted)
    except csv.Error as error:
        raise DataError(f"{name}:{reader.line_num}: {error}") from error
    if row is None:
        raise _without_rows(name)


def _without_rows(name: str) -> DataError:
    return DataError(f"{name}: has no row; get the file again")


def _whole(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{name}: {text!r} is not a dialogue or utterance number") from None


def parse_dailydialog(files: Files) -> Iterator[Dialogue]:
    """DailyDialog: the owners' zip (utterances with `__eou__` after each, numbers beside) or ParlAI's JSON lines.

    Dialogues of valid and test that also stand in train are left out.
    """
    return _without_leaks(_daily_json(files) if "train.json" in files else _daily_text(files))


def _daily_text(files: Files) -> Iterator[Dialogue]:
    for split, stem in _splits("train", "validation", "test"):
        emotions = f"dialogues_emotion_{stem}.txt"
        for number, line, codes in _pair_lines(files, f"dialogues_{stem}.txt", emotions):
            yield _daily_dialogue(split, line, codes, f"{emotions}:{number}")


def _daily_dialogue(split: Split, line: str, codes: str, where: str) -> Dialogue:
    texts = line.strip().removesuffix("__eou__").split("__eou__")
    # Where the owners gave fewer labels than utterances, the rest has none.
    pairs = zip(texts, codes.split(), strict=False)
    return Dialogue(split, tuple(Turn(text, (_decode_label(code, _DAILY_CODES, where),)) for text, code in pairs))


def _daily_json(files: Files) -> Iterator[Dialogue]:
    for split, stem in _splits("train", "valid", "test"):
        for where, line in _number_lines(files, f"{stem}.json"):
            try:
                turns = [(turn["text"], turn["emotion"]) for turn in json.loads(line)["dialogue"]]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{where}: no dialogue as ParlAI writes it ({error!r})") from None
            yield Dialogue(split, tuple(Turn(text, (_decode_label(word, _DAILY_WORDS, where),)) for text, word in turns))


_DAILY_CODES = ("neutral", "anger", "disgust", "fear", "joy", "sadness", "surprise")
_DAILY_WORDS = {"no_emotion": "neutral", "no emotion": "neutral", "happiness": "joy"} | {name: name for name in EKMAN.names}


def parse_xdailydialog(files: Files) -> Iterator[Dialogue]:
    """XDailyDialog: `utterances with __eou__ TAB topic TAB acts TAB emotions`, one dialogue a line.

    Dialogues of valid and test that also stand in train are left out.
    """
    return _without_leaks(_xdaily(files))


def _xdaily(files: Files) -> Iterator[Dialogue]:
    for split, stem in _splits("train", "dev", "test"):
        for where, line in _number_lines(files, f"zh_{stem}_human.txt"):
            text, _, _, codes = _cells(line, 4, where)
            yield _daily_dialogue(split, text, codes, where)


def _without_leaks(dialogues: Iterable[Dialogue]) -> Iterator[Dialogue]:
    """Drop held-out dialogues of which four fifths of the utterances stand in train, blanks and marks aside."""
    trained: set[str] = set()
    for dialogue in dialogues:
        texts = ["".join(filter(str.isalnum, turn.text.casefold())) for turn in dialogue.turns]
        if dialogue.split == "train":
            trained.update(texts)
        elif sum(text in trained for text in texts) >= _LEAK_SHARE * len(texts):
            continue
        yield dialogue


def parse_empatheticdialogues(files: Files) -> Iterator[Dialogue]:
    """Yield EmpatheticDialogues: cells with commas between them, never quoted, a comma in a text being `_comma_`."""
    for split, stem in _splits("train", "valid", "test"):
        rows = _empathetic_rows(files, f"{stem}.csv")
        for _, dialogue in groupby(rows, key=lambda row: row[0]):
            turns = list(dialogue)
            feeling, speaker = turns[0][1], turns[0][2]
            yield Dialogue(split, tuple(Turn(text, (feeling,), who != speaker) for _, _, who, text in turns))


def _empathetic_rows(files: Files, name: str) -> Iterator[tuple[str, str, str, str]]:
    lines = _number_lines(files, name)
    _, header = next(lines, ("", ""))
    places = {column: place for place, column in enumerate(header.split(","))}
    wanted = ("conv_id", "context", "speaker_idx", "utterance")
    lacking = [column for column in wanted if column not in places]
    if lacking:
        raise DataError(f"{name}:1: no column {lacking[0]!r}, found {header[:100]!r}")
    where = ""
    for where, line in lines:
        cells = line.split(",")
        if len(cells) < len(places):
            raise DataError(f"{where}: {len(cells)} cells where the header has {len(places)}")
        conversation, feeling, speaker, text = (cells[places[column]] for column in wanted)
        yield conversation, feeling.strip(), speaker, text.replace("_comma_", ",").replace("_pipe_", "|")
    if not where:
        raise _without_rows(name)


def parse_esconv(files: Files) -> Iterator[Dialogue]:
    """ESConv: a JSON list of conversations with emotion_type and dialog; the split is a hash of the conversation."""
    name = "ESConv.json"
    try:
        conversations = json.loads(_text(files, name))
        for conversation in conversations:
            turns = [(turn["content"], turn["speaker"]) for turn in conversation["dialog"]]
            feeling = (str(conversation["emotion_type"]).strip().lower(),)
            split = _tenth(hashlib.sha256("\n".join(text for text, _ in turns).encode("utf-8", "replace")).digest()[:8])
            yield Dialogue(split, tuple(Turn(text, feeling, who not in ("seeker", "usr")) for text, who in turns))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{name}: not as its owners write it ({error!r})") from None


def parse_dair_emotion(files: Files) -> Iterator[Dialogue]:
    """Emotion of dair-ai: JSON lines with text and the label's number, or the older `text;label`, one row a line."""
    return _dair_json(files) if "train.jsonl" in files else _dair_text(files)


def _dair_json(files: Files) -> Iterator[Dialogue]:
    for split, stem in _splits("train", "validation", "test"):
        for where, line in _number_lines(files, f"{stem}.jsonl"):
            text, code = _fields(_json(line, where), ("text", "label"), where)
            yield Dialogue(split, (Turn(text, (_decode_label(code, _DAIR_NAMES, where),)),))


def _dair_text(files: Files) -> Iterator[Dialogue]:
    names = {name: name for name in _DAIR_NAMES}
    for split, stem in _splits("train", "val", "test"):
        for where, line in _number_lines(files, f"{stem}.txt"):
            text, _, name = line.rpartition(";")
            yield Dialogue(split, (Turn(text, (_decode_label(name, names, where),)),))


_DAIR_NAMES = ("sadness", "joy", "love", "anger", "fear", "surprise")


def parse_smp2020(files: Files) -> Iterator[Dialogue]:
    """Yield SMP2020-EWECT: JSON lists of records with content and label.

    General posts (usual) and posts on COVID-19 (virus).
    """
    for split, stem in _splits("train", "eval_labeled", "test_labeled"):
        for topic in ("usual", "virus"):
            name = f"{topic}_{stem}.txt"
            records = _json(_text(files, name), name)
            if not isinstance(records, list):
                raise DataError(f"{name}: a JSON list is expected, found {type(records).__name__}")
            if not records:
                raise _without_rows(name)
            for number, record in enumerate(records, 1):
                text, label = _fields(record, ("content", "label"), f"{name}: record {number}")
                yield Dialogue(split, (Turn(text, (label,)),))


def _json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: broken JSON ({error})") from None


def _fields(record: object, names: tuple[str, ...], where: str) -> tuple[str, ...]:
    values = [record.get(name) if isinstance(record, dict) else None for name in names]
    if not all(isinstance(value, str | int) for value in values):
        raise DataError(f"{where}: no record with {' and '.join(names)}")
    return tuple(str(value) for value in values)


def parse_mr(files: Files) -> Iterator[Dialogue]:
    """Yield sentence polarity 1.0: one sentence a line in rt-polarity.pos and rt-polarity.neg.

    The split is a hash of the place.
    """
    for ending, emotion in (("pos", "positive"), ("neg", "negative")):
        for number, line in enumerate(_lines_of(_western(files, f"rt-polarity.{ending}"))):
            yield Dialogue(_placed_split(f"mr-{ending}-{number}"), (Turn(line, (emotion,)),))


def parse_zh_multi_emotion(files: Files) -> Iterator[Dialogue]:
    """Chinese Multi-Emotion: the owner's CSV (text, emotion) or the conversion to simplified characters (text, label).

    The split is a hash of the row's place, the same in both.
    """
    name, column = ("data.csv", "emotion") if "data.csv" in files else (_ZH_SIMPLIFIED, "label")
    for number, (text, label) in enumerate(_csv_rows(files, name, ("text", column))):
        emotion = _decode_label(label, _ZH_NAMES, f"{name}: row {number + 1}")
        yield Dialogue(_placed_split(f"zhmulti-{number}"), (Turn(text, (emotion,)),))


_ZH_SIMPLIFIED = "Simplified_Chinese_Multi-Emotion_Dialogue_Dataset.csv"
_ZH_NAMES = {
    **{"平淡語氣": "neutral", "開心語調": "joy", "關切語調": "caring", "憤怒語調": "anger"},
    **{"驚奇語調": "surprise", "悲傷語調": "sadness", "厭惡語調": "disgust", "疑問語調": "confusion"},
    **{"平静": "neutral", "开心": "joy", "关心": "caring", "生气": "anger"},
    **{"惊讶": "surprise", "伤心": "sadness", "厌恶": "disgust", "疑问": "confusion"},
}


def parse_image_coco(files: Files) -> Iterator[Dialogue]:
    """Yield texygen's image captions: one a line, without an emotion, so that all are neutral."""
    for split, names in _CAPTION_FILES:
        name = next((name for name in names if name in files), names[0])
        for _, line in _number_lines(files, name):
            yield Dialogue(split, (Turn(line, ("neutral",)),))


_CAPTION_FILES: tuple[tuple[Split, tuple[str, str]], ...] = (
    ("train", ("image_coco.txt", "image_coco_train.txt")),
    ("test", ("test_coco.txt", "image_coco_test.txt")),
)


def _placed_split(place: str) -> Split:
    """Return the same shares by SHA-1 of a row's place in its file, as in the copies that name each row by its place."""
    return _tenth(hashlib.sha1(place.encode(), usedforsecurity=False).digest())


def _tenth(digest: bytes) -> Split:
    tenth = int.from_bytes(digest, "big") % 10
    return "train" if tenth < 8 else "valid" if tenth == 8 else "test"
