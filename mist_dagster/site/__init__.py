"""Pages of registered studies beside Dagster's UI. They read what commands and runs wrote, and start nothing."""
