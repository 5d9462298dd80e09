"""What can go wrong for a user. A mistake in the program itself stays a ``TypeError`` or ``ValueError``.

    MistError
    ├── DatasetError     dataset.json, a table of paths, a folder
    ├── ConfigError      config.json, a flag, a name in no registry
    ├── ImageError       one file that is no usable image
    ├── CaseError        one patient; the others go on
    ├── MachineError     no space, no permission; nothing goes on
    └── DivergedError    a loss that is no longer finite; the last good checkpoint stays

A message says which thing, what was found, what is allowed and what to do, in that order.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence


class MistError(Exception):
    """Base of every error that a user can put right."""


class DatasetError(MistError):
    """The dataset as described cannot be used."""


class ConfigError(MistError):
    """A setting cannot be used."""


class ImageError(MistError):
    """A file is not an image that can be used."""


class CaseError(MistError):
    """One case cannot be used."""

    def __init__(self, case_id: str, problem: str) -> None:
        super().__init__(case_id, problem)
        self.case_id = case_id
        self.problem = problem

    def __str__(self) -> str:
        return f"Case '{self.case_id}': {self.problem}"


class DivergedError(MistError):
    """Training met a loss that is not finite."""


class MachineError(MistError):
    """The machine is in the way: what has begun is not finished, and what was there is kept.

    Attributes:
        everywhere: Whether other cases would meet the same, as on a full disk.
    """

    def __init__(self, problem: str, everywhere: bool) -> None:
        super().__init__(problem, everywhere)
        self.problem = problem
        self.everywhere = everywhere

    def __str__(self) -> str:
        return self.problem


_NO_WRITING = {
    errno.ENOSPC: "there is no space left. Free some",
    errno.EDQUOT: "the quota is used up. Free some space",
    errno.EROFS: "the file system may only be read. Choose another folder",
    errno.EIO: "the disk reports an error. Check it",
}
_NO_ACCESS = {
    errno.EACCES: "permission is denied. Change the permissions",
    errno.EPERM: "permission is denied. Change the permissions",
    errno.EMFILE: "too many files are open. Raise the limit (ulimit -n) or use fewer workers",
    errno.ENOTDIR: "a file is in the place of a folder. Choose another folder",
    errno.EEXIST: "a file is in the place of a folder. Choose another folder",
    errno.ENAMETOOLONG: "the name is too long. Choose a shorter one",
}


UNDERSTOOD = {**_NO_WRITING, **_NO_ACCESS}
"""What is wrong and what to do, by the number of the operating system's error."""


def machine_error(error: BaseException | None) -> MachineError | None:
    """An error, or what caused it, as one that the machine is to blame for; None for others."""
    while error is not None:
        if isinstance(error, MachineError):
            return error
        if isinstance(error, OSError) and error.errno in UNDERSTOOD:
            return MachineError(explained(error), error.errno in _NO_WRITING)
        error = error.__cause__ or error.__context__
    return None


def explained(error: Exception) -> str:
    """What a user should read of an error that is not ours."""
    if isinstance(error, OSError) and error.errno in UNDERSTOOD:
        where = f"{error.filename}: " if error.filename else "Files cannot be used: "
        return f"{where}{UNDERSTOOD[error.errno]}, and run the same command again; what was finished is kept."
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"There is no {error.filename}. Restore it, or run the command that makes it."
    return str(error) or type(error).__name__


def few(items: Sequence[object], most: int = 5) -> str:
    """The first of many items, and how many there are besides."""
    shown = ", ".join(str(item) for item in items[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")


def listing(problems: Sequence[str]) -> str:
    """All problems as one message: a sentence for one, an indented list for several."""
    return problems[0] if len(problems) == 1 else "".join(f"\n  - {problem}" for problem in problems)
