"""Recommending the next item, by a Transformer and by simpler ways beside it."""
