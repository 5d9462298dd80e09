"""Unfinished trainings: where a fold resumes, and how one is discarded. Loads without torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from mist_ops.study import Study


def resumable(study: Study, fold: int) -> Path | None:
    """The checkpoint that a training of a fold can resume from: of an unfinished one, else of the last one."""
    return next((path for path in (study.attempt(fold), study.checkpoint(fold)) if path.is_file()), None)


def discard(study: Study, fold: int) -> bool:
    """Remove an unfinished training, and return whether there was one; the model of the last one stays."""
    found = study.attempt(fold).is_file()
    study.attempt(fold).unlink(missing_ok=True)
    shutil.rmtree(study.attempt_logs(fold), ignore_errors=True)
    return found
