"""From other datasets' layouts to ours."""
