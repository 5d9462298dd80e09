"""The folder of a job: what it does, its script, and the messages and logs of its tasks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from mist_ops.files import read_object, write_json
from mist_ops.study import Study
from mist_ops.types import Json

Message = dict[str, Any]
"""``kind``, one of ``start epoch case log error signal leave exit end``, and what belongs to it."""

Stage = Literal["train", "preprocess", "predict", "test", "evaluate"]
"""Stages of a study that can be jobs."""

_LOG_LINES = 20


class Work(BaseModel):
    """What a job does.

    Attributes:
        stage: Stage of the study: ``train``, or one that handles patients one by one.
        study: Its folders, absolute; see ``study_of``.
        chunks: Patients of each task of the job; empty for a training.
        plan: The training, as ``training.plan.Plan.as_json``.
        gpus: Number of GPUs of a task; 0 for the CPU.
        device: Device that the user asked for.
        workers: Processes of a task that handle patients.
        figures: Whether to draw patients.
        thumbnails: Whether to report a small picture of each patient.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Stage
    study: Json
    chunks: tuple[tuple[str, ...], ...] = ()
    plan: Json | None = None
    gpus: int = 0
    device: str | None = None
    workers: int = 1
    figures: bool = True
    thumbnails: bool = False

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return len(self.chunks) or 1

    def study_of(self) -> Study:
        """The study."""
        paths = {name: Path(path) for name, path in self.study.items() if name != "name" and path}
        return Study(str(self.study["name"]), **paths)


def study_as_json(study: Study) -> Json:
    """The folders of a study for ``Work``."""
    return {
        "name": study.name,
        "numpy": str(study.numpy),
        "results": str(study.results),
        "data": str(study.data) if study.data else None,
    }


@dataclass(frozen=True)
class JobFolder:
    """The files of a job."""

    path: Path

    @property
    def script(self) -> Path:
        """The batch script."""
        return self.path / "job.sh"

    @property
    def record(self) -> Path:
        """What the process that follows the job knows of it."""
        return self.path / "job.json"

    @property
    def chained(self) -> Path:
        """Ids of jobs that tasks submitted to continue them, one a line."""
        return self.path / "chained"

    def messages(self, task: int) -> Path:
        """Messages of a task, a JSON object a line."""
        return self.path / f"messages-{task}.jsonl"

    def log(self, task: int) -> Path:
        """Output of a task."""
        return self.path / f"log-{task}.txt"

    def write(self, work: Work) -> None:
        """Create the folder with the work."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "work.json", work.model_dump(mode="json"))

    def work(self) -> Work:
        """Read the work."""
        return Work.model_validate(read_object(self.path / "work.json"))

    def end_of_log(self, task: int) -> Sequence[str]:
        """The last lines that a task printed."""
        try:
            with self.log(task).open("rb") as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - 8192))
                lines = stream.read().decode(errors="replace").splitlines()
        except OSError:
            return ()
        return [line for line in lines if line.strip()][-_LOG_LINES:]


class Reader:
    """Reads what was added to the messages of a task since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def new(self) -> Iterator[Message]:
        """Yield complete messages; a half-written line is read later, and one that a killed job left is skipped."""
        try:
            # Opened at each look: a network file system shows additions to a file when it is opened.
            with self._path.open("rb") as stream:
                stream.seek(self._position)
                added = stream.read()
        except OSError:
            return
        whole = added[: added.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in whole.splitlines():
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if isinstance(message, dict) and "kind" in message:
                yield message


class Writer:
    """Appends messages of a task."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.earlier = list(Reader(path).new())
        if path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n"):
            self._append(b"\n")  # a killed job left half a line

    def send(self, kind: str, **content: Any) -> None:
        """Append a message; ``NaN`` and infinity are written as Python reads them."""
        self._append(json.dumps({"kind": kind, **content}).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
