"""Where models compute."""

from __future__ import annotations

import torch

from emogen.errors import SettingsError


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


def has_bf16(device: torch.device) -> bool:
    """Whether the processor has instructions for bfloat16 matrix products."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16"))
