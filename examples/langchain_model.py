"""A LangChain chat model that writes with an emotion: invoked, streamed, in batches, synchronous or not, in any chain.

    pip install langchain-core
    python examples/langchain_model.py "I lost my job." --emotion sadness

The emotion is a field of the model, and may be another at each call: `model.invoke("We won!", emotion="joy")`, or
`model.bind(emotion="joy", strength=0.5)` as a part of a chain.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import click
from langchain_core.language_models.chat_models import BaseChatModel, generate_from_stream
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

import emogen
from emogen import Engine
from emogen.cli import run
from emogen.dialogue.stream import ReplyStream
from emogen.errors import SettingsError


class EmogenChat(BaseChatModel):
    """Replies of an engine, which writes those of all calls at once.

    Attributes:
        engine: that writes.
        emotion: `joy`, `joy=0.7,surprise=0.3`, or None for no emotion.
        strength: of the emotion, 0 to 1.
        seed: the same seed gives the same reply on a CPU.
    """

    engine: Engine
    emotion: str | None = None
    strength: float = 1.0
    seed: int = 0

    @property
    def _llm_type(self) -> str:
        return "emogen"

    def _write(self, messages: Sequence[BaseMessage], target: dict[str, Any]) -> ReplyStream:
        """System messages are left out: the model follows no instructions but the emotion."""
        if target.get("stop"):
            raise SettingsError("stop: the model ends its replies itself; leave it out")
        said = [str(message.text) for message in messages if message.type in ("human", "ai")]
        options = {"emotion": self.emotion, "strength": self.strength, "seed": self.seed} | target
        emotion = self.engine.model.emotion(options["emotion"], options["strength"])
        return self.engine.write(said, emotion, seed=options["seed"])

    def _stream(self, messages: list[BaseMessage], *_: Any, **target: Any) -> Iterator[ChatGenerationChunk]:
        writing = self._write(messages, target)
        try:
            for piece in writing:
                yield _chunk(piece)
        finally:
            writing.cancel()

    async def _astream(self, messages: list[BaseMessage], *_: Any, **target: Any) -> AsyncIterator[ChatGenerationChunk]:
        writing = self._write(messages, target)
        try:
            async for piece in writing:
                yield _chunk(piece)
        finally:
            writing.cancel()

    def _generate(self, messages: list[BaseMessage], *_: Any, **target: Any) -> ChatResult:
        return generate_from_stream(self._stream(messages, **target))


def _chunk(piece: str) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(content=piece))


@click.command()
@click.argument("text")
@click.option("--emotion", help="Of the reply.")
def main(text: str, emotion: str | None) -> None:
    """Reply to TEXT, piece by piece."""
    with Engine(emogen.load()) as engine:
        for chunk in EmogenChat(engine=engine).stream(text, emotion=emotion):
            click.echo(chunk.content, nl=False)
    click.echo()


if __name__ == "__main__":
    run(main, "langchain_model.py")
