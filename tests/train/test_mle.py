"""Maximum likelihood: it learns, starts where it should, and its held-out figures are what a plain loop gives."""

import copy
import math

import pytest
import torch
from torch import nn

from emogen.data.batches import Batch
from emogen.decoding.loop import PromptBatch, generate
from emogen.decoding.params import SamplingParams
from emogen.decoding.sampler import build_sampler
from emogen.errors import TrainingError
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.likelihood import reply_nll
from emogen.text.tokenizer import BOS, EOS, PAD, TURN
from emogen.train.config import MleConfig
from emogen.train.loops.mle import drop_emotion, held_out_nll, train_mle, with_no_latent
from emogen.train.run.state import TrainState, adamw

BACKBONES = pytest.mark.parametrize("backbone", ["lstm", "transformer"])
VOCABULARY, EMOTIONS = 40, 2


def generator(backbone="lstm", vocabulary=VOCABULARY, width=32, latent=0, dropout=0.0):
    return Generator(
        GeneratorConfig(vocabulary, EMOTIONS, backbone, width=width, layers=1, heads=4, latent=latent, dropout=dropout)
    ).eval()


def four_examples():
    """Two contexts, each with a reply in either emotion."""
    rows = [
        [10, TURN, BOS, 20, 21, 22, EOS],
        [10, TURN, BOS, 23, 21, EOS, PAD],
        [11, 12, TURN, BOS, 24, 20, EOS],
        [11, 12, TURN, BOS, 25, EOS, PAD],
    ]
    emotion = torch.eye(3)[torch.tensor([0, 1, 0, 1])]
    return Batch(torch.tensor(rows), torch.tensor([3, 3, 4, 4]), emotion)


def train(model, examples, config, steps):
    state = TrainState({"generator": model}, {"generator": adamw(model)}, torch.Generator())
    return [step.figures for step in train_mle(model, [examples] * steps, config, state)]


@BACKBONES
def test_four_examples_are_learnt_by_heart(backbone):
    """Greedy decoding returns them: context and emotion both decide."""
    model, examples = generator(backbone), four_examples()
    figures = train(model, examples, MleConfig(learning_rate=1e-2, emotion_dropout=0.0, precision="float32"), 150)
    assert figures[-1]["nll"] < 0.05 < figures[0]["nll"]
    positions = torch.arange(7)
    prefix = examples.tokens.masked_fill(positions >= examples.reply_start[:, None], PAD)[:, :4]
    given = PromptBatch(prefix, examples.reply_start, examples.emotion)
    model.eval()
    found = generate(model, given, 6, build_sampler(SamplingParams(temperature=0), torch.zeros(4, 6)))
    assert found.tokens.tolist() == examples.tokens.tolist()


@BACKBONES
def test_the_first_loss_is_near_log_vocabulary(backbone):
    """Random texts over 996 words: a fresh model is within a nat of the even guess."""
    model = generator(backbone, vocabulary=1000, width=64)
    tokens = torch.randint(5, 1000, (16, 12))
    tokens[:, 0], tokens[:, -1] = BOS, EOS
    batch = Batch(tokens, torch.ones(16, dtype=torch.long), torch.eye(3)[torch.zeros(16, dtype=torch.long)])
    first = train(model, batch, MleConfig(precision="float32"), 1)[0]
    assert abs(first["nll"] - math.log(996)) < 1
    assert first["tokens"] == 16 * 11


@BACKBONES
@torch.no_grad()
def test_held_out_figures_equal_a_plain_loop(backbone):
    """Row by row, token by token, over batches of three rows and one."""
    model, examples = generator(backbone, dropout=0.5).train(), four_examples()
    parts = [Batch(examples.tokens[p], examples.reply_start[p], examples.emotion[p]) for p in (slice(0, 3), slice(3, 4))]
    found = held_out_nll(model, parts)
    nats, tokens = 0.0, 0
    for row, start, emotion in zip(examples.tokens, examples.reply_start.tolist(), examples.emotion, strict=True):
        for place in range(start, int((row != PAD).sum())):
            scores = model.logits(model(row[None, :place], emotion[None]))[0, -1]
            nats -= float(scores.double().log_softmax(0)[row[place]])
            tokens += 1
    assert tokens == 12
    assert found["nll"] == pytest.approx(nats / tokens, rel=1e-5)
    assert found["nll_reply"] == pytest.approx(nats / 4, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)


