"""The continuously filled batch: every reply is what it is alone, whenever it joins and whatever leaves beside it."""

import random
from dataclasses import replace

import pytest
import torch

from emogen.decoding import continuous
from emogen.decoding.continuous import ContinuousBatch
from emogen.decoding.control import Control
from emogen.decoding.params import SamplingParams
from emogen.decoding.texts import Prompt, TextGenerator, sample, stream
from emogen.emotions.labels import EKMAN, LabelSet, mixture, no_emotion
from emogen.errors import SettingsError
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.head import head_of
from emogen.models.pretrained_backbone import AdapterConfig, load_base
from emogen.pretrained.bases import Base
from emogen.text.tokenizer import BOS, EOS, SPECIAL, TURN, train_tokenizer

TOKENIZER = train_tokenizer(["so happy today", "the dog ran home", "we lost it"] * 20)
BACKBONES = pytest.mark.parametrize("backbone", ["lstm", "transformer", "pretrained"])
OWN = pytest.mark.parametrize("backbone", ["lstm", "transformer"])

CONTROLS = [
    Control(),
    Control(guidance=2.5),
    Control(expert=1.5),
    Control(bayes=1.5),
    Control(head=2.0),
    Control(2.0, 0.5, 0.5, 1.0),
    Control(guidance=4.0, head=0.5),
]
FILTERS = [
    SamplingParams(),
    SamplingParams(temperature=0),
    SamplingParams(temperature=0.8, top_p=0.9),
    SamplingParams(temperature=1.2, top_k=20),
    SamplingParams(min_p=0.05),
    SamplingParams(top_p=0.3),
]


@pytest.fixture(scope="module")
def written_by(tiny_base):
    """A writer for each backbone: one that heeds emotion and tokens, has a head, and ends its texts early and late."""
    made = {}

    def build(backbone):
        if backbone not in made:
            torch.manual_seed(1)
            made[backbone] = on_base(tiny_base) if backbone == "pretrained" else from_scratch(backbone)
        return made[backbone]

    return build


def from_scratch(backbone):
    config = GeneratorConfig(TOKENIZER.vocabulary, 7, backbone, width=16, layers=2, latent=2, dropout=0.5)
    model = Generator(config)
    # With vectors of its own for what it writes: else a fresh model repeats what it has read.
    model.output = torch.nn.Embedding(config.vocabulary, config.width)
    for vectors, deviation in ((model.inject, 0.5), (model.embedding, 1.0), (model.output, 0.7)):
        torch.nn.init.normal_(vectors.weight, std=deviation)
    return finished(model, TOKENIZER, 8.0)


def on_base(folder):
    base = load_base(Base("tiny", folder, "one", "MIT"), torch.device("cpu"), full_precision=True)
    sizes = GeneratorConfig(base.tokenizer.vocabulary, 7, "pretrained", 16, 2, 4, adapter=AdapterConfig("tiny", "one", 3, 4, 8))
    model = Generator(sizes, base)
    torch.nn.init.normal_(model.inject.weight, std=0.5)
    model.output = torch.nn.Embedding(sizes.vocabulary, sizes.width)
    torch.nn.init.normal_(model.output.weight, std=0.7)
    return finished(model, base.tokenizer, 4.0)


def finished(model, tokenizer, end):
    with torch.no_grad():
        model.bias[EOS] = end
    head = head_of(model, 3)
    torch.nn.init.normal_(head.up, std=0.5)
    torch.nn.init.normal_(head.bias)
    return TextGenerator(model.eval().requires_grad_(False), tokenizer, head.eval().requires_grad_(False), name="here")


def target(rows, most=14):
    """Prompts and options that differ in all that may differ."""
    prefixes = [(BOS,), (270, 271, TURN, BOS), (265, TURN, BOS), (262,) * 33 + (TURN, BOS)]
    found = []
    for row in range(rows):
        one, other = EKMAN.names[row % 7], EKMAN.names[(row * 3 + 1) % 7]
        share = 1.0 if one == other or row % 3 == 0 else 0.3 + row / 200
        emotion = mixture({one: 1.0} if share == 1.0 else {one: share, other: 1 - share}, EKMAN, 1 - (row % 5) / 8)
        conditioning = mixture({other: 1.0}, EKMAN) if row % 11 == 5 else None
        control = CONTROLS[row % len(CONTROLS)]
        by_prompt = row % 2 == 0
        prompt = Prompt(
            prefixes[row % 4], emotion, conditioning, control if by_prompt else None, 1000 + row if row % 5 else None
        )
        options = replace(FILTERS[row % len(FILTERS)], max_tokens=1 + row % most, seed=row)
        found.append((prompt, options if by_prompt else replace(options, control=control)))
    return found


