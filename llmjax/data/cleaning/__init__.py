"""Cleaning, filters, near-duplicates and splits."""
