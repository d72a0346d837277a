"""Checkpoints as models of Hugging Face Transformers.

`import emogen.hub` tells `AutoConfig`, `AutoModelForCausalLM` and `AutoTokenizer` of our checkpoints.
"""

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from emogen.hub.config import MODEL_TYPE, EmogenConfig
from emogen.hub.model import EmogenForCausalLM
from emogen.hub.tokenizer import EmogenTokenizer

__all__ = ["EmogenConfig", "EmogenForCausalLM", "EmogenTokenizer"]

AutoConfig.register(MODEL_TYPE, EmogenConfig, exist_ok=True)
AutoModelForCausalLM.register(EmogenConfig, EmogenForCausalLM, exist_ok=True)
AutoTokenizer.register(EmogenConfig, EmogenTokenizer, exist_ok=True)  # type: ignore[no-untyped-call]
