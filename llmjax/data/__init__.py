"""Sources, cleaning, tokenizers, packing, and the global batch."""
