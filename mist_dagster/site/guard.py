"""The guard of a study: what it reached on the training patients, and its reports on the test patients."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse

from mist_dagster.instance import addresses
from mist_dagster.site.contents import assignment_of, config_of, read_once, study_of, written
from mist_dagster.site.rendering import page
from mist_dagster.stages import job_name
from mist_ops.dataset import read_paths
from mist_ops.guard.verdict import IN_WORDS
from mist_ops.records.guard import Guard, Report, read_guard, read_report, summary
from mist_ops.study import Study, guard_report

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_LEFT, _TOP, _SIDE = 40, 10, 260
"""Place and size of a scatter plot, in its own units."""


def guard(request: "Request") -> "Response":
    """The page of the guard."""
    study = study_of(request)
    known = read_once(read_guard, study.guard) if study.guard.is_file() else None
    return HTMLResponse(
        page(
            "guard.html",
            study=study,
            made=written(study.guard),
            job=addresses.job(job_name(study, "guard")),
            guard=known,
            lines=summary(known) if known else [],
            plots=[_plot(study, known, name) for name in known.classes] if known else [],
            patients=list(_patients(study, known)) if known else [],
            tests=list(_tests(study)),
            words=IN_WORDS,
        )
    )


def _patients(study: Study, known: Guard) -> Iterator[Mapping[str, Any]]:
    """The training patients, most unusual first."""
    assignment = assignment_of(study)
    present = assignment.fold_of if assignment else {}
    for case_id, patient in sorted(known.patients.items(), key=lambda item: -item[1].score):
        yield {
            "id": case_id,
            "address": addresses.patient(study, case_id) if case_id in present else None,
            "score": patient.score,
            "unlike": patient.score > known.novelty.threshold,
            "group": IN_WORDS[patient.unusual],
            "dice": [(patient.dice[name], patient.expected[name]) for name in known.classes],
        }


def _tests(study: Study) -> Iterator[Report]:
    """The reports on test patients; those that are unlike the training patients first."""
    config = config_of(study)
    if config is None or not study.test_paths.is_file():
        return
    cases = read_paths(study.test_paths, config.dataset_info.images)
    found = [read_once(read_report, guard_report(study.test_prediction(case.id))) for case in cases]
    yield from sorted((report for report in found if report), key=lambda report: -report.verdict.score)


def _plot(study: Study, known: Guard, name: str) -> dict[str, Any]:
    """Expected and true Dice of each training patient, as points of a square."""
    values = [value for patient in known.patients.values() for value in (patient.dice[name], patient.expected[name])]
    low, high = min(values, default=0.0), max(values, default=1.0)
    span = high - low or 1.0
    points = [
        {
            "x": f"{_LEFT + _SIDE * (patient.expected[name] - low) / span:.1f}",
            "y": f"{_TOP + _SIDE * (high - patient.dice[name]) / span:.1f}",
            "text": f"{case_id}: expected {patient.expected[name]:.3f}, true {patient.dice[name]:.3f}",
            "address": addresses.patient(study, case_id),
        }
        for case_id, patient in known.patients.items()
    ]
    return {"name": name, "points": points, "low": f"{low:.2f}", "high": f"{high:.2f}"}
