"""Rollouts: reward order, completions, and their distribution."""

import pytest
import torch

from emogen.decoding.counter_rng import CounterRNG
from emogen.decoding.loop import Generated, PromptBatch, generate
from emogen.decoding.rollout import complete, rollout_returns
from emogen.decoding.sampler import PlainSampler
from emogen.models.generator import Generator, GeneratorConfig, reply_mask
from emogen.text.tokenizer import BOS, EOS, PAD, TURN

VOCABULARY, MAX_TOKENS = 12, 5
BACKBONES = pytest.mark.parametrize("backbone", ["lstm", "transformer"])


def written(backbone="lstm", count=12):
    """Give a generator, rows it has written to prefixes of three lengths, and their conditions."""
    torch.manual_seed(3)
    model = Generator(GeneratorConfig(VOCABULARY, 2, backbone, width=8, layers=2, heads=2, latent=1, dropout=0.0)).eval()
    prefixes = [[BOS], [7, TURN, BOS], [8, 9, TURN, BOS]]
    rows = [[*prefix, *[PAD] * (4 - len(prefix))] for prefix in prefixes] * (count // 3)
    lengths = torch.tensor([1, 3, 4] * (count // 3))
    condition = torch.randn(count, 4)

    sampler = PlainSampler(lambda rows, _: torch.rand(len(rows)))
    found = generate(model, PromptBatch(torch.tensor(rows), lengths, condition), MAX_TOKENS, sampler, keep_states=True)
    return model, found, condition


def returns_of(model, found, condition, reward, rollouts=3, **options):
    return rollout_returns(model, found, condition, MAX_TOKENS, reward, rollouts, CounterRNG(0), **options)


@BACKBONES
@pytest.mark.parametrize("chunk", [4096, 7])
def test_reward_order(backbone, chunk):
    """With the row's number as reward, each return is that number: correlation 1 over rows."""
    model, found, condition = written(backbone)
    returns = returns_of(model, found, condition, lambda _tokens, rows: rows.float(), chunk=chunk)
    mask = reply_mask(found.tokens, found.reply_start)
    expected = torch.arange(12.0)[:, None].expand_as(mask)
    torch.testing.assert_close(returns[mask], expected[mask])
    assert (returns[~mask] == 0).all()
    correlation = torch.corrcoef(torch.stack([(returns * mask).sum(1) / mask.sum(1), torch.arange(12.0)]))[0, 1]
    assert float(correlation) == pytest.approx(1.0)


@BACKBONES
def test_chunks_change_nothing(backbone):
    """Whatever is completed at once, also fewer than the rollouts of one prefix: returns equal to the last bit."""
    model, found, condition = written(backbone)

    def worth(tokens, rows):
        return (tokens.double() @ torch.linspace(0, 1, tokens.shape[1]).double().sqrt() + rows).sin().float()

    whole = returns_of(model, found, condition, worth)
    for chunk in (1, 2, 3, 7, 50):
        assert torch.equal(returns_of(model, found, condition, worth, chunk=chunk), whole)
    assert not torch.equal(returns_of(model, found, condition, worth, rollouts=4), whole)


@BACKBONES
def test_processes_change_nothing(backbone):
    """Rows from the fifth on, alone: a process that has them alone, and knows so, completes them alike."""
    model, found, condition = written(backbone)
    rows, positions = torch.tensor([7, 5, 10]), found.reply_start[[7, 5, 10]]
    part = Generated(found.tokens[5:], found.reply_start[5:], found.log_probs[5:], tuple(s[:, :, 5:] for s in found.states))
    numbers = torch.tensor([4, 0])
    whole = complete(model, found, condition, MAX_TOKENS, rows, positions, numbers, CounterRNG(3))
    alone = complete(model, part, condition[5:], MAX_TOKENS, rows - 5, positions, numbers, CounterRNG(3, first=5))
    assert torch.equal(alone, whole)
    one = complete(model, found, condition, MAX_TOKENS, rows[1:2], positions[1:2], numbers[:1], CounterRNG(3))
    assert torch.equal(one[0], whole[2])


def test_without_rollouts_each_token_gets_the_whole_reward():
    """No completion is drawn, so no decoding state is needed."""
    model, found, condition = written()
    bare = Generated(found.tokens, found.reply_start, found.log_probs)
    target = []

    def worth(tokens, rows):
        target.append(tokens)
        return rows + 0.5

    returns = returns_of(model, bare, condition, worth, rollouts=0)
    mask = reply_mask(found.tokens, found.reply_start)
    assert torch.equal(returns, (torch.arange(12.0)[:, None] + 0.5) * mask)
    assert len(target) == 1
    assert torch.equal(target[0], found.tokens)


@BACKBONES
def test_completions_keep_their_prefix_and_their_limit(backbone):
    """What is rewarded is a whole reply: prefix kept, at most 5 tokens, one end, padding behind; both endings occur."""
    model, found, condition = written(backbone)
    seen = []

    def reward(tokens, rows):
        seen.extend(zip(tokens.tolist(), rows.tolist(), strict=True))
        return torch.zeros(len(rows))

    returns_of(model, found, condition, reward)
    mask = reply_mask(found.tokens, found.reply_start)
    assert len(seen) == 3 * int(mask.sum()) - 2 * 12
    ended = 0
    for tokens, row in seen:
        start = int(found.reply_start[row])
        assert tokens[: start + 1] == found.tokens[row, : start + 1].tolist()
        reply = tokens[start:]
        length = reply.index(EOS) + 1 if EOS in reply else MAX_TOKENS
        assert set(reply[length:]) <= {PAD}
        assert not {PAD, BOS, TURN} & set(reply[:length])
        ended += EOS in reply
    assert 0 < ended < len(seen)


def test_a_whole_reply_is_rewarded_itself():
    """The return at the last token is the reward of the row, of which nothing is drawn again."""
    model, found, condition = written()

    def worth(tokens, _rows):
        return (tokens * torch.arange(1, tokens.shape[1] + 1)).sum(1).float().sin()

    returns = returns_of(model, found, condition, worth)
    last = (reply_mask(found.tokens, found.reply_start).sum(1) + found.reply_start - 2)[:, None]
    torch.testing.assert_close(returns.gather(1, last).squeeze(1), worth(found.tokens, None))


@BACKBONES
@torch.no_grad()
def test_completions_follow_the_model(backbone):
    """The token after a kept prefix: frequencies of 4,000 completions against a whole pass, each within 4.5 deviations."""
    model, found, condition = written(backbone)
    first = found.tokens.gather(1, found.reply_start[:, None]).squeeze(1)
    chosen = (first != EOS).nonzero().squeeze(1)[:3]
    positions = found.reply_start[chosen]
    drawn = complete(model, found, condition, MAX_TOKENS, chosen, positions, torch.arange(4000), CounterRNG(1))
    next_tokens = drawn.view(3, 4000, -1)[torch.arange(3), :, positions + 1]
    expected = model.logits(model(found.tokens, condition)).softmax(-1)
    for number, row in enumerate(chosen.tolist()):
        wanted = expected[row, found.reply_start[row]]
        frequency = torch.bincount(next_tokens[number], minlength=VOCABULARY) / 4000
        assert ((frequency - wanted).abs() <= 4.5 * (wanted * (1 - wanted) / 4000).sqrt() + 1e-6).all()


@BACKBONES
def test_returns_converge_to_the_expected_reward(backbone):
    """Mean reward of 3,000 completions of a last-but-one token against the model's own distribution of the last."""
    model, found, condition = written(backbone, count=60)
    worth = torch.rand(VOCABULARY)
    full = (reply_mask(found.tokens, found.reply_start).sum(1) == MAX_TOKENS).nonzero().squeeze(1)[:4]
    part = Generated(
        found.tokens[full], found.reply_start[full], found.log_probs[full], tuple(s.index_select(2, full) for s in found.states)
    )

    def reward(tokens, rows):
        return worth[tokens.gather(1, (part.reply_start[rows] + MAX_TOKENS - 1)[:, None]).squeeze(1)]

    returns = returns_of(model, part, condition[full], reward, rollouts=3000)
    place = (part.reply_start + MAX_TOKENS - 2)[:, None]
    with torch.no_grad():
        scores = model.logits(model(part.tokens, condition[full])).softmax(-1)
    expected = (scores.gather(1, place[..., None].expand(-1, -1, VOCABULARY)).squeeze(1) * worth).sum(1)
    torch.testing.assert_close(returns.gather(1, place - 1).squeeze(1), expected, atol=4 * 0.3 / 3000**0.5, rtol=0)


@BACKBONES
def test_padding_columns_change_nothing(backbone):
    """The same draws and returns with more padding behind, and with tokens behind the end."""
    model, found, condition = written(backbone)

    def worth(tokens, rows):
        own = tokens * (torch.arange(tokens.shape[1]) < found.reply_start[rows][:, None] + 2)
        return own.sum(1).float()

    returns = returns_of(model, found, condition, worth)
    for behind in (PAD, 9):
        after_end = (found.tokens == EOS).cumsum(1) - (found.tokens == EOS).long() > 0
        tokens = torch.where(after_end, behind, found.tokens)
        tokens = torch.cat([tokens, torch.full((12, 2), PAD)], 1)
        wider = Generated(tokens, found.reply_start, found.log_probs, found.states)
        again = returns_of(model, wider, condition, lambda t, r: worth(t.masked_fill(_behind_end(t), PAD), r))
        torch.testing.assert_close(again[:, : returns.shape[1]], returns)
        assert (again[:, returns.shape[1] :] == 0).all()


def _behind_end(tokens):
    ends = (tokens == EOS).long()
    return ends.cumsum(1) - ends > 0
