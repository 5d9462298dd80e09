"""Records beside computed files: what each was made from, and why it is stale."""
