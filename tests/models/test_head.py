"""The emotion head: its form, what it adds to the scores, how it learns beside a generator that stays, and its file."""

import copy
import math
import shutil

import numpy as np
import pytest
import torch

from emogen.checkpoint.folder import read_head, save_head
from emogen.checkpoint.model import load
from emogen.data.batches import Batch
from emogen.data.exchange import Reading
from emogen.data.fingerprints import read_fingerprints
from emogen.errors import CheckpointError, SettingsError, TrainingError
from emogen.models.generator import Generator, GeneratorConfig, reply_mask
from emogen.models.head import EmotionHead, head_of, output_vectors
from emogen.text.tokenizer import BOS, EOS, PAD, TURN
from emogen.train.config import HeadConfig, HeadSettings
from emogen.train.fit_head import fit_head
from emogen.train.loops.head import head_nll, held_out_head_nll, train_head
from emogen.train.run.state import TrainState, adamw

BACKBONES = pytest.mark.parametrize("backbone", ["lstm", "transformer"])
VOCABULARY, EMOTIONS, WIDTH, RANK = 40, 3, 16, 4
SMALL = {"steps": 4, "batch_size": 8, "rank": 3, "device": "cpu", "precision": "float32"}


def generator(backbone="lstm", latent=0):
    torch.manual_seed(1)
    config = GeneratorConfig(VOCABULARY, EMOTIONS, backbone, width=WIDTH, layers=1, heads=4, latent=latent, dropout=0.3)
    return Generator(config).eval().requires_grad_(False)


def random_head(emotions=EMOTIONS, vocabulary=VOCABULARY, rank=RANK, width=WIDTH):
    head = EmotionHead(width, emotions, vocabulary, rank)
    torch.nn.init.normal_(head.up)
    torch.nn.init.normal_(head.bias)
    return head.requires_grad_(False)


def toy_batch(seed):
    """Sixteen rows whose words tell the emotion: 20 to 24 the first, 25 to 29 the second, 30 to 34 the third."""
    random = torch.Generator().manual_seed(seed)
    emotion = torch.randint(3, (16,), generator=random)
    words = 20 + 5 * emotion[:, None] + torch.randint(5, (16, 4), generator=random)
    front, end = torch.tensor([10, TURN, BOS]).expand(16, -1), torch.full((16, 1), EOS)
    return Batch(torch.cat([front, words, end], 1), torch.full((16,), 3), torch.eye(4)[emotion])


# ---- the form


