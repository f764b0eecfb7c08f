"""The global batch as a function of (seed, step)."""
