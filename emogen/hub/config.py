"""The config.json of a checkpoint as a config of Hugging Face Transformers."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers.configuration_utils import PreTrainedConfig

from emogen.emotions.labels import LabelSet
from emogen.errors import CheckpointError

MODEL_TYPE = "emogen"
_OWN_BACKBONES = ("lstm", "transformer")
_LOADERS = {"classifier": "emogen.recognition.recognizer.load_recognizer"}


class EmogenConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """What config.json of an own-backbone generator holds, under its own names.

    Attributes:
        format: of the checkpoint.
        emogen: the version that wrote it.
        kind: generator.
        labels: the emotions, in order.
        model: the fields of `emogen.models.generator.GeneratorConfig`.
        limits: the fields of `emogen.data.batches.Limits`.
    """

    model_type: ClassVar[str] = MODEL_TYPE

    format: int = 1
    emogen: str = ""
    kind: str = "generator"
    labels: list[str] | None = None
    model: dict[str, Any] | None = None
    limits: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse what Transformers cannot run, with one line that says what can.

        Raises:
            CheckpointError: another kind of checkpoint, one with a pretrained base or with a latent.
        """
        # Weights lie on disk in half precision for their size only.
        self.dtype = self.dtype or "float32"
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        reason = self._reason_against()
        if reason:
            name = self.name_or_path or "FOLDER"
            loader = _LOADERS.get(self.kind, "emogen.load")
            raise CheckpointError(f"{name}: {reason}, which Transformers does not load; use {loader}({name!r})")

    def _reason_against(self) -> str | None:
        sizes = self.model or {}
        if self.kind != "generator":
            return f"is a {self.kind}"
        if sizes.get("backbone", "lstm") not in _OWN_BACKBONES:
            return f"is a generator with a {sizes['backbone']} backbone"
        return "is a generator with a latent" if sizes.get("latent") else None

    @property
    def label_set(self) -> LabelSet:
        """Return the emotions."""
        return LabelSet(tuple(self.labels or ()))

    @property
    def vocab_size(self) -> int:
        """Return the number of token ids, by the name that Transformers looks for."""
        return int((self.model or {})["vocabulary"])

    @property
    def hidden_size(self) -> int:
        """Return the width of the states."""
        return int((self.model or {})["width"])

    @property
    def num_hidden_layers(self) -> int:
        """Return layers of the backbone."""
        return int((self.model or {})["layers"])
