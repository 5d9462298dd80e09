"""Predictions of many cases: the next one is read, and the last one written, while the networks work on this one.

At most three cases are in memory. The one in the networks waits for its memory; reading ahead and writing behind
reserve theirs beside it only if it is free at once, and else happen before and after. So nothing that holds memory
waits for more, and two processes never wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mist_ops.dataset import Case
from mist_ops.errors import MistError
from mist_ops.guard.certainty import Certainty
from mist_ops.imaging.geometry import Geometry
from mist_ops.inference.case import Predictor, Prepared, Visit, needed_for, predict_unreserved, prepare, write_mask
from mist_ops.inference.memory import reading_bytes, writing_bytes
from mist_ops.postprocessing.strategy import Strategy
from mist_ops.study import Study
from mist_ops.types import LabelMap
from mist_ops.workers import Outcome


@dataclass(frozen=True)
class Job:
    """A case to predict; see ``predict_case``.

    Attributes:
        case: The patient.
        output: File of the mask; not written if None.
        study: Predict the preprocessed arrays of this study; the image files of the case by default.
        strategy: Postprocessing steps for the mask.
        probabilities: File for the class probabilities; not written by default.
        visit: Called with the probabilities and the labels, before any of them is written.
        check: Given the case and what was seen of its prediction, before its mask is written; if it raises, none is.
        around: Entered before the case is read; left once its mask is written, or with the error of the case.
    """

    case: Case
    output: Path | None
    study: Study | None = None
    strategy: Strategy = ()
    probabilities: Path | None = None
    visit: Visit | None = None
    check: Callable[[Prepared, Certainty], None] | None = None
    around: AbstractContextManager[object] = field(default_factory=nullcontext)


@dataclass(frozen=True)
class _Written:
    """A case whose mask is being written; ``memory`` is reserved for that."""

    job: Job
    done: Future[None]
    memory: ExitStack = field(default_factory=ExitStack)

    def outcome(self) -> Outcome[Case, None]:
        error = self.done.exception()
        self.memory.close()
        if error is not None and not isinstance(error, Exception):
            raise error
        return Outcome(self.job.case, error=error)


@dataclass(frozen=True)
class _Read:
    """A case that is being read; ``memory`` is reserved for that."""

    done: Future[tuple[Prepared, ExitStack]]
    memory: ExitStack = field(default_factory=ExitStack)

    def result(self) -> tuple[Prepared, ExitStack]:
        try:
            return self.done.result()
        finally:
            self.memory.close()


def predict_cases(predictor: Predictor, jobs: Iterable[Job]) -> Iterator[Outcome[Case, None]]:
    """Predict cases, and yield their outcomes in order: each once its mask is written, or with its error.

    An interrupt, as by Ctrl-C, comes after the outcome of a mask that is being written meanwhile. No other is begun.
    """
    left = iter(jobs)
    following, ahead, behind = next(left, None), None, None
    with ExitStack() as held, ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        while following is not None:
            job, reading = following, ahead or _Read(reader.submit(_read, predictor, following))
            following, ahead, failed, writing = next(left, None), None, None, None
            try:
                prepared, around = reading.result()
                grids = prepared.geometry
                watch = Certainty(grids.preprocessed.size) if job.check else None
                with around, predictor.reserve(needed_for(predictor, grids, watched=watch is not None)):
                    memory = following and _beside(predictor, held, _reading(following, predictor))
                    if following and memory:
                        ahead = _Read(reader.submit(_read, predictor, following), memory)
                    labels = _predicted(predictor, job, prepared, watch)
                    del prepared, reading, watch
                    wait([behind.done] if behind else [])
                    memory, opened = _beside(predictor, held, writing_bytes(grids.original)), around.pop_all()
                    if memory:
                        writing = _Written(job, writer.submit(_write, job, labels, grids.original, opened), memory)
                    else:
                        _write(job, labels, grids.original, opened)
            except Exception as error:
                failed = error
            except BaseException:
                if behind:
                    yield behind.outcome()
                raise
            if behind:
                yield behind.outcome()
            behind = writing
            if writing is None:
                yield Outcome(job.case, error=failed)
        if behind:
            yield behind.outcome()


def _reading(job: Job, predictor: Predictor) -> int | None:
    """Bytes for reading a case ahead; None if its error belongs to its own turn."""
    with suppress(OSError, MistError):
        return reading_bytes(job.case, job.study, predictor.config)
    return None


def _beside(predictor: Predictor, held: ExitStack, needed: int | None) -> ExitStack | None:
    """Memory beside what is reserved, released at the latest with ``held``; None if it is not free."""
    if needed is None:
        return None
    memory = held.enter_context(ExitStack())
    return memory if memory.enter_context(predictor.reserve(needed, wait=False)) else None


def _read(predictor: Predictor, job: Job) -> tuple[Prepared, ExitStack]:
    with ExitStack() as around:
        around.enter_context(job.around)
        return prepare(predictor.config, job.case, job.study), around.pop_all()


def _predicted(predictor: Predictor, job: Job, prepared: Prepared, watch: Certainty | None) -> LabelMap:
    labels = predict_unreserved(predictor, prepared, job.probabilities, job.visit, watch)
    if job.check and watch:
        try:
            job.check(prepared, watch)
        except MistError:
            if job.probabilities:
                job.probabilities.unlink(missing_ok=True)
            raise
    return labels


def _write(job: Job, labels: LabelMap, grid: Geometry, around: ExitStack) -> None:
    with around:
        if job.output:
            write_mask(job.output, labels, grid, job.strategy)
