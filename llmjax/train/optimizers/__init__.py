"""The optimizer: one optax chain, right for stacked layers."""
