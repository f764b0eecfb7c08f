"""Four losses of preferences on one set of pairs, which a classifier prefers."""
