"""From the files of a dataset to its configuration, folds and boxes."""
