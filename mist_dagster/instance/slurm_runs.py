"""Runs whose work Slurm does: which they are, and the processes that follow their jobs.

Such a process is not part of ``mist_ui``: it continues when that ends. If it ends itself, for example as the login node
restarts, the run stays *started*, and the next ``mist_ui`` starts another that finds the job by its number.
"""

import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from mist_dagster.dagster_private import follow_command
from mist_dagster.instance.home import dagster_home
from mist_dagster.instance.studies import registered_studies
from mist_dagster.slurm import commands
from mist_dagster.slurm.queue import Queue
from mist_dagster.slurm.settings import STAGES, find
from mist_dagster.slurm.tags import SLURM, SLURM_STATE
from mist_dagster.slurm.words import describe
from mist_ops.errors import MistError
from mist_ops.study import Study

if TYPE_CHECKING:
    from dagster import DagsterInstance

SECONDS_TO_START = 180.0
"""In which a process that follows a run loads Dagster on a busy login node."""

MOST_STARTS = 5

_SECONDS_OF_STATE = 60.0
"""For which an answer of squeue is good enough for a report: the processes that follow runs ask more often."""


def study_on_slurm(run: dg.DagsterRun) -> Study | None:
    """The study of a run that belongs into Slurm; None for other runs.

    Raises:
        ConfigError: The settings are invalid.
    """
    stages = run.tags.get("mist/stage", "").split("+")
    if not set(stages) & {*STAGES, "make_current"}:
        return None
    study = next((study for study in registered_studies() if study.key == run.tags.get("mist/study")), None)
    return study if study and find(study) else None


def start_following(instance: "DagsterInstance", run: dg.DagsterRun, study: Study, *, resume: bool) -> None:
    """Start the process that executes a run; its output is in the folder of the run's jobs."""
    folder = study.job(run.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    command = follow_command(instance, run, resume=resume)
    with (folder / "head.txt").open("a") as output:
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # so that Ctrl-C at mist_ui does not reach it
            cwd=Path.home(),
        )


def cancel_jobs(run: dg.DagsterRun) -> None:
    """Cancel the jobs of a run."""
    commands.cancel([number for number in run.tags.get(SLURM, "").split(", ") if number.isdigit()])


def state_of(run: dg.DagsterRun) -> str:
    """What the jobs of a run do, in words: as of the last look at the queue, or of the process that follows them."""
    numbers, known = run.tags.get(SLURM, "").split(", "), run.tags.get(SLURM_STATE, "")
    if not numbers[-1].isdigit():
        return "not yet submitted to Slurm"
    try:
        _, states = Queue(queue_file(), _SECONDS_OF_STATE).look()
    except MistError:
        return f"Slurm job {numbers[-1]}: {known}"
    now = describe([state for job, state in states.items() if job.partition("_")[0] in numbers])
    if not now:
        return f"Slurm job {numbers[-1]} has ended; mist_ui records its results"
    return f"Slurm job {numbers[-1]}: {known if known.startswith(now) else now}"


def queue_file() -> Path:
    """The file with the last answer of squeue, shared by all processes of this home."""
    return dagster_home() / "slurm" / "queue.json"


class Starts:
    """When processes were started that follow runs, so that one that cannot start is not started for ever."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, int]] = {}

    def due(self, run_id: str) -> bool:
        """Whether the last one had the time to show itself; the first look at a run counts as a start."""
        last, _ = self._last.setdefault(run_id, (time.monotonic(), 0))
        return time.monotonic() - last > SECONDS_TO_START

    def count(self, run_id: str) -> int:
        """Count a start, and return how many there were without a heartbeat."""
        _, number = self._last.get(run_id, (0.0, 0))
        self._last[run_id] = time.monotonic(), number + 1
        return number + 1

    def seen(self, run_id: str) -> None:
        """Forget the starts of a run that has a heartbeat."""
        self._last.pop(run_id, None)