def alone(writer, prompt, options):
    """Text as `sample` has it, tokens, by what it ended, and the pieces of `stream`."""
    (one,) = sample(writer, [prompt], options)
    pieces = [piece for _, piece in stream(writer, [prompt], options)]
    assert "".join(pieces).strip() == one.text
    return one.tokens, "end" if one.finished else "limit", pieces


@pytest.fixture(scope="module")
def expected_of(written_by):
    """The 64 replies of a backbone, each alone."""
    made = {}

    def build(backbone):
        if backbone not in made:
            made[backbone] = [alone(written_by(backbone), *row) for row in target(64)]
        return made[backbone]

    return build


def drained(batch, found=None):
    """Tokens, end and pieces by number; each reply has a piece a step, and none behind its end."""
    found = {} if found is None else found
    while not batch.is_idle:
        gather(batch.step(), found)
    return found


def gather(pieces, found):
    for piece in pieces:
        tokens, ended, texts = found.setdefault(piece.number, (0, None, []))
        assert ended is None
        assert piece.tokens == tokens + 1
        found[piece.number] = (piece.tokens, piece.ended, [*texts, *([piece.text] if piece.text else [])])


# ---- rows are what they are alone


@BACKBONES
def test_64_replies_joined_at_once_are_what_they_are_alone(backbone, written_by, expected_of):
    writer, rows = written_by(backbone), target(64)
    batch = ContinuousBatch(writer, max_batch_size=64)
    numbers = [batch.join(*row) for row in rows]
    assert (batch.running, batch.waiting) == (0, 64)
    found = drained(batch)
    assert [found[number] for number in numbers] == expected_of(backbone)
    assert {ended for _, ended, _ in found.values()} == {"end", "limit"}
    assert len({"".join(pieces) for _, _, pieces in found.values()}) > 30
    assert len({tokens for tokens, _, _ in found.values()}) > 5


@BACKBONES
@pytest.mark.parametrize("seed", [0, 1])
def test_staggered_shuffled_and_cancelled(backbone, seed, written_by, expected_of, monkeypatch):
    """Some join at each step, some wait, some are cancelled while they wait or run: the others do not notice."""
    monkeypatch.setattr(continuous, "_MORE_ROWS", 1 + 4 * seed)
    monkeypatch.setattr(continuous, "_MORE_PLACES", 1 + 8 * seed)
    writer, rows, chance = written_by(backbone), target(64), random.Random(seed)
    left, joined, cancelled, found, largest = list(range(64)), {}, set(), {}, 0
    chance.shuffle(left)
    batch = ContinuousBatch(writer, max_batch_size=10)
    while left or not batch.is_idle:
        for _ in range(min(len(left), chance.randrange(12))):
            row = left.pop()
            joined[batch.join(*rows[row])] = row
        going = [number for number in joined if number not in cancelled and (number not in found or not found[number][1])]
        for number in chance.sample(going, min(len(going), chance.randrange(2))):
            batch.cancel(number)
            cancelled.add(number)
        pieces = batch.step()
        assert not cancelled & {piece.number for piece in pieces}
        assert [piece.number for piece in pieces] == sorted(piece.number for piece in pieces)
        gather(pieces, found)
        largest = max(largest, len(pieces))
    assert largest == 10
    assert len(joined) == 64
    assert 5 < len(cancelled) < 40
    for number, row in joined.items():
        expected = expected_of(backbone)[row]
        if number not in cancelled:
            assert found[number] == expected
        elif number in found:
            tokens, ended, pieces = found[number]
            assert ended is None
            assert tokens < expected[0]
            assert pieces == expected[2][: len(pieces)]


