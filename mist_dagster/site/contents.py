"""What an address stands for: a registered study, a patient in its tables, and files that are read once."""

import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.exceptions import HTTPException

from mist_dagster.instance.studies import registered_studies
from mist_ops.config import StudyConfig, read_config
from mist_ops.dataset import Assignment, Case, read_train_paths
from mist_ops.files import stamp
from mist_ops.study import Study

if TYPE_CHECKING:
    from starlette.requests import Request

Value = TypeVar("Value")

_MOST_REMEMBERED = 200
_remembered: dict[tuple[Any, ...], tuple[list[int] | None, Any]] = {}
_lock = threading.Lock()


def read_once(read: Callable[[Path], Value], path: Path) -> Value:
    """Return what a function reads from a file; it is read again once the file has changed."""
    try:
        now = stamp(path)
    except OSError:
        now = None
    key = (read, path)
    with _lock:
        before = _remembered.get(key)
    if before and now is not None and before[0] == now:
        return before[1]  # type: ignore[no-any-return]
    value = read(path)
    with _lock:
        while len(_remembered) >= _MOST_REMEMBERED:
            _remembered.pop(next(iter(_remembered)))
        _remembered[key] = (now, value)
    return value


def study_of(request: "Request") -> Study:
    """The study of an address.

    Raises:
        HTTPException: No study with this key is registered.
    """
    return study_named(request.path_params["study"])


def study_named(key: str) -> Study:
    """A registered study by its key; raises as ``study_of``."""
    found = next((study for study in registered_studies() if study.key == key), None)
    if found is None:
        raise HTTPException(404, f"No study '{key}' is registered. A command with --results registers one.")
    return found


def assignment_of(study: Study) -> Assignment | None:
    """The patients of a study with their folds; None before its analysis.

    Raises:
        DatasetError: The table is invalid.
    """
    return read_once(read_train_paths, study.train_paths) if study.train_paths.exists() else None


def config_of(study: Study) -> StudyConfig | None:
    """The settings of a study; None before its analysis.

    Raises:
        ConfigError: They are invalid.
    """
    if not study.config.exists():
        return None
    # That of a replica changes with that of the original.
    return read_config(study.config) if study.original else read_once(read_config, study.config)


def case_of(request: "Request", study: Study) -> Case:
    """The training patient of an address.

    Raises:
        HTTPException: The study has no such patient.
        DatasetError: The table of patients is invalid.
    """
    return patient_named(study, request.path_params["patient"])


def patient_named(study: Study, case_id: str) -> Case:
    """A training patient by its id; raises as ``case_of``."""
    assignment = assignment_of(study)
    if assignment is None or case_id not in assignment.fold_of:
        raise HTTPException(404, f"The study '{study.name}' has no training patient '{case_id}'.")
    return assignment[case_id]


def written(path: Path) -> str | None:
    """When a file was written, to the minute; None if it is missing."""
    try:
        return f"{datetime.fromtimestamp(path.stat().st_mtime):%Y-%m-%d %H:%M}"
    except OSError:
        return None
