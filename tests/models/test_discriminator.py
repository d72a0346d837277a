"""The discriminator: what each reading sees, scoring, and that it learns."""

import pytest
import torch
from torch import nn

from emogen.errors import SettingsError
from emogen.models.discriminator import Discriminator, DiscriminatorConfig, adopt_embedding, of_whole_texts, score
from emogen.text.tokenizer import BOS, EOS, PAD

VOCABULARY, EMOTIONS = 20, 2
READINGS = pytest.mark.parametrize("reading", ["sequence", "prefix"])


def discriminator(reading, dropout=0.3):
    return Discriminator(DiscriminatorConfig(VOCABULARY, EMOTIONS, reading, width=16, layers=2, heads=4, dropout=dropout))


def rows(batch=5, time=7):
    tokens = torch.randint(5, VOCABULARY, (batch, time))
    tokens[:, 0] = BOS
    return tokens, torch.softmax(torch.randn(batch, EMOTIONS + 1), 1)


@READINGS
def test_shapes(reading):
    """One score a row, or one a position."""
    assert score(discriminator(reading), *rows()).shape == ((5,) if reading == "sequence" else (5, 7))


def test_prefix_reading_is_causal():
    """Changing the token at place 4 leaves every earlier score and moves all later ones."""
    model, (tokens, emotion) = discriminator("prefix"), rows()
    changed = tokens.clone()
    changed[:, 4] = 5 + (tokens[:, 4] - 4) % (VOCABULARY - 5)
    gap = (score(model, tokens, emotion) - score(model, changed, emotion)).abs()
    assert gap[:, :4].max() < 1e-6
    assert gap[:, 4:].min() > 1e-6


def test_sequence_reading_sees_every_place():
    """Changing any one token changes the score."""
    model, (tokens, emotion) = discriminator("sequence"), rows()
    before = score(model, tokens, emotion)
    for place in range(7):
        changed = tokens.clone()
        changed[:, place] = 5 + (tokens[:, place] - 4) % (VOCABULARY - 5)
        assert (score(model, changed, emotion) - before).abs().min() > 1e-6


@READINGS
def test_the_emotion_counts(reading):
    """The same text is judged by what was asked for."""
    model, (tokens, emotion) = discriminator(reading), rows()
    assert (score(model, tokens, emotion) - score(model, tokens, emotion.roll(1, 1))).abs().max() > 1e-4


@READINGS
@pytest.mark.parametrize("behind", [PAD, 9])
def test_padding_and_what_stands_behind_the_end_change_nothing(reading, behind):
    """Neither more padding columns nor tokens behind the end token; a score stands at each place up to the end."""
    model, (tokens, emotion) = discriminator(reading), rows()
    tokens[2, 4:] = torch.tensor([EOS, PAD, PAD])
    tokens[:2, -1] = tokens[3:, -1] = EOS
    longer = torch.cat([tokens, torch.full((5, 3), behind)], 1)
    longer[2, 5:] = behind
    present = tokens != PAD if reading == "prefix" else torch.ones(5, dtype=torch.bool)
    found = score(model, longer, emotion)
    found = found[:, :7] if reading == "prefix" else found
    torch.testing.assert_close(found[present], score(model, tokens, emotion)[present])


@READINGS
def test_scores_are_free_of_dropout_and_keep_the_mode(reading):
    """Equal twice, without gradient, and the mode as before, also after an error."""
    model, inputs = discriminator(reading), rows()
    for mode in (True, False):
        model.train(mode)
        first, second = score(model, *inputs), score(model, *inputs)
        assert torch.equal(first, second)
        assert not first.requires_grad
        assert model.training is mode
    model.train()
    assert not torch.equal(model(*inputs), model(*inputs))
    with pytest.raises(IndexError):
        score(model, inputs[0] + VOCABULARY, inputs[1])
    assert model.training


@torch.no_grad()
@READINGS
def test_word_vectors_are_read_in_place_of_tokens(reading):
    """The tokens' own change nothing, others do; which places count is the tokens' to say."""
    model, (tokens, emotion) = discriminator(reading).eval(), rows()
    tokens[0, 4:] = torch.tensor([EOS, PAD, PAD])
    vectors = model.embedding(tokens)
    torch.testing.assert_close(model(tokens, emotion, vectors), model(tokens, emotion))
    other = torch.randn_like(vectors)
    gap = of_whole_texts((model(tokens, emotion, other) - model(tokens, emotion)).abs(), tokens)
    assert gap.min() > 1e-4
    behind = torch.where((torch.arange(7) > 4)[:, None], other, vectors)
    found = of_whole_texts(model(tokens, emotion, behind), tokens)
    torch.testing.assert_close(found[0], of_whole_texts(model(tokens, emotion), tokens)[0])


def test_of_whole_texts_by_hand():
    """One score a row stays; of prefixes counts the one at the end token, or at the last token of a row without."""
    tokens = torch.tensor([[BOS, 7, EOS, PAD], [BOS, 7, 8, 9], [BOS, EOS, 8, 9]])
    scores = torch.arange(12.0).view(3, 4)
    assert of_whole_texts(scores, tokens).tolist() == [2, 7, 9]
    assert of_whole_texts(scores[:, 0], tokens).tolist() == [0, 4, 8]


@READINGS
def test_chunks_change_nothing(reading):
    """Two rows at a time, with one left over."""
    model, inputs = discriminator(reading), rows()
    torch.testing.assert_close(score(model, *inputs, chunk=2), score(model, *inputs))


@READINGS
def test_it_learns_to_tell_two_distributions_apart(reading):
    """Real texts are written with low ids, generated ones with high ids."""
    model = discriminator(reading, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    def texts(low, high):
        tokens = torch.randint(low, high, (32, 6))
        tokens[:, 0] = BOS
        return tokens, torch.eye(EMOTIONS + 1)[torch.randint(EMOTIONS, (32,))]

    def last(scores):
        return scores if reading == "sequence" else scores[:, -1]

    for _ in range(40):
        margin = last(model(*texts(5, 14))) - last(model(*texts(11, VOCABULARY)))
        loss = nn.functional.softplus(-margin).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    margin = last(score(model, *texts(5, 14))) - last(score(model, *texts(11, VOCABULARY)))
    assert (margin > 0).float().mean() > 0.9


@pytest.mark.parametrize(("width", "heads"), [(30, 4), (12, 4)])
def test_impossible_settings(width, heads):
    """Heads that do not divide the width, or leave an odd one."""
    with pytest.raises(SettingsError, match=f"width {width}"):
        DiscriminatorConfig(VOCABULARY, EMOTIONS, width=width, heads=heads)


@torch.no_grad()
def test_adopted_word_vectors_keep_their_geometry():
    """With as many dimensions as the vectors have, principal components only turn them: all distances keep their ratio."""
    discriminator = Discriminator(DiscriminatorConfig(30, 7, width=16, heads=4))
    vectors = torch.randn(30, 16)
    adopt_embedding(discriminator, vectors)
    found, expected = torch.pdist(discriminator.embedding.weight[1:]), torch.pdist(vectors[1:])
    torch.testing.assert_close(found / found.mean(), expected / expected.mean(), atol=1e-4, rtol=1e-4)
    assert not discriminator.embedding.weight[0].any()
