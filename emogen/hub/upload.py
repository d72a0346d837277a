"""Uploading a checkpoint to the hub of Hugging Face."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub

from emogen.checkpoint.folder import read_description
from emogen.errors import EmogenError
from emogen.hub.card import complete_card
from emogen.pretrained.base_files import first_line

if TYPE_CHECKING:
    pass


_KEPT_HOME = ("train_state.pt", "log.jsonl", ".*", "*/.*", "warm-start/*", "*.part")


def publish(
    folder: str | PathLike[str],
    repo: str,
    *,
    licence: str | None = None,
    languages: Sequence[str] = (),
    datasets: Sequence[str] = (),
    private: bool = False,
) -> str:
    """Upload a checkpoint's folder to the Hugging Face hub, once its model card names licence, languages and datasets.

    Args:
        folder: of a checkpoint, whatever its kind. A missing README.md is written there, from a template and train.json.
        repo: OWNER/NAME; made where there is none.
        licence: of the weights, as the hub names it (`cc-by-nc-4.0`). This and the next two go into the card's header, in place
            of what stands there; empty ones leave it as it is.
        languages: of the texts, as codes (`en`, `zh`).
        datasets: that the model was trained on.
        private: whether others must not see a repository that is made.

    Returns:
        The address of the repository.

    Raises:
        CheckpointError: no checkpoint there.
        SettingsError: a card that does not name all three.
        EmogenError: the hub refused or cannot be reached.
    """
    place = Path(folder)
    read_description(place)
    complete_card(place, repo, {"license": licence, "language": list(languages), "datasets": list(datasets)})
    try:
        address = huggingface_hub.create_repo(repo, private=private, exist_ok=True)
        huggingface_hub.upload_folder(repo_id=repo, folder_path=place, ignore_patterns=list(_KEPT_HOME))
    except Exception as error:
        raise EmogenError(
            f"{repo}: cannot be uploaded ({first_line(error)}); check the name, and log in with `hf auth login`"
        ) from None
    return str(address)
