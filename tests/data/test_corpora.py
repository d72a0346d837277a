"""Where corpora come from, fetching them (from file addresses and folders, never the network), and finding them."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import http.client
import io
import json
import tarfile
import urllib.request
import zipfile
from pathlib import Path

import pytest

from emogen.data import corpora, fetching
from emogen.data.corpora import CORPORA, Corpus, Source, corpus_named, data_folder, locate, resolve
from emogen.data.exchange import Exchange, Reading, read_exchanges
from emogen.data.fetching import exchanges, fetch
from emogen.emotions.labels import EKMAN, EMPATHETIC, GOEMOTIONS, blend
from emogen.errors import DataError

HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags\n"
EMPATHETIC_FILES = {
    "train.csv": HEADER + "c,1,proud,p,7,I won.,5,\nc,2,proud,p,3,You did?,5,\nc,3,proud,p,7,I did.,5,\nc,4,proud,p,3,Oh,5,\n",
    "valid.csv": HEADER + "d,1,proud,p,7,Look.,5,\n",
    "test.csv": HEADER + "e,1,proud,p,7,There.,5,\n",
}
GOEMOTIONS_FILES = {
    "emotions.txt": "\n".join(GOEMOTIONS.names) + "\n",
    "train.tsv": "Thank you so much\t15,17\tx\n",
    "dev.tsv": "Hm\t27\tx\n",
    "test.tsv": "Wow\t26\tx\n",
}


def tar_gz(files: dict[str, str]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"folder/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return raw.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return raw.getvalue()


SMP_FILES = {
    f"{topic}_{part}.txt": json.dumps([{"id": 1, "content": f"{topic} {part}", "label": label}])
    for part, label in (("train", "angry"), ("eval_labeled", "happy"), ("test_labeled", "sad"))
    for topic in ("usual", "virus")
}
BY_HAND = {
    "dair_emotion": {
        "train.jsonl": '{"text": "wet feet", "label": 0}\n',
        "validation.jsonl": '{"text": "dry feet", "label": 1}\n',
        "test.jsonl": '{"text": "my cat", "label": 2}\n',
    },
    "smp2020_ewect": SMP_FILES,
    "zh_multi_emotion": {"Simplified_Chinese_Multi-Emotion_Dialogue_Dataset.csv": "text,label\n真的吗,疑问\n"},
}


def folder(path: Path, files: dict[str, str]) -> Path:
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text, encoding="utf-8")
    return path


def from_files(corpus: Corpus, at: Path) -> Corpus:
    """The corpus with every address turned into one of a file in `at`."""
    sources = tuple(Source((at / source.name).as_uri()) for source in corpus.sources)
    return dataclasses.replace(corpus, sources=sources)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


# ---- the list


def test_the_corpora_are_those_of_the_documentation() -> None:
    assert [corpus.name for corpus in CORPORA] == [
        *("starter", "septet", "septet-en", "septet-zh"),
        *("goemotions", "tweeteval_emotion", "empatheticdialogues"),
        *("dailydialog", "esconv", "meld", "dailydialog_zh"),
        *("dair_emotion", "mr", "smp2020_ewect", "zh_multi_emotion", "image_coco"),
    ]
    chinese = {corpus.name for corpus in CORPORA if corpus.language == "zh"}
    assert chinese == {"septet-zh", "dailydialog_zh", "smp2020_ewect", "zh_multi_emotion"}
    assert all(corpus.licence and corpus.note and corpus.home for corpus in CORPORA)


def test_owners_checksums_stand_where_owners_give_them() -> None:
    sums = {corpus.name: corpus.sources[0].sha256 for corpus in CORPORA if corpus.sources and corpus.sources[0].sha256}
    # ParlAI, parlai/tasks/{dailydialog,empathetic_dialogues}/build.py.
    assert sums == {
        "dailydialog": "c3adb09bd715b9fa5cd1ac41613b7de61eb5afbe477826a6146abefef573e6bb",
        "empatheticdialogues": "56f234d77b7dd1f005fd365bb17769cfe346c3c84295b69bc069c8ccb83be03d",
    }


def test_unknown_corpus_is_told_with_the_known_ones() -> None:
    with pytest.raises(DataError, match="'iemocap' is not one of starter, septet"):
        corpus_named("iemocap")


# ---- to exchanges


def test_contexts_are_the_last_ten_utterances() -> None:
    texts = [f"line {number}" for number in range(14)]
    line = "".join(f"{text}__eou__" for text in texts) + "\t1\t" + "1 " * 14 + "\t" + "0 " * 14
    other = "嗯__eou__\t1\t1\t0\n".encode()
    files = {"zh_train_human.txt": line.encode(), "zh_dev_human.txt": other, "zh_test_human.txt": other}
    found = list(exchanges(corpus_named("dailydialog_zh"), files))
    assert [found[place].context for place in (0, 1, 13)] == [(), ("line 0",), tuple(texts[3:13])]


def test_several_labels_are_an_even_mixture() -> None:
    files = {name: text.encode() for name, text in GOEMOTIONS_FILES.items()}
    first = next(exchanges(corpus_named("goemotions"), files))
    assert first == Exchange((), "Thank you so much", blend(["gratitude", "joy"], GOEMOTIONS), "train")


def test_roles_decide_whether_the_speaker_counts() -> None:
    files = {name: text.encode() for name, text in EMPATHETIC_FILES.items()}
    corpus = corpus_named("empatheticdialogues")
    assert [(found.context, found.reply) for found in exchanges(corpus, files)] == [
        (("I won.",), "You did?"),
        (("I won.", "You did?", "I did."), "Oh"),
    ]
    everybody = ["I won.", "You did?", "I did.", "Oh", "Look.", "There."]
    assert [found.reply for found in exchanges(corpus, files, "all")] == everybody
    assert {found.emotion.name for found in exchanges(corpus, files, "all")} == {"proud"}


def test_a_label_that_the_corpus_does_not_have_is_told() -> None:
    files = {name: text.replace("proud", "smug").encode() for name, text in EMPATHETIC_FILES.items()}
    with pytest.raises(DataError, match="empatheticdialogues: emotion 'smug' is not one of afraid"):
        list(exchanges(corpus_named("empatheticdialogues"), files))


# ---- from a folder


@pytest.mark.parametrize(
    ("name", "files", "empty", "content"),
    [
        ("goemotions", GOEMOTIONS_FILES, "train.tsv", ""),
        ("goemotions", GOEMOTIONS_FILES, "emotions.txt", "\n"),
        ("empatheticdialogues", EMPATHETIC_FILES, "test.csv", HEADER),
        ("dair_emotion", BY_HAND["dair_emotion"], "validation.jsonl", " \n\n"),
        ("smp2020_ewect", BY_HAND["smp2020_ewect"], "virus_eval_labeled.txt", "[]"),
        (
            "zh_multi_emotion",
            BY_HAND["zh_multi_emotion"],
            "Simplified_Chinese_Multi-Emotion_Dialogue_Dataset.csv",
            "text,label\n",
        ),
    ],
)
def test_an_empty_file_of_the_owners_is_told_and_nothing_is_written(
    tmp_path: Path, cache: Path, name: str, files: dict[str, str], empty: str, content: str
) -> None:
    raw = {**files, empty: content}
    if name == "empatheticdialogues":
        at = folder(tmp_path / "raw", {})
        (at / "empatheticdialogues.tar.gz").write_bytes(tar_gz(raw))
    else:
        at = folder(tmp_path / "raw", raw)
    with pytest.raises(DataError, match=rf"^{empty}: (is empty|has no row); get the file again$"):
        fetch(corpus_named(name), from_folder=at)
    assert not list(cache.rglob("*"))


def test_fetch_reads_official_files_of_a_folder(tmp_path: Path, cache: Path) -> None:
    path = fetch(corpus_named("goemotions"), from_folder=folder(tmp_path / "raw", GOEMOTIONS_FILES))
    assert path == cache / "goemotions.jsonl.gz" == locate("goemotions")
    assert [found.reply for found in read_exchanges(path)] == ["Thank you so much", "Hm", "Wow"]


def test_fetch_reads_an_archive_of_a_folder(tmp_path: Path) -> None:
    raw = folder(tmp_path / "raw", {})
    (raw / "empatheticdialogues.tar.gz").write_bytes(tar_gz(EMPATHETIC_FILES))
    path = fetch(corpus_named("empatheticdialogues"), tmp_path / "out", raw)
    assert path.parent == tmp_path / "out"
    assert [found.split for found in read_exchanges(path)] == ["train", "train"]


def test_dailydialog_is_read_from_either_archive(tmp_path: Path) -> None:
    raw = folder(tmp_path / "raw", {})
    parts: dict[str, bytes] = {"__MACOSX/ijcnlp_dailydialog/._train.zip": b"junk"}
    for name in ("train", "validation", "test"):
        texts = {
            f"{name}/dialogues_{name}.txt": f"New {name} ! __eou__\n".encode(),
            f"{name}/dialogues_emotion_{name}.txt": b"4 \n",
        }
        parts[f"ijcnlp_dailydialog/{name}.zip"] = zipped(texts)
    (raw / "ijcnlp_dailydialog.zip").write_bytes(zipped(parts))
    found = list(read_exchanges(fetch(corpus_named("dailydialog"), tmp_path / "out", raw)))
    assert [(one.reply, one.emotion.name, one.split) for one in found] == [
        ("New train !", "joy", "train"),
        ("New validation !", "joy", "valid"),
        ("New test !", "joy", "test"),
    ]
    talks = {
        f"{part}.json": json.dumps({"dialogue": [{"text": f"Hello {part} .", "emotion": "no_emotion"}]})
        for part in ("train", "valid", "test")
    }
    (raw / "dailydialog.tar.gz").write_bytes(tar_gz(talks))
    found = list(read_exchanges(fetch(corpus_named("dailydialog"), tmp_path / "out", raw)))
    assert [(one.reply, one.emotion.name) for one in found] == [
        (f"Hello {part} .", "neutral") for part in ("train", "valid", "test")
    ]


@pytest.mark.parametrize("name", ["empatheticdialogues.jsonl", "empatheticdialogues.jsonl.gz"])
def test_fetch_reads_the_normalised_format(tmp_path: Path, name: str) -> None:
    rows = [
        {"text": "I won.", "emotion": "proud", "context": [], "split": "train", "meta": {"role": "speaker"}},
        {"text": "You did?", "emotion": "proud", "context": ["I won."], "split": "train", "meta": {"role": "listener"}},
        {"text": "Oh", "emotion": "sad", "context": ["No"], "split": "test", "meta": {"role": "listener", "leaky": True}},
    ]
    raw = folder(tmp_path / "raw", {})
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (raw / name).write_bytes(gzip.compress(lines) if name.endswith(".gz") else lines)
    corpus = corpus_named("empatheticdialogues")
    path = fetch(corpus, tmp_path / "out", raw)
    assert list(read_exchanges(path, Reading(labels=EMPATHETIC))) == [
        Exchange(("I won.",), "You did?", blend(["proud"], EMPATHETIC), "train")
    ]
    again = fetch(corpus, tmp_path / "again", tmp_path / "out")
    assert again.read_bytes() == path.read_bytes()
    every = fetch(corpus, tmp_path / "every", raw, roles="all")
    assert [found.reply for found in read_exchanges(every)] == ["I won.", "You did?"]


def test_happiness_of_the_normalised_dailydialog_is_joy(tmp_path: Path) -> None:
    raw = folder(tmp_path / "raw", {"dailydialog.jsonl": '{"text": "Good !", "emotion": "happiness", "split": "train"}'})
    (found,) = read_exchanges(fetch(corpus_named("dailydialog"), from_folder=raw))
    assert found.emotion == blend(["joy"], EKMAN)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("dair_emotion", ["sadness", "joy", "love"]),
        ("smp2020_ewect", ["angry", "angry", "happy", "happy", "sad", "sad"]),
        ("zh_multi_emotion", ["confusion"]),
    ],
)
def test_files_got_by_hand_are_read_from_a_folder(tmp_path: Path, name: str, labels: list[str]) -> None:
    path = fetch(corpus_named(name), from_folder=folder(tmp_path / "raw", BY_HAND[name]))
    assert [found.emotion.name for found in read_exchanges(path, Reading(labels=corpus_named(name).labels))] == labels


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("names", [("image_coco.txt", "test_coco.txt"), ("image_coco_train.txt", "image_coco_test.txt")])
def test_captions_are_read_under_either_name_gzipped_or_not(tmp_path: Path, names: tuple[str, str], zipped: bool) -> None:
    raw = folder(tmp_path / "raw", {})
    for name, content in zip(names, (b"a boat on a lake.\ntwo cats", b"a red cup\n"), strict=True):
        (raw / (name + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)
    path = fetch(corpus_named("image_coco"), from_folder=raw)
    assert [(found.reply, found.split, str(found.emotion)) for found in read_exchanges(path)] == [
        ("a boat on a lake.", "train", "neutral"),
        ("two cats", "train", "neutral"),
        ("a red cup", "test", "neutral"),
    ]


def test_a_gzipped_file_that_is_too_large_or_broken_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = folder(tmp_path / "raw", {"test_coco.txt": "a cup\n"})
    (raw / "image_coco.txt.gz").write_bytes(gzip.compress(b"a boat\n" * 100)[:-9])
    with pytest.raises(DataError, match=r"image_coco\.txt\.gz: cannot be read"):
        fetch(corpus_named("image_coco"), from_folder=raw)
    (raw / "image_coco.txt.gz").write_bytes(gzip.compress(b"a boat\n" * 100))
    monkeypatch.setattr(fetching, "_MAX_MEMBER", 600)
    with pytest.raises(DataError, match=r"image_coco\.txt\.gz: 601 bytes is too large"):
        fetch(corpus_named("image_coco"), from_folder=raw)


def test_mr_is_read_from_either_archive(tmp_path: Path) -> None:
    raw = folder(tmp_path / "raw", {})
    (raw / "sentence_polarity.zip").write_bytes(
        zipped({"sentence_polarity/rt-polarity.pos": b"so good . ", "sentence_polarity/rt-polarity.neg": b"so bad . \n"})
    )
    corpus = corpus_named("mr")
    found = list(read_exchanges(fetch(corpus, tmp_path / "out", raw), Reading(labels=corpus.labels)))
    assert [(one.reply, one.emotion.name) for one in found] == [("so good .", "positive"), ("so bad .", "negative")]
    (raw / "rt-polaritydata.tar.gz").write_bytes(tar_gz({"rt-polarity.pos": "fine .\n", "rt-polarity.neg": "poor .\n"}))
    found = list(read_exchanges(fetch(corpus, tmp_path / "out", raw), Reading(labels=corpus.labels)))
    assert [one.reply for one in found] == ["fine .", "poor ."]


def test_several_labels_of_the_normalised_format_are_an_even_mixture(tmp_path: Path) -> None:
    row = {"text": "Thank you so much", "emotion": ["joy", "gratitude"], "split": "train", "meta": {"ekman": ["joy"]}}
    raw = folder(tmp_path / "raw", {"goemotions.jsonl": json.dumps(row)})
    (found,) = read_exchanges(fetch(corpus_named("goemotions"), from_folder=raw), Reading(labels=GOEMOTIONS))
    assert found == Exchange((), "Thank you so much", blend(["gratitude", "joy"], GOEMOTIONS), "train")


def test_native_labels_map_to_ekman_where_asked_for(tmp_path: Path) -> None:
    path = fetch(corpus_named("smp2020_ewect"), from_folder=folder(tmp_path / "raw", SMP_FILES))
    found = list(read_exchanges(path, Reading(labels=EKMAN)))
    assert [one.emotion.name for one in found] == ["anger", "anger", "joy", "joy", "sadness", "sadness"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "neither goemotions.jsonl.gz nor train.tsv, dev.tsv, test.tsv, emotions.txt; get the files from https://"),
        ({"train.tsv": "", "emotions.txt": ""}, "neither goemotions.jsonl.gz nor dev.tsv, test.tsv; get"),
        ({"goemotions.jsonl": '{"text": "Hi", "emotion": "hunger"}'}, "goemotions.jsonl:1: emotion 'hunger' is not one of"),
        ({"goemotions.jsonl": ""}, "goemotions: the files hold no utterance"),
        ({**GOEMOTIONS_FILES, "dev.tsv": "Hm\n"}, "dev.tsv:1: 1 cells"),
    ],
)
def test_a_folder_without_the_right_files_is_told(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fetch(corpus_named("goemotions"), tmp_path / "out", folder(tmp_path / "raw", files))
    assert list((tmp_path).rglob("*.gz")) == []


def test_alternative_names_and_missing_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nor dailydialog\.tar\.gz or ijcnlp_dailydialog\.zip"):
        fetch(corpus_named("dailydialog"), from_folder=tmp_path)
    with pytest.raises(DataError, match="none: is no folder"):
        fetch(corpus_named("dailydialog"), from_folder=tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"no archive", tar_gz(EMPATHETIC_FILES)[:-40]])
def test_a_broken_archive_is_told(tmp_path: Path, content: bytes) -> None:
    raw = folder(tmp_path / "raw", {})
    (raw / "empatheticdialogues.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"empatheticdialogues\.tar\.gz: cannot be read"):
        fetch(corpus_named("empatheticdialogues"), from_folder=raw)


# ---- by address


def test_fetch_downloads_and_tells_progress(tmp_path: Path) -> None:
    raw = folder(tmp_path / "raw", GOEMOTIONS_FILES)
    conditioning: list[tuple[str, int, int | None]] = []
    path = fetch(from_files(corpus_named("goemotions"), raw), progress=lambda *step: conditioning.append(step))
    assert sum(1 for _ in read_exchanges(path)) == 3
    size = (raw / "train.tsv").stat().st_size
    assert conditioning[0] == ((raw / "train.tsv").as_uri(), size, size)
    assert len(conditioning) == 4


def test_a_checksum_that_differs_is_told_with_both_values(tmp_path: Path, cache: Path) -> None:
    raw = folder(tmp_path / "raw", {"ESConv.json": "[]"})
    source = Source((raw / "ESConv.json").as_uri(), "0" * 64)
    corpus = dataclasses.replace(corpus_named("esconv"), sources=(source,))
    found = hashlib.sha256(b"[]").hexdigest()
    with pytest.raises(DataError, match=f"SHA-256 is {found}, the owners give {'0' * 64}"):
        fetch(corpus)
    assert not cache.exists()


def test_no_answer_is_told_with_address_and_way_out(tmp_path: Path) -> None:
    corpus = from_files(corpus_named("esconv"), tmp_path / "nowhere")
    with pytest.raises(DataError) as caught:
        fetch(corpus)
    message = str(caught.value)
    assert message.startswith(corpus.sources[0].url + ": no download (")
    assert message.endswith("put ESConv.json in a folder and run: emogen data fetch esconv --from FOLDER")


@pytest.mark.parametrize(("name", "first"), [(name, next(iter(files))) for name, files in BY_HAND.items()])
def test_a_corpus_without_an_address_is_told_with_the_way_out(cache: Path, name: str, first: str) -> None:
    corpus = corpus_named(name)
    with pytest.raises(DataError) as caught:
        fetch(corpus)
    message = str(caught.value)
    assert message.startswith(f"{name}: no address to download from; get the files from {corpus.home}, put ")
    assert first in message
    assert message.endswith(f" in a folder and run: emogen data fetch {name} --from FOLDER")
    assert "\n" not in message
    assert not cache.exists()


def test_a_second_address_is_tried(tmp_path: Path) -> None:
    raw = folder(tmp_path / "raw", {})
    (raw / "empatheticdialogues.tar.gz").write_bytes(tar_gz(EMPATHETIC_FILES))
    second = Source((raw / "empatheticdialogues.tar.gz").as_uri())
    first = Source((tmp_path / "none.tar.gz").as_uri(), otherwise=second)
    corpus = dataclasses.replace(corpus_named("empatheticdialogues"), sources=(first,))
    assert sum(1 for _ in read_exchanges(fetch(corpus))) == 2


class _Answer(io.BytesIO):
    def __init__(self, content: bytes, length: int) -> None:
        super().__init__(content)
        self.headers = {"Content-Length": str(length)}


@pytest.mark.parametrize("failure", ["short", "reset", "protocol"])
def test_a_download_that_breaks_off_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    def answer(*_: object, **__: object) -> _Answer:
        if failure == "reset":
            raise ConnectionResetError(104, "Connection reset by peer")
        if failure == "protocol":
            raise http.client.IncompleteRead(b"")
        return _Answer(b"[]", 1000)

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    reason = {"short": "ended after 2 of 1000 bytes", "reset": "Connection reset", "protocol": "IncompleteRead"}[failure]
    with pytest.raises(DataError, match=reason):
        fetch(corpus_named("esconv"))
    assert not cache.exists()


# ---- finding


def test_a_corpus_that_is_not_there_is_told_with_the_command(cache: Path) -> None:
    with pytest.raises(DataError, match=r"'meld' is not in .*cache; fetch it with: emogen data fetch meld"):
        locate("meld")


def test_the_starter_is_bundled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundled = tmp_path / "starter.jsonl"
    monkeypatch.setattr(corpora, "_BUNDLED", tmp_path)
    with pytest.raises(DataError, match="missing from this installation"):
        locate("starter")
    bundled.write_text('{"reply": "Hi", "emotion": "joy"}\n')
    assert locate("starter") == bundled == fetch(corpus_named("starter"))
    assert list(corpus_named("starter").parse({})) == []


def test_a_name_brings_its_labels_and_a_file_does_not(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "goemotions").mkdir()
    fetch(corpus_named("goemotions"), from_folder=folder(tmp_path / "raw", GOEMOTIONS_FILES))
    assert resolve("goemotions", Reading()) == (str(cache / "goemotions.jsonl.gz"), Reading(labels=GOEMOTIONS))
    assert resolve("goemotions", Reading(labels=EKMAN))[1].labels == EKMAN
    assert resolve("-", Reading()) == ("-", Reading())
    assert resolve("any.jsonl", Reading()) == ("any.jsonl", Reading())
    with pytest.raises(DataError, match="'gomotions' is neither a file nor a corpus"):
        resolve("gomotions", Reading())


def test_a_corpus_with_longer_replies_brings_its_own_limit(tmp_path: Path) -> None:
    long_post = json.dumps([{"id": 1, "content": "雨" * 2000, "label": "sad"}])
    files = {**SMP_FILES, "usual_train.txt": long_post}
    fetch(corpus_named("smp2020_ewect"), from_folder=folder(tmp_path / "raw", files))
    assert len(next(read_exchanges(*resolve("smp2020_ewect", Reading()))).reply) == 2000
    with pytest.raises(DataError, match="reply has 2000 words, more than 1500"):
        list(read_exchanges(*resolve("smp2020_ewect", Reading(max_words=1500))))


def test_the_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_folder() == tmp_path / "cache"
    monkeypatch.delenv("EMOGEN_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert data_folder() == tmp_path / "xdg" / "emogen"
    # A relative path is to be ignored: XDG base directory specification 0.8.
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data_folder() == tmp_path / "home" / ".cache" / "emogen"
    monkeypatch.setattr("sys.platform", "darwin")
    assert data_folder() == tmp_path / "home" / "Library" / "Caches" / "emogen"
