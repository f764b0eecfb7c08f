"""A training step compiled ahead of time for a topology, and its memory."""
