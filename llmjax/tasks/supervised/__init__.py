"""Tasks that learn to write what is written in their data."""
