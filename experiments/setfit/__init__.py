"""Few-shot classification of texts: contrastive pairs, then a head (SetFit)."""
