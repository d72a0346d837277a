"""On a CUDA device: training, rollouts and states agree with the CPU. Skipped, and said so, where there is none."""

import copy

import pytest
import torch

from emogen.data.batches import Batch
from emogen.decoding.counter_rng import CounterRNG
from emogen.emotions.labels import EKMAN, parse_emotion
from emogen.models.discriminator import Discriminator, DiscriminatorConfig
from emogen.models.generator import Generator, GeneratorConfig
from emogen.text.tokenizer import BOS, EOS
from emogen.train.config import GanConfig
from emogen.train.gan.trajectories import Adversaries
from emogen.train.loops.gan import train_gan
from emogen.train.run.state import TrainState, adamw

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this PyTorch sees no CUDA device"),
]


def batch():
    tokens = torch.randint(5, 20, (6, 9))
    tokens[:, 2], tokens[:, -1] = BOS, EOS
    emotion = torch.tensor([parse_emotion("joy", EKMAN).condition]).expand(6, -1)
    return Batch(tokens, torch.full((6,), 3), emotion)


@pytest.mark.parametrize("backbone", ["lstm", "transformer"])
def test_states_agree_with_the_cpu(backbone):
    model = Generator(GeneratorConfig(20, 7, backbone, width=16, layers=2)).eval()
    rows = batch()
    expected = model.logits(model(rows.tokens, rows.emotion))
    moved = rows.to(torch.device("cuda"))
    on_cuda = copy.deepcopy(model).cuda()
    found = on_cuda.logits(on_cuda(moved.tokens, moved.emotion))
    torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("estimator", ["rollout", "dense", "gumbel"])
@pytest.mark.parametrize("backbone", ["lstm", "transformer"])
def test_adversarial_steps_run(backbone, estimator):
    generator = Generator(GeneratorConfig(20, 7, backbone, width=16, layers=1)).cuda()
    reading = "prefix" if estimator == "dense" else "sequence"
    discriminator = Discriminator(DiscriminatorConfig(20, 7, reading, width=16, layers=1)).cuda()
    models = Adversaries(generator, copy.deepcopy(generator).eval(), discriminator)
    optimizers = {"generator": adamw(generator), "discriminator": adamw(discriminator)}
    state = TrainState({"generator": generator, "discriminator": discriminator}, optimizers, torch.Generator())
    config = GanConfig(estimator=estimator, warmup_steps=1, max_tokens=6)
    steps = list(train_gan(models, [batch()] * 3, config, state))
    assert [step.number for step in steps] == [1, 2, 3]
    assert 0 <= steps[-1].figures.get("reward", 0) <= 1


def test_draws_are_those_of_the_cpu():
    """To the last bit."""
    rows = torch.arange(1000)
    torch.testing.assert_close(
        CounterRNG(7).uniforms(rows.cuda(), 3, 4).cpu(), CounterRNG(7).uniforms(rows, 3, 4), atol=0, rtol=0
    )
