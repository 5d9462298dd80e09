"""What the viewer of a patient shows: its images, labels and lesions, and the header of its scan."""

import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from mist_dagster.instance import addresses
from mist_dagster.site.contents import case_of, config_of, study_of
from mist_dagster.site.images import volumes
from mist_ops.config import StudyConfig, read_config
from mist_ops.dataset import Case
from mist_ops.errors import MistError
from mist_ops.evaluation.located import located_lesions
from mist_ops.files import stamp
from mist_ops.imaging.formats import is_nifti
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import read_geometry
from mist_ops.imaging.preview import preview
from mist_ops.pictures import label_names
from mist_ops.pictures.canvas import COLORS
from mist_ops.study import Study

if TYPE_CHECKING:
    from starlette.requests import Request

LIBRARY = f"{addresses.STATIC}/vendor/niivue-0.69.0"
"""Folder of NiiVue, which ``make vendor`` fetches."""

MOST_VOXELS = {"hardware": 2**25, "software": 2**22}
"""Larger images are shown by a preview with at most as many voxels, by how the browser draws."""

_MOST_LESIONS = 500

_STATUS = {"TP": "detected", "FN": "missed", "FP": "false positive", "ignored": "ignored"}

_FORMS = ("unknown", "scanner", "aligned", "Talairach", "MNI 152", "template")


def contents(study: Study, case: Case) -> Mapping[str, Any]:
    """Everything that the part ``viewer.html`` of a page needs.

    ``data`` is for the script: address and size of each image, labels with names and colors, the modality, and the
    address of the lesions. ``header`` has lines on the grid of the first channel, ``problems`` the images that cannot
    be read.
    """
    config = config_of(study)
    images, problems = {}, []
    for name, path in volumes(study, case).items():
        try:
            images[name] = _image(study, case, name, path)
        except MistError as error:
            problems.append(str(error))
    channels = [name for name in case.images if name in images]
    scan = next((read_geometry(case.images[name]) for name in channels), None)
    data = {
        "library": LIBRARY,
        "images": images,
        "channels": channels,
        "labels": list(_labels(config)) if config else [],
        "palette": COLORS,
        "most": MOST_VOXELS,
        "modality": config.dataset_info.modality if config else "other",
        "lesions": f"{addresses.patient(study, case.id)}/lesions.json" if config and _masks(study, case) else None,
    }
    return {"data": data, "problems": problems, "header": dict(_header(scan)) if scan else {}}


def small(request: "Request") -> "Response":
    """A preview of an image with at most as many voxels as the query says, kept in memory."""
    study = study_of(request)
    case = case_of(request, study)
    name, most = request.path_params["name"], request.query_params.get("max", "")
    path = volumes(study, case).get(name)
    if path is None or not is_nifti(path):
        raise HTTPException(404, f"The patient '{case.id}' has no image '{name}'.")
    limit = max(MOST_VOXELS.values())
    if not (re.fullmatch(r"[0-9]{1,9}", most) and 0 < int(most) <= limit):
        raise HTTPException(400, f"max is '{most}'. It must be a number of voxels from 1 to {limit}.")
    return Response(_preview(path, tuple(stamp(path)), int(most)), media_type="application/octet-stream")


def lesions(request: "Request") -> "Response":
    """Lesions of a patient and false positives of its prediction, with their positions, as JSON."""
    study = study_of(request)
    case = case_of(request, study)
    masks = _masks(study, case)
    if masks is None or not study.config.exists():
        raise HTTPException(404, f"The patient '{case.id}' has no mask, no prediction, or no scored classes.")
    found = _located(*masks, study.config, tuple(tuple(stamp(path)) for path in (*masks, study.config)))
    rows = [
        {
            "class": lesion.class_name,
            "status": _STATUS[lesion.status],
            "volume_ml": lesion.volume_ml,
            "center_mm": lesion.center,
            "inside_mm": lesion.inside,
        }
        for lesion in found[:_MOST_LESIONS]
    ]
    return JSONResponse({"lesions": rows, "more": len(found) - len(rows)})


@lru_cache(maxsize=4)
def _preview(path: Path, _: tuple[int, ...], most: int) -> bytes:
    return preview(path, most)


@lru_cache(maxsize=16)
def _located(mask: Path, prediction: Path, config: Path, _: tuple[tuple[int, ...], ...]) -> list[Any]:
    return located_lesions(mask, prediction, read_config(config).evaluation)


def _masks(study: Study, case: Case) -> tuple[Path, Path] | None:
    found = volumes(study, case)
    return (found["truth"], found["prediction"]) if {"truth", "prediction"} <= found.keys() else None


def _image(study: Study, case: Case, name: str, path: Path) -> Mapping[str, Any]:
    address = addresses.volume(study, case.id, name)
    smaller = f"{addresses.patient(study, case.id)}/previews/{address.rsplit('/', 1)[1].removesuffix('.gz')}"
    return {"address": address, "preview": smaller, "size": read_geometry(path).size}


def _labels(config: StudyConfig) -> Iterator[Mapping[str, Any]]:
    names = label_names({name: scored.labels for name, scored in config.evaluation.items()})
    labels = sorted(set(config.dataset_info.labels) - {0})
    for label, color in zip(labels, cycle(COLORS), strict=False):
        yield {"label": label, "name": names.get(label, f"label {label}"), "color": color}


def _header(scan: Geometry) -> Iterator[tuple[str, str]]:
    """Lines on the grid of a scan."""
    yield "Size", f"{' × '.join(map(str, scan.size))} voxels"
    yield "Spacing", f"{' × '.join(f'{length:.4g}' for length in scan.spacing)} mm"
    yield "Extent", f"{' × '.join(f'{n * mm:.0f}' for n, mm in zip(scan.size, scan.spacing, strict=True))} mm"
    yield "Voxel", f"{math.prod(scan.spacing):.4g} mm³"
    yield "Axes", f"{scan.axis_codes} (the index grows towards)"
    if scan.header:
        for form, code in (("sform", scan.header.sform_code), ("qform", scan.header.qform_code)):
            yield form, f"code {code}{f', {_FORMS[code]}' if 0 <= code < len(_FORMS) else ''}"