@OWN
@pytest.mark.parametrize("reverse", [False, True])
def test_controllers_join_one_after_another(backbone, reverse, written_by):
    """Each beside rows that have none of it yet, or that have all others."""
    writer, prompt = written_by(backbone), Prompt((BOS,), mixture({"joy": 0.6, "fear": 0.4}, EKMAN), seed=7)
    rows = [(prompt, SamplingParams(max_tokens=12, control=control)) for control in CONTROLS[:: -1 if reverse else 1]]
    batch, numbers, found = ContinuousBatch(writer), [], {}
    for row in rows:
        numbers.append(batch.join(*row))
        gather(batch.step(), found)
    drained(batch, found)
    assert [found[number] for number in numbers] == [alone(writer, *row) for row in rows]


@OWN
def test_labels_leave_the_batch_before_their_rows(backbone, written_by, monkeypatch):
    """What is decoded shrinks while all replies go on, and grows with those that join; each is what it is alone."""
    writer, sizes = written_by(backbone), []
    model = writer.generator
    end, model.bias[EOS] = float(model.bias[EOS]), -50.0
    emotions = [mixture({"joy": 1.0}, EKMAN), mixture({"joy": 0.6, "fear": 0.4}, EKMAN), mixture({"anger": 1.0}, EKMAN, 0.5)]
    rows = [
        (Prompt((BOS,), emotions[row % 3], seed=row), SamplingParams(max_tokens=30, control=Control(bayes=2.0)))
        for row in range(9)
    ]
    try:
        expected = [alone(writer, *row) for row in rows]
        with monkeypatch.context() as patch:
            patch.setattr(model, "step", lambda *given: sizes.append(len(given[0])) or Generator.step(model, *given))
            batch, found = ContinuousBatch(writer), {}
            numbers = [batch.join(*row) for row in rows[:6]]
            for _ in range(20):
                gather(batch.step(), found)
            assert batch.running == 6
            numbers += [batch.join(*row) for row in rows[6:]]
            drained(batch, found)
    finally:
        model.bias[EOS] = end
    assert [found[number] for number in numbers] == expected
    assert sizes[0] <= 2 * (7 + 8 + 8)
    assert sizes[18] < 0.7 * sizes[0]
    assert sizes[20] > sizes[19]
    # A mixture's labels and its row to the end, of the others at least the row.
    assert min(sizes[:19]) >= 2 * (1 + 3 + 1)


@OWN
def test_long_rows_beside_short_ones(backbone, written_by):
    """A row that outgrows the room of the others, and one that joins once it has."""
    writer = written_by(backbone)
    model = writer.generator
    end, model.bias[EOS] = float(model.bias[EOS]), -50.0
    long = (Prompt((BOS,), mixture({"joy": 1.0}, EKMAN), seed=1), SamplingParams(max_tokens=90, control=Control(guidance=2.0)))
    short = (Prompt((270,) * 50 + (TURN, BOS), no_emotion(EKMAN), seed=2), SamplingParams(max_tokens=9))
    try:
        batch, found = ContinuousBatch(writer), {}
        first, second = batch.join(*long), batch.join(*short)
        for _ in range(70):
            gather(batch.step(), found)
        third = batch.join(*short)
        drained(batch, found)
        expected = [alone(writer, *row) for row in (long, short, short)]
    finally:
        model.bias[EOS] = end
    assert [found[number] for number in (first, second, third)] == expected
    assert found[first][:2] == (90, "limit")


def test_the_prior_and_the_mode_of_the_generator(written_by):
    """Latents are the reply's own; a generator in training mode writes the same."""
    writer = written_by("lstm")
    prompt, options = Prompt((BOS,), mixture({"joy": 1.0}, EKMAN), seed=3), SamplingParams(max_tokens=12)
    expected = alone(writer, prompt, options)
    writer.generator.train()
    batch = ContinuousBatch(writer)
    number = batch.join(prompt, options)
    assert drained(batch)[number] == expected


# ---- who is in the batch


def test_room_is_given_in_order_and_freed_at_once(written_by):
    """No more than the most are written; the next begins at the step behind an end, whatever the others do."""
    batch = ContinuousBatch(written_by("lstm"), max_batch_size=2)
    lengths = [1, 3, 2, 1]
    prompt = Prompt((BOS,), no_emotion(EKMAN), seed=1)
    model = written_by("lstm").generator
    end, model.bias[EOS] = float(model.bias[EOS]), -50.0
    try:
        numbers = [batch.join(prompt, SamplingParams(max_tokens=most)) for most in lengths]
        steps = []
        while not batch.is_idle:
            steps.append([piece.number for piece in batch.step()])
    finally:
        model.bias[EOS] = end
    one, two, three, four = numbers
    assert steps == [[one, two], [two, three], [two, three], [four]]
    assert (batch.running, batch.waiting) == (0, 0)


