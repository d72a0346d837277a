"""What the parts of `control.py` share: who writes and who judges, and texts and verdicts that are kept in --work.

What is kept has a name that follows from all that it depends on: weights, options, what was asked for, the seed, and the
toolkit's own decoding code. A run that was stopped goes on where it stood, and nothing made otherwise is taken for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import emotion_text
import numpy as np
from backbone_texts import mean_recall
from emotion_text import Ready
from numpy.typing import NDArray

import emogen
import emogen.decoding
import emogen.models.head
import emogen.train.loops.head
from emogen.checkpoint.model import EmotionModel
from emogen.decoding.control import parse_control
from emogen.decoding.params import SamplingParams
from emogen.emotions.labels import LabelSet
from emogen.evaluate.diversity import distinct_corrected, mean_length
from emogen.evaluate.emotion import checked_probabilities, judged_labels
from emogen.evaluate.fluency import perplexity
from emogen.evaluate.report import read_json
from emogen.evaluate.resampling import SumStatistic, Values
from emogen.evaluate.score import Score, signature
from emogen.evaluate.set_bleu import self_bleu
from emogen.files import sha256, write_text
from emogen.recognition.recognizer import Recognizer
from emogen.text.words import words
from emogen.train.language_model import LanguageModel, load_language_model, own_model

_STATE_OF_A_MODEL = ("model.safetensors", "head.safetensors", "calibration.json")


@dataclass(frozen=True)
class Setting:
    """How texts are written.

    Attributes:
        system: its name in the rows.
        control: controllers and weights, as `parse_control` reads them.
        strength: the weight that this setting stands for; 0 without a controller.
        temperature: of sampling.
    """

    system: str
    control: str
    strength: float
    temperature: float


@dataclass(frozen=True)
class Ask:
    """One text that is asked for: an emotion or a mixture, as `parse_emotion` reads it, and its strength."""

    emotion: str
    strength: float = 1.0


@dataclass(frozen=True)
class Bench:
    """All that the parts work with.

    Attributes:
        ready: the corpus, divided.
        labels: the emotions, in the order of the models and of the classifiers.
        work: where texts and verdicts are kept.
        first: folder of the model by which all is chosen and speed is measured, whatever the seeds.
        models: for each seed the folder of the model that writes.
        guide: may steer, and chooses on valid rows.
        judges: two that measure, by what their figures are called: `emotion_accuracy` and `emotion_accuracy_second`.
        leak: what the judges share with guide and models.
        language_model: its name, for perplexity.
        sampling: filters, for all systems of ours.
        each: texts of each emotion.
        perplexity_each: of these so many have their perplexity measured.
    """

    ready: Ready
    labels: LabelSet
    work: Path
    first: Path
    models: Mapping[int, Path]
    guide: Recognizer
    judges: Mapping[str, Recognizer]
    leak: Mapping[str, str]
    language_model: str
    sampling: SamplingParams
    each: int
    perplexity_each: int

    @property
    def asks(self) -> list[Ask]:
        """Equally many texts of each emotion."""
        return asks_of(self.labels, self.each)


def asks_of(labels: LabelSet, each: int) -> list[Ask]:
    """Equally many texts of each emotion, one emotion after another.

    >>> [ask.emotion for ask in asks_of(LabelSet(("good", "bad")), 2)]
    ['good', 'good', 'bad', 'bad']
    """
    return [Ask(name) for name in labels.names for _ in range(each)]


def kept(folder: Path, key: object, make: Callable[[], Any]) -> Any:
    """Return what `make` gives, as JSON; made once for each key."""
    name = hashlib.sha256(json.dumps(key, ensure_ascii=False).encode()).hexdigest()[:20]
    path = folder / f"{name}.json"
    if not path.is_file():
        write_text(path, json.dumps(make(), ensure_ascii=False))
    return read_json(path)


def identity(folder: Path) -> list[str]:
    """Return hashes of all that decides what a checkpoint writes or says."""
    return [sha256(folder / name) if (folder / name).is_file() else "" for name in _STATE_OF_A_MODEL]


@cache
def decoding_code() -> str:
    """Hash of the code that decodes: texts of another state of it are not taken for this one's."""
    (folder,) = emogen.decoding.__path__
    return hash_of([*sorted(Path(folder).glob("*.py")), Path(emogen.models.head.__file__)])


@cache
def head_code() -> str:
    """Hash of the code of heads and of their training."""
    return hash_of([Path(module.__file__ or "") for module in (emogen.models.head, emogen.train.loops.head)])


def hash_of(files: Sequence[Path]) -> str:
    """Return one hash for the contents of several files."""
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()


@cache
def loaded(folder: Path, _state: tuple[str, ...]) -> EmotionModel:
    """Return a checkpoint, read once for each state of its files."""
    return emogen.load(folder, "auto")


def sampling_of(setting: Setting, bench: Bench, model: EmotionModel) -> SamplingParams:
    """Return the options of one decoding call; a text may be as long as those that the model learnt."""
    most, control = model.description.limits.reply_tokens + 1, parse_control(setting.control)
    return replace(bench.sampling, temperature=setting.temperature, control=control, max_tokens=most)


