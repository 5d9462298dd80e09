"""The list of all patients, and what people write about them."""

import json
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse

from mist_dagster.instance import addresses
from mist_dagster.site.contents import assignment_of, config_of, patient_named, read_once, study_of, written
from mist_dagster.site.rendering import page
from mist_dagster.site.scores import Scored, scores_of
from mist_dagster.site.state import state_of
from mist_ops.dataset import Case
from mist_ops.errors import ConfigError
from mist_ops.records.arrays import input_hashes
from mist_ops.records.reviews import MOST_CHARACTERS, VERDICTS, Review, read_reviews, write_review
from mist_ops.study import Study

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_MOST_BYTES = 8 * MOST_CHARACTERS
_writing = threading.Lock()


def patients(request: "Request") -> "Response":
    """The list of all patients, worst first."""
    study = study_of(request)
    assignment, scored, config = assignment_of(study), scores_of(study), config_of(study)
    cases = {case.id: case for case in assignment.cases} if assignment else {}
    order = [case_id for case_id in (scored.worst_first if scored else ()) if case_id in cases]
    reviews = reviews_of(study)
    pictures = {path.name for path in study.figure("scores").parent.glob("cv_*.png")}
    fold_of: Mapping[str, int] = assignment.fold_of if assignment else {}
    rows = [
        _row(study, cases[case_id], scored, reviews.get(case_id), pictures) | {"fold": fold_of[case_id]}
        for case_id in dict.fromkeys([*order, *cases])
    ]
    return HTMLResponse(
        page(
            "patients.html",
            study=study,
            rows=rows,
            columns=scored.columns if scored else {},
            classes=list(dict.fromkeys(column.class_name for column in scored.columns.values())) if scored else [],
            folds=config.training.folds if config else sorted(set(fold_of.values())),
            made=written(study.results_csv),
            verdicts=VERDICTS,
        )
    )


def _row(study: Study, case: Case, scored: Scored | None, review: Review | None, pictures: set[str]) -> dict[str, Any]:
    figure = study.cv_figure(case.id).name
    standing = scored.overall.standing(case.id) if scored else None
    flags = [
        *(["not scored"] if standing is None else []),
        *(["worst quarter"] if standing and standing.is_low else []),
        *(["reviewed"] if review else ["not reviewed"]),
    ]
    return {
        "id": case.id,
        "address": addresses.patient(study, case.id),
        "picture": addresses.picture(study, case.id) if figure in pictures else "",
        "rank": "" if standing is None else standing.worse + 1,
        "flags": flags,
        "review": review or Review(case.id),
        "scores": [
            (column.class_name, column.scores.get(case.id), column.formatted(column.scores[case.id]))
            for column in (scored.columns.values() if scored and case.id in scored.overall.values else ())
        ],
    }


def reviews_of(study: Study) -> Mapping[str, Review]:
    """The comments on the patients of a study."""
    return read_once(read_reviews, study.reviews)


def stale(request: "Request") -> "Response":
    """What is stale of each patient, by id: stages with the reason, as JSON."""
    study = study_of(request)
    found: dict[str, dict[str, str]] = {}
    for stage in ("preprocess", "predict"):
        for case_id, reason in state_of(study).keys.get(stage, {}).items():
            found.setdefault(case_id, {})[stage] = reason
    return JSONResponse(found)


async def review(request: "Request") -> "Response":
    """Write a comment on a patient: JSON with id, verdict and note.

    Another site can send a form, but no JSON without asking first.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "Send the comment as JSON.")
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MOST_BYTES:
            raise HTTPException(413, f"A note has at most {MOST_CHARACTERS:,} characters.")
    from starlette.concurrency import run_in_threadpool

    return await run_in_threadpool(_review, request, content)


def _review(request: "Request", content: bytes) -> "Response":
    study = study_of(request)
    try:
        given = json.loads(content)
        values = [given[name] for name in ("id", "verdict", "note")]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise HTTPException(400, "A comment is a JSON object with id, verdict and note.") from error
    if not all(isinstance(value, str) for value in values):
        raise HTTPException(400, "A comment is a JSON object with id, verdict and note, all of them text.")
    case = patient_named(study, values[0])
    try:
        with _writing:
            mask = input_hashes(study, case).get("mask", "")
            write_review(study.reviews, Review(case.id, values[1], values[2], mask))
    except ConfigError as error:
        raise HTTPException(400, error.message) from error
    except OSError as error:
        raise HTTPException(500, f"{study.reviews} cannot be written: {error.strerror}.") from error
    return JSONResponse({"saved": True})
