"""The formats in which the public corpora's owners publish them, each read into dialogues."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from emogen.data.exchange import Split
from emogen.emotions import EKMAN
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


def _text(files: Files, name: str) -> str:
    if name not in files:
        raise DataError(f"{name}: missing, found {', '.join(sorted(files)) or 'nothing'}")
    try:
        return files[name].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: byte {error.start} is not UTF-8; get the file again") from None


def _lines(files: Files, name: str) -> list[str]:
    # Not splitlines: these texts hold other characters that Python takes for line ends.
    return [line.rstrip("\r") for line in _text(files, name).removesuffix("\n").split("\n")]


def _numbered(files: Files, name: str) -> Iterator[tuple[str, str]]:
    """Lines that are not blank, each after its place for messages."""
    return ((f"{name}:{number}", line) for number, line in enumerate(_lines(files, name), 1) if line.strip())


def _splits(train: str, valid: str, test: str) -> tuple[tuple[Split, str], ...]:
    return ("train", train), ("valid", valid), ("test", test)


def _cells(line: str, count: int, where: str) -> list[str]:
    cells = line.split("\t")
    if len(cells) != count:
        raise DataError(f"{where}: {len(cells)} cells with tabs between them, {count} expected")
    return cells


def _coded(code: str, names: Sequence[str] | Mapping[str, str], where: str) -> str:
    by_code = names if isinstance(names, Mapping) else {str(number): name for number, name in enumerate(names)}
    if code.strip() not in by_code:
        raise DataError(f"{where}: emotion {code!r} is not one of {', '.join(by_code)}")
    return by_code[code.strip()]


def _paired(files: Files, first: str, second: str) -> Iterator[tuple[int, str, str]]:
    left, right = _lines(files, first), _lines(files, second)
    if len(left) != len(right):
        raise DataError(f"{first}: {len(left)} lines where {second} has {len(right)}")
    yield from ((number, *pair) for number, pair in enumerate(zip(left, right, strict=True), 1))


def parse_goemotions(files: Files) -> Iterator[Dialogue]:
    """GoEmotions: `text TAB label numbers TAB id`, the numbers being lines of emotions.txt."""
    names = [line.strip() for line in _lines(files, "emotions.txt")]
    for split, name in _splits("train.tsv", "dev.tsv", "test.tsv"):
        for where, line in _numbered(files, name):
            text, codes, _ = _cells(line, 3, where)
            emotions = tuple(_coded(code, names, where) for code in codes.split(","))
            yield Dialogue(split, (Turn(text, emotions),))


def parse_tweeteval(files: Files) -> Iterator[Dialogue]:
    """TweetEval: one tweet a line, its label's number in the same line of another file, names in mapping.txt."""
    rows = [_cells(line, 2, where) for where, line in _numbered(files, "mapping.txt")]
    names = {code.strip(): name.strip() for code, name in rows}
    for split, stem in _splits("train", "val", "test"):
        for number, text, code in _paired(files, f"{stem}_text.txt", f"{stem}_labels.txt"):
            emotion = _coded(code, names, f"{stem}_labels.txt:{number}")
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
    try:
        for row in reader:
            yield tuple(row[column] or "" for column in wanted)
    except csv.Error as error:
        raise DataError(f"{name}:{reader.line_num}: {error}") from error


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
        for number, line, codes in _paired(files, f"dialogues_{stem}.txt", emotions):
            yield _daily_dialogue(split, line, codes, f"{emotions}:{number}")


def _daily_dialogue(split: Split, line: str, codes: str, where: str) -> Dialogue:
    texts = line.strip().removesuffix("__eou__").split("__eou__")
    # Where the owners gave fewer labels than utterances, the rest has none.
    pairs = zip(texts, codes.split(), strict=False)
    return Dialogue(split, tuple(Turn(text, (_coded(code, _DAILY_CODES, where),)) for text, code in pairs))


