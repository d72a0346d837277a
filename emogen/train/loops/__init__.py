"""The training loops: each a generator of steps."""
