"""Vectors of texts: their losses, their task, their evaluation by retrieval."""
