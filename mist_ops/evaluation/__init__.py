"""Score predictions against masks, and write tables, plots and pages of the scores."""
