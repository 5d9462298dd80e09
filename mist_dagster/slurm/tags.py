"""Tags of runs whose work Slurm does."""

SLURM = "mist/slurm"
"""Numbers of the jobs of a run; it marks the runs whose work Slurm does."""

SLURM_STATE = "mist/slurm state"
"""What the job of a run does, in words."""

NOT_SUBMITTED = "none yet"
"""In place of a number."""