def _daily_json(files: Files) -> Iterator[Dialogue]:
    for split, stem in _splits("train", "valid", "test"):
        for where, line in _numbered(files, f"{stem}.json"):
            try:
                turns = [(turn["text"], turn["emotion"]) for turn in json.loads(line)["dialogue"]]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{where}: no dialogue as ParlAI writes it ({error!r})") from None
            yield Dialogue(split, tuple(Turn(text, (_coded(word, _DAILY_WORDS, where),)) for text, word in turns))


_DAILY_CODES = ("neutral", "anger", "disgust", "fear", "joy", "sadness", "surprise")
_DAILY_WORDS = {"no_emotion": "neutral", "no emotion": "neutral", "happiness": "joy"} | {name: name for name in EKMAN.names}


def parse_xdailydialog(files: Files) -> Iterator[Dialogue]:
    """XDailyDialog: `utterances with __eou__ TAB topic TAB acts TAB emotions`, one dialogue a line.

    Dialogues of valid and test that also stand in train are left out.
    """
    return _without_leaks(_xdaily(files))


def _xdaily(files: Files) -> Iterator[Dialogue]:
    for split, stem in _splits("train", "dev", "test"):
        for where, line in _numbered(files, f"zh_{stem}_human.txt"):
            text, _, _, codes = _cells(line, 4, where)
            yield _daily_dialogue(split, text, codes, where)


def _without_leaks(dialogues: Iterable[Dialogue]) -> Iterator[Dialogue]:
    """Drops held-out dialogues of which four fifths of the utterances stand in train, blanks and marks aside."""
    trained: set[str] = set()
    for dialogue in dialogues:
        texts = ["".join(filter(str.isalnum, turn.text.casefold())) for turn in dialogue.turns]
        if dialogue.split == "train":
            trained.update(texts)
        elif sum(text in trained for text in texts) >= _LEAK_SHARE * len(texts):
            continue
        yield dialogue


def parse_empatheticdialogues(files: Files) -> Iterator[Dialogue]:
    """EmpatheticDialogues: cells with commas between them, never quoted, a comma in a text being `_comma_`."""
    for split, stem in _splits("train", "valid", "test"):
        rows = _empathetic_rows(files, f"{stem}.csv")
        for _, dialogue in groupby(rows, key=lambda row: row[0]):
            turns = list(dialogue)
            feeling, speaker = turns[0][1], turns[0][2]
            yield Dialogue(split, tuple(Turn(text, (feeling,), who != speaker) for _, _, who, text in turns))


def _empathetic_rows(files: Files, name: str) -> Iterator[tuple[str, str, str, str]]:
    lines = _numbered(files, name)
    _, header = next(lines, ("", ""))
    places = {column: place for place, column in enumerate(header.split(","))}
    wanted = ("conv_id", "context", "speaker_idx", "utterance")
    lacking = [column for column in wanted if column not in places]
    if lacking:
        raise DataError(f"{name}:1: no column {lacking[0]!r}, found {header[:100]!r}")
    for where, line in lines:
        cells = line.split(",")
        if len(cells) < len(places):
            raise DataError(f"{where}: {len(cells)} cells where the header has {len(places)}")
        conversation, feeling, speaker, text = (cells[places[column]] for column in wanted)
        yield conversation, feeling.strip(), speaker, text.replace("_comma_", ",").replace("_pipe_", "|")


def parse_esconv(files: Files) -> Iterator[Dialogue]:
    """ESConv: a JSON list of conversations with emotion_type and dialog; the split is a hash of the conversation."""
    name = "ESConv.json"
    try:
        conversations = json.loads(_text(files, name))
        for conversation in conversations:
            turns = [(turn["content"], turn["speaker"]) for turn in conversation["dialog"]]
            feeling = (str(conversation["emotion_type"]).strip().lower(),)
            split = _hashed_split("\n".join(text for text, _ in turns))
            yield Dialogue(split, tuple(Turn(text, feeling, who not in ("seeker", "usr")) for text, who in turns))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{name}: not as its owners write it ({error!r})") from None


def _hashed_split(text: str) -> Split:
    """Train for eight of ten, valid for one, test for one, by SHA-256."""
    tenth = int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big") % 10
    return "train" if tenth < 8 else "valid" if tenth == 8 else "test"
