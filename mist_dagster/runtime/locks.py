"""Locks on a study, so that no run writes files that another run writes or reads.

Analysis and preprocessing lock the whole study. Other runs may work side by side, but a fold is trained by one run at a
time, and predicts no patients meanwhile.
"""

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from mist_dagster.instance.slurm_runs import queue_file
from mist_dagster.runtime.reservations import add, held, reservations
from mist_dagster.slurm.job import is_active
from mist_ops.errors import MistError
from mist_ops.files import read_object, remove_leftovers, write_json
from mist_ops.study import Study
from mist_ops.types import Json


class LockedError(MistError):
    """Another run has locked the study."""


@contextlib.contextmanager
def study_lock(
    run_id: str,
    study: Study,
    doing: str,
    *,
    stage: str = "",
    partitions: Iterable[str] | None = None,
    exclusive: bool = False,
    writes: Iterable[int] = (),
    reads: Iterable[int] = (),
) -> Iterator[None]:
    """Lock the files of a study that a run writes and reads while the block runs; remove what killed runs left.

    Args:
        run_id: Id of the run.
        study: The study.
        doing: What the run does with the study, as in "is training it".
        stage: The stage of the run.
        partitions: Its patients or folds; None for a stage without partitions.
        exclusive: Lock the whole study.
        writes: Folds whose weights are written.
        reads: Folds whose weights are read.

    Raises:
        LockedError: Another run has a lock that excludes this one.
    """
    lock = {
        "doing": doing,
        "stage": stage,
        "partitions": None if partitions is None else sorted(partitions),
        "exclusive": exclusive,
        "seed": study.seed,
        "writes": sorted(writes),
        "reads": sorted(reads),
        "run": run_id[:8],
        "process": f"process {os.getpid()} on {socket.gethostname()}",
        "since": datetime.now().astimezone().isoformat(" ", "minutes"),
    }
    folder = _folder(study)
    with ExitStack() as stack:
        with reservations(folder) as others:
            for other in (*others, *_of_jobs(study, run_id)):
                if _excludes(lock, other):
                    raise LockedError(
                        f"The study in {study.results} is locked: run {other['run']} is {other['doing']} it "
                        f"({other['process']}, since {other['since']}). Wait until that run ends, or stop it.",
                        code="study-locked",
                        file=study.results,
                        found=other["run"],
                    )
            add(folder, lock, stack)
            if study.job(run_id).is_dir():
                write_json(study.job_lock(run_id), lock)
        remove_leftovers(*study.folders)
        yield


@contextlib.contextmanager
def settings_lock(study: Study) -> Iterator[None]:
    """Let no other process change config.json or lock the study while the block runs; keep it short."""
    with reservations(_folder(study)):
        yield


def study_locks(study: Study) -> list[Json]:
    """The locks that runs hold on a study, of whatever home or machine."""
    return [lock for lock in held(_folder(study)) if lock["exclusive"] or lock.get("seed") == study.seed]


def _of_jobs(study: Study, run_id: str) -> Iterator[Json]:
    """The locks of other runs whose jobs wait or run, although perhaps no process follows them now."""
    for folder in study.jobs.glob("*"):
        if folder.name == run_id or not study.job_lock(folder.name).is_file():
            continue
        with contextlib.suppress(OSError, ValueError):  # the run removes its folder as it ends
            lock = read_object(study.job_lock(folder.name))
            if any(is_active(path.parent, queue_file()) for path in folder.glob("*/job.json")):
                yield lock


def _folder(study: Study) -> Path:
    # A replica shares arrays and tables with the original.
    return study.analysis / ".locks"


def _excludes(one: Json, other: Json) -> bool:
    pairs = ((one, other), (other, one))
    same_fold = any(set(writer["writes"]) & {*user["writes"], *user["reads"]} for writer, user in pairs)
    return one["exclusive"] or other["exclusive"] or (same_fold and one.get("seed") == other.get("seed"))
