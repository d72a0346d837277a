"""The public corpora: where their owners publish them, under which licence, and how their files become exchanges."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from emogen.data.exchange import Reading
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
from emogen.emotions.labels import EKMAN, EMPATHETIC, GOEMOTIONS, LabelSet, named_label_set
from emogen.errors import DataError

Roles = Literal["replies", "all"]
"""Which utterances of a dialogue between one who feels and one who answers: the answers alone, or all."""


CONTEXT_TURNS = 10
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


# ---- from a folder


# ---- from the network


# ---- archives


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