def test_scores_are_a_bilinear_form_and_a_bias():
    """(U_e D state) . vector + b_e(token), written out."""
    head, states, vectors, tokens = random_head(), torch.randn(5, WIDTH), torch.randn(5, WIDTH), torch.tensor([3, 0, 9, 39, 3])
    found = head(states, vectors, tokens)
    for place in range(5):
        for emotion in range(EMOTIONS):
            read = head.up[emotion] @ (head.down.weight @ states[place])
            expected = float(read @ vectors[place] + head.bias[emotion, tokens[place]])
            assert float(found[place, emotion]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_fresh_head_knows_nothing():
    head = EmotionHead(WIDTH, EMOTIONS, VOCABULARY)
    assert not head(torch.randn(2, WIDTH), torch.randn(2, WIDTH), torch.tensor([1, 2])).any()
    states, scores = torch.randn(2, WIDTH), torch.randn(2, VOCABULARY)
    assert torch.equal(head.steer_hidden(states, torch.randn(2, EMOTIONS)), states)
    assert torch.equal(head.add_biases(scores.clone(), torch.randn(2, EMOTIONS)), scores)


@BACKBONES
@pytest.mark.parametrize("mixture", [(0.0, 1.0, 0.0), (0.5, 0.2, 0.3)])
@torch.no_grad()
def test_steering_adds_the_centred_log_ratio_of_the_softmax(backbone, mixture):
    """For every token: weight x (mean log probability by the mixture, less that over all emotions); without a softmax."""
    model, head, weight, shares = generator(backbone), random_head(), 1.7, torch.tensor(mixture)
    states = model(torch.tensor([[10, TURN, BOS, 20]]), torch.eye(4)[:1])[0]
    weights = (weight * (shares - 1 / EMOTIONS)).expand(len(states), -1)
    found = head.add_biases(model.logits(head.steer_hidden(states, weights)), weights) - model.logits(states)
    for token in range(VOCABULARY):
        ids = torch.full((len(states),), token)
        conditioning = head(states, output_vectors(model, ids), ids).log_softmax(-1)
        expected = weight * (conditioning @ shares - conditioning.mean(-1))
        torch.testing.assert_close(found[:, token], expected, atol=2e-3, rtol=1e-4)


def test_output_vectors_are_those_of_the_scores():
    """The embedding, or the vectors of their own where the model has them."""
    model, ids = generator(), torch.tensor([7, 9])
    assert torch.equal(output_vectors(model, ids), model.embedding.weight[ids])
    model.output = torch.nn.Embedding(VOCABULARY, WIDTH)
    assert torch.equal(output_vectors(model, ids), model.output.weight[ids])


# ---- training


def test_nll_is_the_cross_entropy_of_each_place():
    """Of an even mixture the mean of both; a row without emotion counts for nothing."""
    model, head = generator(), random_head()
    tokens = torch.tensor([[10, TURN, BOS, 20, 21, EOS], [BOS, 25, EOS, PAD, PAD, PAD], [BOS, 26, EOS, PAD, PAD, PAD]])
    emotion = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 1.0]])
    conditioning = torch.eye(4)[[2, 3, 0]]
    nll, positions = head_nll(model, head, Batch(tokens, torch.tensor([3, 1, 1]), emotion), conditioning)
    expected = 0.0
    for row, start, end in ((0, 3, 6), (1, 1, 3)):
        states = model(tokens[row : row + 1], conditioning[row : row + 1])[0]
        for place in range(start, end):
            token = tokens[row, place : place + 1]
            scores = head(states[place - 1 : place], output_vectors(model, token), token).log_softmax(-1)
            expected -= float(scores[0] @ emotion[row, :3])
    assert float(nll.sum()) == pytest.approx(expected, rel=1e-5)
    assert float(positions) == 5


@BACKBONES
@pytest.mark.parametrize("latent", [0, 2])
def test_it_learns_while_the_generator_stays(backbone, latent):
    """Held-out nats fall far below chance, 1.1, which they start from; every bit of the generator is what it was."""
    model = generator(backbone, latent)
    before, head = copy.deepcopy(model.state_dict()), head_of(model, RANK)
    state = TrainState({"head": head}, {"head": adamw(head)}, torch.Generator().manual_seed(0))
    held_out = [toy_batch(1000), toy_batch(1001)]
    first = held_out_head_nll(model, head, held_out)
    assert first["nll"] == pytest.approx(math.log(3), abs=1e-5)
    counted = [reply_mask(batch.tokens, batch.reply_start).sum(1).float() @ batch.emotion[:, :-1] for batch in held_out]
    tokens = torch.stack(counted).sum(0)
    assert first["chance"] == pytest.approx(float(-(tokens / tokens.sum() * (tokens / tokens.sum()).log()).sum()), abs=1e-5)
    config = HeadConfig(learning_rate=0.03, precision="float32")
    steps = list(train_head(model, head, map(toy_batch, range(60)), config, state))
    assert [step.number for step in steps] == list(range(1, 61))
    assert held_out_head_nll(model, head, held_out)["nll"] < 0.6 < 1.0 < steps[0].figures["nll"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_loss_that_is_not_finite_stops_it():
    model = generator()
    head = head_of(model, RANK)
    head.bias.data[0, 20:] = math.nan
    state = TrainState({"head": head}, {"head": adamw(head)}, torch.Generator())
    with pytest.raises(TrainingError, match=r"step 1: loss nan .* is not finite"):
        list(train_head(model, head, [toy_batch(0)], HeadConfig(), state))


# ---- its file


def test_a_head_comes_back(tmp_path):
    """But for rounding to half precision; in eval mode, and no training touches it."""
    model, head = generator(), random_head()
    assert read_head(tmp_path, model) is None
    save_head(tmp_path, head)
    again = read_head(tmp_path, model)
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    for name, tensor in head.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=2**-11, atol=2**-24)
        assert again.state_dict()[name].dtype == torch.float32


