from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from expect import refuses

from mist_ops.errors import CaseError, ImageError, MachineError, MistError
from mist_ops.workers import AHEAD, collect, outcomes, worthwhile


def _reciprocal(number: int) -> float:
    return 1 / number


def _killed_by_zero(number: int) -> int:
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_one_bad_item_does_not_stop_the_others() -> None:
    found = list(outcomes(_reciprocal, [1, 0, 2]))
    assert [outcome.result for outcome in found] == [1.0, None, 0.5]
    assert isinstance(found[1].error, ZeroDivisionError)


def test_one_worker_runs_lazily_in_this_process() -> None:
    found = outcomes(_reciprocal, iter([2, 0]))
    assert next(found).result == 0.5


@dataclass(frozen=True)
class Item:
    id: str
    error: Exception | None = None


def _fails(item: Item) -> str:
    if item.error:
        raise item.error
    return item.id.upper()


def test_results_and_failures_are_collected_by_id() -> None:
    broken = ImageError("a.nii.gz is empty.", code="empty-image")
    reported: list[CaseError] = []
    results, failures = collect(outcomes(_fails, [Item("a"), Item("b", broken), Item("c")]), reported.append)
    assert results == {"a": "A", "c": "C"}
    assert reported == list(failures.values())
    assert (failures["b"].case, failures["b"].code, failures["b"].__cause__) == ("b", "empty-image", broken)


def test_a_full_disk_stops_all_items() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/results/a.npy")
    with refuses("disk-full", MachineError):
        collect(outcomes(_fails, [Item("a", full), Item("b")]), lambda error: None)


def test_no_items_give_no_outcomes() -> None:
    assert list(outcomes(_reciprocal, [], workers=1)) == []


@pytest.mark.slow
@pytest.mark.parametrize("items", [[], [3, 0, 2, 1]])
def test_several_workers_keep_results_and_order(items: list[int]) -> None:
    alone, together = (list(outcomes(_reciprocal, items, workers=workers)) for workers in (1, 2))
    assert [outcome.item for outcome in together] == items
    assert [outcome.result for outcome in together] == [outcome.result for outcome in alone]


@pytest.mark.slow
def test_only_the_item_that_kills_its_worker_fails() -> None:
    found = list(outcomes(_killed_by_zero, [1, 0, 2, 3], workers=2))
    assert [outcome.result for outcome in found] == [1, None, 2, 3]
    assert isinstance(found[1].error, MistError)
    assert found[1].error.code == "worker-killed"


@pytest.mark.slow
def test_after_a_kill_a_new_pool_takes_the_rest() -> None:
    items = [0, *range(1, 3 * AHEAD)]
    found = list(outcomes(_killed_by_zero, items, workers=2))
    assert [outcome.result for outcome in found] == [None, *items[1:]]


@pytest.mark.slow
def test_several_workers_are_at_most_a_few_items_ahead() -> None:
    drawn: list[int] = []
    found = outcomes(_reciprocal, (drawn.append(number) or number for number in range(1, 1000)), workers=2)
    assert [next(found).result for _ in range(3)] == [1, 1 / 2, 1 / 3]
    assert len(drawn) == 2 * AHEAD + 2
    found.close()


class _Table:
    sent = 0

    def __getstate__(self) -> dict[str, object]:
        type(self).sent += 1
        return {}

    def doubled(self, number: int) -> int:
        return 2 * number


def _doubled(table: _Table, number: int) -> int:
    return table.doubled(number)


def test_each_worker_receives_the_function_once() -> None:
    found = outcomes(partial(_doubled, _Table()), range(100), workers=2)
    assert [outcome.result for outcome in found] == list(range(0, 200, 2))
    assert 1 <= _Table.sent <= 2


def _imported(_: int) -> set[str]:
    return set(sys.modules)


def _threads(_: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


_FRESH = """
import sys
from mist_ops.workers import outcomes, prepare
from test_workers import {function}
prepare(["wave", "test_workers"])
print([outcome.result for outcome in outcomes({function}, [0, 1], 2)]{result})
"""


def _in_a_fresh_process(function: str, result: str = "") -> str:
    """What a new interpreter prints: a server of workers starts once in a process."""
    code = _FRESH.format(function=function, result=result)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_workers_have_what_their_server_imported() -> None:
    assert _in_a_fresh_process("_imported", "[0] >= {'wave', 'mist_ops.workers'}") == "True"


def test_each_worker_computes_in_one_thread() -> None:
    assert _in_a_fresh_process("_threads") == "['1', '1']"


def test_little_work_needs_no_workers() -> None:
    assert worthwhile(2, items=40, seconds=0.005) == 1
    assert worthwhile(2, items=6, seconds=0.5) == 2
    assert worthwhile(1, items=6, seconds=0.5) == 1
