"""Training on preferences: the loss in closed form, what its optimum is, what the loop learns, and the run around it."""

import copy
import json
import math
import os
import signal
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from emogen.checkpoint.model import load
from emogen.data.batches import Limits
from emogen.data.exchange import Reading
from emogen.data.fingerprints import fingerprints, read_fingerprints
from emogen.data.preferences import Preference, Rating
from emogen.emotions.labels import LabelSet, no_emotion, parse_emotion
from emogen.errors import CheckpointError, DataError, Interrupted, SettingsError, TrainingError
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.likelihood import reply_nll
from emogen.models.losses import preference_loss
from emogen.text.tokenizer import BOS, EOS, TURN
from emogen.train import fit_preference as module
from emogen.train.config import FeedbackSettings, LmSettings, PreferenceConfig, VaeSettings
from emogen.train.fit import fit_lm, fit_vae
from emogen.train.fit_preference import fit_preference
from emogen.train.loops.preference import (
    PairRows,
    drop_long,
    held_out_preference,
    pair_batches,
    pair_log_probabilities,
    pair_rows,
    rated_rows,
    separation,
    train_preference,
)
from emogen.train.run.state import TrainState, adamw

FAST = PreferenceConfig(learning_rate=1e-2, precision="float32")
NATS = st.floats(-50, 0)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def small(backbone="lstm", latent=0):
    torch.manual_seed(3)
    sizes = GeneratorConfig(40, 2, backbone, width=32, layers=1, heads=4, latent=latent, dropout=0.3)
    return Generator(sizes).eval()


def toy_pairs():
    """One context; under the first emotion 20 21 is better than 30 31, under the second it is worse."""
    front = [10, TURN, BOS]
    ones, others = [*front, 20, 21, EOS], [*front, 30, 31, 32, EOS]
    return PairRows([ones, others], [others, ones], [3, 3], torch.eye(3)[:2])


def trained(generator, rows, config, steps):
    state = TrainState({"generator": generator}, {"generator": adamw(generator)}, torch.Generator())
    before = pair_log_probabilities(generator, rows, config.precision)
    batches = pair_batches(rows, before, 2, seed=0)
    return [step.figures for step in islice(train_preference(generator, batches, config, state), steps)]


# ---- the loss


@given(now=st.tuples(NATS, NATS), before=st.tuples(NATS, NATS), beta=st.floats(0.01, 1), smoothing=st.floats(0, 0.49))
def test_loss_is_the_closed_form(now, before, beta, smoothing):
    """Rafailov et al. 2023, equation 7, written out with math.log; smoothing weighs the pair turned round."""
    margin = beta * ((now[0] - before[0]) - (now[1] - before[1]))
    expected = -(1 - smoothing) * math.log(sigmoid(margin)) - smoothing * math.log(sigmoid(-margin))
    given_ones = [torch.tensor([value], dtype=torch.float64) for value in (*now, *before)]
    assert float(preference_loss(*given_ones, beta, smoothing)) == pytest.approx(expected, abs=1e-9)


@given(now=st.tuples(NATS, NATS), before=st.tuples(NATS, NATS), beta=st.floats(0.01, 1))
def test_gradient_is_the_closed_form(now, before, beta):
    """-beta * sigmoid(-margin) for the better reply, the same upwards for the worse one (the paper's section 4)."""
    better, worse = (torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in now)
    fixed = [torch.tensor([value], dtype=torch.float64) for value in before]
    preference_loss(better, worse, *fixed, beta).sum().backward()
    expected = beta * sigmoid(-beta * ((now[0] - before[0]) - (now[1] - before[1])))
    assert (float(better.grad), float(worse.grad)) == pytest.approx((-expected, expected), abs=1e-9)


def test_a_model_as_it_was_has_log_2():
    same = torch.tensor([-3.0, -7.0])
    assert preference_loss(same, same - 1, same, same - 1, 0.3).tolist() == pytest.approx([math.log(2)] * 2)


