"""A chat in the browser: choose the emotion of the replies or leave it to a policy, and how strong it is; replies stream.

    pip install gradio
    python examples/gradio_chat.py        # then open the address that it prints

All visitors share one engine, which writes their replies in one batch. Gradio's telemetry is off, and nothing is stored.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

# Before the import, at which Gradio reads it.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import click
import gradio as gr

import emogen
from emogen import Engine, SessionConfig
from emogen.cli import run
from emogen.dialogue.policy import BUILT_IN
from emogen.dialogue.session import emotion_for
from emogen.dialogue.state import felt
from emogen.recognition.recognizer import Recognizer

Reply = Callable[[str, list[dict[str, Any]], str, float], Iterator[str]]
"""From a message, the conversation before it, a choice and a strength to the reply, longer each time."""


def replies(engine: Engine, recognizer: Recognizer) -> Reply:
    """Return what Gradio calls for each message; a visitor who presses stop, or leaves, cancels his reply."""

    def reply(message: str, history: list[dict[str, Any]], choice: str, strength: float) -> Iterator[str]:
        turns = [(turn["role"], text_of(turn["content"])) for turn in history] + [("user", message)]
        state = felt(recognizer, [text for role, text in turns if role == "user"])
        manner = SessionConfig(policy=choice, strength=strength) if choice in BUILT_IN else SessionConfig(choice, strength)
        writing = engine.write([text for _, text in turns], emotion_for(manner, state, engine), seed=len(turns))
        try:
            whole = ""
            for piece in writing:
                whole += piece
                yield whole.strip()
        finally:
            writing.cancel()

    return reply


def text_of(content: str | list[dict[str, Any]]) -> str:
    """Return the words of a message; newer versions of Gradio keep it in parts."""
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def interface(engine: Engine, recognizer: Recognizer) -> gr.ChatInterface:
    """Return the page."""
    names = [name for name in engine.model.labels.names if name not in BUILT_IN]
    choice = gr.Dropdown([*BUILT_IN, *names, "none"], value="soothe", label="policy, or emotion of the replies")
    strength = gr.Slider(0, 1, value=1, label="strength")
    return gr.ChatInterface(
        replies(engine, recognizer),
        additional_inputs=[choice, strength],
        title="emogen",
        analytics_enabled=False,
        concurrency_limit=64,
    )


@click.command()
@click.option("--checkpoint", help="Folder of a model.  [default: as for emogen reply]")
@click.option("--port", type=click.IntRange(1, 65535), help="Where to listen.  [default: the first free one from 7860 on]")
def main(checkpoint: str | None, port: int | None) -> None:
    """Open a chat in the browser, until Ctrl-C ends it."""
    with Engine(emogen.load(checkpoint)) as engine:
        interface(engine, emogen.load_recognizer()).launch(server_port=port)


if __name__ == "__main__":
    run(main, "gradio_chat.py")
