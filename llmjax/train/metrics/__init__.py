"""Metrics: evaluated, logged, written; FLOPs and peaks."""
