"""The options of decoding: frozen, and without PyTorch, so that a command's help is quick."""

from __future__ import annotations

from dataclasses import dataclass

from emogen.decoding.control import Control
from emogen.errors import require


@dataclass(frozen=True)
class SamplingParams:
    """Options of one decoding call.

    Attributes:
        n: samples for each condition.
        temperature: divides the logits; 0 takes the likeliest token (greedy).
        top_k: the k likeliest tokens stay; 0 for all (Fan et al. 2018).
        top_p: the smallest set of likeliest tokens that holds this probability stays; 1 for all (Holtzman et al. 2020).
        min_p: tokens stay that are at least this share as likely as the likeliest; 0 for all (Nguyen et al. 2024).
        control: what steers the texts towards their emotion, where a prompt does not say so itself.
        max_tokens: a reply is cut after so many.
        seed: of the random numbers; row i of a call has the stream (seed, i).
    """

    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    control: Control = Control()
    max_tokens: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "at least 1")
        require(0 <= self.temperature <= 100, "temperature", self.temperature, "between 0 and 100")
        require(self.top_k >= 0, "top-k", self.top_k, "0 (off) or more")
        require(0 < self.top_p <= 1, "top-p", self.top_p, "above 0 and at most 1")
        require(0 <= self.min_p <= 1, "min-p", self.min_p, "between 0 and 1")
        require(1 <= self.max_tokens <= 4096, "max-tokens", self.max_tokens, "between 1 and 4096")