def written(bench: Bench, folder: Path, setting: Setting, asks: Sequence[Ask], seed: int) -> list[str]:
    """Return a text for each ask by the model in `folder`; kept."""
    conditioning = [[ask.emotion, ask.strength] for ask in asks]
    state = [decoding_code(), identity(folder), identity(bench.guide.folder)]
    key = [state, setting.control, setting.temperature, repr(bench.sampling), conditioning, seed]

    def make() -> list[str]:
        model = loaded(folder, tuple(identity(folder)))
        emotions = [model.emotion(ask.emotion, ask.strength) for ask in asks]
        sampling = sampling_of(setting, bench, model)
        found = model.replies([()] * len(asks), emotions, sampling=sampling, seed=seed, guide=guide_for(sampling, bench))
        return [sample.text.strip() or "." for sample in found]

    texts: list[str] = kept(bench.work / "texts", key, make)
    return texts


def guide_for(sampling: SamplingParams, bench: Bench) -> Callable[[Sequence[str]], NDArray[np.float64]] | None:
    """Return the guide's probabilities, where candidates are to be ranked."""
    return bench.guide.probabilities if sampling.control.rerank > 1 else None


def probabilities(bench: Bench, reader: Recognizer, texts: Sequence[str]) -> Values:
    """Return what a classifier says of the texts, [texts, labels]; kept."""
    key = [identity(reader.folder), list(texts)]
    found = kept(bench.work / "verdicts", key, lambda: reader.probabilities(list(texts)).tolist())
    return checked_probabilities(np.array(found), bench.labels.names)


@cache
def language_model(name: str) -> LanguageModel:
    """Return the language model of perplexity, read when it is first needed."""
    return load_language_model(name)


def nats(bench: Bench, texts: Sequence[str]) -> Values:
    """Return negative log-likelihoods of the texts, [texts]; kept."""
    name = bench.language_model
    state = identity(Path(name)) if Path(name).is_dir() else []
    key = [name.rpartition("/")[2], state, list(texts)]
    return np.array(kept(bench.work / "nats", key, lambda: language_model(name).nll(texts).tolist()))


def own_perplexity(bench: Bench, folder: Path, texts: Sequence[str]) -> float:
    """Return the perplexity a word under a model that writes, told no emotion and not steered: how usual the texts are."""

    def make() -> float:
        model = own_model(loaded(folder, tuple(identity(folder))))
        return perplexity(texts, model.nll, model.name).value

    found: float = kept(bench.work / "own", [identity(folder), list(texts)], make)
    return found


def with_perplexity(asks: Sequence[Ask], each: int) -> list[int]:
    """Return places of the first `each` texts of every emotion.

    >>> with_perplexity([Ask("joy"), Ask("joy"), Ask("fear")], 1)
    [0, 2]
    """
    seen: dict[str, int] = {}
    places = []
    for place, ask in enumerate(asks):
        seen[ask.emotion] = seen.get(ask.emotion, 0) + 1
        if seen[ask.emotion] <= each:
            places.append(place)
    return places


def accuracy_tally(target: Sequence[str], judged: Sequence[str], labels: LabelSet, about: Mapping[str, object]) -> SumStatistic:
    """Return the share of texts with the emotion that was asked for, the mean over the emotions.

    `about` goes into the signature.
    """
    wanted = np.array([[one == name for name in labels.names] for one in target], dtype=np.float64)
    hits = wanted * np.array([[one == other] for one, other in zip(target, judged, strict=True)])
    fields = {"average": "macro", **about, "texts": len(target)}
    return SumStatistic(np.concatenate([hits, wanted], 1), mean_recall, signature("emotion_accuracy", fields))


def judged_by(bench: Bench, reader: Recognizer, texts: Sequence[str]) -> list[str]:
    """Return the likeliest emotion of each text."""
    return judged_labels(probabilities(bench, reader, texts), bench.labels.names)


def figures(bench: Bench, texts: Sequence[str], asks: Sequence[Ask]) -> dict[str, object]:
    """Return all that is measured of texts."""
    target = [ask.emotion for ask in asks]
    found: dict[str, object] = {"n": len(texts)}
    for name, judge in bench.judges.items():
        about = {"judge": judge.folder.name, "leak": bench.leak[name]}
        found[name] = accuracy_tally(target, judged_by(bench, judge, texts), bench.labels, about).score()
    some = [texts[place] for place in with_perplexity(asks, bench.perplexity_each)]
    found["perplexity"] = perplexity(some, nats(bench, some), Path(bench.language_model.removeprefix("hf:")).name)
    found |= {f"distinct{n}_corrected": score for n in (2, 3) if (score := distinct_of(texts, n))}
    return found | {"self_bleu4": self_bleu(texts), "mean_length": mean_length(texts)}


def distinct_of(texts: Sequence[str], n: int) -> Score | None:
    """Return distinct-n of as many n-grams as the other benchmarks take; None where the texts hold too few."""
    grams = sum(max(0, len(words(text)) - n + 1) for text in texts)
    return distinct_corrected(texts, n, emotion_text.PAIRS) if grams >= emotion_text.PAIRS else None


def row_of(bench: Bench, setting: Setting, seed: int, **more: object) -> dict[str, object]:
    """Return what stands in front of a row's figures."""
    case = {} if setting.control == "none" else {"case": setting.control}
    facts = {"corpus": bench.ready.name, "system": setting.system, **case, "strength": setting.strength}
    filters = {name: value for name in ("top_p", "min_p") if (value := getattr(bench.sampling, name)) not in (0, 1)}
    return facts | {"temperature": setting.temperature, **filters, "seed": seed, **more}


def warmer(setting: Setting, temperature: float) -> Setting:
    """Return the same at another temperature."""
    return replace(setting, temperature=temperature)
