from __future__ import annotations

import errno
import os
import pickle

from mist_ops.errors import MachineError, explained, machine_error


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/results/a.npy")


def test_a_full_disk_is_found_behind_other_errors_and_said_in_a_sentence() -> None:
    error = RuntimeError("writing failed")
    error.__cause__ = full()
    found = machine_error(error)
    assert found is not None
    assert found.everywhere
    assert str(found).startswith("/results/a.npy: there is no space left. Free some, and run the same command again")


def test_one_forbidden_file_is_not_everyones_trouble() -> None:
    found = machine_error(PermissionError(errno.EACCES, "Permission denied", "/data/a.nii.gz"))
    assert found is not None
    assert not found.everywhere


def test_other_errors_are_not_blamed_on_the_machine() -> None:
    assert machine_error(ValueError("no")) is None
    assert machine_error(OSError("no errno")) is None
    assert explained(KeyError()) == "KeyError"


def test_an_error_of_the_machine_survives_the_way_back_from_a_worker() -> None:
    error = pickle.loads(pickle.dumps(machine_error(full())))
    assert isinstance(error, MachineError)
    assert error.everywhere
