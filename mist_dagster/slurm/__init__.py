"""Slurm as the machine of submitted runs: settings, scripts, jobs and their states. No Dagster here."""
