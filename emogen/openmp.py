"""How the threads of OpenMP wait, which PyTorch computes with on a CPU."""

from __future__ import annotations

import os
import sys

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def let_threads_sleep() -> None:
    """Make the threads of OpenMP sleep while they wait for each other, unless the environment says how they wait.

    By default they spin for some milliseconds. Where another program wants a core, a thread that computes then stands still
    while one that waits keeps its core busy, and small models become several times as slow. OpenMP reads its variables once,
    when PyTorch is loaded, so nothing is set after that.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in _WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
