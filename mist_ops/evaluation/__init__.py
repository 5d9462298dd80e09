"""From pairs of masks to tables of scores."""
