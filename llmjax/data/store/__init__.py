"""Prepared documents, tokens and manifests on disk."""
