"""Rankings of strategies by their scores on the same patients."""