def test_optimum_of_a_language_of_two_sequences():
    """pi(y) in proportion to pi_before(y) exp(r(y) / beta) (equation 4), where a share 1 - s of users has a for better:

    r(a) - r(b) = logit(1 - s) by the Bradley-Terry model.
    """
    beta, share, before = 0.5, 0.2, torch.tensor([0.3, 0.7], dtype=torch.float64).log()
    logits = before.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12)

    def loss():
        optimizer.zero_grad()
        now = logits.log_softmax(0)
        value = preference_loss(now[:1], now[1:], before[:1], before[1:], beta, share).sum()
        value.backward()
        return value

    optimizer.step(loss)
    weighed = np.array([0.3 * math.exp(math.log((1 - share) / share) / beta), 0.7])
    assert logits.softmax(0).tolist() == pytest.approx((weighed / weighed.sum()).tolist(), abs=1e-5)


# ---- rows and batches


def test_contexts_are_written_as_in_decoding(tiny_checkpoint):
    """What `EmotionModel.prompts` gives the decoder stands in front of both replies, and the emotion is its condition."""
    model = load(tiny_checkpoint)
    emotion = model.emotion("joy=0.6,fear=0.4", 0.5)
    context = ("A first utterance that is so long that the model does not read all of it. " * 4, "How was it?")
    rows = pair_rows([Preference(context, emotion, "good", "bad, sad")], model.tokenizer, model.description.limits)
    (prompt,) = model.prompts([context], [emotion], model.default_sampling.control)
    assert rows.better[0] == [*prompt.tokens, *model.tokenizer.encode("good"), EOS]
    assert rows.worse[0] == [*prompt.tokens, *model.tokenizer.encode("bad, sad"), EOS]
    assert rows.starts == [len(prompt.tokens)]
    assert rows.emotion[0].tolist() == pytest.approx(emotion.condition)


def test_log_probabilities_are_those_of_each_row_alone():
    generator, rows = small(), toy_pairs()
    found = pair_log_probabilities(generator, rows, "float32")
    for side, tokens in enumerate((rows.better, rows.worse)):
        for pair in range(2):
            one = torch.tensor(tokens[pair])[None]
            nll, _ = reply_nll(generator, one, torch.tensor([3]), rows.emotion[pair][None])
            assert float(found[side, pair]) == pytest.approx(-float(nll.detach().sum()), rel=1e-5)


def test_too_long_replies_are_left_out(tiny_checkpoint):
    tokenizer, labels = load(tiny_checkpoint).tokenizer, load(tiny_checkpoint).labels
    pairs = [
        Preference((), no_emotion(labels), better, worse) for better, worse in (("a", "b"), ("a " * 50, "b"), ("a", "b " * 50))
    ]
    assert drop_long(pairs, tokenizer, Limits(reply_tokens=40)) == pairs[:1]


def test_batches_go_on_where_they_stopped():
    rows = toy_pairs()
    many = PairRows([*rows.better] * 5, [*rows.worse] * 5, rows.starts * 5, rows.emotion.repeat(5, 1))
    before = torch.arange(20.0).view(2, 10)
    whole = list(islice(pair_batches(many, before, 3, seed=1), 9))
    rest = list(islice(pair_batches(many, before, 3, seed=1, start=5), 4))
    for one, other in zip(whole[5:], rest, strict=True):
        assert torch.equal(one.rows.tokens, other.rows.tokens)
        assert torch.equal(one.before, other.before)
    assert sorted(torch.cat([batch.before[0] for batch in whole[:4]]).tolist()) == list(range(10))


# ---- the loop


