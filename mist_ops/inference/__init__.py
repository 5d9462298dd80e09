"""Inference: from weights and images to label maps on the grid of the scan."""
