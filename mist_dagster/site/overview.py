"""The list of all studies, the page of one, and the parts of it that are updated while it is open."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse

from mist_dagster.instance import addresses
from mist_dagster.instance.studies import registered_studies
from mist_dagster.site.contents import assignment_of, config_of, study_of, written
from mist_dagster.site.curves import Curve, curves
from mist_dagster.site.rendering import page
from mist_dagster.site.scores import Scored, scores_of
from mist_dagster.site.state import state_of
from mist_dagster.stages import job_name
from mist_ops.errors import MistError
from mist_ops.evaluation.accepted import Change, changes
from mist_ops.study import Study

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_WORST = 8
"""Patients on the page of a study."""


def index(request: "Request") -> "Response":
    """The list of all studies."""
    return HTMLResponse(page("studies.html", studies=[_summary(study) for study in registered_studies()]))


def _summary(study: Study) -> dict[str, Any]:
    """A row of the list; a study that cannot be read is listed all the same."""
    row: dict[str, Any] = {"study": study, "task": "", "patients": None, "folds": None, "scores": [], "problem": ""}
    try:
        config, assignment, scored = config_of(study), assignment_of(study), scores_of(study)
    except MistError as error:
        return {**row, "problem": error.message}
    if config and assignment:
        row |= {
            "task": config.dataset_info.task,
            "patients": len(assignment.cases),
            "folds": config.training.nfolds,
            "model": config.model.architecture,
        }
    if scored:
        row["scores"] = [
            (scored.columns[name].class_name, scored.columns[name].metric, scored.mean(name)) for name in scored.first
        ]
    return row


def home(request: "Request") -> "Response":
    """The page of a study."""
    study = study_of(request)
    assignment, config, scored = assignment_of(study), config_of(study), scores_of(study)
    return HTMLResponse(
        page(
            "home.html",
            study=study,
            config=config,
            patients=len(assignment.cases) if assignment else 0,
            folds=curves(study, config.training.folds, config.training.epochs) if config else [],
            sparkline=sparkline,
            scored=scored,
            table=list(_table(study, scored)) if scored else [],
            made=written(study.results_csv),
            accepted=written(study.accepted_csv),
            worst=_worst(study, scored) if scored else [],
            has_plot=study.figure("scores").is_file(),
            jobs={name: addresses.job(job_name(study, name)) for name in ("make_current", "train", "what_if", "keep")},
        )
    )


def _table(study: Study, scored: Scored) -> Iterator[Mapping[str, Any]]:
    found = {change.column: change for change in _changes(study)}
    for name, column in scored.columns.items():
        change = found.get(name)
        yield {
            "class_name": column.class_name,
            "metric": column.metric,
            "mean": scored.mean(name),
            "patients": scored.summary.get(name, {}).get("patients", ""),
            "change": "" if change is None else _signed(change),
            "direction": change.direction if change else None,
        }


def _signed(change: Change) -> str:
    if change.low is None or change.high is None:
        return f"{change.difference:+.3g}"
    return f"{change.difference:+.3g} [{change.low:+.3g}, {change.high:+.3g}]"


def _changes(study: Study) -> Sequence[Change]:
    config = config_of(study)
    if config is None or not study.accepted_csv.is_file():
        return ()
    with suppress(MistError):  # mist_accept reports a table that cannot be read
        return changes(study.results_csv, study.accepted_csv, config.evaluation)
    return ()


def _worst(study: Study, scored: Scored) -> list[Mapping[str, Any]]:
    assignment = assignment_of(study)
    known = assignment.fold_of if assignment else {}
    return [card(study, scored, case_id) for case_id in scored.worst_first if case_id in known][:_WORST]


def card(study: Study, scored: Scored, case_id: str) -> Mapping[str, Any]:
    """What a card of a patient shows: its picture, its standing and the first metric of each class."""
    return {
        "id": case_id,
        "address": addresses.patient(study, case_id),
        "picture": addresses.picture(study, case_id) if study.cv_figure(case_id).is_file() else None,
        "standing": scored.overall.standing(case_id),
        "scores": [
            (f"{column.class_name} {column.metric}", column.formatted(column.scores[case_id]))
            for column in (scored.columns[name] for name in scored.first[:4])
        ],
    }


def sparkline(curve: Curve, width: int = 220, height: int = 48) -> Mapping[str, str]:
    """Points of the losses of a fold in a small picture, each curve as ``x,y x,y``."""
    drawn = {"training": curve.training, "validation": curve.validation}
    values = [value for points in drawn.values() for _, value in points]
    if not values:
        return {}
    low, high = min(values), max(values)
    last = max(1, max(epoch for points in drawn.values() for epoch, _ in points) - 1)

    def place(epoch: int, value: float) -> str:
        share = (high - value) / (high - low) if high > low else 0.5
        return f"{width * (epoch - 1) / last:.1f},{2 + (height - 4) * share:.1f}"

    return {name: " ".join(place(*point) for point in points) for name, points in drawn.items()}


def state(request: "Request") -> "Response":
    """The state of a study, as a part of its page."""
    study = study_of(request)
    return HTMLResponse(page("state.html", study=study, state=state_of(study)))


def banner(request: "Request") -> "Response":
    """One line on the state of a study, as a part of other pages."""
    study = study_of(request)
    return HTMLResponse(page("banner.html", study=study, state=state_of(study)))
