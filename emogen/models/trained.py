"""The tensors of a model that training changes: all that a checkpoint or a saved run keeps of it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def trained_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the state of `module` by name, without the weights of a base model that are fixed."""
    fixed = _find_fixed(module)
    return {name: tensor for name, tensor in module.state_dict().items() if name not in fixed}


def take_trained(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Fill `module` with what `trained_tensors` gave; fixed weights stay.

    Raises:
        RuntimeError: other names or shapes than the module's.
    """
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    lacking = sorted(set(missing) - _find_fixed(module))
    if lacking or unexpected:
        raise RuntimeError(
            f"state_dict lacks {', '.join(lacking[:3]) or 'nothing'}, knows no {', '.join(unexpected[:3]) or 'more'}"
        )


def _find_fixed(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
