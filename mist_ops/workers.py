"""One case after another, or several at once in processes; one bad case never stops the others."""

from __future__ import annotations

import logging
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Generic, Protocol, TypeVar, cast

from mist_ops.errors import CaseError, MistError, machine_error

AHEAD = 8
"""Items that each worker may be ahead of what was yielded: others go on while one takes as long as so many."""

_LOG = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_co = TypeVar("Item_co", covariant=True)
Result_co = TypeVar("Result_co", covariant=True)


@dataclass(frozen=True)
class Outcome(Generic[Item_co, Result_co]):
    """What became of one item: its result, or the error that stopped it."""

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


def outcomes(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 1
) -> Iterator[Outcome[Item, Result]]:
    """Apply ``function`` to every item and yield the outcomes in the order of the items, each as soon as it is known.

    Args:
        function: Picklable when ``workers`` is above 1 (a module-level function or a ``functools.partial`` of one).
        items: The cases.
        workers: Processes to use. One runs in this process, so that a debugger works.

    A worker process that is killed (out of memory, say) takes the whole pool with it; the items that the pool had
    taken on are then done one by one, each in a process of its own, so that only the item that kills again fails, and
    a new pool takes the rest. Items are drawn, and results kept, a few ahead of what was yielded. Leaving the iteration
    early, as Ctrl-C does, cancels what has not begun.
    """
    attempt = partial(_attempt, function)
    if workers == 1:
        yield from map(attempt, items)
        return
    left = iter(items)
    for item in left:
        rest = chain([item], left)
        try:
            pool = _pool(workers)
        except OSError as error:  # semaphores lie in /dev/shm, which some containers lack
            _LOG.warning("Processes cannot work side by side here (%s), so cases are done one by one.", error)
            yield from map(attempt, rest)
            return
        with pool:
            yield from _together(pool, attempt, rest, workers * AHEAD)


def _together(
    pool: ProcessPoolExecutor, attempt: Callable[[Item], Outcome[Item, Result]], items: Iterator[Item], ahead: int
) -> Iterator[Outcome[Item, Result]]:
    """The outcomes of the items, or, if a worker is killed, of those that were begun; the others stay in ``items``."""
    begun: deque[tuple[Item, Future[Outcome[Item, Result]]]] = deque()
    try:
        while True:
            begun.extend((item, _submit(pool, attempt, item)) for item in islice(items, ahead - len(begun)))
            if not begun:
                return
            item, future = begun.popleft()
            try:
                yield future.result()
            except BrokenProcessPool:
                items = iter(())  # a new pool takes the rest
                yield _alone(attempt, item)
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(
    pool: ProcessPoolExecutor, attempt: Callable[[Item], Outcome[Item, Result]], item: Item
) -> Future[Outcome[Item, Result]]:
    try:
        return pool.submit(attempt, item)
    except BrokenProcessPool as error:
        refused: Future[Outcome[Item, Result]] = Future()
        refused.set_exception(error)
        return refused


def _attempt(function: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    try:
        return Outcome(item, result=function(item))
    except Exception as error:
        return Outcome(item, error=error)


def _alone(attempt: Callable[[Item], Outcome[Item, Result]], item: Item) -> Outcome[Item, Result]:
    with _pool(1) as pool:
        try:
            return pool.submit(attempt, item).result()
        except BrokenProcessPool:
            return Outcome(item, error=MistError("The worker process was killed, probably for want of memory."))


def _pool(workers: int) -> ProcessPoolExecutor:
    # Not fork: the parent may hold threads (Dagster, BLAS), which a forked child would inherit half-alive.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("forkserver"))
