"""A discriminator that already reads: language models of its own, beside the generator as it was at the start."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from emogen.models.generator import Generator
from emogen.models.likelihood import reply_nll
from emogen.text.tokenizer import BOS

_CHUNK = 4096


class LikelihoodRatioDiscriminator(nn.Module):
    """Log odds of "real" at each prefix: how much likelier its readers find it than the generator's starting model does.

    For each reader b + a * sum over the reply's tokens of [log p(token | before) - log q(token | before)], p the reader, q the
    starting model, a and b learnt; the mean over the readers. Were p the data's own distribution, a = 1 and b = 0 would be the
    best there is (Goodfellow et al. 2014, proposition 1). A reader that another seed gave has other faults than the starting
    model, and sees the latter's at once, where a discriminator from scratch has to learn the language first.
    """

    reading = "prefix"

    def __init__(self, readers: Sequence[Generator], reference: Generator) -> None:
        """Take over the readers, to be trained further.

        Args:
            readers: without latent, of the reference's vocabulary and labels.
            reference: the generator's starting model; stays as it is.
        """
        super().__init__()
        self.readers = nn.ModuleList(readers)
        self.scale = nn.Parameter(torch.ones(len(readers)))
        self.offset = nn.Parameter(torch.zeros(len(readers)))
        # Not a part of this module: it is never in training mode and belongs to no saved state.
        self._reference = (reference,)

    def last_layer(self) -> list[nn.Parameter]:
        """Return what its score is linear in."""
        return [self.scale, self.offset]

    def forward(self, tokens: Tensor, emotion: Tensor) -> Tensor:
        """Log odds that the text is real; arguments and result as of `Discriminator.forward` with the reading prefix."""
        start = (tokens == BOS).int().argmax(1) + 1
        with torch.no_grad():
            before, _ = reply_nll(self._reference[0], tokens, start, emotion, _CHUNK)
        readings = [reply_nll(reader, tokens, start, emotion, _CHUNK)[0] for reader in self.readers]  # type: ignore[arg-type]
        gains = torch.stack([before - nll for nll in readings])
        upto = functional.pad(gains.cumsum(-1), (1, 0))
        odds: Tensor = (self.offset[:, None, None] + self.scale[:, None, None] * upto).mean(0)
        return odds.float()
