"""Makes Hugging Face Transformers know emogen's checkpoints, without importing it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType

_AUTO = "transformers.models.auto.configuration_auto"


def register_with_transformers() -> None:
    """Registers the config of our checkpoints now where Transformers' `AutoConfig` is there, else as soon as it comes to be.

    Why a hook: importing Transformers takes seconds, which `import emogen` must not, and either may be imported first. Only
    the config is registered, from a module of a few lines; it registers model and tokenizer when the first config is made.
    That is after all imports, so nothing of ours takes part in the circular imports of Transformers.
    """
    if hasattr(sys.modules.get(_AUTO), "AutoConfig"):
        _register()
    elif not any(isinstance(finder, _AfterAutoConfig) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterAutoConfig())


class _AfterAutoConfig:
    """Finds one module as it would be found without us, and registers once it has run."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /) -> ModuleSpec | None:
        if fullname != _AUTO:
            return None
        sys.meta_path.remove(self)
        found = (finder.find_spec(fullname, path, target) for finder in sys.meta_path)
        spec = next((spec for spec in found if spec), None)
        if spec and spec.loader:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _register()

            with suppress(AttributeError, TypeError):
                spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def _register() -> None:
    try:
        from emogen.hub_config import register_config

        register_config()
    except Exception as error:
        # Whoever imports Transformers must get it, whatever becomes of us. Logging is not loaded before: it doubles our start.
        import logging

        logging.getLogger("emogen").warning("AutoModelForCausalLM will not know emogen's checkpoints: %r", error)
