"""What an adapter on a pretrained model is worth: against the same model prompted, the default models, and people.

    emogen pull smollm2
    emogen data fetch goemotions && emogen data fetch dailydialog && emogen data fetch empatheticdialogues
    python evaluate/backbone.py --before runs/default-before --work runs/backbone

Part `texts`. Each system is asked for `--samples` texts of each of Ekman's six emotions and of neutral, once for each decoding
seed. Half of them have no context; half reply to a held-out utterance, of which every system reads the last one before the
reply, and no more. All systems and seeds get the same list and limit of tokens (of their own tokenizers). Checkpoints write
with their own default options, guidance among them, which were chosen on valid contexts by the adapter's guide; the prompted
base has none, so it writes at the lower of their temperatures, which favours it.

* `real`: test rows of GoEmotions and DailyDialog, whose labels are people's; EmpatheticDialogues labels the speaker's feeling
  and not the reply's, so its rows are no measure here. Half are replies where there are so many; fear and disgust have too few
  rows, so valid ones fill up as far as they go (`real_rows` in the result file counts). Left out are rows in which no emotion
  leads and texts that the judge was trained on; DailyDialog's copies of training dialogues went when the corpus was fetched.
* `prompt`: the base model as it stands, with three examples of the emotion. Several forms of prompt, each with two sets of
  examples of our own, are tried on valid contexts; the one whose texts `--guide` judges right most often is taken, one for all
  emotions. The guide is the recogniser that ships. It is built like the judge and shares rows with it, which can only help the
  prompt. An answer ends at its first line break; quotation marks around it go. `copied_examples` is the share of texts that are
  one of the examples.
* `adapter`, `default`, `default_before`: checkpoints. The judge must share neither rows nor architecture with them.

Contexts come from test rows of DailyDialog whose reply has the emotion, and from those of EmpatheticDialogues in whose reply
the guide finds it with a probability of .5; BLEU (13a, lower-cased) and ROUGE-L compare with these replies. `emotion_accuracy`
is the mean over the emotions. `perplexity` is that of the texts under the base without a prompt, a token of its tokenizer,
end tokens counted: what the base itself would write has a low one, so it says how usual a text is and not how good.
`tokens_per_second` is the median over the batches of the samples, the reading of prompts included, in tokens of the base.

Part `heldout`. Perplexity of test replies given their context, a token of the base's tokenizer; the token that ends a reply
counts as one more, for all alike. Both models read the same utterances, the newest ones that fit into the adapter's limit. The
base reads them in its chat format (where it has one), as lines, and as lines with speakers, where a line break is the end; its
best format is the one to compare with (`ratio`). The adapter is asked for no emotion. Both compute in float32.

Part `speed`. Seconds from the start of a process until the adapter is loaded, and until `emogen sample` prints its first line;
medians over processes, after one that is not counted. Then batches with mixed emotions beside `transformers.generate` of the
base, one after the other in turn: with a fixed number of tokens, where no row may end before, and as they end. The tokens are
those of the rows, not of their padding. The base reads the bare context, which is shorter than what the adapter reads.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import emogen
from emogen.checkpoint.finding import find_checkpoint, shipped_folder
from emogen.checkpoint.model import EmotionModel
from emogen.cli import run
from emogen.data.corpora import locate
from emogen.data.exchange import Exchange, Reading, read_exchanges
from emogen.data.fingerprints import fingerprint, read_fingerprints
from emogen.decoding.loop import PromptBatch, generate
from emogen.decoding.params import SamplingParams
from emogen.decoding.random_streams import fold_in, row_uniforms
from emogen.decoding.sampler import LogitsSampler, build_sampler
from emogen.emotions.labels import EKMAN, no_emotion
from emogen.errors import EmogenError, SettingsError
from emogen.evaluate import bleu, copied, distinct_corrected, judged_labels, mean_length, rouge, unique
from emogen.evaluate.report import command_of, read_json, write_result
from emogen.evaluate.resampling import SumStatistic, Values
from emogen.evaluate.score import Score, signature
from emogen.files import replace_file, sha256
from emogen.models.device import probe_bfloat16
from emogen.models.likelihood import reply_nll
from emogen.pretrained.bases import Base, find_base
from emogen.pretrained.loading import Pretrained, load_causal_model
from emogen.recognition.leak import refuse_leaks
from emogen.recognition.recognizer import Recognizer, load_recognizer
from emogen.text.tokenizer import EOS, PAD
from emogen.text.words import words
from emogen.train.language_model import CausalModel
from emogen.train.loops.mle import with_no_latent
from emogen.train.run.memory import keep_freed_memory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RESULT = Path("evaluate/results/backbone.json")
PARTS = ("texts", "heldout", "speed")
GOLD = ("goemotions", "dailydialog")
DIALOGUES = ("dailydialog", "empatheticdialogues")
PAIRS = 1000
SURE = 0.5
ROWS_AT_ONCE = 16
READY = "import sys, emogen; emogen.load(sys.argv[1]); print('ready', flush=True)"


@dataclass(frozen=True)
class Example:
    """An exchange of a prompt: what was said, and an answer that also stands alone."""

    context: str
    reply: str


# Our own sentences: two sets of three for each emotion.
EXAMPLES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "anger": (
        ("They cancelled my order without telling me.", "That makes me furious, they can't treat people like that!"),
        ("He parked in front of our gate again.", "I am so sick of him, how dare he do that!"),
        ("The boss wants us in on Sunday.", "No way, I'm fed up with being pushed around."),
        ("Somebody scratched my car last night.", "What an idiot, I'd make him pay for every cent!"),
        ("She told everyone your secret.", "I hate her for that, I'll never speak to her again!"),
        ("The neighbours were drilling at six.", "Damn it, this really pisses me off."),
    ),
    "disgust": (
        ("There was a hair in my soup.", "Ew, that is disgusting, I would have sent it back."),
        ("The bin has not been emptied for weeks.", "Gross, just the smell of it makes me sick."),
        ("He spits on the floor of the bus.", "Yuck, what a revolting habit."),
        ("I found mould under the carpet.", "That is so nasty, I can't even look at it."),
        ("They laughed at the old man who fell.", "That's vile, people like that disgust me."),
        ("He ate the cold pizza off the ground.", "Eww, how can anybody put that in his mouth?"),
    ),
    "fear": (
        ("Did you hear that noise downstairs?", "Yes, and I'm too scared to go and look."),
        ("The doctor wants to see me tomorrow.", "I'm really worried, what if it is something bad?"),
        ("The plane is shaking a lot.", "I'm terrified, please hold my hand!"),
        ("A man has been following us since the station.", "I'm so afraid, let's run to the shop over there."),
        ("The storm will hit our town tonight.", "That frightens me, I don't think the roof will hold."),
        ("You speak in front of everyone on Monday.", "I'm so nervous that I can hardly breathe."),
    ),
    "joy": (
        ("I passed my driving test!", "That's wonderful, I'm so happy for you!"),
        ("We are going to the sea this weekend.", "Yay, I can't wait, it will be so much fun!"),
        ("Here is a little present for you.", "Thank you so much, I love it!"),
        ("Our baby was born this morning.", "Congratulations, what a beautiful day for all of you!"),
        ("The band plays here in May.", "Awesome, this is the best news of the year!"),
        ("I made your favourite cake.", "You are amazing, that makes my whole day!"),
    ),
    "neutral": (
        ("When does the library close?", "It closes at eight on weekdays."),
        ("Where did you put the keys?", "They are on the table next to the door."),
        ("What do you do on Mondays?", "I usually work from home and go shopping after five."),
        ("Which bus goes to the museum?", "Take number twelve and get off at the third stop."),
        ("Is the printer on this floor?", "It is in the room at the end of the corridor."),
        ("How long is the film?", "About two hours, with a short break."),
    ),
    "sadness": (
        ("Our dog died on Tuesday.", "I'm so sorry, I miss him terribly too."),
        ("She moved out last night.", "That breaks my heart, I feel so alone now."),
        ("They gave the job to someone else.", "I am so disappointed, I could cry."),
        ("Nobody came to my birthday.", "That's so sad, I'm sorry you were left alone."),
        ("It is a year since grandma's funeral.", "I still cry when I think of her."),
        ("We lost the house.", "I'm sorry for your loss, it hurts to hear that."),
    ),
    "surprise": (
        ("I quit my job this morning.", "Wow, really? I did not see that coming!"),
        ("Your brother is at the door.", "What? I had no idea he was in town!"),
        ("We won the first prize.", "Oh my god, are you serious? I can't believe it!"),
        ("They are getting married tomorrow.", "What, already? That is so unexpected!"),
        ("This painting is worth a million.", "No way, I am shocked, it looked so plain!"),
        ("It snowed in July.", "Really? How strange, I never would have guessed that!"),
    ),
}


@dataclass(frozen=True)
class Plan:
    """What is measured, and with what; the fields are the options."""

    base: Base
    adapter: Path
    default: Path
    before: Path | None
    judge: Path
    guide: Path
    allow_leak: bool
    work: Path
    samples: int
    seeds: int
    dev: int
    batch: int
    temperature: float
    top_p: float
    max_tokens: int
    replies: int
    fixed: int
    runs: int

    @property
    def models(self) -> dict[str, Path]:
        """Return the folders of all models by what they are here."""
        own = {"base": self.base.folder, "adapter": self.adapter, "default": self.default}
        own |= {"judge": self.judge, "guide": self.guide}
        return own | ({"default_before": self.before} if self.before else {})

    @property
    def authors(self) -> dict[str, Path]:
        """Return the folders of the checkpoints that write texts."""
        return {name: self.models[name] for name in ("adapter", "default", "default_before") if name in self.models}

    @property
    def sampling(self) -> SamplingParams:
        """Return decoding options of all systems."""
        return SamplingParams(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


@dataclass(frozen=True)
class Found:
    """Rows of one part, and what else the result file says of it."""

    rows: Sequence[Mapping[str, object]]
    notes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Ask:
    """One text that is asked for.

    Attributes:
        emotion: one of Ekman's six, or neutral.
        context: the utterance to reply to; empty for none.
        reference: a person's reply to it; empty for none.
    """

    emotion: str
    context: str = ""
    reference: str = ""


@dataclass(frozen=True)
class Round:
    """A batch of texts as it was written: places in the list of asks, texts, seconds that it took."""

    places: Sequence[int]
    texts: Sequence[str]
    seconds: float


Write = Callable[[Sequence[Ask], int], list[str]]
"""A text for each ask, from a seed."""


@dataclass(frozen=True)
class Author:
    """A system that writes.

    Attributes:
        system: its name in the rows.
        identity: changes with everything that changes its texts, but for the asks and the plan's options.
        write: gives texts.
        facts: further keys of its rows.
    """

    system: str
    identity: str
    write: Write
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Judging:
    """Who judges; `leak` says what the judge shares with the systems."""

    judge: Recognizer
    leak: str


def option(flag: str, default: object, text: str, kind: object = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return an option whose default is shown."""
    return click.option(flag, default=default, show_default=True, help=text, type=kind)


