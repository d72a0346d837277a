"""Texts of each author for each emotion, and their scores."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import torch

import emogen
from emogen.data.corpora import locate
from emogen.data.exchange import Exchange, Reading, read_exchanges
from emogen.data.fingerprints import fingerprint, read_fingerprints
from emogen.emotions.labels import EKMAN
from emogen.evaluate import bleu, copied, distinct_corrected, judged_labels, mean_length, rouge, unique
from emogen.evaluate.resampling import SumStatistic, Values
from emogen.evaluate.score import Score, signature
from emogen.files import replace_file, sha256
from emogen.models.device import probe_bfloat16
from emogen.recognition.leak import refuse_leaks
from emogen.recognition.recognizer import Recognizer, load_recognizer
from emogen.text.words import words
from emogen.train.language_model import CausalModel

if TYPE_CHECKING:
    pass
from backbone_plan import DIALOGUES, EXAMPLES, GOLD, PAIRS, SURE, Ask, Author, Example, Found, Judging, Plan, Round
from backbone_prompt import Prompt, causal, end_ids, forms_for, prompt_author


def signatures(rows: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """Return how each metric was computed."""
    return {metric: score.signature for row in rows for metric, score in row.items() if isinstance(score, Score)}


def held_out(corpus: str) -> list[Exchange]:
    """Valid and test rows of a fetched corpus as people type them.

    Rows with placeholders, links or very long replies are left out, as they are from what the models learn.
    """
    found = []
    for row in read_exchanges(locate(corpus), Reading(labels=EKMAN)):
        reply = closed_up(row.reply)
        if row.split != "train" and "[" not in reply and "http" not in reply and 1 < len(reply) < 240:
            found.append(replace(row, reply=reply, context=tuple(map(closed_up, row.context))))
    return found


def closed_up(text: str) -> str:
    """Return a text without the corpora's marks for commas and blanks about apostrophes and before marks.

    >>> closed_up("Say , Jim , it ' s late_comma_ I don ’ t care !")
    "Say, Jim, it's late, I don't care!"
    """
    for mark, plain in (("_comma_", ","), ("’", "'"), ("‘", "'"), ("“", '"'), ("”", '"')):
        text = text.replace(mark, plain)
    text = re.sub(r"(\w) ?' ?(s|t|m|d|re|ve|ll|S|T|M)\b", r"\1'\2", text)
    return " ".join(re.sub(r"\s+([,.!?;:%)])", r"\1", text).split())


def leading(row: Exchange) -> str:
    """Return the emotion that has more than half of the weight; empty where none has."""
    return row.emotion.name if max(row.emotion.weights) > 0.5 else ""


def real_rows(rows: Sequence[Exchange], each: int) -> list[Exchange]:
    """Return `each` rows of every emotion, or all there are.

    Test rows, half of them replies if there are so many, then valid rows.
    """
    draw, found, half = random.Random(0), [], each // 2
    for name in EKMAN.names:
        own = [row for row in rows if leading(row) == name]
        draw.shuffle(own)
        replies = [row for row in own if row.split == "test" and row.context]
        alone = [row for row in own if row.split == "test" and not row.context]
        valid = [row for row in own if row.split == "valid"]
        rest = [*alone[each - half :], *replies[half:], *valid]
        found += [*replies[:half], *alone[: each - half], *rest][:each]
    return found


def counts(rows: Iterable[Exchange]) -> dict[str, int]:
    """Return how many rows of each emotion, split and kind, such as `fear test reply`."""
    kinds = (f"{leading(row)} {row.split} {'reply' if row.context else 'alone'}" for row in rows)
    return dict(Counter(kinds))


def asks(split: str, each: int, guide: Recognizer) -> list[Ask]:
    """For each emotion half of the texts without context, half in reply to contexts of `split`, the same list every time.

    At most half of the contexts are DailyDialog's, unless EmpatheticDialogues has too few; where both have, they come again.
    """
    daily, empathetic = ([row for row in held_out(name) if row.split == split and row.context] for name in DIALOGUES)
    guided = judged_as([row.reply for row in empathetic], guide)
    draw, found = random.Random(1), []
    for name in EKMAN.names:
        own = [row for row in daily if leading(row) == name]
        others = [row for row, label in zip(empathetic, guided, strict=True) if label == name]
        draw.shuffle(own)
        draw.shuffle(others)
        first = each // 4
        contexts = islice(cycle([*own[:first], *others, *own[first:]]), each // 2)
        replies = [Ask(name, row.context[-1], row.reply) for row in contexts]
        found += [*replies, *[Ask(name)] * (each - len(replies))]
    return found


def judged_as(texts: Sequence[str], guide: Recognizer) -> list[str]:
    """Return the emotion of each text in which the guide is sure; empty where it is not."""
    probabilities = guide.probabilities(texts)
    return [guide.names.names[row.argmax()] if row.max() >= SURE else "" for row in probabilities]


def texts_part(plan: Plan) -> Found:
    """Return judged emotion, perplexity, diversity and overlap of people's texts and of what each system writes."""
    judging = Judging(load_recognizer(plan.judge), refuse_leaks(plan.judge, list(plan.authors.values()), plan.allow_leak))
    guide = load_recognizer(plan.guide)
    real, target = unseen_real(plan), asks("test", plan.samples, guide)
    authors = [checkpoint_author(name, folder, plan.max_tokens) for name, folder in plan.authors.items()]
    prompt, tried = best_prompt(plan, guide)
    base, rows = causal(plan.base), []
    for author in (prompt, *authors):
        for seed in range(plan.seeds):
            rows.append(measured(author, seed, target, plan, base, judging))
            click.echo(f"{author.system}: seed {seed} of {plan.seeds}", err=True)
    contexts = {name: len({ask.context for ask in target if ask.emotion == name and ask.context}) for name in EKMAN.names}
    notes = {"leak": judging.leak, "real_rows": counts(real), "contexts": contexts, "guide": plan.guide.name, "prompts": tried}
    wanted = [Ask(leading(row)) for row in real]
    people = {"system": "real", "seed": 0, **scored([row.reply for row in real], wanted, base, judging)}
    return Found([people, *rows], notes)


