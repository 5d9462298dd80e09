"""What of a study is stale, why, and what to rebuild."""
