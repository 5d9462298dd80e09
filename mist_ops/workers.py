"""One case after another, or several at once in processes; one bad case never stops the others."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from mist_ops.errors import MistError

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


def outcomes(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 1
) -> Iterator[Outcome[Item, Result]]:
    """Apply ``function`` to every item and yield the outcomes in the order of the items, each as soon as it is known.

    Args:
        function: Picklable when ``workers`` is above 1 (a module-level function or a ``functools.partial`` of one).
        items: The cases.
        workers: Processes to use. One runs in this process, so that a debugger works.

    A worker process that is killed (out of memory, say) takes the whole pool with it; the items it leaves are then
    done one by one, each in a process of its own, so that only the item that kills again fails. Leaving the
    iteration early, as Ctrl-C does, cancels what has not begun.
    """
    attempt = partial(_attempt, function)
    if workers == 1:
        yield from map(attempt, items)
        return
    items = list(items)
    try:
        pool = _pool(min(workers, max(1, len(items))))
    except OSError as error:  # semaphores lie in /dev/shm, which some containers lack
        _LOG.warning("Processes cannot work side by side here (%s), so cases are done one by one.", error)
        yield from map(attempt, items)
        return
    with pool:
        futures = [pool.submit(attempt, item) for item in items]
        try:
            for item, future in zip(items, futures, strict=True):
                try:
                    yield future.result()
                except BrokenProcessPool:
                    yield _alone(attempt, item)
        finally:
            pool.shutdown(cancel_futures=True)


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
