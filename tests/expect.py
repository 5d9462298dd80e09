"""Assertions on errors by their code and facts, so that wording may change without touching tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mist_ops.errors import MistError


@contextmanager
def refuses(
    code: str, kind: type[MistError] = MistError, *, names: str = "", **facts: object
) -> Iterator[pytest.ExceptionInfo[MistError]]:
    """Expect an error with a code.

    Args:
        code: The error's stable code.
        kind: Its class.
        names: A part of the message, such as an id, a path or a value, for what no fact holds.
        facts: Attributes of the error and their values.
    """
    with pytest.raises(kind) as caught:
        yield caught
    error = caught.value
    assert error.code == code, f"{error!r} has the code '{error.code}'"
    assert names in error.message
    assert {name: getattr(error, name) for name in facts} == facts
