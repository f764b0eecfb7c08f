"""Corpora by name, as TFDS builders."""
