"""A search for the fields of a config that give the best run."""
