"""Adapters in peft's format, both ways."""

from llmjax.hub.adapters.load import load, merged
from llmjax.hub.adapters.save import save

__all__ = ["load", "merged", "save"]
