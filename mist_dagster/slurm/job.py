"""A job of a run: submitted once, found again by the next process that follows the run, and followed to its end."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from mist_dagster.slurm import commands, words
from mist_dagster.slurm.queue import Queue, State
from mist_dagster.slurm.script import job_name, render
from mist_dagster.slurm.settings import SlurmSettings
from mist_ops.errors import CaseError, MistError, counted, from_json, to_json
from mist_ops.files import read_object, write_json, write_text
from mist_ops.jobs.folder import JobFolder, Message, Reader, Work, Writer
from mist_ops.jobs.leaving import UNFINISHED

_SECONDS_BETWEEN_LOOKS = 2.0
"""At the messages of a job, which are files. Slurm is asked less often: ``Queue``."""

_SECONDS_TO_REPORT = 6.0
"""For which a message, or the number of a job that continues another, may arrive after Slurm reported the end."""

_SECONDS_TO_APPEAR = 1.0
"""Within which the queue shows a submitted job."""

_SECONDS_TO_CHAIN = 90.0
"""Within which an unfinished job is requeued, or submits the next one."""

_SECONDS_BETWEEN_REPORTS = 30.0
"""Between two reports of a state in which only the remaining time changes."""

_SECONDS_OF_LOCK = 10.0
"""How long an answer of squeue shows whether a job is over."""

_MOST_BLAMED = 3
"""Patients of a task that are given up, one after another, because the task ended while it handled them."""


class CanceledError(Exception):
    """Somebody canceled the job."""


class _Submission(BaseModel):
    model_config = ConfigDict(frozen=True)

    job: str
    tasks: tuple[int, ...] | None = None
    failed: bool = False
    """Whether the job before it failed; else that one was unfinished."""

    def key(self, task: int, *, array: bool) -> str:
        return f"{self.job}_{task}" if array else self.job

    def has(self, task: int) -> bool:
        return self.tasks is None or task in self.tasks


class _Record(BaseModel):
    """What ``job.json`` holds."""

    model_config = ConfigDict(frozen=True)

    run: str
    stage: str
    submitted: tuple[_Submission, ...]


@dataclass
class _Task:
    """What is known of a task of a job."""

    number: int
    reader: Reader
    left: list[str]
    over: bool = False
    node: str = ""
    restarts: int = 0
    leaving: bool = False
    exit_status: int | None = None
    blamed: int = 0
    ended_at: float | None = None
    handled: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Report:
    """Where to report what a job does.

    Attributes:
        note: Called with a line for the log.
        state: Called with the numbers of the jobs and a phrase on their state: when it changes, and now and then.
    """

    note: Callable[[str], None]
    state: Callable[[Sequence[str], str], None]


class Job:
    """A job, or a job array, of a run."""

    def __init__(self, folder: Path, run_id: str, settings: SlurmSettings, queue: Queue, report: Report) -> None:
        self._folder, self._run_id, self._settings = JobFolder(folder), run_id, settings
        self._queue, self._report = queue, report
        self._submitted: list[_Submission] = []
        self._known_since: dict[str, float] = {}
        self._said, self._said_at = "", 0.0

    @property
    def numbers(self) -> list[str]:
        """The numbers of its jobs; each continues the one before."""
        return [submission.job for submission in self._submitted]

    @property
    def exists(self) -> bool:
        """Whether the run has submitted it before."""
        return self._folder.script.is_file()

    def start(self, work: Work) -> None:
        """Submit the job, unless the run has done so before.

        Raises:
            SlurmError: Slurm rejects it, or cannot be reached.
        """
        self._stage, self._array = work.stage, bool(work.chunks)
        if self.exists and self._adopt():
            return
        self._folder.write(work)
        tasks = work.tasks if self._array else None
        write_text(self._folder.script, render(self._folder, self._settings, work.stage, self._name, tasks))
        self._add(commands.submit(str(self._folder.script)))
        of = f" with {counted(work.tasks, 'task')}" if self._array else ""
        self._report.note(f"Submitted Slurm job {self.numbers[-1]}{of}.")

    @property
    def _name(self) -> str:
        return job_name(self._run_id, self._stage)

    def _adopt(self) -> bool:
        """Find a job that this run submitted before; False if it was not submitted."""
        try:
            record = _Record.model_validate(read_object(self._folder.record))
        except (OSError, ValueError):
            # The process ended between the submission and its record.
            jobs = {job.partition("_")[0] for job, state in self._fresh().items() if state.name == self._name}
            record = _Record(run=self._run_id, stage=self._stage, submitted=tuple(map(_of, sorted(jobs, key=int))))
        if not record.submitted:
            return False
        for submission in record.submitted:
            self._learn(submission)
        self._report.note(f"Following Slurm job {self.numbers[-1]} again.")
        return True

    def _fresh(self) -> dict[str, State]:
        now = time.time()
        while True:
            asked, states = self._queue.look()
            if asked >= now:
                return dict(states)
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _add(self, job: str, tasks: Sequence[int] | None = None, *, failed: bool = False) -> None:
        self._learn(_Submission(job=job, tasks=None if tasks is None else tuple(tasks), failed=failed))
        write_json(
            self._folder.record,
            _Record(run=self._run_id, stage=self._stage, submitted=tuple(self._submitted)).model_dump(mode="json"),
        )
        self._report.state(self.numbers, "submitted")

    def _learn(self, submission: _Submission) -> None:
        if submission.job not in self._known_since:
            self._submitted.append(submission)
            self._known_since[submission.job] = time.time()

    def cancel(self) -> None:
        """Cancel the job."""
        self._read_chained()
        commands.cancel(self.numbers)

    def follow(self) -> Iterator[tuple[int, Message]]:
        """Yield the task and the content of each message on progress, until all tasks ended.

        Raises:
            CanceledError: Somebody canceled the job.
            MistError: The job failed.
        """
        work = self._folder.work()
        chunks = work.chunks or ((),)
        tasks = [
            _Task(number, Reader(self._folder.messages(number)), list(chunk)) for number, chunk in enumerate(chunks)
        ]
        while True:
            for task in tasks:
                yield from ((task.number, message) for message in self._read(task))
            open_tasks = [task for task in tasks if not task.over]
            if not open_tasks:
                return
            self._read_chained()
            asked, states = self._queue.look()
            current = [self._state(task, asked, states) for task in open_tasks]
            self._describe(open_tasks, [state for state in current if state])
            self._resubmit([task for task, state in zip(open_tasks, current, strict=True) if self._lost(task, state)])
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _read(self, task: _Task) -> Iterator[Message]:
        for message in task.reader.new():
            kind = message["kind"]
            if kind in ("epoch", "case"):
                task.handled.add(str(message.get("id", "")))
                yield message
            elif kind == "start":
                task.node, task.restarts, task.leaving = message["node"], int(message.get("restart", 0)), False
                task.exit_status = task.ended_at = None
            elif kind == "log":
                self._report.note(str(message["text"]))
            elif kind == "leave":
                task.leaving = True
            elif kind == "exit":
                task.exit_status = int(message["status"])
                task.leaving = task.leaving and task.exit_status == UNFINISHED
            elif kind == "error":
                raise _error(message)
            elif kind == "end":
                task.over = True

    def _read_chained(self) -> None:
        try:
            lines = self._folder.chained.read_text(encoding="utf-8").splitlines()
        except OSError:
            return
        for line in lines:
            job, _, task = line.partition(" ")
            if job.isdigit() and task.isdigit():
                self._learn(_Submission(job=job, tasks=(int(task),)))

    def _state(self, task: _Task, asked: float, states: Any) -> State | None:
        """The present state of a task; a waiting one while the queue is older than the job."""
        submission = [submission for submission in self._submitted if submission.has(task.number)][-1]
        key = submission.key(task.number, array=self._array)
        if key in states:
            return states[key]  # type: ignore[no-any-return]
        if asked < self._known_since[submission.job] + _SECONDS_TO_APPEAR:
            return State("PENDING", "not considered yet")
        found = commands.accounted(submission.job).get(key)
        return State(found) if found else None

    def _lost(self, task: _Task, state: State | None) -> bool:
        """Whether a task ended without reporting an end, for long enough.

        Raises:
            CanceledError: Somebody canceled it.
            MistError: It failed, and there is no use in running it again.
        """
        if state and not state.ended:
            task.ended_at = None
            return False
        if task.ended_at is None:
            task.ended_at = time.monotonic()
            return False  # its last messages may have come since they were read
        patience = _SECONDS_TO_CHAIN if task.leaving or task.exit_status == UNFINISHED else _SECONDS_TO_REPORT
        if time.monotonic() - task.ended_at < patience:
            return False
        if state and state.state.startswith(words.CANCELED):
            raise CanceledError
        return True

    def _resubmit(self, lost: Sequence[_Task]) -> None:
        """Submit lost tasks again, or give up what they were doing."""
        again = []
        _, states = self._queue.look()
        for task in lost:
            end = words.end_of(self._state(task, time.time(), states), task.exit_status)
            if task.leaving or task.exit_status == UNFINISHED or end.again or self._blame(task, end):
                again.append(task)
        if not again:
            return
        failed = not all(task.leaving or task.exit_status == UNFINISHED for task in again)
        if failed and sum(submission.failed for submission in self._submitted) >= self._settings.resubmissions:
            end = words.end_of(self._state(again[0], time.time(), states), again[0].exit_status)
            raise self._failure(again[0], end)
        for task in again:
            task.ended_at, task.leaving, task.exit_status = None, False, None
        numbers = [task.number for task in again]
        array = ",".join(map(str, numbers)) if self._array else None
        self._add(commands.submit(str(self._folder.script), array), numbers if self._array else None, failed=failed)
        self._report.note(f"Submitted the rest again: Slurm job {self.numbers[-1]}.")

    def _blame(self, task: _Task, end: words.End) -> bool:
        """Give up the patient at which a task ended, or all that are left; return whether some are left.

        Raises:
            MistError: It is no task with patients.
        """
        left = [case_id for case_id in task.left if case_id not in task.handled]
        if not left:
            raise self._failure(task, end)
        task.blamed += 1
        given_up = left[:1] if task.blamed <= _MOST_BLAMED else left
        messages = Writer(self._folder.messages(task.number))
        for case_id in given_up:
            problem = f"Slurm job {self.numbers[-1]} ended at it: {end.what}. {end.remedy}"
            messages.send("case", id=case_id, error=to_json(CaseError(case_id, problem, code=end.code)))
        if given_up == left:
            messages.send("end")
        return given_up != left

    def _failure(self, task: _Task, end: words.End) -> MistError:
        log = "\n".join(f"  {line}" for line in self._folder.end_of_log(task.number))
        where = f" on {task.node}" if task.node else ""
        tail = f" End of its log:\n{log}" if log else " It printed nothing."
        return commands.SlurmError(
            f"Slurm job {self.numbers[-1]}{where}: {end.what}. {end.remedy}{tail}", code=end.code, found=log
        )

    def _describe(self, tasks: Sequence[_Task], states: Sequence[State]) -> None:
        doing, now = words.describe(states), time.monotonic()
        restarts = max((task.restarts for task in tasks), default=0)
        said = f"{doing}, requeued {counted(restarts, 'time')}" if restarts else doing
        if doing and (said != self._said or now - self._said_at > _SECONDS_BETWEEN_REPORTS):
            if said != self._said:
                self._report.note(f"Slurm job {self.numbers[-1]}: {said}.")
            self._said, self._said_at = said, now
            left = words.time_left(states)
            self._report.state(self.numbers, f"{said}{left and f', time limit in {left}'}")


def is_active(folder: Path, queue: Path) -> bool:
    """Whether the job of a folder waits or runs; True if Slurm cannot say."""
    try:
        numbers = {entry["job"] for entry in read_object(folder / "job.json")["submitted"]}
        _, states = Queue(queue, _SECONDS_OF_LOCK).look()
    except commands.SlurmError:
        return True
    return any(job.partition("_")[0] in numbers and not state.ended for job, state in states.items())


def _of(job: str) -> _Submission:
    return _Submission(job=job)


def _error(message: Message) -> Exception:
    if "trace" in message:
        return RuntimeError(str(message["trace"]))
    return from_json(message["error"])
