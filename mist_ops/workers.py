"""Apply a function to cases, in this process or in a pool; a failed case never stops the others."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from multiprocessing import forkserver
from typing import Any, Generic, Protocol, TypeVar, cast

from mist_ops.errors import CaseError, MistError, machine_error
from mist_ops.machine import keep_freed_memory

AHEAD = 8
"""Items per worker that may be processed ahead of the last one yielded."""

_START = 0.5
"""Seconds to start workers: less work is done in this process."""

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_LOG = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_co = TypeVar("Item_co", covariant=True)
Result_co = TypeVar("Result_co", covariant=True)


@dataclass(frozen=True)
class Outcome(Generic[Item_co, Result_co]):
    """Result of one item, or the error that stopped it."""

    item: Item_co
    result: Result_co | None = None
    error: Exception | None = None


class Identified(Protocol):
    """An item with an id, such as a patient."""

    @property
    def id(self) -> str:
        """Id of the item."""
        ...


IdentifiedT = TypeVar("IdentifiedT", bound=Identified)


def collect(
    outcomes: Iterable[Outcome[IdentifiedT, Result]], report: Callable[[CaseError], object]
) -> tuple[dict[str, Result], dict[str, CaseError]]:
    """Return the results and the failures of items by id.

    Args:
        outcomes: The outcomes.
        report: Called with each failure as it comes.

    Raises:
        MachineError: As ``failure``.
    """
    results: dict[str, Result] = {}
    failures: dict[str, CaseError] = {}
    for outcome in outcomes:
        item_id = outcome.item.id
        if outcome.error is None:
            results[item_id] = cast(Result, outcome.result)
        else:
            failures[item_id] = failure(item_id, outcome.error)
            report(failures[item_id])
    return results, failures


def failure(item_id: str, error: Exception) -> CaseError:
    """Return the error of an item as a ``CaseError``.

    Raises:
        MachineError: Every other item would fail in the same way, as on a full disk.
    """
    trouble = machine_error(error)
    if trouble and trouble.everywhere:
        raise trouble from error
    found = CaseError.of(item_id, error)
    if found is not error:
        found.__cause__ = error
    return found


def worthwhile(workers: int, items: int, seconds: float) -> int:
    """Number of workers for some items that take so many seconds each: 1 if starting others would take longer."""
    return workers if items * seconds > _START else 1


def outcomes(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 1
) -> Iterator[Outcome[Item, Result]]:
    """Apply ``function`` to every item and yield the outcomes in the order of the items, as soon as they are available.

    Args:
        function: Picklable when ``workers`` is above 1 (a module-level function or a ``functools.partial`` of one).
        items: The cases.
        workers: Number of processes. One runs in this process, so that a debugger works.

    If a worker process is killed, for example when memory runs out, the pool breaks. Its pending items are then
    processed one by one, each in a new process, so that only an item that kills its worker again fails; a new pool
    takes the rest. Items are read, and results kept, a few ahead of the last one yielded. Leaving the iteration early,
    as Ctrl-C does, cancels pending items.
    """
    if workers == 1:
        keep_freed_memory()
        yield from map(partial(_attempt, function), items)
        return
    prepare([_module(function)])
    left = iter(items)
    for item in left:
        rest = chain([item], left)
        try:
            pool = _pool(function, workers)
        except OSError as error:  # semaphores need /dev/shm, which some containers lack
            _LOG.warning("Worker processes are not available (%s); cases are processed one by one.", error)
            yield from map(partial(_attempt, function), rest)
            return
        with pool:
            yield from _together(pool, function, rest, workers * AHEAD)


def _together(
    pool: ProcessPoolExecutor, function: Callable[[Item], Result], items: Iterator[Item], ahead: int
) -> Iterator[Outcome[Item, Result]]:
    """Yield the outcomes of all items or, if a worker is killed, of those submitted; the rest stays in ``items``."""
    submitted: deque[tuple[Item, Future[Outcome[Item, Result]]]] = deque()
    try:
        while True:
            submitted.extend((item, _submit(pool, item)) for item in islice(items, ahead - len(submitted)))
            if not submitted:
                return
            item, future = submitted.popleft()
            try:
                yield future.result()
            except BrokenProcessPool:
                items = iter(())  # a new pool takes the rest
                yield _alone(function, item)
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, item: Item) -> Future[Outcome[Item, Any]]:
    try:
        return pool.submit(_attempt_received, item)
    except BrokenProcessPool as error:
        refused: Future[Outcome[Item, Any]] = Future()
        refused.set_exception(error)
        return refused


def _module(function: Callable[..., object]) -> str:
    return _module(function.func) if isinstance(function, partial) else function.__module__


def _attempt(function: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    try:
        return Outcome(item, result=function(item))
    except Exception as error:
        return Outcome(item, error=error)


def _alone(function: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    with _pool(function, 1) as pool:
        try:
            return pool.submit(_attempt_received, item).result()
        except BrokenProcessPool:
            error = MistError(
                "The worker process was killed, probably because memory ran out. Use fewer workers.",
                code="worker-killed",
            )
            return Outcome(item, error=error)


def _pool(function: Callable[[Item], Result], workers: int) -> ProcessPoolExecutor:
    """Workers that apply a function, which each of them receives once: it may hold tables of all cases."""
    # Not fork: the parent may run threads (Dagster, BLAS), which break in a forked child.
    context = multiprocessing.get_context("forkserver")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_receive, initargs=(function,))


_received: list[Callable[[Any], Any]] = []
"""In a worker, the function that it applies."""


def _receive(function: Callable[[Any], Any]) -> None:
    keep_freed_memory()
    _received.append(function)


def _attempt_received(item: Item) -> Outcome[Item, Any]:
    return _attempt(_received[-1], item)


def prepare(modules: Iterable[str]) -> None:
    """Start the server from which workers are forked, if it does not run yet.

    It imports modules once, in parallel to this process; otherwise each worker does so when it starts.

    Args:
        modules: Those of the functions that workers call, and those that the main module imports.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(modules))
    with suppress(OSError), _one_thread():  # ``outcomes`` reports that there are no workers
        forkserver.ensure_running()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes that start meanwhile compute in one thread each, unless the user chose otherwise."""
    added = [name for name in _THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "1"))
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
