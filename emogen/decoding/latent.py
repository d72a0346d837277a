"""The latent space of a text VAE in use: where a text lies, texts near it, and the way from one to another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emogen.data.batches import Limits
from emogen.decoding.params import SamplingParams
from emogen.decoding.random_streams import fold_in, row_normals
from emogen.decoding.texts import Prompt, Sample, TextGenerator, sample
from emogen.emotions.labels import Emotion, LabelSet, no_emotion
from emogen.errors import CheckpointError, DataError, SettingsError
from emogen.models.generator import Generator
from emogen.models.losses import Gaussian
from emogen.models.vae import TextVAE
from emogen.text.tokenizer import BOS, EOS, PAD, Tokenizer

_ROWS = 256
_SHOWN = 40


@dataclass(frozen=True)
class LatentSpace:
    """A text VAE with what turns text into its rows.

    Attributes:
        vae: the model; it is used in eval mode.
        tokenizer: its own.
        labels: its emotions.
        limits: of the rows that it was trained on; a longer text is refused.
    """

    vae: TextVAE
    tokenizer: Tokenizer
    labels: LabelSet
    limits: Limits = Limits()

    @property
    def generator(self) -> Generator:
        """Return the decoder."""
        return self.vae.decoder

    def condition(self, emotion: Emotion | None, rows: int) -> Tensor:
        """Return what the model is told for an emotion, or for none, [rows, emotions + 1]."""
        conditioning = no_emotion(self.labels) if emotion is None else emotion
        return torch.tensor([conditioning.condition] * rows, device=self.generator.bias.device)

    def rows(self, texts: Sequence[str]) -> Tensor:
        """Token ids of `BOS, text, EOS`, [texts, time], padded at the end, whatever their length."""
        rows = [torch.tensor([BOS, *self.tokenizer.encode(text), EOS]) for text in texts]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD).to(self.generator.bias.device)


def latent_space(model: Generator | TextVAE, tokenizer: Tokenizer, labels: LabelSet, limits: Limits, name: str) -> LatentSpace:
    """Return the latent space of a loaded model.

    Args:
        model: of a checkpoint that was loaded whole.
        tokenizer: its own.
        labels: its emotions.
        limits: of its rows.
        name: of the checkpoint, for the message.

    Raises:
        CheckpointError: the model has no encoder.
    """
    if isinstance(model, TextVAE):
        return LatentSpace(model, tokenizer, labels, limits)
    kind = "a decoder without its encoder" if model.config.latent else "a language model"
    raise CheckpointError(
        f"{name}: is {kind}, which finds no latent of a text; checkpoints of train-vae do: emogen train-vae FILES, then "
        "--checkpoint FOLDER"
    )


@torch.no_grad()
def posterior(space: LatentSpace, texts: Sequence[str]) -> Gaussian:
    """Tell where texts lie, whose emotion is not known: mean and log variance, each [texts, latent].

    Raises:
        DataError: a text that is blank or longer than the model reads; texts are counted from 1.
    """
    for number, text in enumerate(texts, 1):
        refuse_unreadable(space, text, f"text {number}")
    if not texts:
        return Gaussian(*torch.zeros(2, 0, space.generator.config.latent))
    space.vae.eval()
    parts = [_encode(space, texts[at : at + _ROWS]) for at in range(0, len(texts), _ROWS)]
    return Gaussian(torch.cat([part.mean for part in parts]), torch.cat([part.log_variance for part in parts]))


def _encode(space: LatentSpace, texts: Sequence[str]) -> Gaussian:
    tokens = space.rows(texts)
    starts = torch.ones(len(tokens), dtype=torch.long, device=tokens.device)
    return space.vae.encode(tokens, starts, space.condition(None, len(tokens)))


def refuse_unreadable(space: LatentSpace, text: str, where: str) -> None:
    """Raise DataError where a text has no latent: it is blank, or longer than the model was trained to read."""
    if not text.strip():
        raise DataError(f"{where} is empty; leave it out, or write something there")
    length, most = len(space.tokenizer.encode(text)), space.limits.reply_tokens
    if length > most:
        shown = " ".join(text.split())[:_SHOWN]
        raise DataError(f"{where}, {shown!r}...: is {length} tokens long, the model reads {most}; shorten or divide it")


def near(space: LatentSpace, text: str, n: int, spread: float = 1.0, seed: int = 0) -> Tensor:
    """Return latents around that of a text, [n, latent], to be passed on to `sample`.

    Args:
        space: of a VAE.
        text: in their middle.
        n: how many.
        spread: 1 draws from the posterior, 0 takes its mean n times; above 1 they lie further away than the posterior says.
        seed: latent number i is a function of seed and i.

    Raises:
        DataError: a blank text, or one that is too long.
        SettingsError: a negative spread.
    """
    if not 0 <= spread <= 100:
        raise SettingsError(f"--spread {spread:g}: allowed is 0 to 100")
    found = posterior(space, [text])
    noise = row_normals([fold_in(seed, row) for row in range(n)], found.mean.shape[1]).to(found.mean.device)
    return found.sample(spread * noise)


def move_latents(latent: Tensor, source: Gaussian, target: Gaussian) -> Tensor:
    """Return the latents at the same place of another prior: as many deviations from its mean; where both are equal, the same.

    Args:
        latent: [rows, latent].
        source: the prior that they are of.
        target: the other one.
    """
    deviations = (latent - source.mean) * (-0.5 * source.log_variance).exp()
    return target.sample(deviations)


def path_between(space: LatentSpace, first: str, second: str, steps: int) -> Tensor:
    """Return latents on the straight line from one text to another, both ends among them, [steps, latent].

    Raises:
        SettingsError: fewer than two steps.
        DataError: a blank text, or one that is too long.
    """
    if steps < 2:
        raise SettingsError(f"--steps {steps}: allowed is 2 or more, both ends among them")
    ends = posterior(space, [first, second]).mean
    share = torch.linspace(0, 1, steps, device=ends.device)[:, None]
    return torch.lerp(ends[:1], ends[1:], share)


def interpolate(
    space: LatentSpace,
    first: str,
    second: str,
    steps: int,
    emotion: Emotion | None = None,
    sampling: SamplingParams | None = None,
) -> list[Sample]:
    """Return the texts on the straight line from one text to another.

    The ends as the decoder gives them back (Bowman et al. 2016).

    Args:
        space: of a VAE.
        first: where it begins.
        second: where it ends.
        steps: texts, both ends among them.
        emotion: that all are written with; None for no emotion.
        sampling: decoding options; the likeliest tokens unless given.

    Raises:
        DataError, SettingsError: as `path_between`.
    """
    options = sampling or SamplingParams(temperature=0.0, max_tokens=space.limits.reply_tokens + 1)
    return list(written(space, path_between(space, first, second, steps), emotion, options))


def written(space: LatentSpace, latents: Tensor, emotion: Emotion | None, sampling: SamplingParams) -> Iterator[Sample]:
    """Return one text for each latent [rows, latent], all with the same emotion; `sampling.n` must be 1."""
    prompt = Prompt(space.tokenizer.prefix([], 0), no_emotion(space.labels) if emotion is None else emotion)
    return sample(TextGenerator(space.generator, space.tokenizer), [prompt] * len(latents), sampling, latents)
