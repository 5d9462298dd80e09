"""Training: from preprocessed arrays to the weights of a fold."""
