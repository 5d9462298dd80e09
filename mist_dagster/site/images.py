"""Scans, masks and predictions, for the viewer."""

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, StreamingResponse

from mist_dagster.site.contents import case_of, config_of, study_of
from mist_ops.dataset import Case, read_paths
from mist_ops.imaging.formats import is_nifti
from mist_ops.study import Study

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_TYPE = "application/octet-stream"  # gzip as an encoding would be unpacked by the browser
_CHUNK = 2**20
_PNG = b"\x89PNG\r\n\x1a\n"


def volumes(study: Study, case: Case) -> Mapping[str, Path]:
    """The images of a training patient that exist, by name: its channels, ``truth`` and ``prediction``."""
    named = {**case.images, "truth": case.mask, "prediction": study.cv_prediction(case.id)}
    return {name: path for name, path in named.items() if path and path.is_file()}


def volume(request: "Request") -> "Response":
    """An image of a patient as compressed NIfTI."""
    study = study_of(request)
    case = case_of(request, study)
    name = request.path_params["name"]
    path = volumes(study, case).get(name)
    # Tables and links of a study may come from somebody else, and name any file.
    if path is None or not is_nifti(path):
        raise HTTPException(404, f"The patient '{case.id}' has no image '{name}'.")
    if path.name.endswith(".gz"):
        return FileResponse(path, media_type=_TYPE)
    return StreamingResponse(_compressed(path), media_type=_TYPE)


def picture(request: "Request") -> "Response":
    """The picture of a patient."""
    study = study_of(request)
    return _png(study, study.cv_figure(case_of(request, study).id))


def test_picture(request: "Request") -> "Response":
    """The picture of a test patient."""
    study, case_id = study_of(request), request.path_params["patient"]
    config = config_of(study)
    known = read_paths(study.test_paths, config.dataset_info.images) if config and study.test_paths.exists() else []
    if case_id not in {case.id for case in known}:
        raise HTTPException(404, f"The study '{study.name}' has no test patient '{case_id}'.")
    return _png(study, study.figure(f"test_{case_id}"))


def scores_picture(request: "Request") -> "Response":
    """The plot of all scores."""
    study = study_of(request)
    return _png(study, study.figure("scores"))


def figure(request: "Request", name: str) -> "Response":
    """A figure of a study."""
    study = study_of(request)
    return _png(study, study.figure(name))


def _png(study: Study, path: Path) -> "Response":
    """A figure of a study, if it is one and lies in its results."""
    inside = path.is_file() and path.resolve().is_relative_to(study.results.resolve())
    if not inside or not _starts_with(path, _PNG):
        raise HTTPException(404, f"The study '{study.name}' has no such picture.")
    return FileResponse(path, media_type="image/png")


def _starts_with(path: Path, first: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(first)) == first


def _compressed(path: Path) -> Iterator[bytes]:
    packer = zlib.compressobj(level=1, wbits=zlib.MAX_WBITS | 16)  # 16 stands for the header of gzip
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield packer.compress(chunk)
    yield packer.flush()