@pytest.mark.parametrize("content", [b"", b"short", None])
def test_a_head_that_is_cut_short(tmp_path, content):
    save_head(tmp_path, random_head())
    path = tmp_path / "head.safetensors"
    path.write_bytes(path.read_bytes()[:-7] if content is None else content)
    with pytest.raises(CheckpointError) as caught:
        read_head(tmp_path, generator())
    assert str(caught.value).startswith(f"{path}: cannot be read (")
    assert str(caught.value).endswith("); remove it, then run `emogen train-head` again")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", [{"emotions": 4}, {"vocabulary": 50}, {"width": 8}])
def test_a_head_of_another_generator(tmp_path, other):
    save_head(tmp_path, random_head(**other))
    with pytest.raises(CheckpointError, match=r"^.*head\.safetensors: cannot be read \([^\n]*; remove it, then run [^\n]*$"):
        read_head(tmp_path, generator())


def test_weights_of_another_kind_are_no_head(tmp_path, tiny_checkpoint):
    shutil.copy(tiny_checkpoint / "model.safetensors", tmp_path / "head.safetensors")
    with pytest.raises(CheckpointError, match=r"head\.safetensors: cannot be read"):
        read_head(tmp_path, generator())


# ---- a checkpoint's head


@pytest.fixture
def copied(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "cache"))
    return shutil.copytree(tiny_checkpoint, tmp_path / "lm")


def test_fitting_puts_a_head_into_the_folder(copied, rows_file):
    """The other files stay; the rows that it has seen join the model's own; the same seed gives the same head."""
    before = {path.name: path.read_bytes() for path in copied.iterdir() if path.name != "rows.npy"}
    rows = read_fingerprints(copied)
    np.save(copied / "rows.npy", rows[:5])
    folder, figures = fit_head([str(rows_file)], Reading(), HeadSettings(checkpoint=str(copied), allow_worse="yes", **SMALL))
    assert folder == copied
    assert set(figures) == {"nll", "chance"}
    assert 0 <= figures["chance"] <= math.log(7)
    assert np.array_equal(read_fingerprints(copied), rows)
    found = {path.name: path.read_bytes() for path in copied.iterdir() if path.name != "rows.npy"}
    assert {name: found[name] for name in before} == before
    assert set(found) - set(before) == {"head.safetensors"}
    assert len(load(copied).head.down.weight) == 3
    fit_head([str(rows_file)], Reading(), HeadSettings(checkpoint=str(copied), allow_worse="yes", **SMALL))
    assert (copied / "head.safetensors").read_bytes() == found["head.safetensors"]


def test_a_head_no_better_than_chance_is_not_put_in(copied, rows_file):
    """What stands in the folder stays, the list of rows that were seen among it."""
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    with pytest.raises(TrainingError, match=r"no better than chance \(1\.9\d+ nats a token, chance 0\.\d+\)"):
        fit_head([str(rows_file)], Reading(), HeadSettings(checkpoint=str(copied), **SMALL))
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_rows_of_others_stay(copied, rows_file):
    """Rows that the model alone has seen are not forgotten."""
    np.save(copied / "rows.npy", np.array([7], dtype=np.uint64))
    fit_head([str(rows_file)], Reading(), HeadSettings(checkpoint=str(copied), allow_worse="yes", **SMALL))
    assert 7 in read_fingerprints(copied)
    assert len(read_fingerprints(copied)) > 10


def test_a_checkpoint_with_a_broken_head_is_refused(copied):
    (copied / "head.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"head\.safetensors: cannot be read .* run `emogen train-head` again$"):
        load(copied)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", math.inf),
        ("steps", 0),
        ("batch_size", 0),
        ("rank", 0),
        ("seed", -1),
        ("threads", -1),
    ],
)
def test_bad_settings(name, value):
    with pytest.raises(SettingsError, match=f"^--{name.replace('_', '-')} {value}: allowed is [^\n]*$"):
        HeadSettings(**{name: value})
