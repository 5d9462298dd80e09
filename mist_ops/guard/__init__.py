"""The guard of a study: is a new scan like those that the models were trained on, and how good will its mask be."""
