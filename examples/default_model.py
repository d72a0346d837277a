r"""The recipe of the default model: corpora, judge, guide, and the training commands, one stage after another.

    emogen data fetch goemotions && emogen data fetch dailydialog && emogen data fetch empatheticdialogues
    python examples/default_model.py prepare --work runs
    emogen train-lm runs/replies.jsonl.gz --preset small --vocabulary 8000 --steps 200000 --minutes 46 --out runs/lm
    emogen train-gan runs/replies.jsonl.gz --preset small --steps 100000 --minutes 60 --init runs/lm --out runs/gan
    python examples/smollm2_adapter.py make --work runs --count 13000   # texts by the adapter, once that is trained
    emogen train-lm runs/replies.jsonl.gz runs/made.jsonl.gz --labels ekman --init runs/lm --learning-rate 1e-3 \
        --steps 200000 --minutes 17 --validate-every 1000 --out runs/lm2
    python examples/default_model.py ship --work runs --model runs/lm2
    python examples/default_model.py ship-classifier --model runs/judge --to checkpoints/judge

and of the recogniser that ships:

    emogen data fetch empatheticdialogues --roles all --to runs/all
    python examples/default_model.py prepare-recognizer --work runs
    emogen train-classifier goemotions goemotions runs/dailydialog.jsonl.gz runs/dailydialog_zh.jsonl.gz zh_multi_emotion \
        starter septet septet-zh runs/openings.jsonl.gz runs/messages.jsonl.gz \
        --labels ekman --multi-label no --backbone cnn --buckets 32768 --width 64 \
        --filters 256 --epochs 4 --batch-size 128 --out runs/recognizer
    python examples/default_model.py ship-classifier --model runs/recognizer --to checkpoints/recognizer

`prepare` writes the generator's corpus and trains two classifiers of different architectures on disjoint rows. The guide,
trained on the generator's share of GoEmotions and DailyDialog, labels the listeners' replies of EmpatheticDialogues, whose
own labels say what the *speaker* feels. The judge, trained on the replies that the generator's corpus does not hold, is for
evaluation alone. `prepare-recognizer` writes what the recogniser learns from beside whole corpora. `ship` and `ship-
classifier` store a model in float16.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import click
import torch

from emogen.checkpoint.folder import CONFUSION_FILE, describe, save_classifier, save_model
from emogen.checkpoint.model import load, load_classifier
from emogen.cli import run
from emogen.data.corpora import locate
from emogen.data.exchange import Exchange, Reading, read_exchanges, write_exchanges
from emogen.data.fingerprints import ROWS_FILE, fingerprint
from emogen.data.rows import Row, read_rows
from emogen.emotions.labels import EKMAN, EMPATHETIC, Emotion, mixture
from emogen.evaluate import judged_labels
from emogen.files import sha256, write_text
from emogen.recognition.leak import refuse_leaks
from emogen.recognition.recognizer import Recognizer, load_recognizer
from emogen.text.tokenizer import SentencePieceTokenizer
from emogen.train.config import ClassifierSettings
from emogen.train.fit_classifier import fit_classifier

JUDGE_SHARE = 0.3
NEUTRAL_SHARE = 0.5
LEAST_SHARE = 0.2
KEPT_FACTS = ("emogen", "torch", "command", "settings", "sources", "rows", "left_out", "steps", "figures")
# Feelings of EmpatheticDialogues that stand between Ekman's: what is said with them would teach the wrong one.
WITHOUT_FAMILY = (
    *("anticipating", "caring", "confident", "content", "faithful", "impressed"),
    *("jealous", "nostalgic", "prepared", "sentimental", "trusting"),
)
NATIVE = Reading(labels=EKMAN)
GUIDE = ClassifierSettings(backbone="ngrams", batch_size=64, multi_label="no", seed=2)
JUDGE = ClassifierSettings(backbone="cnn", batch_size=64, buckets=1 << 14, width=64, balance=1.0, multi_label="no", seed=1)


@click.group()
def recipe() -> None:
    """Prepare the data of the default model, and store a trained one for shipping."""


@recipe.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder for what is made.")
def prepare(work: Path) -> None:
    """Write replies.jsonl.gz, guide.jsonl.gz and judge.jsonl.gz, and train the guide and the judge."""
    labelled = [*cleaned("goemotions"), *thinned(cleaned("dailydialog"))]
    for_generator = [e for e in labelled if e.split != "train" or share_of(e.reply) >= JUDGE_SHARE]
    guide = trained(work / "guide", [e for e in for_generator if share_of(e.reply) >= JUDGE_SHARE], GUIDE)
    empathetic = list(relabelled(list(cleaned("empatheticdialogues")), guide))
    count = write_exchanges(work / "replies.jsonl.gz", shuffled([*for_generator, *empathetic]))
    taken = {fingerprint(e.reply) for e in (*for_generator, *empathetic)}
    for_judge = [e for e in labelled if share_of(e.reply) < JUDGE_SHARE]
    judge = trained(work / "judge", [e for e in for_judge if e.split != "train" or fingerprint(e.reply) not in taken], JUDGE)
    refuse_leaks(judge.folder, [guide.folder])
    for name, model in (("judge", judge), ("guide", guide)):
        click.echo(json.dumps({name: report(model, [e for e in labelled if e.split == "test"])}))
    click.echo(json.dumps({"replies": count}))


@recipe.command("prepare-recognizer")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder for what is made.")
def prepare_recognizer(work: Path) -> None:
    """Write what people say first in EmpatheticDialogues and last in Septet's contexts, and both DailyDialogs thinned.

    Of the DailyDialogs half of the neutral training rows are left out.
    """
    said = read_exchanges(work / "all" / "empatheticdialogues.jsonl.gz", Reading(labels=EMPATHETIC, max_words=sys.maxsize))
    openings = [e for e in said if not e.context and e.emotion.name not in WITHOUT_FAMILY]
    click.echo(json.dumps({"openings": write_exchanges(work / "openings.jsonl.gz", openings)}))
    click.echo(json.dumps({"messages": write_exchanges(work / "messages.jsonl.gz", messages())}))
    for corpus in ("dailydialog", "dailydialog_zh"):
        rows = thinned(read_exchanges(locate(corpus), NATIVE))
        click.echo(json.dumps({corpus: write_exchanges(work / f"{corpus}.jsonl.gz", rows)}))


def messages() -> list[Exchange]:
    """Return what each context of Septet ends with, once, with the emotion of him who says it."""
    found: dict[str, Exchange] = {}
    for row, exchange in zip(read_rows(locate("septet")), read_exchanges(locate("septet")), strict=True):
        if isinstance(row, Row) and row.fields["kind"] == "reply":
            said, felt = exchange.context[-1], str(row.fields["speaker_emotion"])
            found[said] = replace(exchange, context=(), reply=said, emotion=mixture({felt: 1.0}, EKMAN))
    return list(found.values())


@recipe.command()
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Trained checkpoint.")
@click.option("--to", "target", type=click.Path(path_type=Path), default=Path("checkpoints/default"), show_default=True)
def ship(work: Path, model: Path, target: Path) -> None:
    """Store the model in float16, with the facts of its training, beside the judge."""
    ship_model(work / "replies.jsonl.gz", model, target)


@recipe.command("ship-classifier")
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Trained checkpoint.")
@click.option("--to", "target", type=click.Path(path_type=Path), required=True)
def ship_classifier(model: Path, target: Path) -> None:
    """Store a classifier in float16, with its errors on the test rows and the fingerprints of its training rows."""
    classifier, labels = load_classifier(model)
    save_classifier(target, labels, classifier, torch.float16)
    for name in (ROWS_FILE, CONFUSION_FILE):
        shutil.copy(model / name, target)


def ship_model(corpus: Path, model: Path, target: Path) -> None:
    """Write to `target` what was trained, in float16, with its tokenizer and the facts of its training on `corpus`."""
    found = load(model, trainable=True)
    save_model(target, describe(found.generator, found.labels, found.description.limits), found.generator, torch.float16)
    if isinstance(found.tokenizer, SentencePieceTokenizer):
        found.tokenizer.save(target / "tokenizer.model")
    shutil.copy(model / ROWS_FILE, target)
    facts = json.loads((model / "train.json").read_text(encoding="utf-8"))
    facts["settings"] = {name: value for name, value in facts["settings"].items() if name not in ("out", "init")}
    kept = {name: facts[name] for name in KEPT_FACTS if name in facts} | {"replies_sha256": sha256(corpus)}
    write_text(target / "train.json", json.dumps(kept, indent=1) + "\n")
    click.echo(f"{target}: {sum(path.stat().st_size for path in target.iterdir()) / 1e6:.1f} MB")


def cleaned(corpus: str) -> Iterator[Exchange]:
    """Yield rows of a fetched corpus with spacing repaired; rows with placeholders such as [NAME] are left out."""
    for exchange in read_exchanges(locate(corpus), NATIVE):
        reply = repaired(exchange.reply)
        if "[" not in reply and "http" not in reply and 1 < len(reply) < 240:
            yield replace(exchange, reply=reply, context=tuple(repaired(turn) for turn in exchange.context))


def repaired(text: str) -> str:
    """Return the text as people type it: no space before punctuation or inside contractions, commas where `_comma_` stands.

    >>> repaired("Say , Jim , it ' s late . I don ’ t care !")
    "Say, Jim, it's late. I don't care!"
    """
    text = text.replace("_comma_", ",").replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')
    text = re.sub(r"(\w) ?' ?(s|t|m|d|re|ve|ll|S|T|M)\b", r"\1'\2", text)
    text = re.sub(r"\s+([,.!?;:%)])", r"\1", text)
    return " ".join(text.split())


def thinned(exchanges: Iterable[Exchange]) -> Iterator[Exchange]:
    """Half of the neutral training rows are left out: five in six rows of DailyDialog are neutral."""
    for exchange in exchanges:
        if exchange.split != "train" or exchange.emotion.name != "neutral" or share_of("n" + exchange.reply) < NEUTRAL_SHARE:
            yield exchange


def share_of(reply: str) -> float:
    """Return a number in [0, 1) that depends on the case-folded reply alone, so that equal replies stay together."""
    return int.from_bytes(hashlib.sha256(reply.casefold().encode()).digest()[:8]) / 2**64


def relabelled(exchanges: Sequence[Exchange], guide: Recognizer) -> Iterator[Exchange]:
    """Yield the same replies with the emotions that the guide reads in them: shares under a fifth are dropped."""
    for at in range(0, len(exchanges), 1024):
        part = exchanges[at : at + 1024]
        for exchange, shares in zip(part, guide.probabilities([e.reply for e in part]), strict=True):
            kept = shares * (shares >= min(LEAST_SHARE, shares.max()))
            yield replace(exchange, emotion=Emotion(EKMAN, tuple((kept / kept.sum()).tolist())))


def trained(folder: Path, exchanges: Sequence[Exchange], settings: ClassifierSettings) -> Recognizer:
    """Return a classifier trained on the replies, which are written beside its folder."""
    rows = folder.with_suffix(".jsonl.gz")
    write_exchanges(rows, exchanges)
    return load_recognizer(fit_classifier([str(rows)], NATIVE, replace(settings, out=str(folder))))


def report(judge: Recognizer, exchanges: Sequence[Exchange]) -> dict[str, float]:
    """Accuracy over rows, and its mean over emotions."""
    judged = judged_labels(judge.probabilities([e.reply for e in exchanges]), EKMAN.names)
    hits = [(e.emotion.name, e.emotion.weights[EKMAN.position(name)] > 0) for e, name in zip(exchanges, judged, strict=True)]
    recalls = [[hit for target, hit in hits if target == name] for name in EKMAN.names]
    return {
        "accuracy": sum(hit for _, hit in hits) / len(hits),
        "mean_recall": sum(sum(recall) / max(len(recall), 1) for recall in recalls) / len(EKMAN),
    }


def shuffled(exchanges: list[Exchange]) -> list[Exchange]:
    """In an order that depends on nothing but their number."""
    random.Random(0).shuffle(exchanges)
    return exchanges


if __name__ == "__main__":
    run(recipe, "default_model.py")
