"""Seconds and bytes of a step on a chip: by its compiled program, or by formula."""
