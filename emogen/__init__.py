"""emogen: emotional text, generated, controlled and measured."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from emogen.registration import register_with_transformers
from emogen.version import __version__

if TYPE_CHECKING:
    from emogen.checkpoint import Checkpoint, load
    from emogen.decoding.control import Control
    from emogen.decoding.sampling import Sampling
    from emogen.decoding.texts import Sample

__all__ = ["Checkpoint", "Control", "Sample", "Sampling", "__version__", "load"]


_HOMES = {
    "Checkpoint": "emogen.checkpoint",
    "Control": "emogen.decoding.control",
    "Sample": "emogen.decoding.texts",
    "Sampling": "emogen.decoding.sampling",
    "load": "emogen.checkpoint",
}

register_with_transformers()


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `import emogen` loads no PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'emogen' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
