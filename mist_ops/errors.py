"""Errors that a user can fix. A programming error stays a ``TypeError`` or ``ValueError``.

    MistError
    ├── DatasetError     dataset.json, a table of paths, a folder
    ├── ConfigError      config.json, a flag, a name that no registry knows
    ├── ImageError       one file that is not a usable image
    ├── CaseError        one patient; the others continue
    ├── MachineError     disk full, permission denied, out of memory
    └── DivergedError    the loss is no longer finite; the last good checkpoint is kept

A message states what is wrong, where, what was expected and what to do, in that order. Each error also has a stable
code, which ends the message on the terminal as in ``[unknown-loss]``, and its facts as attributes. Programs and tests
read the code and the facts; the wording may change.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any


class MistError(Exception):
    """Base of every error that a user can fix.

    Attributes:
        message: What is wrong and what to do, without the code.
        code: Stable name of the kind of error, in kebab case.
        case: Id of the patient.
        file: The file or folder.
        field: The setting, flag, column or header field.
        found: The offending value.
        expected: What is allowed instead.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        case: str | None = None,
        file: object = None,
        field: str | None = None,
        found: object = None,
        expected: object = None,
    ) -> None:
        super().__init__(message)
        self.message, self.code = message, code
        self.case, self.file, self.field, self.found, self.expected = case, file, field, found, expected

    @property
    def facts(self) -> dict[str, Any]:
        """Code and facts, as keyword arguments of an error that embeds this one."""
        return {name: getattr(self, name) for name in ("code", "case", "file", "field", "found", "expected")}

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt from their positional arguments, which hold neither code nor facts.
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(kind: type[MistError], arguments: tuple[Any, ...], state: dict[str, Any]) -> MistError:
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    error.__dict__.update(state)
    return error


def to_json(error: MistError) -> dict[str, Any]:
    """Return an error as JSON, as the nearest class of this module; facts that JSON does not know become text."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == __name__)
    plain = str | int | float | bool | None
    facts = {name: value if isinstance(value, plain) else str(value) for name, value in vars(error).items()}
    return {"kind": kind.__name__, "facts": facts}


def from_json(content: dict[str, Any]) -> MistError:
    """Return the error of ``to_json``."""
    kind: type[MistError] = globals()[content["kind"]]
    return _rebuilt(kind, (content["facts"]["message"],), content["facts"])


class DatasetError(MistError):
    """The dataset cannot be used as described."""

    @classmethod
    def of(cls, where: str, errors: Sequence[DatasetError]) -> DatasetError:
        """List several errors in one message; code and facts are those of the first."""
        return cls(f"{where}: {listing([error.message for error in errors])}", **errors[0].facts)


class ConfigError(MistError):
    """A setting cannot be used."""


class ImageError(MistError):
    """A file is not a usable image."""


class CaseError(MistError):
    """One case cannot be used.

    Attributes:
        problem: The message without the case.
    """

    def __init__(self, case_id: str, problem: str, *, code: str, **facts: Any) -> None:
        super().__init__(f"Case '{case_id}': {problem}", code=code, **{**facts, "case": case_id})
        self.problem = problem

    @classmethod
    def of(cls, case_id: str, error: Exception) -> CaseError:
        """Say which case an error is about; code and facts are kept."""
        if isinstance(error, CaseError):
            return error
        error = as_mist_error(error)
        return cls(case_id, error.message, **error.facts)


class DivergedError(MistError):
    """The loss or its gradient is not finite."""


class MachineError(MistError):
    """The machine stopped the work; what was finished is kept.

    Attributes:
        everywhere: Whether other cases would fail in the same way, as on a full disk.
    """

    def __init__(self, message: str, *, everywhere: bool, code: str, **facts: Any) -> None:
        super().__init__(message, code=code, **facts)
        self.everywhere = everywhere


_NOT_WRITABLE = {
    errno.ENOSPC: ("disk-full", "the disk is full. Free some space"),
    errno.EDQUOT: ("quota-exceeded", "the disk quota is exceeded. Free some space"),
    errno.EROFS: ("read-only", "the file system is read-only. Choose another folder"),
    errno.EIO: ("disk-error", "the disk reports an error. Check it"),
}
_NOT_ACCESSIBLE = {
    errno.EACCES: ("permission-denied", "permission denied. Change the permissions"),
    errno.EPERM: ("permission-denied", "permission denied. Change the permissions"),
    errno.EMFILE: ("too-many-files", "too many open files. Raise the limit (ulimit -n) or use fewer workers"),
    errno.ENOTDIR: ("file-not-folder", "a file is where a folder is expected. Choose another folder"),
    errno.EEXIST: ("file-not-folder", "a file is where a folder is expected. Choose another folder"),
    errno.ENAMETOOLONG: ("name-too-long", "the name is too long. Choose a shorter one"),
}

UNDERSTOOD = {**_NOT_WRITABLE, **_NOT_ACCESSIBLE}
"""Code, problem and remedy by the number of the operating system's error."""


def machine_error(error: BaseException | None) -> MachineError | None:
    """Return an error, or its cause, as a ``MachineError`` if the machine is to blame, else None."""
    while error is not None:
        if isinstance(error, MachineError):
            return error
        if isinstance(error, OSError) and error.errno in UNDERSTOOD:
            return _of_system(error)
        error = error.__cause__ or error.__context__
    return None


def as_mist_error(error: Exception) -> MistError:
    """Return any exception as a ``MistError``; the code of an unforeseen one is ``unexpected``."""
    if isinstance(error, MistError):
        return error
    if isinstance(error, OSError) and error.errno in UNDERSTOOD:
        return _of_system(error)
    if isinstance(error, FileNotFoundError) and error.filename:
        return MistError(
            f"{error.filename} does not exist. Restore it, or run the command that creates it.",
            code="file-missing",
            file=error.filename,
        )
    return MistError(str(error) or type(error).__name__, code="unexpected")


def explained(error: Exception) -> str:
    """Describe an error to a user."""
    return str(as_mist_error(error))


def _of_system(error: OSError) -> MachineError:
    code, problem = UNDERSTOOD[error.errno or 0]
    where = f"{error.filename}: " if error.filename else "Files cannot be used: "
    return MachineError(
        f"{where}{problem}, then run the same command again; finished work is kept.",
        everywhere=error.errno in _NOT_WRITABLE,
        code=code,
        file=error.filename,
    )


def few(items: Sequence[object], most: int = 5) -> str:
    """List the first items, and count the rest."""
    shown = ", ".join(str(item) for item in items[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: ``1 patient``, ``3 patients``, ``5,000 patients``."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def listing(problems: Sequence[str]) -> str:
    """Join problems into one message: a line for one, an indented list for several."""
    return problems[0] if len(problems) == 1 else "".join(f"\n  - {problem}" for problem in problems)
