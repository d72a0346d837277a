"""The Transformer block against transformers' Llama of the same weights, and what padding and order do to it."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.transformer import Block, Encoder, feedforward_width, present_tokens, rotate, rotation_of
from emogen.text.tokenizer import EOS, PAD, TURN

WIDTH, HEADS, VOCABULARY = 16, 4, 40


def llama():
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=feedforward_width(WIDTH),
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def of_llama(theirs):
    """Give a generator the weights of a Llama, norms randomised in both."""
    ours = Generator(GeneratorConfig(VOCABULARY, 3, "transformer", width=WIDTH, layers=2, heads=HEADS)).eval()
    for name, weight in theirs.named_parameters():
        if name.endswith("norm.weight"):
            weight.uniform_(0.5, 1.5)
    ours.embedding.weight.copy_(theirs.model.embed_tokens.weight)
    ours.backbone.norm.weight.copy_(theirs.model.norm.weight)
    for block, layer in zip(ours.backbone.blocks, theirs.model.layers, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        block.attention_norm.weight.copy_(layer.input_layernorm.weight)
        block.feedforward_norm.weight.copy_(layer.post_attention_layernorm.weight)
        block.qkv.weight.copy_(torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]))
        block.out.weight.copy_(attention.o_proj.weight)
        block.gate_up.weight.copy_(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]))
        block.down.weight.copy_(mlp.down_proj.weight)
    return ours


@torch.no_grad()
def test_generator_equals_llama():
    """Without a condition, on the ids that a reply may hold."""
    theirs = llama()
    ours = of_llama(theirs)
    tokens = torch.randint(TURN, VOCABULARY, (3, 11))
    allowed = [EOS, *range(TURN + 1, VOCABULARY)]
    found = ours.logits(ours(tokens, torch.zeros(3, 4)))[..., allowed]
    expected = theirs(tokens).logits[..., allowed]
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("width", "expected"), [(12, 32), (16, 64), (96, 256), (128, 352), (256, 704)])
def test_feedforward_width(width, expected):
    """8/3 of the width, rounded up to a multiple of 32."""
    assert feedforward_width(width) == expected


def test_rotation_keeps_lengths_and_depends_on_distance_alone():
    """The defining property of rotary positions (Su et al. 2021, equation 11)."""
    query, key = torch.randn(2, 1, 1, 1, 8).double()

    def product(at, other):
        rotation = rotation_of(torch.tensor([at, other]), 8).double()
        return (rotate(query, rotation[:, :1]) * rotate(key, rotation[:, 1:])).sum()

    torch.testing.assert_close(product(3, 7), product(13, 17), atol=1e-5, rtol=0)
    assert (product(3, 7) - product(3, 8)).abs() > 1e-3
    torch.testing.assert_close(rotate(query, rotation_of(torch.tensor([5]), 8)).norm(), query.norm())


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_padding_changes_nothing(causal):
    """Whatever stands at places that are not present."""
    encoder = Encoder(16, 2, 4, dropout=0.0, causal=causal)
    stream = torch.randn(2, 7, 16)
    present = torch.arange(7) < torch.tensor([[7], [4]])
    changed = torch.where(present[..., None], stream, torch.randn_like(stream))
    torch.testing.assert_close(encoder(stream, present)[present], encoder(changed, present)[present])
    torch.testing.assert_close(encoder(stream[1:, :4], present[1:, :4])[0], encoder(stream, present)[1, :4])


@torch.no_grad()
def test_only_a_causal_stack_hides_the_future():
    """A change at the last place reaches the first place of the other stack."""
    stream = torch.randn(1, 5, 16)
    later = stream.clone()
    later[:, -1] += 1
    present = torch.ones(1, 5, dtype=torch.bool)
    for causal in (True, False):
        encoder = Encoder(16, 2, 4, dropout=0.0, causal=causal)
        same = torch.isclose(encoder(stream, present), encoder(later, present), atol=1e-6).all(-1)[0]
        assert same[:-1].all() if causal else not same.any()


@torch.no_grad()
def test_steps_equal_the_whole():
    """Rows at positions of their own: row 1 is two tokens behind row 0."""
    block = Block(16, 4, dropout=0.0)
    stream = torch.randn(2, 6, 16)
    expected = block(stream, rotation_of(torch.arange(6), 4), None, True)
    cache = torch.zeros(2, 2, 4, 8, 4)
    for place in range(6):
        positions = torch.tensor([place, max(place - 2, 0)])
        rotation = rotation_of(positions[:, None], 4)[:, :, None]
        found = block.step(stream[torch.arange(2), positions][:, None], rotation, cache, positions[:, None]).squeeze(1)
        torch.testing.assert_close(found, expected[torch.arange(2), positions], atol=1e-5, rtol=1e-5)


def test_dropout_only_in_training():
    """Two passes differ in training and are equal in eval mode."""
    encoder = Encoder(16, 1, 4, dropout=0.5, causal=True)
    stream, present = torch.randn(1, 5, 16), torch.ones(1, 5, dtype=torch.bool)
    assert not torch.equal(encoder(stream, present), encoder(stream, present))
    encoder.eval()
    assert torch.equal(encoder(stream, present), encoder(stream, present))


def test_present_tokens_by_hand():
    """Up to and with the end token; neither padding nor what stands behind the end."""
    tokens = torch.tensor([[8, 9, EOS, PAD, PAD], [8, EOS, 9, EOS, 8], [8, 9, 8, 9, 8], [8, 9, PAD, PAD, PAD]])
    expected = [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert present_tokens(tokens).int().tolist() == expected
