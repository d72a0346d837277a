"""Classifiers: four backbones behind one call; neither batch nor padding changes an answer, and scores become decisions."""

import zlib
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emogen.errors import SettingsError
from emogen.models.classifier import (
    Classifier,
    ClassifierConfig,
    Pieces,
    decide_labels,
    emotion_probabilities,
    emotion_scores,
    hash_string,
    probabilities_of,
)
from emogen.text.words import words

OWN = ("ngrams", "cnn", "transformer")
TEXTS = ["", "  \n", "no", "👍🏽", "我今天很开心!", "I don't know...", "good day to you and all of yours", "very " * 30]
BACKBONES = pytest.mark.parametrize("backbone", [*OWN, "pretrained"])


@pytest.fixture
def classifier(small_bert):
    """Builds a classifier of a backbone, in eval mode, with weights large enough to tell texts apart."""

    def build(backbone, **changes):
        pretrained = small_bert() if backbone == "pretrained" else None
        sizes = {"buckets": 512, "width": 16, "filters": 16, "layers": 1, "heads": 4, "max_tokens": 40}
        encoder = pretrained.model.config.to_diff_dict() if pretrained else {}
        torch.manual_seed(1)
        made = Classifier(ClassifierConfig(3, backbone, encoder=encoder, **(sizes | changes)), pretrained).eval()
        for name, weights in made.named_parameters():
            if name.endswith("bags.weight") or name.startswith("head"):
                torch.nn.init.normal_(weights)
        return made

    return build


# ---- backbones


@BACKBONES
def test_scores_have_a_row_a_text_and_a_column_an_emotion(classifier, backbone):
    model = classifier(backbone)
    scores = model(TEXTS)
    assert scores.shape == (len(TEXTS), 3)
    assert scores.dtype is torch.float32
    assert bool(scores.isfinite().all())
    assert len({tuple(row) for row in scores.tolist()}) >= len(TEXTS) - 2