@pytest.mark.parametrize("backbone", ["lstm", "transformer"])
@pytest.mark.parametrize("latent", [0, 4])
def test_each_pair_is_learnt_under_its_own_emotion(backbone, latent):
    """The same two replies, preferred the other way round under the other emotion: no style could serve both."""
    generator, rows = small(backbone, latent), toy_pairs()
    before = pair_log_probabilities(generator, rows, "float32")
    figures = trained(generator, rows, FAST, 60)
    after = pair_log_probabilities(generator, rows, "float32")
    gained = (after - before)[0] - (after - before)[1]
    assert (gained > 2).all()
    assert (after[0] > after[1]).all()
    assert figures[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert figures[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert figures[-1]["preferred"] == 1
    found = held_out_preference(generator, rows, before, FAST)
    assert found["preferred"] == 1
    assert found["margin"] == pytest.approx(float(gained.mean()), rel=1e-4)


def test_the_likelihood_term_keeps_the_better_reply_likely():
    """Of two runs that differ in its weight alone the one with it finds the better replies likelier."""
    found = {}
    for weight in (0.0, 1.0):
        generator, rows = small(), toy_pairs()
        trained(generator, rows, replace(FAST, likelihood_weight=weight), 40)
        found[weight] = pair_log_probabilities(generator, rows, "float32")[0]
    assert (found[1.0] > found[0.0] + 0.5).all()


def test_a_larger_beta_stays_nearer():
    """Long enough that the margins come to rest: they are of the order of 1 / beta."""
    margins = []
    for beta in (0.1, 2.0):
        figures = trained(small(), toy_pairs(), replace(FAST, beta=beta, smoothing=0.2, likelihood_weight=0.0), 150)
        margins.append(figures[-1]["margin"])
    assert margins[1] == pytest.approx(math.log(4) / 2.0, rel=0.2)
    assert margins[0] > 4 * margins[1]


def test_a_loss_that_is_not_finite_changes_nothing():
    generator, rows = small(), toy_pairs()
    before = copy.deepcopy(generator.state_dict())
    broken = torch.full((2, 2), math.nan)
    state = TrainState({"generator": generator}, {"generator": adamw(generator)}, torch.Generator())
    with pytest.raises(TrainingError, match="not finite"):
        next(train_preference(generator, pair_batches(rows, broken, 2, 0), FAST, state))
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


# ---- the run


def pairs_of(labels, contexts=12):
    """Users like `great`."""
    emotions = [parse_emotion(name, labels) for name in ("joy", "sadness")]
    return [
        Preference((f"How was day {number}?",), emotions[number % 2], f"Day {number} was great.", f"Day {number} was awful.")
        for number in range(contexts)
    ]


def settings(checkpoint, out, **changes):
    small_run = {"steps": 12, "batch_size": 4, "learning_rate": 1e-2, "min_pairs": 5, "precision": "float32"}
    return FeedbackSettings(checkpoint=str(checkpoint), out=str(out), device="cpu", **(small_run | changes))


def test_a_run_leaves_a_new_checkpoint_and_the_old_one_alone(tiny_checkpoint, tmp_path):
    labels = load(tiny_checkpoint).labels
    stood = {path.name: path.read_bytes() for path in tiny_checkpoint.iterdir() if path.is_file()}
    pairs = pairs_of(labels)
    found = fit_preference(pairs, "feedback.db", settings(tiny_checkpoint, tmp_path / "new"))
    assert {path.name: path.read_bytes() for path in tiny_checkpoint.iterdir() if path.is_file()} == stood
    assert (found.folder, found.start) == (tmp_path / "new", tiny_checkpoint)
    held_out = {pair.context for pair in found.held_out}
    assert len(held_out) == 3
    assert (len(found.held_out), found.trained, found.left_out) == (3, 9, 0)
    assert found.before.shape == found.after.shape == (2, 3)
    assert (found.after[0] - found.before[0] > found.after[1] - found.before[1]).all()
    new = load(found.folder)
    assert new.labels == labels
    assert new.sample("joy", 2, seed=1)[0].emotion == "joy"
    rows = pair_rows(found.held_out, new.tokenizer, new.description.limits)
    assert pair_log_probabilities(new.generator, rows, "float32").numpy() == pytest.approx(found.after, abs=1e-4)


def test_what_the_new_folder_says(tiny_checkpoint, tmp_path):
    """Rows that a judge must not share, data by hash and no text of a user, and a card."""
    found = fit_preference(
        pairs_of(load(tiny_checkpoint).labels),
        "feedback.db",
        settings(tiny_checkpoint, tmp_path / "new", unconditional_share=1.0),
    )
    seen = set(read_fingerprints(found.folder).tolist())
    held_out = {pair.context for pair in found.held_out}
    trained_on = [pair for pair in pairs_of(load(tiny_checkpoint).labels) if pair.context not in held_out]
    assert set(fingerprints(text for pair in trained_on for text in (pair.better, pair.worse)).tolist()) <= seen
    assert set(read_fingerprints(tiny_checkpoint).tolist()) <= seen
    conditioning = json.loads((found.folder / "train.json").read_text(encoding="utf-8"))
    assert conditioning["command"] == "train-feedback"
    assert (conditioning["rows"], conditioning["finished"], conditioning["steps"]) == ({"train": 9, "valid": 3}, True, 12)
    assert conditioning["start"] == str(tiny_checkpoint)
    assert "How was day" not in json.dumps(conditioning)
    assert "train-feedback" in (found.folder / "README.md").read_text(encoding="utf-8")


def test_steps_follow_from_epochs(tiny_checkpoint, tmp_path):
    """9 pairs in batches of 4 are 3 updates an epoch."""
    run = settings(tiny_checkpoint, tmp_path / "new", steps=0, epochs=2, unconditional_share=0.0)
    found = fit_preference(pairs_of(load(tiny_checkpoint).labels), "x", run)
    assert json.loads((found.folder / "train.json").read_text(encoding="utf-8"))["steps"] == 6


def test_the_same_seed_gives_the_same_weights_whatever_the_order_of_the_held_out(tiny_checkpoint, tmp_path):
    pairs = pairs_of(load(tiny_checkpoint).labels)
    weights = []
    for number in range(2):
        found = fit_preference(pairs, "x", settings(tiny_checkpoint, tmp_path / str(number)))
        weights.append((found.folder / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tiny_checkpoint, tmp_path, monkeypatch):
    """Interrupted in the middle, the state is saved; resumed, the weights are those of a run in one piece."""
    pairs = pairs_of(load(tiny_checkpoint).labels)
    whole = fit_preference(pairs, "x", settings(tiny_checkpoint, tmp_path / "whole"))

    def stopping(*arguments):
        for step in train_preference(*arguments):
            if step.number == 5:
                os.kill(os.getpid(), signal.SIGINT)
            yield step

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_preference", stopping)
        with pytest.raises(Interrupted, match="step 5"):
            fit_preference(pairs, "x", settings(tiny_checkpoint, tmp_path / "halves"))
    halves = fit_preference(pairs, "x", settings(tiny_checkpoint, tmp_path / "halves"), resuming=True)
    assert (halves.folder / "model.safetensors").read_bytes() == (whole.folder / "model.safetensors").read_bytes()
    assert halves.before == pytest.approx(whole.before)
    assert halves.after == pytest.approx(whole.after)


def test_a_resumed_run_refuses_other_pairs_and_another_start(tiny_checkpoint, tmp_path):
    pairs = pairs_of(load(tiny_checkpoint).labels)
    run = settings(tiny_checkpoint, tmp_path / "new")
    fit_preference(pairs, "x", run)
    with pytest.raises(CheckpointError, match="other rows"):
        fit_preference(pairs[:-1], "x", run, resuming=True)
    with pytest.raises(CheckpointError, match="another model"):
        fit_preference(pairs, "x", replace(run, checkpoint=str(tmp_path / "new")), resuming=True)
    with pytest.raises(CheckpointError, match="another run"):
        fit_preference(pairs, "x", run)


@pytest.mark.parametrize(
    ("contexts", "least", "said"),
    [(3, 20, "3 pairs.*of 3 contexts; 20 pairs"), (1, 1, "1 pairs.*2 contexts"), (0, 1, "0 pairs")],
)
def test_too_few_pairs_are_counted(tiny_checkpoint, tmp_path, contexts, least, said):
    with pytest.raises(DataError, match=said):
        fit_preference(
            pairs_of(load(tiny_checkpoint).labels, contexts),
            "x",
            settings(tiny_checkpoint, tmp_path / "new", min_pairs=least),
        )
    assert not (tmp_path / "new").exists()


def test_pairs_of_other_labels_are_left_out_and_counted(tiny_checkpoint, tmp_path):
    labels = load(tiny_checkpoint).labels
    others = LabelSet(("hunger", "joy"))
    foreign = [
        Preference(("a",), parse_emotion("hunger", others), "x", "y"),
        Preference(("b",), parse_emotion("joy", others), "Day 3 was great.", "Day 3 was awful."),
    ]
    found = fit_preference([*pairs_of(labels), *foreign], "x", settings(tiny_checkpoint, tmp_path / "new"))
    assert found.left_out == 1
    assert found.trained + len(found.held_out) == 13


def test_the_decoder_of_a_vae_is_trained(rows_file, tmp_path, monkeypatch):
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "cache"))
    tiny = {"steps": 2, "batch_size": 8, "width": 16, "layers": 1, "latent": 2, "encoder_layers": 1}
    start = fit_vae(
        [str(rows_file)], Reading(), VaeSettings(**tiny, device="cpu", precision="float32", out=str(tmp_path / "vae"))
    )
    found = fit_preference(pairs_of(load(start).labels), "x", settings(start, tmp_path / "new"))
    assert load(found.folder).description.kind == "generator"
    assert (found.after[0] - found.before[0] > found.after[1] - found.before[1]).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"beta": 0.0}, "--beta 0.0"),
        ({"learning_rate": math.nan}, "--learning-rate nan"),
        ({"smoothing": 0.5}, "--smoothing 0.5"),
        ({"likelihood_weight": -1.0}, "--likelihood-weight -1.0"),
        ({"held_out": 1.0}, "--held-out 1.0"),
        ({"unconditional_share": 1.5}, "--unconditional-share 1.5"),
        ({"epochs": 0}, "--epochs 0"),
        ({"min_pairs": 0}, "--min-pairs 0"),
        ({"steps": -1}, "--steps -1"),
    ],
)
def test_impossible_settings(changes, said):
    with pytest.raises(SettingsError, match=said):
        FeedbackSettings(**changes)


