"""Addresses of the pages of studies in the UI; relative to it, so that a recorded link follows its port."""

from collections.abc import Sequence
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


def state(study: Study) -> str:
    """The state of a study, as a part of its page."""
    return f"{home(study)}/state"


def banner(study: Study) -> str:
    """One line on the state of a study, as a part of other pages."""
    return f"{home(study)}/banner"


def training(study: Study) -> str:
    """The curves of all folds, live."""
    return f"{home(study)}/training"


def epochs(study: Study) -> str:
    """The epochs of all folds as JSON."""
    return f"{training(study)}.json"


def calibration(study: Study) -> str:
    """Reliability of probabilities and volumes."""
    return f"{home(study)}/calibration"


def calibration_picture(study: Study, name: str) -> str:
    """A picture of the calibration: ``reliability`` or ``volumes``."""
    return f"{calibration(study)}/{name}.png"


def evidence(study: Study) -> str:
    """The evidence pack of a study, and what is in it."""
    return f"{home(study)}/evidence"


def evidence_file(study: Study) -> str:
    """The pack itself."""
    return f"{evidence(study)}.zip"


def reviews(study: Study) -> str:
    """Where comments on patients are written."""
    return f"{home(study)}/reviews"


def review(study: Study) -> str:
    """The queue of masks that may be wrong."""
    return f"{home(study)}/review"


def picture(study: Study, case_id: str) -> str:
    """The picture of a patient with its worst slice."""
    return f"{patient(study, case_id)}/picture.png"


def test_picture(study: Study, case_id: str) -> str:
    """The picture of a test patient with its prediction."""
    return f"{home(study)}/tests/{quote(case_id, safe='')}/picture.png"


def scores_picture(study: Study) -> str:
    """The plot of all scores."""
    return f"{home(study)}/scores.png"


COMPARISON = f"{ROOT}/-/compare"
"""The comparison of studies, which a query names."""


def patients(study: Study) -> str:
    """The list of patients."""
    return f"{home(study)}/patients"


def guard(study: Study) -> str:
    """What the guard knows of the training patients, and what it reports on test patients."""
    return f"{home(study)}/guard"


def patient(study: Study, case_id: str, at: Sequence[float] | None = None) -> str:
    """The page of a patient, with its viewer at a position in RAS mm."""
    place = f"?at={','.join(f'{value:.1f}' for value in at)}" if at else ""
    return f"{patients(study)}/{quote(case_id, safe='')}{place}"


def volume(study: Study, case_id: str, name: str) -> str:
    """An image of a patient: a channel, ``truth`` or ``prediction``, as compressed NIfTI."""
    return f"{patient(study, case_id)}/volumes/{quote(name, safe='')}.nii.gz"


def job(name: str) -> str:
    """The launchpad of a job, in Dagster."""
    return f"{_LOCATION}/jobs/{quote(name, safe='')}/playground"


def run(run_id: str) -> str:
    """A run, in Dagster."""
    return f"/runs/{run_id}"


def lineage(study: Study) -> str:
    """The graph of a study's assets, in Dagster."""
    return f"{_LOCATION}/asset-groups/{study.key}/lineage"


def asset(study: Study, name: str, partition: str | None = None) -> str:
    """An asset of a study, or one of its partitions, in Dagster."""
    view = f"?view=partitions&partition={quote(partition, safe='')}" if partition else ""
    return f"/assets/{study.key}/{quote(name, safe='')}{view}"
