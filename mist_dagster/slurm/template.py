"""A new ``mist_slurm.yaml``, with comments."""

from collections.abc import Mapping
from typing import Protocol

from mist_dagster.slurm.settings import STAGES, Request, SlurmSettings

_START = """\
# How submitted runs use Slurm. Reference: docs/how-to/slurm.md. Check it with: mist_slurm --dry-run
executor: slurm        # local: submitted runs stay on the machine of mist_ui

all:                   # of every stage; lines without # are the defaults
  # partition: gpu
  # account: my-group
  # qos: normal
  time: "1-00:00:00"   # a training that needs longer continues in the next job
  cpus: 4
  # setup: |           # shell lines before the program
  #   module load python/3.11
  # prefix: apptainer exec --nv /shared/mist.sif
  gpu_option: --gpus-per-node={gpus}   # or --gres=gpu:a100:{gpus}
  patients: 25         # that a task of a job array handles
  # most_tasks: 20     # tasks of a job array at once
  # options: [--constraint=a100]

stages:
"""

_NUMBERS = """
# python: /shared/venv/bin/python   # on the nodes; by default that of mist_ui
# jobs: 20               # runs with jobs at the same time; only in your own file, ~/.config/mist/mist_slurm.yaml
# poll_seconds: 30       # between two calls of squeue, which serve all jobs
# warn_seconds: 120      # before the time limit, to finish an epoch or a patient
# resubmissions: 20      # of a job whose node failed, or that was preempted, if Slurm does not requeue it
"""


class Proposed(Protocol):
    """What is proposed for a stage."""

    @property
    def memory(self) -> str:
        """Main memory."""
        ...

    @property
    def time(self) -> str | None:
        """Time limit."""
        ...

    @property
    def lines(self) -> tuple[str, ...]:
        """Where these come from."""
        ...


def template(proposals: Mapping[str, Proposed]) -> str:
    """Return the file, with what is proposed for each stage."""
    defaults = SlurmSettings(executor="slurm")
    stages = "".join(_stage(stage, defaults.request(stage), proposals.get(stage)) for stage in STAGES)
    return f"{_START}{stages}{_NUMBERS}"


def _stage(stage: str, request: Request, proposed: Proposed | None) -> str:
    lines = [f"  {stage}:"]
    if proposed:
        lines += [f"    # {line}" for line in proposed.lines]
    lines.append(f"    memory: {proposed.memory if proposed else request.memory}")
    if proposed and proposed.time:
        lines.append(f'    time: "{proposed.time}"')
    if request.gpus:
        lines.append(f"    gpus: {request.gpus}")
    return "\n".join(lines) + "\n"