def unseen_real(plan: Plan) -> list[Exchange]:
    """Return people's texts by emotion, without those that the judge learnt from."""
    seen = set(read_fingerprints(plan.judge).tolist())
    rows = [row for name in GOLD for row in held_out(name) if fingerprint(row.reply) not in seen]
    return real_rows(rows, plan.samples)


def measured(
    author: Author, seed: int, target: Sequence[Ask], plan: Plan, base: CausalModel, judging: Judging
) -> dict[str, object]:
    """Return the row of one system and seed."""
    rounds = written(author, seed, target, plan)
    texts = in_order(rounds)
    facts = {"system": author.system, "seed": seed, "temperature": plan.temperature, "top_p": plan.top_p, **author.facts}
    speed = {"batch": plan.batch, "tokens_per_second": tokens_per_second(rounds, plan.batch, base)}
    shown = copied(texts, (reply for pairs in EXAMPLES.values() for _, reply in pairs))
    return {**facts, **scored(texts, target, base, judging), **overlap(texts, target), "copied_examples": shown, **speed}


def checkpoint_author(system: str, folder: Path, max_tokens: int) -> Author:
    """Return a checkpoint of the toolkit; raise SettingsError where it does not know an emotion."""
    model = emogen.load(folder)
    for name in EKMAN.names:
        model.emotion(name)
    sampling = replace(model.default_sampling, max_tokens=max_tokens)

    def write(target: Sequence[Ask], seed: int) -> list[str]:
        contexts = [[ask.context] if ask.context else [] for ask in target]
        found = model.replies(contexts, [ask.emotion for ask in target], sampling=sampling, seed=seed)
        return [" ".join(sample.text.split()) for sample in found]

    facts = {"temperature": sampling.temperature, "top_p": sampling.top_p, "guidance": sampling.control.guidance}
    return Author(system, f"{sha256(model.folder / 'model.safetensors')} {sampling}", write, facts)


def written(author: Author, seed: int, target: Sequence[Ask], plan: Plan) -> list[Round]:
    """Return all texts of one seed, in batches of similar contexts; read from --work where they were written before."""
    key = json.dumps([author.identity, asdict(plan.sampling), plan.batch, [asdict(ask) for ask in target]])
    name = re.sub(r"\W+", "-", author.system)
    path = plan.work / f"{name}-{seed}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.jsonl.gz"
    if not path.is_file():
        write_rounds(path, rounds_of(author, seed, target, plan.batch))
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        return [Round(**json.loads(line)) for line in handle]


def rounds_of(author: Author, seed: int, target: Sequence[Ask], size: int) -> Iterator[Round]:
    """Yield the batches, timed; each has a random stream of its own. An empty text counts as a full stop."""
    order = sorted(range(len(target)), key=lambda place: len(target[place].context))
    for number, at in enumerate(range(0, len(order), size)):
        places = order[at : at + size]
        began = time.perf_counter()
        texts = author.write([target[place] for place in places], 100_000 * seed + number)
        yield Round(places, [text or "." for text in texts], time.perf_counter() - began)


