"""Attention: masks, implementations, and the modules that own weights."""
