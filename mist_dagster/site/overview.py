"""The list of all studies, and the page of one."""

from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse

from mist_dagster.instance.studies import registered_studies
from mist_dagster.site.contents import assignment_of, study_of
from mist_dagster.site.rendering import page

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


def index(request: "Request") -> "Response":
    """The list of all studies."""
    return HTMLResponse(page("studies.html", studies=registered_studies()))


def home(request: "Request") -> "Response":
    """The page of a study."""
    study = study_of(request)
    assignment = assignment_of(study)
    return HTMLResponse(page("home.html", study=study, cases=assignment.cases if assignment else ()))
