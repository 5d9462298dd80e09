"""What an address stands for: a registered study, and a patient in its tables."""

from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from mist_dagster.instance.studies import registered_studies
from mist_ops.dataset import Assignment, Case, read_train_paths
from mist_ops.study import Study

if TYPE_CHECKING:
    from starlette.requests import Request


def study_of(request: "Request") -> Study:
    """The study of an address.

    Raises:
        HTTPException: No study with this key is registered.
    """
    key = request.path_params["study"]
    found = next((study for study in registered_studies() if study.key == key), None)
    if found is None:
        raise HTTPException(404, f"No study '{key}' is registered. A command with --results registers one.")
    return found


def assignment_of(study: Study) -> Assignment | None:
    """The patients of a study with their folds; None before its analysis.

    Raises:
        DatasetError: The table is invalid.
    """
    return read_train_paths(study.train_paths) if study.train_paths.exists() else None


def case_of(request: "Request", study: Study) -> Case:
    """The training patient of an address.

    Raises:
        HTTPException: The study has no such patient.
        DatasetError: The table of patients is invalid.
    """
    case_id, assignment = request.path_params["patient"], assignment_of(study)
    if assignment is None or case_id not in assignment.fold_of:
        raise HTTPException(404, f"The study '{study.name}' has no training patient '{case_id}'.")
    return assignment[case_id]
