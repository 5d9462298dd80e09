"""The application: its addresses, its headers, and what it answers if something is missing."""

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mist_dagster.instance import addresses
from mist_dagster.site import (
    calibration,
    comparison,
    curves,
    evidence,
    guard,
    images,
    overview,
    patient,
    patients,
    review,
    viewer,
)
from mist_dagster.site.rendering import page
from mist_ops.errors import MistError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect")),
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""What a page may load: files of this server, and no script or style inside of a page."""


def application() -> "ASGIApp":
    """Return the pages as an application that serves the paths below ``addresses.ROOT``.

    No path in an address names a file: a study is found by its key among the registered ones, a patient by its id in
    the tables of the study, and an image by its name among those of the patient.
    """
    study, one = f"{addresses.ROOT}/{{study}}", f"{addresses.ROOT}/{{study}}/patients/{{patient}}"
    routes = [
        Route(addresses.ROOT, overview.index),
        Route(addresses.COMPARISON, comparison.compare),
        Mount(addresses.STATIC, StaticFiles(packages=[("mist_dagster.site", "static")])),
        Route(study, overview.home),
        Route(f"{study}/state", overview.state),
        Route(f"{study}/banner", overview.banner),
        Route(f"{study}/scores.png", images.scores_picture),
        Route(f"{study}/training", curves.training),
        Route(f"{study}/training.json", curves.epochs),
        Route(f"{study}/guard", guard.guard),
        Route(f"{study}/calibration", calibration.calibration),
        Route(f"{study}/calibration/{{name}}.png", calibration.picture),
        Route(f"{study}/patients", patients.patients),
        Route(f"{study}/patients.json", patients.stale),
        Route(f"{study}/evidence", evidence.evidence),
        Route(f"{study}/evidence.zip", evidence.pack),
        Route(f"{study}/review", review.review),
        Route(f"{study}/tests/{{patient}}/picture.png", images.test_picture),
        Route(f"{study}/reviews", patients.review, methods=["POST"]),
        Route(one, patient.patient),
        Route(f"{one}/picture.png", images.picture),
        Route(f"{one}/volumes/{{name:path}}.nii.gz", images.volume),
        Route(f"{one}/previews/{{name:path}}.nii", viewer.small),
        Route(f"{one}/lesions.json", viewer.lesions),
    ]
    return _Headers(Starlette(routes=routes, exception_handlers={HTTPException: _missing, MistError: _broken}))


class _Headers:
    """Add the headers that keep other sites out, and that keep live pages out of caches."""

    def __init__(self, app: "ASGIApp") -> None:
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request."""
        static = scope["path"].startswith(f"{addresses.STATIC}/")

        async def complete(message: "Message") -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
                headers["Referrer-Policy"] = "same-origin"
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Cache-Control"] = "no-cache" if static else "no-store"
            await send(message)

        await self.app(scope, receive, complete)


def _missing(request: "Request", error: Exception) -> "Response":
    assert isinstance(error, HTTPException)
    return HTMLResponse(page("problem.html", title=str(error.status_code), message=error.detail), error.status_code)


def _broken(request: "Request", error: Exception) -> "Response":
    """Show what is wrong with the files of a study, as a command would."""
    return HTMLResponse(page("problem.html", title="This study cannot be shown", message=str(error)), 500)
