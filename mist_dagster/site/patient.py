"""The page of a patient."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse

from mist_dagster.instance import addresses
from mist_dagster.site import viewer
from mist_dagster.site.contents import assignment_of, case_of, study_of, written
from mist_dagster.site.patients import reviews_of
from mist_dagster.site.rendering import page
from mist_dagster.site.scores import Scored, scores_of
from mist_ops.records.reviews import VERDICTS, Review

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


def patient(request: "Request") -> "Response":
    """The page of a training patient."""
    study = study_of(request)
    case = case_of(request, study)
    scored = scores_of(study)
    order = scored.worst_first if scored and case.id in scored.ids else []
    place = order.index(case.id) if order else 0
    assignment = assignment_of(study)
    return HTMLResponse(
        page(
            "patient.html",
            study=study,
            id=case.id,
            viewer=viewer.contents(study, case),
            fold=assignment.fold_of[case.id] if assignment else None,
            previous=next(iter(order[max(0, place - 1) : place]), None),
            next=next(iter(order[place + 1 : place + 2]), None),
            standing=scored.overall.standing(case.id) if scored else None,
            scores=list(_scores(scored, case.id)) if order and scored else [],
            made=written(study.results_csv),
            picture=addresses.picture(study, case.id) if study.cv_figure(case.id).is_file() else None,
            review=reviews_of(study).get(case.id, Review(case.id)),
            verdicts=VERDICTS,
        )
    )


def _scores(scored: Scored, case_id: str) -> Iterator[Mapping[str, Any]]:
    for column in scored.columns.values():
        standing = column.ranking.standing(case_id)
        yield {
            "class_name": column.class_name,
            "metric": column.metric,
            "value": column.formatted(column.scores[case_id]),
            "median": column.formatted(column.sign * column.quartiles[2]) if standing else "",
            "standing": standing or "",
            "low": standing is not None and standing.is_low,
        }
