"""emogen: emotional text, generated, controlled and measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emogen.registration import register_with_transformers
from emogen.version import __version__

if TYPE_CHECKING:
    from emogen.checkpoint import Checkpoint, load
    from emogen.decoding.sampling import Sample, Sampling

__all__ = ["Checkpoint", "Sample", "Sampling", "__version__", "load"]


register_with_transformers()


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `import emogen` loads no PyTorch."""
    if name in ("Checkpoint", "load"):
        from emogen import checkpoint

        return getattr(checkpoint, name)
    if name in ("Sample", "Sampling"):
        from emogen.decoding import sampling

        return getattr(sampling, name)
    raise AttributeError(f"module 'emogen' has no attribute {name!r}")
