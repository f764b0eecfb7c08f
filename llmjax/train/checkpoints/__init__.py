"""Saved state: what is written, kept and read back."""
