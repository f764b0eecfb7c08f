"""State, step, loop, optimizers, checkpoints and metric writers."""
