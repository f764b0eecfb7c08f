"""The hub's formats: models, weights and tokenizers in and out.

    model, params = hub.load("path/to/folder")  # or a .gguf file, or package:NAME
    tokens = hub.tokenizer("path/to/folder").encode("Hello", special_tokens=True)
    hub.save(model, params, "new/folder")       # transformers loads it

The functions hide the modules of their names: `from llmjax.hub.load import check`.
"""

from llmjax.hub import adapters
from llmjax.hub.generation import generation
from llmjax.hub.load import load
from llmjax.hub.save import save, to_hub
from llmjax.hub.tokenizer import tokenizer

__all__ = ["adapters", "generation", "load", "save", "to_hub", "tokenizer"]
