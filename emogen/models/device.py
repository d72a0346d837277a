"""Where models compute, and what a device can do."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from emogen.errors import SettingsError

_PROBE_SIDE = {"cpu": 256, "cuda": 2048}
_PROBE_RUNS = 3


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one.

    Raises:
        SettingsError: a device that is unknown or not there.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise SettingsError(f"--device {name}: allowed is auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("--device cuda: this PyTorch sees no CUDA device; pass --device cpu, or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Bfloat16Support:
    """What a device does with bfloat16.

    Attributes:
        runs: a training step of an LSTM and of a matrix product works under bfloat16 autocast.
        is_faster: besides, its matrix products take less time than those in float32.
    """

    runs: bool
    is_faster: bool


@cache
def probe_bfloat16(device: torch.device) -> Bfloat16Support:
    """Find out by trying whether a device computes in bfloat16, and whether that is faster; once a process and device.

    The flags of a processor would not tell: PyTorch and oneDNN may be told to use fewer instructions than there are, an LSTM
    may lack a kernel where a matrix product has one, and without instructions for them products in bfloat16 take 30 times as
    long as in float32. Takes some tens of milliseconds and no random numbers.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # What surrounds the call may forbid gradients or set autocast.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            runs = _runs_bfloat16(device)
            return Bfloat16Support(runs, runs and _is_bfloat16_faster(device))
    finally:
        torch.set_num_threads(threads)


def _runs_bfloat16(device: torch.device) -> bool:
    # Not `nn.LSTM`, which takes random numbers for its weights.
    weights = [torch.ones(shape, device=device) for shape in ((32, 8), (32, 8), (32,), (32,))]
    rows, state = torch.ones(2, 3, 8, device=device, requires_grad=True), torch.zeros(1, 2, 8, device=device)
    try:
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            states = torch.lstm(rows, (state, state), weights, True, 1, 0.0, True, False, True)[0]
            (states @ rows.mT).sum().backward()  # type: ignore[no-untyped-call]
    except RuntimeError:
        return False
    return True


def _is_bfloat16_faster(device: torch.device) -> bool:
    """Compare square products, as often in turn; the shortest of each counts, which a busy machine spoils least."""
    side = _PROBE_SIDE.get(device.type, 256)
    wide = torch.ones(side, side, device=device)
    narrow = wide.bfloat16()
    times = [(_time_product(wide), _time_product(narrow)) for _ in range(_PROBE_RUNS + 1)]
    float32, bfloat16 = (min(column) for column in zip(*times[1:], strict=True))
    return bool(bfloat16 < float32)


def _time_product(square: Tensor) -> float:
    """Return seconds of the product of a matrix with itself."""
    began = time.perf_counter()
    _ = square @ square
    if square.is_cuda:
        torch.cuda.synchronize(square.device)
    return time.perf_counter() - began
