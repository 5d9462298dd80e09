"""The queue of Slurm, asked once for all jobs of a home: the answer is shared through a file."""

import fcntl
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mist_dagster.slurm import commands
from mist_ops.files import write_json

WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
RUNNING = frozenset(
    {"RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STAGE_OUT", "SIGNALING", "STOPPED", "RESIZING"}
)


@dataclass(frozen=True)
class State:
    """State of a job or of a task of a job array.

    Attributes:
        state: Slurm's word.
        reason: Why it waits, in Slurm's word.
        nodes: Where it runs.
        start: When it started or is expected to.
        left: Time until its limit.
        name: Name of the job.
    """

    state: str
    reason: str = ""
    nodes: str = ""
    start: str = ""
    left: str = ""
    name: str = ""

    @property
    def ended(self) -> bool:
        """Whether it neither waits nor runs."""
        return self.state not in WAITING | RUNNING


def parse(answer: str) -> dict[str, State]:
    """The states by ``job`` or ``job_task``, from the output of squeue in ``commands.FORMAT``."""
    found = {}
    for line in answer.splitlines():
        fields = line.strip().split("|", 6)
        if len(fields) == 7:
            job, state, *rest = fields
            found[job] = State(state, *("" if value in ("N/A", "None", "(null)") else value for value in rest))
    return found


class Queue:
    """The queue as of at most ``seconds`` ago.

    All processes of a home share one answer, so that many runs cost as much as one.
    """

    def __init__(self, file: Path, seconds: float, ask: Callable[[], str] = commands.queue) -> None:
        self._file, self._seconds, self._ask = file, seconds, ask

    def look(self) -> tuple[float, Mapping[str, State]]:
        """Return the time of the answer and the states by job.

        Raises:
            SlurmError: Slurm cannot be reached.
        """
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = self._known()
            if known and 0 <= time.time() - known[0] < self._seconds:
                return known
            asked = time.time()
            states = parse(self._ask())
            write_json(self._file, {"time": asked, "jobs": {job: asdict(state) for job, state in states.items()}})
        return asked, states

    def _known(self) -> tuple[float, Mapping[str, State]] | None:
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            return content["time"], {job: State(**state) for job, state in content["jobs"].items()}
        except (OSError, ValueError, KeyError, TypeError):
            return None
