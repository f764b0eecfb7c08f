"""The meanings of a classifier's scores: loss, prediction and report of each."""
