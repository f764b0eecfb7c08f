"""Tasks over items that users had, and no text."""
