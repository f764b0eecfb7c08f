"""Wrappers of a task's loss: what fine-tuning does beside learning the labels."""
