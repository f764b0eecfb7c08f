"""Tasks that learn from preferences between answers."""
