"""The evidence pack of a study: what is in it, whether it is intact, and the file."""

from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse

from mist_dagster.instance import addresses
from mist_dagster.site.contents import read_once, study_of, written
from mist_dagster.site.rendering import page
from mist_dagster.stages import job_name
from mist_ops.errors import MistError
from mist_ops.study import Study

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from mist_ops.evidence.verify import Verified

MEMBERS = {
    "model_card.md": "Model card",
    "provenance.json": "Weights, arrays, predictions and scans by hash",
    "passports/": "Passport of a model",
    "folds.csv": "Training, validation and held-out patients of each fold",
    "config.json": "Settings",
    "sbom.json": "Packages, as a bill of materials (CycloneDX)",
    "scores.csv": "Scores of held-out patients",
    "scores.json": "Means with intervals, and changes since the accepted scores",
    "reviews.csv": "Verdicts of people",
    "kept.json": "What was kept although something changed",
    "history.jsonl": "What was accepted, kept and judged, chained by hashes",
    "croissant.json": "Description of the dataset (Croissant)",
    "verify.py": "Verifier that needs Python only",
}
"""What each member is; names that end in a slash stand for all in that folder."""


def evidence(request: "Request") -> "Response":
    """The page of the pack."""
    study = study_of(request)
    verified, problem = _verified(study)
    sizes = verified.members if verified else {}
    rows = [
        {"name": name, "what": what, "size": f"{size:,}"}
        for prefix, what in MEMBERS.items()
        for name, size in sizes.items()
        if name == prefix or (prefix.endswith("/") and name.startswith(prefix))
    ]
    return HTMLResponse(
        page(
            "evidence.html",
            study=study,
            verified=verified,
            problem=problem,
            rows=rows,
            made=written(study.evidence),
            job=addresses.job(job_name(study, "evidence")),
        )
    )


def pack(request: "Request") -> "Response":
    """The pack itself, if it is intact."""
    study = study_of(request)
    verified, problem = _verified(study)
    if verified is None:
        raise HTTPException(404, problem or f"The study '{study.name}' has no evidence pack.")
    return FileResponse(study.evidence, media_type="application/zip", filename=f"{study.key}-evidence.zip")


def _verified(study: Study) -> "tuple[Verified | None, str]":
    """The pack of a study as verified, or why it is not."""
    from mist_ops.evidence.verify import verify_pack

    # A link may lead out of the results of a study of somebody else.
    inside = study.evidence.is_file() and study.evidence.resolve().is_relative_to(study.results.resolve())
    if not inside:
        return None, ""
    try:
        return read_once(verify_pack, study.evidence), ""
    except MistError as error:
        return None, error.message
