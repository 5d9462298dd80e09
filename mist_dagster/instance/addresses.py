"""Addresses of the pages of studies in the UI; relative to it, so that a recorded link follows its port."""

from urllib.parse import quote

from mist_dagster.instance.home import CODE_LOCATION
from mist_ops.study import Study

ROOT = "/studies"
"""Path of the UI under which the pages of studies are; Dagster has no page there."""

STATIC = f"{ROOT}/-"
"""Path of style sheets and scripts; no study has this key."""

_LOCATION = f"/locations/__repository__@{CODE_LOCATION}"


def home(study: Study) -> str:
    """The page of a study."""
    return f"{ROOT}/{study.key}"


def patients(study: Study) -> str:
    """The list of patients."""
    return f"{home(study)}/patients"


def patient(study: Study, case_id: str) -> str:
    """The page of a patient."""
    return f"{patients(study)}/{quote(case_id, safe='')}"


def volume(study: Study, case_id: str, name: str) -> str:
    """An image of a patient: a channel, ``truth`` or ``prediction``, as compressed NIfTI."""
    return f"{patient(study, case_id)}/volumes/{quote(name, safe='')}.nii.gz"


def job(name: str) -> str:
    """The launchpad of a job, in Dagster."""
    return f"{_LOCATION}/jobs/{quote(name, safe='')}/playground"


def lineage(study: Study) -> str:
    """The graph of a study's assets, in Dagster."""
    return f"{_LOCATION}/asset-groups/{study.key}/lineage"


def asset(study: Study, name: str, partition: str | None = None) -> str:
    """An asset of a study, or one of its partitions, in Dagster."""
    view = f"?view=partitions&partition={quote(partition, safe='')}" if partition else ""
    return f"/assets/{study.key}/{quote(name, safe='')}{view}"