FOLDER = click.Path(file_okay=False, path_type=Path)
COUNT, TWO = click.IntRange(1), click.IntRange(2)


@click.command()
@option("--base", "smollm2", "The base model: its name or folder.")
@click.option(
    "--adapter", type=FOLDER, default=shipped_folder("smollm2-emotion"), help="Checkpoint.  [default: the one that ships]"
)
@click.option("--default", type=FOLDER, default=shipped_folder("default"), help="Checkpoint.  [default: the one that ships]")
@click.option("--before", type=FOLDER, help="Checkpoint: the default model before. Without it the row is left out.")
@click.option(
    "--judge", type=FOLDER, default=shipped_folder("judge"), help="Classifier that measures.  [default: the one that ships]"
)
@click.option(
    "--guide", type=FOLDER, default=shipped_folder("recognizer"), help="Classifier that chooses.  [default: the recogniser]"
)
@click.option("--allow-leak", is_flag=True, help="Go on where the judge shares rows or architecture with a checkpoint.")
@click.option("--work", type=FOLDER, required=True, help="Samples are kept here, and used again.")
@option("--parts", ",".join(PARTS), "What to measure; other parts stay in the result file.")
@option("--samples", 200, "Texts of each emotion.", TWO)
@option("--seeds", 3, "Decoding seeds.", COUNT)
@option("--dev", 20, "Texts of each emotion that choose the prompt.", TWO)
@option("--batch", 64, "Texts written at once.", COUNT)
@option("--temperature", 0.85, "Of the prompted base.", click.FloatRange(0, min_open=True))
@option("--top-p", 0.95, "Of the prompted base.", click.FloatRange(0, 1, min_open=True))
@option("--max-tokens", 48, "A text is cut after so many.", COUNT)
@option("--replies", 1000, "Held-out replies of each corpus.", TWO)
@option("--fixed", 32, "Tokens of each row, where speed is measured with a fixed number.", COUNT)
@option("--runs", 5, "Counted runs of what is timed.", COUNT)
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(parts: str, out: Path, base: str, **options: Any) -> None:
    """Measure the adapter, its base and the default models; a part that is not asked for stays as it is in the result file."""
    target = parts_of(parts)
    plan = Plan(base=find_base(base), **options)
    refuse_missing(plan)
    keep_freed_memory()
    for name in target:
        found = {"texts": texts_part, "heldout": heldout_part, "speed": speed_part}[name](plan)
        write_part(out, name, found, plan, command_of(RESULT.stem, click.get_current_context()))


