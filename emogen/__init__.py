"""emogen: emotional text, generated, controlled and measured."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from emogen.openmp import let_threads_sleep
from emogen.registration import register_with_transformers
from emogen.version import __version__

if TYPE_CHECKING:
    from emogen.checkpoint import Checkpoint, load
    from emogen.decoding.control import Control
    from emogen.decoding.sampling import Sampling
    from emogen.decoding.texts import Sample
    from emogen.dialogue.engine import Engine
    from emogen.dialogue.session import Manner, Session
    from emogen.judges.recognizer import load_recognizer

__all__ = [
    "Checkpoint",
    "Control",
    "Engine",
    "Manner",
    "Sample",
    "Sampling",
    "Session",
    "__version__",
    "load",
    "load_recognizer",
]


_HOMES = {
    "Checkpoint": "emogen.checkpoint",
    "Control": "emogen.decoding.control",
    "Engine": "emogen.dialogue.engine",
    "Manner": "emogen.dialogue.session",
    "Sample": "emogen.decoding.texts",
    "Sampling": "emogen.decoding.sampling",
    "Session": "emogen.dialogue.session",
    "load": "emogen.checkpoint",
    "load_recognizer": "emogen.judges.recognizer",
}

let_threads_sleep()
register_with_transformers()


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `import emogen` loads no PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'emogen' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
