"""Hostile input of every kind: `python -m tests.proofs.hostile`."""
