"""Analysis of a dataset: configuration, folds, foreground boxes and the data dump."""
