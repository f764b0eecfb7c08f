"""Several processes as one run.

`supervise` starts them and watches; `membership` has the flags by which each joins and
leaves; `distributed` is the part that needs jax: joining, and shares of a batch.
"""