@BACKBONES
@torch.no_grad()
def test_neither_batch_nor_padding_changes_an_answer(classifier, backbone):
    """A text alone, beside longer ones, and in any order."""
    model = classifier(backbone)
    together = model(TEXTS)
    for row, text in zip(together, TEXTS, strict=True):
        torch.testing.assert_close(model([text])[0], row, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(emotion_scores(model, [model.read(text) for text in TEXTS]), together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(TEXTS[::-1]).flip(0), together, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_filter_that_likes_nothing_in_a_text_answers_the_same_beside_a_longer_one(classifier):
    """Each filter's answer to zeros is its bias, which beats what the text gives; a batch must not bring it in."""
    model = classifier("cnn", filters=64).features
    for kernel in model.kernels:
        torch.nn.init.constant_(kernel.bias, 1.0)
        torch.nn.init.normal_(kernel.weight)
    short, long = model.read("no"), model.read("good day to you and all of yours")
    torch.testing.assert_close(model([short, long])[0], model([short])[0])


@BACKBONES
@torch.no_grad()
def test_ten_thousand_words_are_cut_to_the_limit(classifier, backbone):
    model = classifier(backbone)
    # The encoder sets a mark at each end of its 40 tokens.
    kept = 38 if backbone == "pretrained" else 40
    text = "good " * (kept - 1) + "bad"
    torch.testing.assert_close(model([text + " day" * 10_000]), model([text]))
    assert not torch.allclose(model([text]), model(["good " * kept]))


@BACKBONES
def test_weights_come_back_from_a_state_dict(classifier, backbone):
    model, other = classifier(backbone), classifier(backbone)
    for weights in other.parameters():
        torch.nn.init.constant_(weights, 0.1)
    before = emotion_probabilities(model, TEXTS)
    assert not torch.allclose(emotion_probabilities(other, TEXTS), before)
    other.load_state_dict(model.state_dict())
    assert torch.equal(emotion_probabilities(other, TEXTS), before)


@BACKBONES
def test_training_drops_and_scoring_does_not(classifier, backbone):
    """Two forward passes differ in training; `emotion_scores` has none of it and leaves the mode as it was."""
    model = classifier(backbone, dropout=0.5).train()
    assert not torch.equal(model(TEXTS), model(TEXTS))
    read = [model.read(text) for text in TEXTS]
    assert torch.equal(emotion_scores(model, read), emotion_scores(model, read))
    assert model.training


@torch.no_grad()
@pytest.mark.parametrize("text", TEXTS)
def test_ngrams_are_what_a_plain_loop_gives(classifier, text):
    """Sum of the vectors of all words and pairs of words over the root of their number, then the linear layer."""
    model = classifier("ngrams")
    tokens = words(text) or [""]
    grams = [*tokens, *(f"{one} {two}" for one, two in pairwise(tokens))]
    table = model.features.vectors.bags.weight.double()
    vector = sum(table[zlib.crc32(gram.encode()) % 512] for gram in grams) / len(grams) ** 0.5
    expected = model.head.weight.double() @ vector + model.head.bias.double()
    torch.testing.assert_close(model([text])[0].double(), expected, rtol=1e-4, atol=1e-5)


def test_a_word_is_itself_its_runs_of_characters_and_the_pairs_it_begins(classifier):
    """By hand for `cat`: <cat>, <ca, cat, at>, <cat, cat> (Bojanowski et al. 2017); the first begins a pair."""
    found = classifier("cnn").read("cat cat")
    own = {hash_string(piece, 512) for piece in ("<cat>", "<ca", "cat", "at>", "<cat", "cat>")}
    assert found.sizes == [7, 6]
    assert set(found.ids[:6]) == set(found.ids[7:]) == own
    assert found.ids[6] == hash_string("cat cat", 512)


@torch.no_grad()
def test_word_vectors_are_sums_over_the_root_of_their_number(classifier):
    vectors = classifier("cnn").features.vectors
    found = vectors([Pieces([1, 2, 3], [2, 1]), Pieces([4, 4], [2])])
    table = vectors.bags.weight
    expected = torch.stack([(table[1] + table[2]) / 2**0.5, table[3], 2 * table[4] / 2**0.5])
    torch.testing.assert_close(found, expected)


def test_word_order_matters_to_all_but_bags(classifier):
    with torch.no_grad():
        for backbone in ("cnn", "transformer", "pretrained"):
            one, other = classifier(backbone)(["good day bad", "bad day good"])
            assert not torch.allclose(one, other), backbone
        one, other = classifier("ngrams", order=1)(["good day bad", "bad day good"])
        torch.testing.assert_close(one, other)


@given(st.text(max_size=30))
def test_any_text_has_pieces_and_the_same_ones_again(text):
    for backbone in OWN:
        model = Classifier(ClassifierConfig(2, backbone, buckets=64, width=8, filters=4, layers=1))
        found = model.read(text)
        assert found == model.read(text)
        assert sum(found.sizes) == len(found.ids) > 0
        assert all(0 <= number < 64 for number in found.ids)


# ---- from scores to decisions


def test_probabilities_of_one_label_sum_to_one_and_of_many_stand_alone():
    """Softmax and sigmoid of numbers done by hand: odds 3 to 1 and 1 to 3."""
    scores = torch.tensor([[0.0, 1.0986123]])
    torch.testing.assert_close(probabilities_of(scores, ClassifierConfig(2)), torch.tensor([[0.25, 0.75]]))
    multi = ClassifierConfig(2, multi_label=True)
    torch.testing.assert_close(probabilities_of(scores, multi), torch.tensor([[0.5, 0.75]]))
    moved = torch.tensor([[9.0, 1.0986123]])
    assert probabilities_of(moved, multi)[0, 1] == probabilities_of(scores, multi)[0, 1]


@BACKBONES
def test_all_backbones_sum_to_one(classifier, backbone):
    torch.testing.assert_close(emotion_probabilities(classifier(backbone), TEXTS).sum(1), torch.ones(len(TEXTS)))


def test_temperature_divides_the_scores():
    """Odds 9 to 1 become 3 to 1 at temperature 2."""
    scores = torch.tensor([[2.1972246, 0.0]])
    torch.testing.assert_close(probabilities_of(scores, ClassifierConfig(2, temperature=2.0)), torch.tensor([[0.75, 0.25]]))
    many = probabilities_of(scores, ClassifierConfig(2, multi_label=True, temperature=2.0))
    torch.testing.assert_close(many, torch.tensor([[0.75, 0.5]]))


def test_what_is_decided():
    """The likeliest label; or all from their threshold on, which may be none; thresholds are a half unless given."""
    found = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    assert decide_labels(found, ClassifierConfig(3)).tolist() == [[True, False, False], [False, False, True]]
    assert decide_labels(found, ClassifierConfig(3, multi_label=True)).tolist() == [[True, False, False], [False, False, True]]
    strict = ClassifierConfig(3, multi_label=True, thresholds=(0.7, 0.25, 0.1))
    assert decide_labels(found, strict).tolist() == [[False, True, True], [False, False, True]]
    none = ClassifierConfig(3, multi_label=True, thresholds=(0.9, 0.9, 0.9))
    assert not decide_labels(found, none).any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone": "transformer", "width": 18, "heads": 4}, "width 18 does not split into 4 heads"),
        ({"thresholds": (0.5,)}, "1 thresholds for 3 emotions; give one for each, or none"),
        ({"temperature": 0.0}, "temperature 0 is not above 0"),
        ({"temperature": float("nan")}, "temperature nan is not above 0"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        ClassifierConfig(3, **values)


def test_an_encoder_has_to_be_given():
    with pytest.raises(SettingsError, match="needs its encoder and tokenizer"):
        Classifier(ClassifierConfig(3, "pretrained"))


def test_architectures_differ_by_backbone_and_by_encoder(classifier):
    names = [classifier(backbone).config.architecture for backbone in (*OWN, "pretrained")]
    assert names == ["classifier ngrams", "classifier cnn", "classifier transformer", "classifier bert 2x32"]


@pytest.mark.parametrize(("name", "value"), [("max_tokens", "many"), ("max_tokens", 0), ("width", 1.5), ("emotions", None)])
def test_a_size_that_is_none_is_refused(name, value):
    with pytest.raises(SettingsError, match=f"classifier {name} .* whole number"):
        ClassifierConfig(**{"emotions": 2, name: value})
