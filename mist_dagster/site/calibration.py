"""The page of a study's calibration: how reliable probabilities are, and the intervals of volumes."""

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse

from mist_dagster.instance import addresses
from mist_dagster.site.contents import read_once, study_of, written
from mist_dagster.site.images import figure
from mist_dagster.site.rendering import page
from mist_dagster.stages import job_name
from mist_ops.calibration.held_out import Volumes
from mist_ops.evaluation.standings import formatted
from mist_ops.records.calibration import Calibration, read_calibration

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_MOST_ROWS = 200
"""Volumes on the page; calibration.json has all."""

PICTURES = ("reliability", "volumes")
"""The figures of a calibration."""


def calibration(request: "Request") -> "Response":
    """The page; before a calibration, how to make one."""
    study = study_of(request)
    found = read_once(read_calibration, study.calibration) if study.calibration.is_file() else None
    return HTMLResponse(
        page(
            "calibration.html",
            study=study,
            job=addresses.job(job_name(study, "calibrate")),
            found=found,
            made=written(study.calibration),
            errors=list(_errors(found)) if found else [],
            classes=[_class(name, volumes) for name, volumes in found.volumes.items()] if found else [],
            volumes=list(islice(_volumes(found), _MOST_ROWS)) if found else [],
            pictures=[name for name in PICTURES if study.figure(name).is_file()],
        )
    )


def _errors(found: Calibration) -> Iterator[Mapping[str, str]]:
    """The calibration errors of the most probable class and of each label, before and after."""
    if found.probabilities is None:
        return
    before, after = found.probabilities.before, found.probabilities.after
    curves = [("most probable class", before.top, after.top)]
    curves += [
        (f"label {label}", old, new)
        for label, old, new in zip(found.labels, before.classes, after.classes, strict=True)
    ]
    for name, old, new in curves:
        yield {"name": name, "before": f"{old.error:.4f}", "after": f"{new.error:.4f}"}
    yield {"name": "log loss", "before": f"{before.loss:.4f}", "after": f"{after.loss:.4f}"}


def _class(name: str, volumes: Volumes) -> Mapping[str, str]:
    inside, known = volumes.covered
    bounds = volumes.interval and tuple(
        f"{100 * (math.exp(error) - 1):+.0f} %" for error in (volumes.interval.low, volumes.interval.high)
    )
    return {
        "name": name,
        "bounds": f"{bounds[0]} to {bounds[1]}" if bounds else "too few patients",
        "inside": f"{inside} of {known}" if known else "",
    }


def _volumes(found: Calibration) -> Iterator[Mapping[str, Any]]:
    """A row for each patient and class; true volumes outside their interval come first."""
    rows = [(volume, name, case_id) for name, of in found.volumes.items() for case_id, volume in of.patients.items()]
    for volume, name, case_id in sorted(rows, key=lambda row: (row[0].inside is not False, row[2], row[1])):
        low, high = ("" if value is None else formatted(value) for value in (volume.low, volume.high))
        yield {
            "id": case_id,
            "name": name,
            "truth": formatted(volume.truth),
            "predicted": formatted(volume.predicted),
            "interval": f"{low} to {high}" if low else "",
            "outside": volume.inside is False,
        }


def picture(request: "Request") -> "Response":
    """A figure of the calibration."""
    name = request.path_params["name"]
    if name not in PICTURES:
        raise HTTPException(404, f"A calibration has no picture '{name}'.")
    return figure(request, name)
