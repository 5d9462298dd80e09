"""``python -m mist_ops.jobs FOLDER``: one task of a job, on a node of a cluster.

The number of the task is in ``SLURM_ARRAY_TASK_ID``. Exit status: 0 done, 1 failed with an error among the messages,
``UNFINISHED`` to be continued in another allocation.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import traceback
from pathlib import Path

from mist_ops.errors import MistError, machine_error, to_json
from mist_ops.jobs.folder import JobFolder, Message, Work, Writer
from mist_ops.jobs.leaving import UNFINISHED, EndedError, LeaveError, Leaving

_PROGRESS = ("epoch", "case")


def main() -> int:
    """Do the work of a task that is left, and report it."""
    folder, task = JobFolder(Path(sys.argv[1])), int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    messages = Writer(folder.messages(task))
    messages.send("start", node=os.environ.get("SLURMD_NODENAME") or socket.gethostname(), restart=_restarts())
    leaving = Leaving(lambda: messages.send("signal", name="SIGTERM"))
    logging.getLogger("mist_ops").addHandler(_LogSender(messages))
    logging.getLogger("mist_ops").setLevel(logging.INFO)
    try:
        _run(folder.work(), task, messages, leaving)
    except LeaveError:
        return _leave(messages, folder, task)
    except EndedError:
        return 143
    except Exception as error:
        known = error if isinstance(error, MistError) else machine_error(error)
        messages.send("error", **({"error": to_json(known)} if known else {"trace": traceback.format_exc()}))
        return 1
    leaving.ignore()
    messages.send("end")
    return 0


def _run(work: Work, task: int, messages: Writer, leaving: Leaving) -> None:
    if work.stage == "train":
        from mist_ops.jobs.training import run_training  # torch takes seconds to load

        run_training(work, messages, leaving)
    else:
        from mist_ops.jobs.patients import run_patients

        run_patients(work, task, messages, leaving)


def _leave(messages: Writer, folder: JobFolder, task: int) -> int:
    """Ask to be continued, unless this allocation and the one before it finished nothing."""
    if _idle(Writer(folder.messages(task)).earlier) >= 2:
        error = MistError(
            "Two allocations in a row ended before a single epoch or patient was finished. Raise the stage's time in "
            "mist_slurm.yaml.",
            code="time-too-short",
            field="time",
        )
        messages.send("error", error=to_json(error))
        return 1
    messages.send("leave")
    return UNFINISHED


def _idle(earlier: list[Message]) -> int:
    """Number of starts since the last progress."""
    idle = 0
    for message in earlier:
        idle = 0 if message["kind"] in _PROGRESS else idle + (message["kind"] == "start")
    return idle


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


class _LogSender(logging.Handler):
    """Sends log records as messages."""

    def __init__(self, messages: Writer) -> None:
        super().__init__()
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.send("log", level=record.levelno, text=record.getMessage())


if __name__ == "__main__":
    sys.exit(main())