def write_rounds(path: Path, rounds: Iterable[Round]) -> None:
    """One line a batch, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as beside, gzip.open(beside, "wt", encoding="utf-8") as handle:
        for found in rounds:
            handle.write(json.dumps(asdict(found), ensure_ascii=False) + "\n")


def in_order(rounds: Sequence[Round]) -> list[str]:
    """Return the texts in the order of the asks."""
    placed = {place: text for found in rounds for place, text in zip(found.places, found.texts, strict=True)}
    return [placed[place] for place in sorted(placed)]


def tokens_per_second(rounds: Sequence[Round], size: int, base: CausalModel) -> float:
    """Median over the full batches (over all where none is), in tokens of the base, end tokens counted."""
    full = [found for found in rounds if len(found.texts) == size] or rounds
    return statistics.median(sum(token_counts(found.texts, base)) / found.seconds for found in full)


def scored(texts: Sequence[str], target: Sequence[Ask], base: CausalModel, judging: Judging) -> dict[str, object]:
    """Return what can be said of texts without references."""
    emotions = [ask.emotion for ask in target]
    judged = judged_labels(judging.judge.probabilities(texts), judging.judge.names.names)
    return {
        "n": len(texts),
        "emotion_accuracy": accuracy(emotions, judged, judging),
        "accuracy_by_emotion": by_emotion(emotions, judged),
        "perplexity": perplexity(base.nll(texts), token_counts(texts, base), base.name),
        **distinct_pairs(texts),
        "unique": unique(texts),
        "mean_length": mean_length(texts),
    }


def accuracy(target: Sequence[str], judged: Sequence[str], judging: Judging) -> Score:
    """Return the share of texts judged to have the emotion asked for, the mean over the emotions that were asked for.

    0 to 1.
    """
    wanted = np.array([[one == name for name in EKMAN.names] for one in target], dtype=np.float64)
    hits = wanted * np.array([[one == other] for one, other in zip(target, judged, strict=True)])
    fields = {"average": "macro", "judge": judging.judge.folder.name, "leak": judging.leak, "texts": len(target)}
    return SumStatistic(np.concatenate([hits, wanted], 1), mean_recall, signature("emotion_accuracy", fields)).score()


def mean_recall(sums: Values) -> Values:
    """Return the mean of hits / texts over the labels that have texts, from [..., hits of each label, then texts of each]."""
    hits, texts = np.split(sums, 2, axis=-1)
    mean: Values = (hits / np.maximum(texts, 1)).sum(-1) / (texts > 0).sum(-1)
    return mean


def by_emotion(target: Sequence[str], judged: Sequence[str]) -> dict[str, float]:
    """Return the share for each emotion."""
    hits = {
        name: [one == other for one, other in zip(target, judged, strict=True) if one == name] for name in sorted(set(target))
    }
    return {name: round(statistics.mean(map(float, found)), 3) for name, found in hits.items()}


def perplexity(nats: Values, tokens: Sequence[int], model: str) -> Score:
    """Return exp(nats of all texts / tokens of all texts), 1 or more."""
    sums = np.stack([nats, np.asarray(tokens, dtype=np.float64)], 1)
    fields = {"model": model, "unit": "token+end", "texts": len(tokens)}
    return SumStatistic(sums, lambda total: np.exp(total[..., 0] / total[..., 1]), signature("perplexity", fields)).score()


def token_counts(texts: Sequence[str], base: CausalModel) -> list[int]:
    """Return tokens of each text in the base's tokenizer, with the end token."""
    read = base.pretrained.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [len(ids) + 1 for ids in read]


def distinct_pairs(texts: Sequence[str]) -> dict[str, Score]:
    """Return distinct-2 of 1,000 pairs of words, where the texts hold so many."""
    pairs = sum(max(0, len(words(text)) - 1) for text in texts)
    return {"distinct2_corrected": distinct_corrected(texts, 2, PAIRS)} if pairs >= PAIRS else {}


def overlap(texts: Sequence[str], target: Sequence[Ask]) -> dict[str, object]:
    """BLEU and ROUGE-L of the replies against people's."""
    pairs = [(text, [ask.reference]) for text, ask in zip(texts, target, strict=True) if ask.reference]
    replies, references = [text for text, _ in pairs], [listed for _, listed in pairs]
    figures = {"bleu": bleu(replies, references, "en", lowercase=True), "rougeL": rouge(replies, references, "rougeL", "en")}
    return {"n_replies": len(pairs), **figures}


def best_prompt(plan: Plan, guide: Recognizer) -> tuple[Author, dict[str, float]]:
    """Return the base with the prompt whose texts on valid contexts the guide judges right most often.

    And that figure for each.
    """
    target, authors, tried = asks("valid", plan.dev, guide), prompt_authors(plan), {}
    for name, author in authors.items():
        texts = in_order(written(replace(author, system=f"dev {name}"), 0, target, plan))
        judged = judged_labels(guide.probabilities(texts), guide.names.names)
        tried[name] = accuracy([ask.emotion for ask in target], judged, Judging(guide, "guide")).value
        click.echo(f"prompt {name}: {tried[name]:.3f}", err=True)
    return authors[max(tried, key=tried.__getitem__)], tried


def prompt_authors(plan: Plan) -> dict[str, Author]:
    """Return the base behind each form of prompt with each set of examples."""
    is_faster = probe_bfloat16(torch.device("cpu")).is_faster
    base, found = causal(plan.base, "bfloat16" if is_faster else "float32").pretrained, {}
    ends = end_ids(base.tokenizer)
    for form, render in forms_for(base.tokenizer).items():
        for name, place in (("A", 0), ("B", 3)):
            examples = {emotion: [Example(*pair) for pair in pairs[place : place + 3]] for emotion, pairs in EXAMPLES.items()}
            prompt = Prompt(f"{form}, examples {name}", partial(render, base.tokenizer), examples)
            found[prompt.name] = prompt_author(prompt, base, ends, plan)
    return found
