"""What a run would do on a TPU, told by its compiler on any machine."""
