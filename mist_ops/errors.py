"""What can go wrong for a user. A mistake in the program itself stays a ``TypeError`` or ``ValueError``.

    MistError
    ├── DatasetError     dataset.json, a table of paths, a folder
    ├── ConfigError      config.json, a flag, a name in no registry
    ├── ImageError       one file that is no usable image
    ├── CaseError        one patient; the others go on
    └── DivergedError    a loss that is no longer finite; the last good checkpoint stays

A message says which thing, what was found, what is allowed and what to do, in that order.
"""

from __future__ import annotations

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


def listing(problems: Sequence[str]) -> str:
    """All problems as one message: a sentence for one, an indented list for several."""
    return problems[0] if len(problems) == 1 else "".join(f"\n  - {problem}" for problem in problems)
