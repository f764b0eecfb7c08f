"""Readers of a user's files: text, JSON lines, tables, ArrayRecord."""
