"""The public corpora: where their owners publish them, under which licence, and how their files become exchanges."""

from __future__ import annotations

import gzip
import http.client
import io
import os
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Literal

from emogen.data.exchange import Exchange, Reading, exchanges_of, write_exchanges
from emogen.data.formats import (
    Dialogue,
    Files,
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
from emogen.data.rows import Problem, Row, read_rows
from emogen.emotions.labels import EKMAN, EMPATHETIC, GOEMOTIONS, LabelSet, blend, named_label_set
from emogen.errors import DataError, SettingsError
from emogen.files import sha256

Roles = Literal["replies", "all"]
"""Which utterances of a dialogue between one who feels and one who answers: the answers alone, or all."""

Progress = Callable[[str, int, int | None], None]
"""Told the address, the bytes so far and the bytes in all (None where the server does not say)."""

_CONTEXT_TURNS = 10
_BLOCK = 1 << 16
_TIMEOUT_SECONDS = 60
_MAX_MEMBER = 1 << 29
_BUNDLED = Path(__file__).parent


@dataclass(frozen=True)
class Source:
    """One official file.

    Attributes:
        url: where its owners publish it; the last part is the file's name. The name alone where they give no address
            to download from, only a page to get the file at by hand.
        sha256: the owners' checksum, where they give one.
        otherwise: another place for the same data, tried where `url` does not answer.
        also: other names under which the same data are kept, looked for in a folder.
    """

    url: str
    sha256: str | None = None
    otherwise: Source | None = None
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the file's name."""
        return self.url.rpartition("/")[2]

    @property
    def names(self) -> tuple[str, ...]:
        """Return its name, then the names it may have instead."""
        return tuple(dict.fromkeys((self.name, *self.also, *(self.otherwise.names if self.otherwise else ()))))

    @property
    def is_by_hand(self) -> bool:
        """Tell whether there is no address to download it from."""
        return self.name == self.url


@dataclass(frozen=True)
class Corpus:
    """A public corpus.

    Attributes:
        name: as in `emogen data fetch NAME`.
        home: the owners' page.
        licence: of the data, in the owners' words where they are short.
        language: en or zh.
        labels: what its emotions are expressed in.
        sources: the official files; none for the corpus that comes with the toolkit.
        parse: the official files as dialogues, train first; raises DataError with file and line.
        note: what to know before training on it.
        bundled: the file in the package, of a corpus that comes with the toolkit.
        max_words: the limit for its replies, where it has longer ones than a Reading lets pass.
    """

    name: str
    home: str
    licence: str
    language: Literal["en", "zh", "en, zh"]
    labels: LabelSet
    sources: tuple[Source, ...]
    parse: Callable[[Files], Iterator[Dialogue]]
    note: str
    bundled: str = ""
    max_words: int = Reading.max_words


def corpus_named(name: str) -> Corpus:
    """Return the corpus called `name`; raise DataError with the names there are."""
    for corpus in CORPORA:
        if corpus.name == name:
            return corpus
    raise DataError(f"corpus {name!r} is not one of {', '.join(corpus.name for corpus in CORPORA)}")


def data_folder() -> Path:
    """Tell where fetched corpora lie: EMOGEN_DATA, else `emogen` in the platform's cache folder."""
    if chosen := os.environ.get("EMOGEN_DATA"):
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(cache):
        return Path(cache) / "emogen"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "emogen"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "emogen" / "Cache"
    return Path.home() / ".cache" / "emogen"


def locate(name: str, folder: str | Path | None = None) -> Path:
    """Return the file of a corpus: the bundled one, or the one that `fetch` wrote to `folder` (default: `data_folder()`).

    Raises:
        DataError: an unknown name, or a corpus that is not there yet, with the command that fetches it.
    """
    corpus = corpus_named(name)
    path = (Path(folder) if folder else data_folder()) / f"{name}.jsonl.gz" if corpus.sources else _BUNDLED / corpus.bundled
    if path.is_file():
        return path
    if not corpus.sources:
        raise DataError(f"corpus {name!r} is missing from this installation ({path}); install emogen again")
    raise DataError(f"corpus {name!r} is not in {path.parent}; fetch it with: emogen data fetch {name}")


def resolve(file: str, reading: Reading) -> tuple[str, Reading]:
    """Return a file, "-" or the name of a corpus as what to read and how.

    A corpus brings its own label set and limit of words, where `reading` does not ask for others.

    Raises:
        DataError: a bare word that is neither a file nor a corpus, or a corpus that is not there yet.
    """
    path = Path(file)
    if file == "-" or path.suffix or path.name != file or (path.exists() and not path.is_dir()):
        return file, reading
    if file not in {corpus.name for corpus in CORPORA}:
        raise DataError(f"{file!r} is neither a file nor a corpus ({', '.join(corpus.name for corpus in CORPORA)})")
    corpus = corpus_named(file)
    max_words = corpus.max_words if reading.max_words == Reading.max_words else reading.max_words
    return str(locate(file)), replace(reading, labels=reading.labels or corpus.labels, max_words=max_words)


def fetch(
    corpus: Corpus,
    target_folder: str | Path | None = None,
    from_folder: str | Path | None = None,
    roles: Roles = "replies",
    progress: Progress | None = None,
) -> Path:
    """Write `NAME.jsonl.gz`, whole or not at all, from the official files or from a folder; return its path.

    Args:
        corpus: one of CORPORA; the bundled one is returned where it lies.
        target_folder: where to write; default `data_folder()`.
        from_folder: read `NAME.jsonl.gz`, `NAME.jsonl` or the official files, gzipped or not, from here instead of the
            network. The folder is the caller's own: checksums are not compared.
        roles: see Roles; matters for empatheticdialogues and esconv alone.
        progress: called while downloading.

    Raises:
        DataError: no network, no address to download from, a checksum that differs, files that are missing or are not
            what they should be.
    """
    if not corpus.sources:
        return locate(corpus.name)
    target = (Path(target_folder) if target_folder else data_folder()) / f"{corpus.name}.jsonl.gz"
    if from_folder:
        write_exchanges(target, _some(corpus, _from_folder(corpus, Path(from_folder), roles)))
        return target
    if any(source.is_by_hand for source in corpus.sources):
        raise DataError(f"{corpus.name}: no address to download from; get the files from {corpus.home}, {_way_out(corpus)}")
    with tempfile.TemporaryDirectory(prefix="emogen-") as folder:
        paths = [_download(corpus, source, Path(folder), progress) for source in corpus.sources]
        write_exchanges(target, _some(corpus, exchanges(corpus, _unpack(paths), roles)))
    return target


def exchanges(corpus: Corpus, files: Files, roles: Roles = "replies") -> Iterator[Exchange]:
    """Yield the official files as exchanges: every utterance that counts, with at most 10 earlier ones as its context.

    Several labels of one utterance become an even mixture.

    Raises:
        DataError: a file that is missing or malformed, or a label that the corpus does not have.
    """
    for dialogue in corpus.parse(files):
        said = [turn for turn in dialogue.turns if turn.text.strip() and turn.emotions]
        texts = tuple(turn.text.strip() for turn in said)
        for position, turn in enumerate(said):
            if roles == "replies" and not turn.answers:
                continue
            try:
                emotion = blend(turn.emotions, corpus.labels)
            except SettingsError as error:
                raise DataError(f"{corpus.name}: {error}") from None
            context = texts[max(0, position - _CONTEXT_TURNS) : position]
            yield Exchange(context, texts[position], emotion, dialogue.split)


def _some(corpus: Corpus, found: Iterable[Exchange]) -> Iterator[Exchange]:
    empty = True
    for exchange in found:
        empty = False
        yield exchange
    if empty:
        raise DataError(f"{corpus.name}: the files hold no utterance; are they the ones of {corpus.home}?")


# ---- from a folder


def _from_folder(corpus: Corpus, folder: Path, roles: Roles) -> Iterator[Exchange]:
    for name in (f"{corpus.name}.jsonl.gz", f"{corpus.name}.jsonl"):
        if (folder / name).is_file():
            return _normalise(folder / name, corpus, roles)
    found = [_present(folder, source) for source in corpus.sources]
    paths = [path for path in found if path is not None]
    if len(paths) < len(corpus.sources):
        pairs = zip(corpus.sources, found, strict=True)
        missing = ", ".join(" or ".join(source.names) for source, path in pairs if path is None)
        what = f"has neither {corpus.name}.jsonl.gz nor {missing}" if folder.is_dir() else "is no folder"
        raise DataError(f"{folder}: {what}; get the files from {corpus.home}")
    return exchanges(corpus, _unpack(paths), roles)


def _present(folder: Path, source: Source) -> Path | None:
    paths = (folder / (name + ending) for name in source.names for ending in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _normalise(path: Path, corpus: Corpus, roles: Roles) -> Iterator[Exchange]:
    kept = (row for row in read_rows(path) if isinstance(row, Problem) or _is_kept(row, roles))
    for found in exchanges_of(kept, Reading(max_words=sys.maxsize), corpus.labels):
        if isinstance(found, Problem):
            raise DataError(f"{path}:{found.number}: {found.message}")
        yield found[1]


def _is_kept(row: Row, roles: Roles) -> bool:
    meta = row.fields.get("meta")
    if not isinstance(meta, dict):
        return True
    return not meta.get("leaky") and (roles == "all" or meta.get("role") not in ("speaker", "seeker"))


# ---- from the network


def _download(corpus: Corpus, source: Source, folder: Path, progress: Progress | None) -> Path:
    beside = folder / f"{source.name}.part"
    try:
        request = urllib.request.Request(source.url, headers={"User-Agent": "emogen"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer, beside.open("wb") as handle:
            length = answer.headers["Content-Length"] or ""
            total = int(length) if length.isdecimal() else None
            done = 0
            while block := answer.read(_BLOCK):
                handle.write(block)
                done += len(block)
                if progress:
                    progress(source.url, done, total)
        if total is not None and done < total:
            raise ConnectionError(f"it ended after {done} of {total} bytes")
    except (OSError, http.client.HTTPException) as error:
        if source.otherwise:
            return _download(corpus, source.otherwise, folder, progress)
        raise DataError(f"{source.url}: no download ({getattr(error, 'reason', error)}); {_way_out(corpus)}") from error
    found = sha256(beside)
    if source.sha256 and found != source.sha256:
        raise DataError(f"{source.url}: SHA-256 is {found}, the owners give {source.sha256}; nothing was kept")
    return beside.rename(folder / source.name)


def _way_out(corpus: Corpus) -> str:
    names = ", ".join(" or ".join(source.names) for source in corpus.sources)
    return f"put {names} in a folder and run: emogen data fetch {corpus.name} --from FOLDER"


# ---- archives


def _unpack(paths: Sequence[Path]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for path in paths:
        try:
            with path.open("rb") as handle:
                files.update(_members(path.name, handle))
        except (OSError, EOFError, RuntimeError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: cannot be read ({error}); get it again") from error
    return files


def _members(name: str, handle: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    if name.endswith(".zip"):
        with zipfile.ZipFile(handle) as archive:
            for member in archive.infolist():
                if member.is_dir() or member.filename.startswith("__MACOSX/"):
                    continue
                _check_size(member.filename, member.file_size)
                yield from _members(Path(member.filename).name, io.BytesIO(archive.read(member)))
    elif name.endswith((".tar.gz", ".tgz")):
        yield from _tar_members(handle)
    elif name.endswith(".gz"):
        yield name.removesuffix(".gz"), _unzip(name, handle)
    else:
        yield name, handle.read()


def _tar_members(handle: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=handle, mode="r:gz") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content:
                _check_size(member.name, member.size)
                yield Path(member.name).name, content.read()


def _unzip(name: str, handle: IO[bytes]) -> bytes:
    with gzip.open(handle) as unzipped:
        content = unzipped.read(_MAX_MEMBER + 1)
    _check_size(name, len(content))
    return content


def _check_size(name: str, size: int) -> None:
    if size > _MAX_MEMBER:
        raise DataError(f"{name}: {size} bytes is too large for any file of the public corpora")


_ESCONV = named_label_set("anger,anxiety,depression,disgust,fear,guilt,jealousy,nervousness,pain,sadness,shame")


def _files_at(base: str, names: str) -> tuple[Source, ...]:
    return tuple(Source(base + name) for name in names.split())


def _septet(name: str, language: Literal["en", "zh", "en, zh"]) -> Corpus:
    return Corpus(
        name=name,
        home="comes with emogen",
        licence="Apache-2.0",
        language=language,
        labels=EKMAN,
        sources=(),
        parse=lambda files: iter(()),
        note="The same context answered in each of the seven emotions. Nothing to fetch.",
        bundled=f"{name}.jsonl.gz",
    )


CORPORA: tuple[Corpus, ...] = (
    Corpus(
        name="starter",
        home="comes with emogen",
        licence="Apache-2.0",
        language="en, zh",
        labels=EKMAN,
        sources=(),
        parse=lambda files: iter(()),
        note="Small; for first steps, examples and tests. Nothing to fetch.",
        bundled="starter.jsonl",
    ),
    _septet("septet", "en, zh"),
    _septet("septet-en", "en"),
    _septet("septet-zh", "zh"),
    Corpus(
        name="goemotions",
        home="https://github.com/google-research/google-research/tree/master/goemotions",
        licence="CC BY 4.0",
        language="en",
        labels=GOEMOTIONS,
        sources=_files_at(
            "https://raw.githubusercontent.com/google-research/google-research/master/goemotions/data/",
            "train.tsv dev.tsv test.tsv emotions.txt",
        ),
        parse=parse_goemotions,
        note="Reddit comments of at most 30 tokens, several labels a row, no context; profanity is in it.",
    ),
    Corpus(
        name="tweeteval_emotion",
        home="https://github.com/cardiffnlp/tweeteval",
        licence="research only (SemEval-2018 task 1 and X terms)",
        language="en",
        labels=named_label_set("anger,joy,optimism,sadness"),
        sources=_files_at(
            "https://raw.githubusercontent.com/cardiffnlp/tweeteval/main/datasets/emotion/",
            "train_text.txt train_labels.txt val_text.txt val_labels.txt test_text.txt test_labels.txt mapping.txt",
        ),
        parse=parse_tweeteval,
        note="Tweets with users masked; no context.",
    ),
    Corpus(
        name="empatheticdialogues",
        home="https://github.com/facebookresearch/EmpatheticDialogues",
        licence="CC BY-NC 4.0 (the owners' later copy in ParlAI says CC BY 4.0)",
        language="en",
        labels=EMPATHETIC,
        sources=(
            Source(
                "https://dl.fbaipublicfiles.com/parlai/empatheticdialogues/empatheticdialogues.tar.gz",
                "56f234d77b7dd1f005fd365bb17769cfe346c3c84295b69bc069c8ccb83be03d",
                Source(
                    "http://parl.ai/downloads/empatheticdialogues/empatheticdialogues.tar.gz",
                    "56f234d77b7dd1f005fd365bb17769cfe346c3c84295b69bc069c8ccb83be03d",
                ),
            ),
        ),
        parse=parse_empatheticdialogues,
        note=(
            "The label is the speaker's feeling, one a conversation. Replies are the listener's utterances, so the "
            "label says what is answered, not what the reply expresses; roles 'all' keeps the speaker's too."
        ),
    ),
    Corpus(
        name="dailydialog",
        home="http://yanran.li/dailydialog.html",
        licence="CC BY-NC-SA 4.0",
        language="en",
        labels=EKMAN,
        sources=(
            Source(
                "http://parl.ai/downloads/dailydialog/dailydialog.tar.gz",
                "c3adb09bd715b9fa5cd1ac41613b7de61eb5afbe477826a6146abefef573e6bb",
                Source("http://yanran.li/files/ijcnlp_dailydialog.zip"),
            ),
        ),
        parse=parse_dailydialog,
        note=(
            "The label is of the utterance itself; five of six are neutral. Words and marks have blanks around them. "
            "About a fifth of the owners' valid and test dialogues also stands in train: left out here."
        ),
    ),
    Corpus(
        name="esconv",
        home="https://github.com/thu-coai/Emotional-Support-Conversation",
        licence="CC BY-NC 4.0",
        language="en",
        labels=_ESCONV,
        sources=_files_at("https://raw.githubusercontent.com/thu-coai/Emotional-Support-Conversation/main/", "ESConv.json"),
        parse=parse_esconv,
        note=(
            "The label is the help seeker's feeling, one a conversation; replies are the supporter's utterances, roles "
            "'all' keeps the seeker's too. This file has no official split: ours is a hash of the conversation, 8/1/1."
        ),
    ),
    Corpus(
        name="meld",
        home="https://github.com/declare-lab/MELD",
        licence="GPL-3.0 (annotations; the lines are of a television series)",
        language="en",
        labels=EKMAN,
        sources=_files_at(
            "https://raw.githubusercontent.com/declare-lab/MELD/master/data/MELD/",
            "train_sent_emo.csv dev_sent_emo.csv test_sent_emo.csv",
        ),
        parse=parse_meld,
        note="Several speakers a scene; the label is of the utterance itself, heard and seen, not only read.",
    ),
    Corpus(
        name="dailydialog_zh",
        home="https://github.com/liuzeming01/XDailyDialog",
        licence="CC BY-NC-SA 4.0 (derived from DailyDialog)",
        language="zh",
        labels=EKMAN,
        sources=_files_at(
            "https://raw.githubusercontent.com/liuzeming01/XDailyDialog/main/data/",
            "zh_train_human.txt zh_dev_human.txt zh_test_human.txt",
        ),
        parse=parse_xdailydialog,
        note="DailyDialog translated by hand into simplified Chinese, labels carried over.",
    ),
    Corpus(
        name="dair_emotion",
        home="https://github.com/dair-ai/emotion_dataset",
        licence="no open licence; the owners: for educational and research purposes only",
        language="en",
        labels=named_label_set("anger,fear,joy,love,sadness,surprise"),
        sources=(
            Source("train.jsonl", also=("train.txt",)),
            Source("validation.jsonl", also=("val.txt",)),
            Source("test.jsonl", also=("test.txt",)),
        ),
        parse=parse_dair_emotion,
        note=(
            "Tweets in lower case without marks, labelled by their hashtags; no context. To be got by hand: the parts of "
            "16,000, 2,000 and 2,000 rows of https://huggingface.co/datasets/dair-ai/emotion, as JSON lines."
        ),
    ),
    Corpus(
        name="mr",
        home="https://www.cs.cornell.edu/people/pabo/movie-review-data/",
        licence="CC BY 4.0 (as nltk_data declares it); copyright 2005 Bo Pang and Lillian Lee",
        language="en",
        labels=named_label_set("negative,positive"),
        sources=(
            Source(
                "https://www.cs.cornell.edu/people/pabo/movie-review-data/rt-polaritydata.tar.gz",
                otherwise=Source(
                    "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/corpora/sentence_polarity.zip"
                ),
            ),
        ),
        parse=parse_mr,
        note=(
            "Sentences of film reviews in lower case with blanks around words and marks. The label is a judgement of the "
            "film, no emotion: it maps to none. No official split: ours is a hash of the row's place, 8/1/1."
        ),
    ),
    Corpus(
        name="smp2020_ewect",
        home="https://smp2020ewect.github.io/",
        licence="none stated; evaluation data of SMP2020-EWECT, for research",
        language="zh",
        labels=named_label_set("angry,fear,happy,neutral,sad,surprise"),
        sources=tuple(
            Source(f"{topic}_{part}.txt") for part in ("train", "eval_labeled", "test_labeled") for topic in ("usual", "virus")
        ),
        parse=parse_smp2020,
        note=(
            "Weibo posts, general and on COVID-19, with account names in them. To be got by hand: an encrypted archive, "
            "to be unpacked; of its test files take the real ones, not those mixed with other posts."
        ),
        max_words=3000,
    ),
    Corpus(
        name="zh_multi_emotion",
        home="https://huggingface.co/datasets/Johnson8187/Chinese_Multi-Emotion_Dialogue_Dataset",
        licence="MIT (the conversion to simplified characters: Apache-2.0)",
        language="zh",
        labels=named_label_set("anger,caring,confusion,disgust,joy,neutral,sadness,surprise"),
        sources=(Source("data.csv", also=("Simplified_Chinese_Multi-Emotion_Dialogue_Dataset.csv",)),),
        parse=parse_zh_multi_emotion,
        note=(
            "Short spoken lines, partly written by a language model; no context. To be got by hand: data.csv has "
            "traditional characters, its conversion by zzhdbw simplified ones. No official split: ours is a hash of the "
            "row's place, 8/1/1."
        ),
    ),
    Corpus(
        name="image_coco",
        home="https://github.com/geek-ai/Texygen",
        licence="MIT (Texygen); the captions, from MS COCO, CC BY 4.0",
        language="en",
        labels=LabelSet(("neutral",)),
        sources=(
            Source(
                "https://raw.githubusercontent.com/geek-ai/Texygen/master/data/image_coco.txt",
                also=("image_coco_train.txt",),
            ),
            Source(
                "https://raw.githubusercontent.com/geek-ai/Texygen/master/data/testdata/test_coco.txt",
                also=("image_coco_test.txt",),
            ),
        ),
        parse=parse_image_coco,
        note=(
            "Image captions for comparing text generators, without any emotion: every row has the one label neutral, "
            "which says nothing of the text. Train and test only, 10,000 each; seven captions stand in both."
        ),
    ),
)
"""The corpora that `emogen data fetch` knows."""