def test_an_idle_batch_writes_nothing_and_starts_again(written_by):
    batch = ContinuousBatch(written_by("lstm"))
    assert batch.is_idle
    assert batch.step() == []
    prompt, options = target(3)[1]
    first = batch.join(prompt, options)
    assert not batch.is_idle
    found = drained(batch)
    assert batch.step() == []
    second = batch.join(prompt, options)
    assert second != first
    assert drained(batch)[second] == found[first]


def test_cancelling_what_waits_runs_or_has_ended(written_by):
    batch = ContinuousBatch(written_by("transformer"), max_batch_size=1)
    running_one, waiting_one = (batch.join(*row) for row in (target(14)[13], target(14)[12]))
    batch.cancel(waiting_one)
    assert batch.waiting == 1
    batch.step()
    batch.cancel(running_one)
    assert batch.is_idle
    for number in (running_one, waiting_one, 99):
        batch.cancel(number)
    assert batch.step() == []


# ---- what is refused


def refused(writer, prompt=None, **options):
    with pytest.raises(SettingsError) as found:
        ContinuousBatch(writer).join(prompt or Prompt((BOS,), no_emotion(EKMAN)), SamplingParams(**options))
    assert "\n" not in str(found.value)
    return str(found.value)


def test_what_cannot_be_written_is_refused_before_it_joins(written_by):
    writer = written_by("pretrained")
    assert refused(writer, n=3) == "n 3: a running batch writes one reply a prompt; join it once for each seed"
    assert refused(writer, control=Control(rerank=2)).startswith("control rerank: chooses among whole texts")
    long = refused(writer, max_tokens=93)
    assert long == "--max-tokens 93 behind 1 tokens of context: the model reads 93; lower it"
    headless = replace(writer, head=None)
    assert refused(headless, control=Control(head=1.0)).startswith("control head: here has no emotion head; ")
    with pytest.raises(SettingsError, match=r"^most rows 0: allowed is 1 or more$"):
        ContinuousBatch(writer, max_batch_size=0)


def test_a_prompt_for_another_model_is_refused(written_by):
    """It would end the replies beside it."""
    writer = written_by("lstm")
    words, none = TOKENIZER.vocabulary, no_emotion(EKMAN)
    assert refused(writer, Prompt((BOS, words), none)) == (
        f"token {words} at place 1 of a prompt: here has ids from 0 to {words - 1}"
    )
    assert refused(writer, Prompt((-1,), none)).startswith("token -1 at place 0 of a prompt: ")
    assert refused(writer, Prompt((), none)).startswith("a prompt without tokens; ")
    other = mixture({"joy": 1.0}, LabelSet(("joy", "fear")))
    assert refused(writer, Prompt((SPECIAL,), other)) == "emotion joy is over 2 labels, here has 7; take its own"


def test_a_refusal_leaves_the_batch_as_it_was(written_by):
    writer, rows = written_by("lstm"), target(8)
    batch = ContinuousBatch(writer)
    numbers = [batch.join(*row) for row in rows[:4]]
    found = {}
    gather(batch.step(), found)
    with pytest.raises(SettingsError):
        batch.join(Prompt((), no_emotion(EKMAN)), SamplingParams())
    numbers += [batch.join(*row) for row in rows[4:]]
    drained(batch, found)
    assert [found[number] for number in numbers] == [alone(writer, *row) for row in rows]


def test_callers_take_turns(written_by):
    """One who asks for much waits behind one who asks for little: the next row is of whom the fewest are written."""
    batch = ContinuousBatch(written_by("lstm"), max_batch_size=2)
    entered = [batch.prepare(*target(1)[0], caller) for caller in "aaaaab"]
    for one in entered:
        batch.enter(one)
    numbers = [one.number for one in entered]
    assert list(drained(batch)) == [numbers[0], numbers[5], *numbers[1:5]]
