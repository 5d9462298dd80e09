"""The page of a patient."""

from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse

from mist_dagster.instance import addresses
from mist_dagster.site.contents import case_of, study_of
from mist_dagster.site.images import volumes
from mist_dagster.site.rendering import page

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


def patient(request: "Request") -> "Response":
    """The page of a training patient, with a place for the viewer."""
    study = study_of(request)
    case = case_of(request, study)
    images = {name: addresses.volume(study, case.id, name) for name in volumes(study, case)}
    return HTMLResponse(page("patient.html", study=study, id=case.id, images=images, channels=list(case.images)))
