"""What a run is made of besides its data: models, optimizers, random numbers and the place in the run."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from emogen.errors import CheckpointError, SettingsError, TrainingError
from emogen.models.device import probe_bfloat16
from emogen.models.trained import take_trained, trained_tensors
from emogen.train.config import Precision
from emogen.train.run.processes import sum_gradients, total

_WARMUP_STEPS = 100
_FINAL_RATE = 0.05
_LEAST_GAIN = 0.01
_MAX_NORM = 1.0


@dataclass(frozen=True)
class Step:
    """What a training loop yields after each update: its number, counted from 1, named figures, and what is to be said."""

    number: int
    figures: dict[str, float]
    words: tuple[str, ...] = ()


@dataclass
class TrainState:
    """All that a stopped run needs to go on as if it had not stopped, but its data.

    Attributes:
        modules: in training, by name.
        optimizers: by name.
        random: the stream that loops sample from, the same in every process; dropout takes PyTorch's own.
        step: updates done.
        progress: share of the run that is done, 0 to 1; the learning rate follows it.
        figures: numbers that a loop or the run keeps between steps.
    """

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    random: torch.Generator
    step: int = 0
    progress: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)

    def dump(self) -> bytes:
        """Return the state as bytes that `restore` reads."""
        buffer = io.BytesIO()
        torch.save(
            {
                "modules": {name: trained_tensors(module) for name, module in self.modules.items()},
                "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
                "random": self.random.get_state(),
                "torch_random": torch.get_rng_state(),
                "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                "step": self.step,
                "progress": self.progress,
                "figures": self.figures,
            },
            buffer,
        )
        return buffer.getvalue()

    def restore(self, dumped: bytes, where: str) -> None:
        """Take over what `dump` gave, in place, random numbers included.

        Raises:
            CheckpointError: cut short, or of models of another shape.
        """
        try:
            saved: dict[str, Any] = torch.load(io.BytesIO(dumped), map_location="cpu", weights_only=True)
            for name, module in self.modules.items():
                take_trained(module, saved["modules"][name])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(saved["optimizers"][name])
            self.random.set_state(saved["random"])
            torch.set_rng_state(saved["torch_random"])
            if saved["cuda_random"] and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(saved["cuda_random"])
            step, progress, figures = saved["step"], saved["progress"], saved["figures"]
            if type(step) is not int or step < 0 or not math.isfinite(progress):
                raise ValueError("step and progress are no numbers")
            if not all(type(value) in (int, float) for value in figures.values()):
                raise ValueError("a figure is no number")
            self.step, self.progress, self.figures = step, progress, figures
        except Exception as error:
            other = "state_dict" in str(error)
            fault = "it is of another model" if other else "it is cut short, or no saved state"
            raise CheckpointError(f"{where}: cannot be resumed ({fault}); start again with another --out") from None


def adamw(
    module: nn.Module, weight_decay: float = 0.0, slow: Iterable[nn.Parameter] = (), share: float = 1.0
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) whose rate `update` sets; vectors (biases, norms) are not decayed.

    Args:
        module: its trainable weights are optimized.
        weight_decay: of matrices.
        slow: weights of the module that learn at a share of the rate.
        share: of the rate.
    """
    slowed = {id(parameter) for parameter in slow}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = []
    for chosen, pace in (([p for p in trained if id(p) not in slowed], 1.0), ([p for p in trained if id(p) in slowed], share)):
        groups.append({"params": [p for p in chosen if p.ndim > 1], "weight_decay": weight_decay, "share": pace})
        groups.append({"params": [p for p in chosen if p.ndim < 2], "weight_decay": 0.0, "share": pace})
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, betas=(0.9, 0.98), fused=True)


def update(loss: Tensor, optimizer: torch.optim.Optimizer, rate: float, state: TrainState) -> dict[str, float]:
    """Take one clipped step along the gradient, summed over all processes.

    Args:
        loss: a scalar of this process's rows, divided by counts of all (see `emogen.train.run.processes`).
        optimizer: of what is learnt.
        rate: the learning rate.
        state: its step is named in the error.

    Returns:
        `loss` of this process, `learning_rate`, and `gradient_norm` before clipping.

    Raises:
        TrainingError: loss or gradient is not finite, in any process; nothing is changed then.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    sum_gradients(parameters)
    norm = float(nn.utils.clip_grad_norm_(parameters, _MAX_NORM))
    value = float(loss.detach())
    if not (math.isfinite(norm) and math.isfinite(float(total(loss)))):
        found = f"loss {value:g} with gradient {norm:g}"
        raise TrainingError(f"step {state.step + 1}: {found} is not finite; lower the learning rate")
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
    optimizer.step()
    return {"loss": value, "learning_rate": rate, "gradient_norm": norm}


def usual_tokens(tokens: Tensor, state: TrainState) -> float:
    """Reply tokens of a batch as a rule, the divisor of a loss that is summed over tokens.

    Rows of similar length go together. Divided by their own number, the tokens of short replies would weigh more than those of
    long ones, and the model would learn to write too short.

    Args:
        tokens: scalar, of this batch in all processes.
        state: keeps the running mean, of all batches at first and of about the last 100 later on.
    """
    before = state.figures.get("usual_tokens", 0.0)
    state.figures["usual_tokens"] = before + (float(tokens) - before) * max(1 / (state.step + 1), _LEAST_GAIN)
    return state.figures["usual_tokens"]


def learning_rate_at(rate: float, state: TrainState) -> float:
    """Return the learning rate now: linear warm-up over 100 steps, then half a cosine over the run down to a twentieth."""
    warm = min(1.0, (state.step + 1) / _WARMUP_STEPS)
    cosine = 0.5 * (1 + math.cos(math.pi * min(state.progress, 1.0)))
    return rate * warm * (_FINAL_RATE + (1 - _FINAL_RATE) * cosine)


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse bfloat16 where the device cannot compute in it.

    Raises:
        SettingsError: precision `bf16` where an LSTM or a matrix product fails under bfloat16 autocast.
    """
    if precision == "bf16" and not probe_bfloat16(device).runs:
        place = "processor" if device.type == "cpu" else "device"
        raise SettingsError(f"--precision bf16: this {place} cannot train in bfloat16; pass --precision auto, or float32")


@contextmanager
def mixed_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Return bfloat16 matrix products where that is asked for, or where `auto` finds a device on which they are faster.

    Raises:
        SettingsError: as `check_precision`.
    """
    check_precision(precision, device)
    enabled = precision == "bf16" or (precision == "auto" and probe_bfloat16(device).is_faster)
    with torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=False):
        yield
