"""Models that stand on a Transformer."""
