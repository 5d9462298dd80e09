"""The queue of masks that may be wrong: why, where, and what people decide."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse

from mist_dagster.freshness.review import reviewed
from mist_dagster.instance import addresses
from mist_dagster.site.contents import study_of, written
from mist_dagster.site.rendering import page
from mist_dagster.site.state import state_of
from mist_dagster.stages import job_name
from mist_ops.records.reviews import VERDICTS, Review
from mist_ops.review.queue import Entry
from mist_ops.study import Study

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_JOBS = ("review", "label_next", "make_current", "keep")

_MOST = 50
"""Patients on the page."""


def review(request: "Request") -> "Response":
    """The review queue of a study."""
    study = study_of(request)
    found = reviewed(study, lambda: _stale(study)) if study.review_queue.is_file() else None
    listed = found.queue.open[:_MOST] if found else ()
    return HTMLResponse(
        page(
            "review.html",
            study=study,
            found=found,
            rows=[_row(study, entry, found.reviews.get(entry.id)) for entry in listed if found],
            unlabeled=[_test(study, entry) for entry in found.unlabeled[:_MOST]] if found else [],
            made=written(study.review_queue),
            verdicts=VERDICTS,
            jobs={
                name: addresses.job(job_name(study, name)) for name in ("review", "label_next", "make_current", "keep")
            },
        )
    )


def _stale(study: Study) -> tuple[Mapping[str, Mapping[str, str]], str]:
    state = state_of(study)
    return state.keys, state.hours


def _row(study: Study, entry: Entry, review: Review | None) -> dict[str, Any]:
    return {
        "id": entry.id,
        "score": f"{entry.score:.1f}",
        "fold": entry.fold,
        "address": addresses.patient(study, entry.id, entry.place),
        "picture": addresses.picture(study, entry.id) if study.cv_figure(entry.id).is_file() else "",
        "reasons": entry.reasons,
        "review": review or Review(entry.id),
    }


def _test(study: Study, entry: Entry) -> dict[str, Any]:
    figure = study.figure(f"test_{entry.id}")
    return {
        "id": entry.id,
        "score": f"{entry.score:.1f}",
        "picture": addresses.test_picture(study, entry.id) if figure.is_file() else "",
        "reasons": entry.reasons,
    }
