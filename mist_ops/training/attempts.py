"""Unfinished trainings: where a fold resumes, and how one is discarded. Loads without torch."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mist_ops.config import StudyConfig
from mist_ops.dataset import Fold
from mist_ops.files import read_object, write_json
from mist_ops.records.arrays import case_content
from mist_ops.steps import changes, settings
from mist_ops.study import Study
from mist_ops.types import Json

ADJUSTABLE = frozenset(
    {
        "training.epochs",
        "training.batch_size_per_gpu",
        "training.learning_rate",
        "training.lr_scheduler",
        "training.warmup_epochs",
        "training.l2_penalty",
        "training.grad_clip_norm",
        "training.amp",
        "training.validation_every",
    }
)
"""Settings that a resumed run may change; they apply from the next epoch on. The batch size is among them because many
runs stop for lack of memory."""

_CASES = "cases"


class Progress(BaseModel):
    """How far an unfinished training is.

    Attributes:
        epochs: Number of epochs done.
        settings: The settings of the run and the hashes of its cases, as in the checkpoint.
        arrays: The arrays of a case that are hashed.
    """

    model_config = ConfigDict(frozen=True)

    epochs: int
    settings: Json
    arrays: tuple[str, ...]


def write_progress(study: Study, fold: int, progress: Progress) -> None:
    """Record how far an unfinished training is, after its checkpoint was written."""
    write_json(study.attempt_progress(fold), progress.model_dump(mode="json"))


def epochs_to_resume(study: Study, config: StudyConfig, fold: Fold) -> int:
    """Epochs that the next training of a fold need not repeat; 0 if settings or data of the unfinished one changed."""
    try:
        progress = Progress.model_validate(read_object(study.attempt_progress(fold.index)))
    except (OSError, ValueError):
        return 0
    if not study.attempt(fold.index).is_file():
        return 0
    before = {path: value for path, value in progress.settings.items() if path != _CASES}
    refused = changes(before, settings(config, "training")).keys() - ADJUSTABLE
    same = not refused and progress.settings.get(_CASES) == case_hashes(study, fold, progress.arrays)
    return progress.epochs if same else 0


def case_hashes(study: Study, fold: Fold, parts: Collection[str]) -> dict[str, dict[str, str]]:
    """Hashes of the arrays that train a fold, and of those that select its weights, by use and patient."""
    return {
        use: {case_id: case_content(study, case_id, parts) for case_id in ids}
        for use, ids in (("training", fold.training), ("validation", fold.validation))
    }


def resumable(study: Study, fold: int) -> Path | None:
    """The checkpoint that a training of a fold can resume from: of an unfinished one, else of the last one."""
    return next((path for path in (study.attempt(fold), study.checkpoint(fold)) if path.is_file()), None)


def discard(study: Study, fold: int) -> bool:
    """Remove an unfinished training, and return whether there was one; the model of the last one stays."""
    found = study.attempt(fold).is_file()
    forget(study, fold)
    shutil.rmtree(study.attempt_logs(fold), ignore_errors=True)
    return found


def forget(study: Study, fold: int) -> None:
    """Remove the checkpoint of an unfinished training, if it is still there, and the record of its progress."""
    study.attempt_progress(fold).unlink(missing_ok=True)
    study.attempt(fold).unlink(missing_ok=True)