def test_an_adapter_is_trained_and_its_base_is_not(rows_file, tiny_base, tmp_path, monkeypatch):
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "cache"))
    tiny = {"steps": 2, "batch_size": 8, "backbone": f"hf:{tiny_base}", "lora_rank": 2, "soft_prefix": 1}
    run = LmSettings(**tiny, context_tokens=20, reply_tokens=40, device="cpu", precision="float32", out=str(tmp_path / "lm"))
    start = fit_lm([str(rows_file)], Reading(), run)
    found = fit_preference(pairs_of(load(start).labels), "x", settings(start, tmp_path / "new"))
    assert (found.after[0] - found.before[0] > found.after[1] - found.before[1]).all()
    assert (found.folder / "model.safetensors").stat().st_size == (start / "model.safetensors").stat().st_size
    new = load(found.folder)
    rows = pair_rows(found.held_out, new.tokenizer, new.description.limits)
    assert pair_log_probabilities(new.generator, rows, "float32").numpy() == pytest.approx(found.after, rel=1e-3)


def test_the_share_of_separated_replies_is_the_area_under_the_curve():
    gain, good = torch.tensor([2.0, 0.0, 1.0, 1.0]), torch.tensor([True, True, False, False])
    assert float(separation(gain, good)) == pytest.approx(roc_auc_score(good.numpy(), gain.numpy()))
    assert float(separation(torch.tensor([1.0, 1.0]), torch.tensor([True, False]))) == 0.5
    assert float(separation(torch.tensor([1.0]), torch.tensor([True]))) == 0.5


def test_rated_replies_stand_beside_those_of_other_contexts(tiny_checkpoint):
    model = load(tiny_checkpoint)
    ratings = [Rating((f"How was day {n}?",), model.emotion("joy"), text, n % 2 == 0) for n, text in enumerate("abc")]
    rows = rated_rows(ratings, model.tokenizer, model.description.limits)
    assert rows.good.tolist() == [True, False, True]
    batch = rows.rows.batch([0, 1, 2])
    texts = [
        model.tokenizer.decode(row[int(at) :].tolist()).strip() for row, at in zip(batch.tokens, batch.reply_start, strict=True)
    ]
    assert texts == ["a", "b", "c", "b", "c", "a"]
