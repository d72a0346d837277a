"""The conditional text VAE: an encoder q(z | reply, emotion) and a generator as its decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from emogen.errors import SettingsError
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.losses import Gaussian
from emogen.models.pretrained_backbone import BaseModel
from emogen.models.pretrained_encoder import PretrainedReader
from emogen.models.transformer import Encoder, mean_of, present_tokens

_LOG_VARIANCE_RANGE = (-8.0, 4.0)


@dataclass(frozen=True)
class TextVaeConfig:
    """Sizes of a text VAE.

    Attributes:
        decoder: the generator; its `latent` is the size of z.
        encoder_layers: Transformer blocks of the encoder, which is as wide as the decoder.
        encoder_heads: of its attention.
        encoder: the own config of a pretrained encoder, which takes the place of these blocks; empty for none.
    """

    decoder: GeneratorConfig
    encoder_layers: int = 2
    encoder_heads: int = 4
    encoder: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.decoder.latent < 1:
            raise SettingsError("a VAE needs --latent of at least 1")
        width, heads = self.decoder.width, self.encoder_heads
        if not self.encoder and (width % heads or width // heads % 2):
            raise SettingsError(f"width {width} does not split into {heads} encoder heads of an even width")


class TextVAE(nn.Module):
    """Encoder and decoder, over one embedding unless the encoder is a pretrained one, with an emotion adversary on z.

    The adversary predicts the emotion from z, and the encoder learns to make it guess: it leaves the emotion to the condition,
    so that changing the condition changes the emotion.
    """

    def __init__(self, config: TextVaeConfig, base: BaseModel | None = None, reader: PretrainedReader | None = None) -> None:
        """A VAE with fresh weights.

        Args:
            config: sizes.
            base: of the decoder, as for `Generator`.
            reader: the encoder that `config.encoder` is of, where it is a pretrained one.
        """
        super().__init__()
        self.config = config
        width, latent, emotions = config.decoder.width, config.decoder.latent, config.decoder.emotions
        self.decoder = Generator(config.decoder, base)
        if reader:
            self.encoder: Encoder | PretrainedReader = reader
        else:
            self.condition = nn.Linear(emotions + 1, width, bias=False)
            self.encoder = Encoder(width, config.encoder_layers, config.encoder_heads, config.decoder.dropout, causal=False)
        self.posterior = nn.Linear(reader.width if reader else width, 2 * latent)
        self.adversary = nn.Sequential(nn.Linear(latent, width), nn.ReLU(), nn.Linear(width, emotions))

    def encode(self, tokens: Tensor, reply_start: Tensor, emotion: Tensor) -> Gaussian:
        """Return the posterior over z of each row, mean and log variance [batch, latent], from the reply alone.

        Args:
            tokens: [batch, time], rows as the generator takes them.
            reply_start: [batch], place of the first reply token.
            emotion: [batch, emotions + 1]; "no emotion" where it is not known, as for some rows in training.
        """
        pooled = self._pool(tokens, reply_start, emotion)
        mean, log_variance = self.posterior(pooled).float().chunk(2, -1)
        return Gaussian(mean, log_variance.clamp(*_LOG_VARIANCE_RANGE))

    def _pool(self, tokens: Tensor, reply_start: Tensor, emotion: Tensor) -> Tensor:
        if isinstance(self.encoder, PretrainedReader):
            pooled: Tensor = self.encoder(tokens, emotion, with_context=False)
            return pooled
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        present = (positions >= reply_start[:, None]) & present_tokens(tokens)
        stream = self.decoder.embedding(tokens).float() + self.condition(emotion)[:, None]
        return mean_of(self.encoder(stream, present), present)

    def adversary_loss(self, latent: Tensor, emotion: Tensor, usual: Tensor) -> Tensor:
        """Return what adversary and encoder learn from latents, [batch], nats.

        The adversary learns to tell the emotion from z, the encoder to make it guess what it would without z. Once that is
        reached the encoder has nothing more to gain; from a gradient with its sign reversed (Ganin et al. 2016) it would gain
        without end, and z grow with it.

        Args:
            latent: [batch, latent].
            emotion: [batch, emotions], weights.
            usual: [emotions], their mean over the rows.

        Source: domain confusion, Tzeng et al. 2015, Simultaneous Deep Transfer Across Domains and Tasks.
        """
        conditioning = functional.cross_entropy(self.adversary(latent.detach()), emotion, reduction="none")
        fixed = {name: weight.detach() for name, weight in self.adversary.named_parameters()}
        guess: Tensor = torch.func.functional_call(self.adversary, fixed, (latent,))
        confused = functional.cross_entropy(guess, usual.expand_as(guess), reduction="none")
        return conditioning + confused


@torch.no_grad()
def adopt_decoder(vae: TextVAE, generator: Generator) -> None:
    """Give the decoder the weights of a language model of its sizes; what the latent adds is nothing at first."""
    weights = dict(generator.state_dict())
    own = vae.decoder.state_dict()
    known = generator.config.emotions + 1
    own["inject.weight"].zero_()[:, :known] = weights.pop("inject.weight")
    own.update(weights)
    vae.decoder.load_state_dict(own)