def parts_of(value: str) -> list[str]:
    """Return the parts by name, in the order in which they run; raise SettingsError for another name."""
    target = [name.strip() for name in value.split(",")]
    for name in target:
        if name not in PARTS:
            raise SettingsError(f"--parts: {name!r} is not one of {', '.join(PARTS)}")
    return [name for name in PARTS if name in target]


def refuse_missing(plan: Plan) -> None:
    """Raise CheckpointError where a folder holds no checkpoint, SettingsError where a classifier has other labels."""
    for folder in plan.authors.values():
        find_checkpoint(folder)
    for name, folder in (("judge", plan.judge), ("guide", plan.guide)):
        if set(load_recognizer(folder).names.names) != set(EKMAN.names):
            raise SettingsError(f"--{name} {folder}: has other labels than {', '.join(EKMAN.names)}")


def write_part(out: Path, part: str, found: Found, plan: Plan, command: str) -> None:
    """Put the rows of a part into the result file, in place of those that it had."""
    before = read_json(out) if out.is_file() else {"rows": []}
    rows = {name: [row for row in before["rows"] if row["part"] == name] for name in PARTS}
    rows[part] = [{"part": part, **row} for row in found.rows]
    weights = {name: sha256(folder / "model.safetensors") for name, folder in plan.models.items()}
    about = {"command": command, "threads": torch.get_num_threads(), "weights": weights, **found.notes}
    parts = before.get("parts", {}) | {part: about | {"signatures": signatures(found.rows)}}
    commands = dict.fromkeys(parts[name]["command"] for name in PARTS if name in parts)
    data = [*(locate(name) for name in dict.fromkeys((*GOLD, *DIALOGUES))), *plan.models.values()]
    write_result(out, " && ".join(commands), data, [row for name in PARTS for row in rows[name]], {"parts": parts})


