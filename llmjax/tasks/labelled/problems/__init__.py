"""What a classifier's scores of a text mean: loss, prediction and report of each."""
