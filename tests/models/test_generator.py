"""The generator: both backbones, the condition, decoding states, masks."""

import copy
import math
import shutil

import pytest
import torch
from torch import nn

from emogen.errors import SettingsError
from emogen.models.device import probe_bfloat16
from emogen.models.generator import Generator, GeneratorConfig, reply_mask
from emogen.text.tokenizer import BOS, EOS, PAD, TURN, UNKNOWN

VOCABULARY, EMOTIONS, LATENT = 30, 3, 2
BACKBONES = pytest.mark.parametrize("backbone", ["lstm", "transformer"])


def generator(backbone):
    return Generator(
        GeneratorConfig(VOCABULARY, EMOTIONS, backbone, width=16, layers=2, heads=4, latent=LATENT, dropout=0.3)
    ).eval()


def rows(batch=3, time=8):
    return torch.randint(5, VOCABULARY, (batch, time)), torch.randn(batch, EMOTIONS + 1 + LATENT)


def read(model, tokens, condition_shift, state, positions):
    """Step through `positions`; gives the scores after each, stacked, and the state before each."""
    scores, history = [], []
    for place in positions:
        history.append(state)
        found, state = model.step(tokens[:, place], torch.full((len(tokens),), place), condition_shift, state)
        scores.append(model.logits(found))
    return torch.stack(scores, 1), history


@torch.no_grad()
def test_lstm_backbone_equals_torch():
    """Residual layers of torch.nn.LSTM, fed with what came before plus the condition's share."""
    model = generator("lstm")
    tokens, condition = rows()
    condition_shift = model.condition_shift(condition)
    stream = model.embedding(tokens) + condition_shift[0][:, None]
    for layer, shift in zip(model.backbone.layers, condition_shift[1:], strict=True):
        reference = nn.LSTM(16, 16, batch_first=True)
        reference.load_state_dict(layer.state_dict())
        stream = stream + reference(stream + shift[:, None])[0]
    torch.testing.assert_close(model(tokens, condition), stream)


@torch.no_grad()
@BACKBONES
def test_steps_equal_the_whole(backbone):
    """Token by token as in one pass."""
    model = generator(backbone)
    tokens, condition = rows()
    condition_shift = model.condition_shift(condition)
    found, _ = read(model, tokens, condition_shift, model.init_cache(condition_shift, 10), range(8))
    torch.testing.assert_close(found, model.logits(model(tokens, condition)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_steps_equal_the_others():
    """For several numbers of rows."""
    model = generator("lstm")
    compiled = copy.deepcopy(model)
    compiled.compile_step()
    tokens, condition = rows()
    for count in (1, 2, len(tokens)):
        condition_shift = model.condition_shift(condition[:count])
        expected, found = (
            read(each, tokens[:count], condition_shift, model.init_cache(condition_shift, 10), range(8))[0]
            for each in (model, compiled)
        )
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@BACKBONES
def test_branches_go_on_by_themselves(backbone):
    """A copy of row r at time t continues as row r did, beside copies at other times, and leaves the original alone."""
    model = generator(backbone)
    tokens, condition = rows()
    condition_shift = model.condition_shift(condition)
    _, history = read(model, tokens, condition_shift, model.init_cache(condition_shift, 12), range(8))
    kept = [state.clone() for state in history]
    chosen, times = torch.tensor([2, 0, 2, 1]), torch.tensor([1, 5, 3, 0])
    state = model.backbone.fork_cache(history, chosen, times)
    other = torch.randint(5, VOCABULARY, (4, 4))
    for place in range(4):
        hidden, state = model.step(other[:, place], times + place, condition_shift[:, chosen], state)
    scores = model.logits(hidden)
    for row, (source, time) in enumerate(zip(chosen.tolist(), times.tolist(), strict=True)):
        whole = torch.cat([tokens[source, :time], other[row]])[None]
        expected = model.logits(model(whole, condition[source : source + 1]))[0, -1]
        torch.testing.assert_close(scores[row], expected, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(before, after) for before, after in zip(kept, history, strict=True))


@torch.no_grad()
@BACKBONES
def test_padding_behind_a_row_changes_nothing(backbone):
    """Neither does any other token there: a position sees only what came before."""
    model = generator(backbone)
    tokens, condition = rows()
    padded = torch.cat([tokens, torch.full((3, 4), PAD)], 1)
    found = model(padded, condition)[:, :8]
    torch.testing.assert_close(found, model(tokens, condition))


@torch.no_grad()
@BACKBONES
def test_forbidden_ids_are_out_of_reach(backbone):
    """A reply holds no padding, unknown, begin or turn mark; it may end."""
    model = generator(backbone)
    probabilities = model.logits(model(*rows())).softmax(-1)
    assert probabilities[..., [PAD, UNKNOWN, BOS, TURN]].max() < 1e-12
    assert probabilities[..., EOS].min() > 1e-12


@torch.no_grad()
@BACKBONES
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_condition_enters_in_front_and_at_every_layer(backbone, place):
    """Changing one place's share of `inject` alone changes the scores at every position."""
    model = generator(backbone)
    tokens, condition = rows()
    before = model.logits(model(tokens, condition))
    model.inject.weight[16 * place : 16 * (place + 1)] += 0.5
    after = model.logits(model(tokens, condition))
    assert ((after - before).abs().amax(-1) > 1e-4).all()


@torch.no_grad()
@BACKBONES
def test_each_part_of_the_condition_counts(backbone):
    """Every emotion, "no emotion" and each latent dimension."""
    model = generator(backbone)
    tokens, _ = rows(1)
    conditions = torch.eye(EMOTIONS + 1 + LATENT)
    found = model(tokens.expand(len(conditions), -1), conditions).flatten(1)
    assert torch.cdist(found, found).add(torch.eye(len(conditions))).min() > 1e-2


@torch.no_grad()
@BACKBONES
def test_rows_do_not_mix(backbone):
    """A row alone gives what it gives among others."""
    model = generator(backbone)
    tokens, condition = rows()
    torch.testing.assert_close(model(tokens, condition)[1:2], model(tokens[1:2], condition[1:2]))


@torch.no_grad()
@BACKBONES
def test_first_scores_are_nearly_even(backbone):
    """A fresh model of usual width is less than a nat worse than the even distribution over what may be written."""
    model = Generator(GeneratorConfig(2000, 7, backbone, width=128, layers=2, latent=8)).eval()
    tokens, condition = torch.randint(5, 2000, (8, 20)), torch.randn(8, 16)
    scores = model.logits(model(tokens[:, :-1], condition)).flatten(0, 1)
    loss = nn.functional.cross_entropy(scores, tokens[:, 1:].flatten())
    assert abs(float(loss) - math.log(1996)) < 1


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1,), (256,), (257,), (3, 200), (2, 3, 100)])
def test_logits_of_any_number_of_states(shape):
    """One product with the embedding and the bias, whatever the leading shape."""
    model, states = generator("lstm"), torch.randn(*shape, 16)
    model.bias.normal_()
    found = model.logits(states)[..., TURN + 1 :]
    torch.testing.assert_close(found, states @ model.embedding.weight[TURN + 1 :].T + model.bias[TURN + 1 :])


