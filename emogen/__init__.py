"""Emotional text, generated, controlled and measured.

    import emogen

    model = emogen.load()                                  # the model that ships; or emogen.load("checkpoints/my-model")
    print(model.sample("joy", n=3)[0].text)
    print(model.reply("I won!", "joy=0.7,surprise=0.3"))   # a mixture of emotions
    print(emogen.load_recognizer().recognize(["I did it!"])[0])

Start here:

    load, load_recognizer    a model that writes, and a classifier that recognises emotion, from folders or as they ship
    EmotionModel             a loaded model: sample, reply, replies, stream
    Sample, SamplingParams   what was written; temperature, top_p and so on
    Control                  guidance and the other ways to steer while decoding
    Session, SessionConfig   a conversation with an emotion state, and how it answers
    Engine                   many conversations in one batch

Scores of texts stand in `emogen.evaluate`, training in `emogen.train`, corpora in `emogen.data`; each page under docs/ has
examples. Importing emogen loads no PyTorch: a public name is loaded when it is first used.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from emogen.version import __version__

if TYPE_CHECKING:
    from emogen.checkpoint.model import EmotionModel, load
    from emogen.decoding.control import Control
    from emogen.decoding.params import SamplingParams
    from emogen.decoding.texts import Sample
    from emogen.dialogue.engine import Engine
    from emogen.dialogue.session import Session, SessionConfig
    from emogen.recognition.recognizer import load_recognizer

__all__ = [
    "Control",
    "EmotionModel",
    "Engine",
    "Sample",
    "SamplingParams",
    "Session",
    "SessionConfig",
    "__version__",
    "load",
    "load_recognizer",
]


_HOMES = {
    "EmotionModel": "emogen.checkpoint.model",
    "Control": "emogen.decoding.control",
    "Engine": "emogen.dialogue.engine",
    "SessionConfig": "emogen.dialogue.session",
    "Sample": "emogen.decoding.texts",
    "SamplingParams": "emogen.decoding.params",
    "Session": "emogen.dialogue.session",
    "load": "emogen.checkpoint.model",
    "load_recognizer": "emogen.recognition.recognizer",
}

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def _let_threads_sleep() -> None:
    """Make the threads of OpenMP sleep while they wait for each other, unless the environment says how they wait.

    By default they spin for some milliseconds. Where another program wants a core, a thread that computes then stands still
    while one that waits keeps its core busy, and small models become several times as slow. OpenMP reads its variables once,
    when PyTorch is loaded, so nothing is set after that.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in _WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


_let_threads_sleep()


_RENAMED = {"Checkpoint": "EmotionModel", "Manner": "SessionConfig", "Sampling": "SamplingParams"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import emogen` loads no PyTorch.

    Names of 0.1 that have changed are understood until 0.2.
    """
    if name in _RENAMED:
        warnings.warn(f"emogen.{name} is now emogen.{_RENAMED[name]}", DeprecationWarning, stacklevel=2)
        name = _RENAMED[name]
    if name not in _HOMES:
        raise AttributeError(f"module 'emogen' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List what is public and the modules that are loaded, for `help`, `dir` and completion."""
    loaded = (name for name in globals() if f"{__name__}.{name}" in sys.modules)
    return sorted({*__all__, *loaded, "__doc__", "__file__", "__name__", "__path__"})
