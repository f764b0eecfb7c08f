"""Positions, absolute and relative."""