def signatures(rows: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """Return how each metric was computed."""
    return {metric: score.signature for row in rows for metric, score in row.items() if isinstance(score, Score)}


# ---- held-out rows


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
    """Return `each` rows of every emotion, or all there are: test rows, half of them replies if there are so many, then valid rows."""
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


# ---- texts


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
    """Return the share of texts judged to have the emotion asked for, the mean over the emotions that were asked for, 0 to 1."""
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


# ---- the base model, prompted


@dataclass(frozen=True)
class Prompt:
    """A prompt: its name, its form, and the examples of each emotion."""

    name: str
    render: Callable[[str, Sequence[Example], str], str]
    examples: Mapping[str, Sequence[Example]]

    def text(self, emotion: str, context: str) -> str:
        """Return what stands before the answer."""
        return self.render(emotion, self.examples[emotion], context)


Render = Callable[["PreTrainedTokenizerBase", str, Sequence[Example], str], str]
"""From tokenizer, emotion, examples and context the text behind which the base model writes."""


def causal(base: Base, dtype: Literal["float32", "bfloat16"] = "float32") -> CausalModel:
    """Return the base model in eval mode."""
    found = load_causal_model(f"hf:{base.folder}", dtype)
    found.model.eval()
    return CausalModel(base.folder.name, found)


def best_prompt(plan: Plan, guide: Recognizer) -> tuple[Author, dict[str, float]]:
    """Return the base with the prompt whose texts on valid contexts the guide judges right most often; and that figure for each."""
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


def prompt_author(prompt: Prompt, base: Pretrained, ends: Sequence[int], plan: Plan) -> Author:
    """Return the base model behind one prompt."""
    options = drawn(plan) | {"max_new_tokens": plan.max_tokens}

    def write(target: Sequence[Ask], seed: int) -> list[str]:
        read = [ids_of(prompt.text(ask.emotion, ask.context), base.tokenizer) for ask in target]
        return [answer(ids, base.tokenizer) for ids in continued(base, read, seed, ends, options).tolist()]

    shown = [prompt.text(emotion, context) for emotion in EKMAN.names for context in ("", "Hello.")]
    return Author("prompt", json.dumps([plan.base.revision, shown]), write, {"prompt": prompt.name})


def drawn(plan: Plan) -> dict[str, object]:
    """Return how `transformers.generate` draws tokens."""
    return {"do_sample": True, "temperature": plan.temperature, "top_p": plan.top_p, "top_k": 0}


@torch.inference_mode()
def continued(
    base: Pretrained, rows: Sequence[Sequence[int]], seed: int, ends: Sequence[int], options: Mapping[str, object]
) -> Tensor:
    """Return what `transformers.generate` writes behind each row, [rows, new tokens], padded with the first of `ends`."""
    torch.manual_seed(seed)
    longest = max(map(len, rows))
    tokens = torch.tensor([[ends[0]] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    stops = {"eos_token_id": list(ends), "pad_token_id": ends[0]}
    model: Any = base.model
    found: Tensor = model.generate(input_ids=tokens, attention_mask=mask, **stops, **options)
    return found[:, longest:]


def end_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the end token, then every token with a line break in it."""
    end: Any = tokenizer.eos_token_id
    pieces = tokenizer.batch_decode([[place] for place in range(len(tokenizer))])
    return [int(end), *(place for place, piece in enumerate(pieces) if "\n" in piece and place != end)]


def answer(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the first line, without quotation marks around it."""
    line = str(tokenizer.decode(ids, skip_special_tokens=True)).partition("\n")[0]
    return " ".join(line.split()).strip('"“”').strip()


def forms_for(tokenizer: PreTrainedTokenizerBase) -> dict[str, Render]:
    """Return the forms that are tried; a model without a chat template has the plain ones alone."""
    chats: dict[str, Render] = {"turns": as_turns, "requests": as_requests, "system": as_system}
    return (chats if tokenizer.chat_template else {}) | {"fields": as_fields, "list": as_list}


def as_turns(tokenizer: PreTrainedTokenizerBase, emotion: str, examples: Sequence[Example], context: str) -> str:
    """Return the emotion in the system message, the examples as earlier turns."""
    conditioning = f"You write one short everyday message at a time. Each of your messages expresses {feeling(emotion)}."
    shown = [(one.context if context else "Write a message.", one.reply) for one in examples]
    return chat(tokenizer, conditioning, shown, context or "Write a message.")


def as_requests(tokenizer: PreTrainedTokenizerBase, emotion: str, examples: Sequence[Example], context: str) -> str:
    """Return a request with the emotion in every turn of the user."""

    def request(said: str) -> str:
        to = f'Somebody says: "{said}" Reply with' if context else "Write"
        return f"{to} one short sentence that expresses {feeling(emotion)}."

    return chat(tokenizer, "", [(request(one.context), one.reply) for one in examples], request(context))


def as_system(tokenizer: PreTrainedTokenizerBase, emotion: str, examples: Sequence[Example], context: str) -> str:
    """Instruction and examples in the system message."""
    shown = "\n".join(f"- {one.context} -> {one.reply}" if context else f"- {one.reply}" for one in examples)
    task = "Reply to what the user says" if context else "Write a message"
    conditioning = f"{task} in one short sentence that expresses {feeling(emotion)}. Examples:\n{shown}"
    return chat(tokenizer, conditioning, [], context or "Write another one, not one of the examples.")


def as_fields(tokenizer: PreTrainedTokenizerBase, emotion: str, examples: Sequence[Example], context: str) -> str:
    """Plain text: named fields, a paragraph for each example."""

    def paragraph(said: str, reply: str) -> str:
        return f"emotion: {emotion}\n" + (f"message: {said}\nreply:{reply}" if context else f"text:{reply}")

    shown = [paragraph(one.context, f" {one.reply}") for one in examples]
    return "\n\n".join([*shown, paragraph(context, "")])


def as_list(tokenizer: PreTrainedTokenizerBase, emotion: str, examples: Sequence[Example], context: str) -> str:
    """Plain text: a heading and a list of lines."""
    heading = f"{'Replies' if context else 'Things people say'} that express {feeling(emotion)}:"
    shown = [f"{one.context} -> {one.reply}" if context else f"{emotion} -> {one.reply}" for one in examples]
    return "\n".join([heading, *shown, f"{context or emotion} ->"])


def feeling(emotion: str) -> str:
    """Return an emotion in a sentence."""
    return "no emotion at all" if emotion == "neutral" else emotion


def chat(tokenizer: PreTrainedTokenizerBase, conditioning: str, shown: Sequence[tuple[str, str]], said: str) -> str:
    """Return a dialogue in the model's chat format, up to where its next answer begins; without `conditioning` with its own system message."""
    turns = [{"role": "system", "content": conditioning}] * bool(conditioning)
    for user, assistant in shown:
        turns += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    turns.append({"role": "user", "content": said})
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


# ---- held-out replies


def heldout_part(plan: Plan) -> Found:
    """Return the perplexity of test replies under the base in its formats, and under the adapter."""
    base, adapter = causal(plan.base), emogen.load(plan.adapter, full_precision=True)
    rows: list[Mapping[str, object]] = []
    for corpus in DIALOGUES:
        replies = test_replies(corpus, plan.replies, adapter)
        tokens = token_counts([row.reply for row in replies], base)
        figures = {f"base, {name}": perplexity(nats, tokens, base.name) for name, nats in base_nats(base, replies)}
        best = min(score.value for score in figures.values())
        figures["adapter"] = perplexity(adapter_nats(adapter, replies), tokens, adapter.folder.name)
        facts = {"system": "heldout", "seed": 0, "corpus": corpus, "n": len(replies), "tokens": sum(tokens)}
        for case, score in figures.items():
            rows.append({**facts, "case": case, "perplexity": score, "ratio": score.value / best})
            click.echo(f"{corpus}, {case}: {score.value:.2f}", err=True)
    return Found(rows)


def test_replies(corpus: str, most: int, adapter: EmotionModel) -> list[Exchange]:
    """Test rows with a context that fits into the adapter's limit, drawn with a fixed seed."""
    rows = [row for row in held_out(corpus) if row.split == "test" and row.context]
    drawn = random.Random(2).sample(rows, min(most, len(rows)))
    return [replace(row, context=newest(row.context, adapter)) for row in drawn]


def newest(context: Sequence[str], adapter: EmotionModel) -> tuple[str, ...]:
    """Return the newest utterances that fit into the adapter's limit with its marks; of the very last one maybe only its end.

    Raises:
        SettingsError: not a word fits.
    """
    kept: tuple[str, ...] = ()
    for text in reversed(context):
        if not fits((text, *kept), adapter):
            break
        kept = (text, *kept)
    if kept:
        return kept
    spoken = context[-1].split()
    ends = (" ".join(spoken[at:]) for at in range(1, len(spoken)))
    for end in ends:
        if fits((end,), adapter):
            return (end,)
    raise SettingsError(f"{adapter.folder}: reads no context (context_tokens is {adapter.description.limits.context_tokens})")


def fits(context: Sequence[str], adapter: EmotionModel) -> bool:
    """Tell whether the adapter reads a context whole."""
    whole, nothing = (len(adapter.tokenizer.prefix(turns, sys.maxsize)) for turns in (context, ()))
    return whole - nothing <= adapter.description.limits.context_tokens


def base_nats(base: CausalModel, rows: Sequence[Exchange]) -> Iterator[tuple[str, Values]]:
    """Format by format, the negative log-likelihood of each reply and its end, [rows], in nats."""
    tokenizer = base.pretrained.tokenizer
    for name, encode in {"chat": chat_row, "lines": line_row, "speakers": speaker_row}.items():
        if name != "chat" or tokenizer.chat_template:
            yield name, reply_nats(base.pretrained, [encode(row, tokenizer) for row in rows])


Row = tuple[list[int], list[int]]
"""What stands before a reply, and the reply with its end, as ids of the base."""


def chat_row(row: Exchange, tokenizer: PreTrainedTokenizerBase) -> Row:
    """Return the chat format of the model, with its own system message; the newest utterance is the user's."""
    roles = ["user" if (len(row.context) - place) % 2 else "assistant" for place in range(len(row.context))]
    turns = [{"role": role, "content": text} for role, text in zip(roles, row.context, strict=True)]
    before = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    end: Any = tokenizer.eos_token_id
    return ids_of(before, tokenizer), [*ids_of(row.reply, tokenizer), int(end)]


def line_row(row: Exchange, tokenizer: PreTrainedTokenizerBase) -> Row:
    """Return an utterance a line; behind the model's begin token, where there is nothing else to begin with."""
    return begun("".join(f"{text}\n" for text in row.context), tokenizer), [*ids_of(row.reply, tokenizer), *line_end(tokenizer)]


def speaker_row(row: Exchange, tokenizer: PreTrainedTokenizerBase) -> Row:
    """Return an utterance a line, spoken by A and B in turn."""
    names = ["AB"[(len(row.context) - place) % 2] for place in range(len(row.context) + 1)]
    before = "".join(f"{name}: {text}\n" for name, text in zip(names, row.context, strict=False))
    return begun(f"{before}{names[-1]}:", tokenizer), [*ids_of(f" {row.reply}", tokenizer), *line_end(tokenizer)]


def ids_of(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return ids of a text, without marks that are not in it."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def begun(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return ids of a text, or the begin token where it has none: a model needs something to go on from."""
    begin: Any = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return ids_of(text, tokenizer) or [int(begin)]


def line_end(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return a line break, or the end token where the tokenizer has none."""
    end: Any = tokenizer.eos_token_id
    return ids_of("\n", tokenizer) or [int(end)]


@torch.inference_mode()
def reply_nats(base: Pretrained, rows: Sequence[Row]) -> Values:
    """Return the negative log-likelihood of each reply given what stands before it, [rows], in nats."""
    nats = np.zeros(len(rows))
    for places in batched([len(before) + len(reply) for before, reply in rows]):
        starts = torch.tensor([[len(rows[place][0])] for place in places])
        lengths = starts + torch.tensor([[len(rows[place][1])] for place in places])
        tokens = nn.utils.rnn.pad_sequence([torch.tensor([*rows[p][0], *rows[p][1]]) for p in places], batch_first=True)
        times = torch.arange(tokens.shape[1])
        logits = base.model(input_ids=tokens, attention_mask=(times < lengths).long()).logits[:, :-1].float()
        each = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        inside = (times >= starts) & (times < lengths)
        nats[places] = (each.view(len(places), -1) * inside[:, 1:]).sum(1).double().numpy()
    return nats


@torch.inference_mode()
def adapter_nats(adapter: EmotionModel, rows: Sequence[Exchange]) -> Values:
    """Return the same under a checkpoint, asked for no emotion: of each reply and its end token."""
    most, tokenizer, generator = adapter.description.limits.context_tokens, adapter.tokenizer, adapter.generator
    before = [tokenizer.prefix(row.context, most) for row in rows]
    whole = [[*prefix, *tokenizer.encode(row.reply), EOS] for prefix, row in zip(before, rows, strict=True)]
    nats = np.zeros(len(rows))
    for places in batched(list(map(len, whole))):
        drawn_up = [torch.tensor(whole[place]) for place in places]
        tokens = nn.utils.rnn.pad_sequence(drawn_up, batch_first=True, padding_value=PAD)
        starts = torch.tensor([len(before[place]) for place in places])
        emotion = torch.tensor([no_emotion(adapter.labels).condition] * len(places))
        each, _ = reply_nll(generator, tokens, starts, with_no_latent(generator, emotion))
        nats[places] = each.sum(1).double().numpy()
    return nats


def batched(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield places of rows of similar length together."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for at in range(0, len(order), ROWS_AT_ONCE):
        yield order[at : at + ROWS_AT_ONCE]


# ---- speed

Timed = Callable[[int], float]
"""Writes a batch from a seed, and gives its tokens a second."""


def speed_part(plan: Plan) -> Found:
    """Return how long a user waits, and tokens a second beside `transformers.generate`."""
    return Found([*waits(plan), *rates(plan)])


def waits(plan: Plan) -> Iterator[Mapping[str, object]]:
    """Whole processes: until the adapter is loaded, and until there is a line."""
    cases = {
        "ready": ("-c", READY, str(plan.adapter)),
        "first line": ("-m", "emogen", "sample", "--checkpoint", str(plan.adapter), "--emotion", "joy", "--seed", "1"),
    }
    for case, arguments in cases.items():
        times = [to_first_line(arguments) for _ in range(plan.runs + 1)][1:]
        yield report_row({"system": "speed", "case": case, "seed": 1, "runs": plan.runs, "seconds": statistics.median(times)})


def rates(plan: Plan) -> Iterator[Mapping[str, object]]:
    """Yield batches of the adapter and of the base, with a fixed number of tokens and as they end.

    The base writes in float32, and in bfloat16 where the processor is faster in it.
    """
    adapter = emogen.load(plan.adapter)
    bases = {"float32": causal(plan.base)}
    if probe_bfloat16(torch.device("cpu")).is_faster:
        bases["bfloat16"] = causal(plan.base, "bfloat16")
    each = max(2, math.ceil(plan.batch / len(EKMAN)))
    target = asks("test", each, load_recognizer(plan.guide))[: plan.batch]
    for way, fixed in ((f"{plan.fixed} tokens each", plan.fixed), ("as they end", 0)):
        contenders = {f"adapter, {way}": own_speed(adapter, target, plan, fixed)}
        for precision, base in bases.items():
            contenders[f"generate in {precision}, {way}"] = base_speed(base.pretrained, target, plan, fixed)
        yield from raced(contenders, plan)


def report_row(row: Mapping[str, object]) -> Mapping[str, object]:
    """Return the row, shown to whoever waits."""
    click.echo(row, err=True)
    return row


def to_first_line(arguments: Sequence[str]) -> float:
    """Return seconds from the start of a Python process to its first line; raise EmogenError where it fails."""
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.perf_counter() - began
        process.stdout.read()
    if process.returncode:
        raise EmogenError(f"python {' '.join(arguments)} ended with {process.returncode}; run it to see why")
    return seconds


def raced(contenders: Mapping[str, Timed], plan: Plan) -> Iterator[Mapping[str, object]]:
    """Yield each in turn, run after run; the first run is not counted. `ratio` is to the fastest of the others in the same run."""
    runs = [{name: timed(seed) for name, timed in contenders.items()} for seed in range(plan.runs + 1)][1:]
    for name in contenders:
        ratio = statistics.median(run[name] / max(rate for other, rate in run.items() if other != name) for run in runs)
        facts = {"system": "speed", "case": name, "seed": 0, "batch": plan.batch, "runs": plan.runs}
        yield report_row({**facts, "tokens_per_second": statistics.median(run[name] for run in runs), "ratio": ratio})


def own_speed(model: EmotionModel, target: Sequence[Ask], plan: Plan, fixed: int) -> Timed:
    """Return the token loop of a checkpoint with an emotion for each row; with `fixed` tokens each, else up to the plan's limit."""
    limits, generator = model.description.limits, model.generator
    read = [model.tokenizer.prefix([ask.context] if ask.context else [], limits.context_tokens) for ask in target]
    emotions = torch.tensor([model.emotion(ask.emotion).condition for ask in target])
    padded = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in read], batch_first=True, padding_value=PAD)
    lengths = torch.tensor([len(row) for row in read])
    sampling = replace(plan.sampling, max_tokens=fixed or plan.max_tokens)

    def timed(seed: int) -> float:
        began = time.perf_counter()
        sampler = build_sampler(sampling, row_uniforms([fold_in(seed, row) for row in range(len(read))], sampling.max_tokens))
        prefixes = PromptBatch(padded, lengths, with_no_latent(generator, emotions))
        found = generate(generator, prefixes, sampling.max_tokens, EndlessSampler(sampler) if fixed else sampler)
        return int((found.tokens != PAD).sum() - lengths.sum()) / (time.perf_counter() - began)

    return timed


class EndlessSampler(LogitsSampler):
    """Chooses as another sampler does, but never the end token."""

    def __init__(self, sampler: LogitsSampler) -> None:
        self.sampler = sampler

    def choose(self, logits: Tensor, rows: Tensor, number: int) -> Tensor:
        """See `LogitsSampler.choose`."""
        return self.sampler.choose(logits.index_fill(1, torch.tensor([EOS]), -math.inf), rows, number)


def base_speed(base: Pretrained, target: Sequence[Ask], plan: Plan, fixed: int) -> Timed:
    """Return `transformers.generate` behind the bare contexts, which end where the base ends them unless tokens are `fixed`."""
    read = [begun(ask.context, base.tokenizer) for ask in target]
    end = end_ids(base.tokenizer)[0]
    options = drawn(plan) | {"max_new_tokens": fixed or plan.max_tokens, "min_new_tokens": fixed}

    def timed(seed: int) -> float:
        began = time.perf_counter()
        found = continued(base, read, seed, [end], options)
        seconds = time.perf_counter() - began
        return sum(row.index(end) + 1 if end in row else len(row) for row in found.tolist()) / seconds

    return timed


if __name__ == "__main__":
    run(main, "backbone.py")
