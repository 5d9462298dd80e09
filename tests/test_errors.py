from __future__ import annotations

import errno
import importlib
import os
import pickle
import re
from pathlib import Path

import pytest

from mist_ops.errors import CaseError, ImageError, MachineError, MistError, counted, explained, machine_error

ROOT = Path(__file__).resolve().parents[1]


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/results/a.npy")


def test_a_full_disk_is_found_behind_other_errors() -> None:
    error = RuntimeError("writing failed")
    error.__cause__ = full()
    found = machine_error(error)
    assert found is not None
    assert found.everywhere
    assert (found.code, found.file) == ("disk-full", "/results/a.npy")


def test_one_forbidden_file_does_not_stop_the_other_cases() -> None:
    found = machine_error(PermissionError(errno.EACCES, "Permission denied", "/data/a.nii.gz"))
    assert found is not None
    assert not found.everywhere
    assert found.code == "permission-denied"


def test_other_errors_are_not_machine_errors() -> None:
    assert machine_error(ValueError("no")) is None
    assert machine_error(OSError("no errno")) is None
    assert explained(KeyError()) == "KeyError [unexpected]"


@pytest.mark.parametrize(
    "error",
    [
        machine_error(full()),
        ImageError("a.nii.gz is empty.", code="empty-image", file="a.nii.gz"),
        CaseError("007", "its mask is empty.", code="empty-mask", found=0),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_can_be_pickled(error: MistError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_a_message_ends_with_its_code() -> None:
    assert str(ImageError("a.nii.gz is empty.", code="empty-image")) == "a.nii.gz is empty. [empty-image]"


def test_an_error_that_gets_a_case_keeps_its_code_and_facts() -> None:
    error = CaseError.of("007", ImageError("a.nii.gz is empty.", code="empty-image", file="a.nii.gz"))
    assert str(error) == "Case '007': a.nii.gz is empty. [empty-image]"
    assert (error.case, error.code, error.file) == ("007", "empty-image", "a.nii.gz")
    assert CaseError.of("008", error) is error


@pytest.mark.parametrize(
    "error, code, message",
    [
        (PermissionError(errno.EACCES, "Permission denied", "a.nii.gz"), "permission-denied", "Case '007': a.nii.gz"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.nii.gz"), "file-missing", "Case '007': a.nii.gz"),
        (KeyError(), "unexpected", "Case '007': KeyError"),
    ],
)
def test_any_exception_can_get_a_case(error: Exception, code: str, message: str) -> None:
    found = CaseError.of("007", error)
    assert (found.case, found.code) == ("007", code)
    assert found.message.startswith(message)


def test_every_error_that_is_raised_has_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs" / "reference")
    found = list(importlib.import_module("raised").raised())
    assert len(found) > 200
    without = [f"{place.module}:{place.line}" for place in found if not place.has_code]
    assert without == []
    codes = {code for place in found for code, _ in place.messages}
    assert [code for code in codes if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code)] == []


def test_a_machine_error_survives_as_one() -> None:
    assert isinstance(pickle.loads(pickle.dumps(machine_error(full()))), MachineError)


def test_nouns_agree_with_their_number() -> None:
    assert [counted(number, "patient") for number in (0, 1, 5000)] == ["0 patients", "1 patient", "5,000 patients"]
    assert counted(2, "class", "classes") == "2 classes"
