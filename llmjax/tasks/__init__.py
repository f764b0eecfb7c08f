"""One file per objective or task: host features, device loss, metrics."""
