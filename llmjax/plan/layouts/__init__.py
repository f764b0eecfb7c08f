"""Other layouts of the same run: faster ones, and ones that fit."""
