"""Several processes as one run: joining, shares of a batch, supervision."""