@torch.no_grad()
def test_only_reply_tokens_count():
    """Other context tokens and padding bear no loss of their own; the mask says which do."""
    model, examples = generator(), four_examples()
    nll, mask = reply_nll(model, examples.tokens, examples.reply_start, examples.emotion)
    assert mask.sum(1).tolist() == [4, 3, 3, 2]
    assert (nll[~mask] == 0).all()
    assert (nll[mask] > 0).all()
    wider = nn.functional.pad(examples.tokens, (0, 2), value=PAD)
    again, _ = reply_nll(model, wider, examples.reply_start, examples.emotion)
    torch.testing.assert_close(again[:, :6], nll)


def test_share_of_dropped_emotions():
    """Of 20,000 rows a tenth asks for nothing, within 4 deviations; the others are untouched; a share of 0 drops none."""
    emotion = torch.tensor([[0.6, 0.4, 0.0]]).expand(20_000, -1)
    batch = Batch(torch.full((20_000, 2), BOS), torch.ones(20_000, dtype=torch.long), emotion)
    found = drop_emotion(batch, 0.1, torch.Generator().manual_seed(0)).emotion
    dropped = (found == torch.tensor([0.0, 0.0, 1.0])).all(1)
    assert abs(int(dropped.sum()) - 2000) < 4 * math.sqrt(20_000 * 0.1 * 0.9)
    assert torch.equal(found[~dropped], emotion[~dropped])
    assert torch.equal(drop_emotion(batch, 0.0, torch.Generator()).emotion, emotion)


def test_the_latent_is_the_priors_mean():
    """Zeros behind the emotion, as many as the generator has latent dimensions."""
    emotion = torch.eye(3)
    assert torch.equal(with_no_latent(generator(latent=2), emotion), torch.cat([emotion, torch.zeros(3, 2)], 1))
    assert torch.equal(with_no_latent(generator(), emotion), emotion)


def test_a_loss_that_is_no_number_changes_nothing():
    """The error is one line; the weights stay."""
    model = generator()
    model.bias.data[20] = math.nan
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TrainingError, match=r"^step 1: loss nan .* lower the learning rate$"):
        train(model, four_examples(), MleConfig(precision="float32"), 1)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], equal_nan=True, atol=0, rtol=0)


@BACKBONES
def test_half_precision_learns_too(backbone, bfloat16):
    """bfloat16 products, float32 weights and losses."""
    model = generator(backbone)
    with bfloat16:
        figures = train(model, four_examples(), MleConfig(learning_rate=1e-2, emotion_dropout=0.0, precision="bf16"), 60)
        assert figures[-1]["nll"] < 0.5 * figures[0]["nll"]
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())


def test_replies_become_as_long_as_those_of_the_data():
    """Half of the rows end after one word and half after nine, in batches of their own: the first word ends half of them."""
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(7, 1, "lstm", width=16, layers=1, heads=2, dropout=0.0))
    state = TrainState({}, {"generator": adamw(generator)}, torch.Generator().manual_seed(0))
    batches = [
        Batch(torch.tensor([[BOS, *[5] * words, EOS]] * 8), torch.ones(8, dtype=torch.long), torch.tensor([[1.0, 0.0]] * 8))
        for words in (1, 9)
    ]
    config = MleConfig(learning_rate=1e-2, emotion_dropout=0.0, precision="float32", weight_decay=0.0)
    list(train_mle(generator, batches * 150, config, state))
    generator.eval()
    with torch.no_grad():
        after_a_word = generator.logits(generator(torch.tensor([[BOS, 5]]), torch.tensor([[1.0, 0.0]]))[:, 1]).softmax(-1)
    assert float(after_a_word[0, EOS]) == pytest.approx(0.5, abs=0.07)