def test_no_dropout_in_eval_mode():
    """Two passes are equal, though the LSTM layers themselves stay in training mode for cuDNN."""
    for backbone in ("lstm", "transformer"):
        model, inputs = generator(backbone), rows()
        assert torch.equal(model(*inputs), model(*inputs))
        model.train()
        assert not torch.equal(model(*inputs), model(*inputs))
    assert all(layer.training for layer in generator("lstm").backbone.layers)


@torch.no_grad()
@BACKBONES
def test_half_precision_decodes(backbone):
    """Steps under bfloat16 autocast come near the whole in float32; some processors have no such LSTM, which PyTorch says."""
    model = generator(backbone)
    tokens, condition = rows()
    expected = model.logits(model(tokens, condition))
    if backbone == "lstm" and not probe_bfloat16(torch.device("cpu")).runs:
        with pytest.raises(RuntimeError, match="LSTM"), torch.autocast("cpu", torch.bfloat16):
            model(tokens, condition)
        return
    with torch.autocast("cpu", torch.bfloat16):
        condition_shift = model.condition_shift(condition)
        found, history = read(model, tokens, condition_shift, model.init_cache(condition_shift, 8), range(8))
        whole = model.logits(model(tokens, condition))
        branched = model.backbone.fork_cache(history, torch.tensor([1]), torch.tensor([7]))
        again = model.logits(model.step(tokens[1:2, 7], torch.tensor([7]), condition_shift[:, 1:2], branched)[0])
    allowed = slice(TURN + 1, None)
    torch.testing.assert_close(found.float()[..., allowed], expected[..., allowed], atol=0.1, rtol=0)
    torch.testing.assert_close(whole.float()[..., allowed], expected[..., allowed], atol=0.1, rtol=0)
    torch.testing.assert_close(again.float()[0, allowed], expected[1, 7, allowed], atol=0.1, rtol=0)


def test_reply_mask_by_hand():
    """The end token counts; context, BOS, padding and what stands behind the end do not."""
    tokens = torch.tensor([[7, TURN, BOS, 8, 9, EOS], [BOS, 8, EOS, PAD, PAD, PAD], [BOS, 8, EOS, 9, EOS, 9]])
    start = torch.tensor([3, 1, 1])
    assert reply_mask(tokens, start).int().tolist() == [[0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0]]
    assert reply_mask(tokens, start).sum(1).tolist() == [3, 2, 2]


def test_impossible_settings():
    """An unknown backbone, and heads that do not divide the width or leave an odd one."""
    for options in ({"backbone": "gru"}, {"backbone": "transformer", "width": 30}, {"backbone": "transformer", "width": 12}):
        with pytest.raises(SettingsError):
            GeneratorConfig(VOCABULARY, EMOTIONS, **options)
