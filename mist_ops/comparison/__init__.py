"""Comparison of methods by their scores on the same patients, against the noise of their runs."""
