"""The record of preprocessed arrays: a JSON file with their grids and the files and settings that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mist_ops.config import STEP_VERSIONS, StudyConfig
from mist_ops.dataset import Case
from mist_ops.errors import CaseError
from mist_ops.files import file_hash, json_hash, read_object, stamp, write_json
from mist_ops.imaging.geometry import CaseGeometry, Geometry
from mist_ops.study import Study
from mist_ops.types import Box

NOT_PREPROCESSED, CORRUPTED = "it is not preprocessed", "its arrays are corrupted"
"""Reasons for which no finished work is lost if a case is preprocessed again."""

_UNFINISHED = {"content": None}
"""The record of a case whose arrays are being written."""


class Stamps(BaseModel):
    """Sizes and times of the files of a case and of its arrays, as ``stamp`` returns them, by name."""

    model_config = ConfigDict(frozen=True)

    inputs: dict[str, list[int]] = {}
    arrays: dict[str, list[int]] = {}


class ArraysRecord(BaseModel):
    """The record of a preprocessed case.

    Attributes:
        original: Grid of the files.
        box: The part of it that was cropped out; None for all of it.
        preprocessed: Grid of the arrays.
        inputs: SHA-256 of the files by channel, and of the "mask".
        settings: Digest of the preprocessing settings.
        version: Version of preprocessing.
        content: SHA-256 of the arrays.
        stamps: Sizes and times that files had when they were hashed.
    """

    model_config = ConfigDict(frozen=True)

    original: Geometry
    box: Box | None
    preprocessed: Geometry
    inputs: dict[str, str] = {}
    settings: str = ""
    version: int = 1
    content: str
    stamps: Stamps = Stamps()

    @property
    def geometry(self) -> CaseGeometry:
        """The grids of the case."""
        return CaseGeometry(self.original, self.box, self.preprocessed)


@dataclass(frozen=True)
class Inputs:
    """The files of a case before they are read, so that a file that changes meanwhile makes the case stale."""

    stamps: Mapping[str, list[int]]
    hashes: Mapping[str, str]

    @classmethod
    def of(cls, case: Case) -> Inputs:
        """Stamp and hash the files of a case."""
        files = _inputs(case)
        return cls(_stamps(files), {name: file_hash(path) for name, path in files.items()})


def mark_unfinished(study: Study, case_id: str) -> None:
    """Mark the arrays of a case as being replaced: if the process is killed now, they count as corrupted."""
    path = study.geometry(case_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_UNFINISHED), encoding="utf-8")  # a few bytes need no syncing


def write_record(study: Study, case_id: str, inputs: Inputs, geometry: CaseGeometry, settings: str) -> str:
    """Record how the arrays of a case were made, which completes it.

    Returns:
        SHA-256 of the arrays.
    """
    arrays = _arrays(study, case_id)
    record = ArraysRecord(
        original=geometry.original,
        box=geometry.box,
        preprocessed=geometry.preprocessed,
        inputs=dict(inputs.hashes),
        settings=settings,
        version=STEP_VERSIONS["preprocessing"],
        content=_content(arrays),
        stamps=Stamps(inputs=dict(inputs.stamps), arrays=_stamps(arrays)),
    )
    _write(study.geometry(case_id), record)
    return record.content


def read_record(study: Study, case_id: str) -> ArraysRecord:
    """Read the record of a preprocessed case.

    Raises:
        CaseError: The case is not preprocessed, or its record is corrupted.
    """
    path = study.geometry(case_id)
    try:
        found = read_object(path)
        if found == _UNFINISHED:
            raise CaseError(
                case_id,
                f"writing its arrays was interrupted, according to {path}. Preprocess the case again.",
                code="arrays-incomplete",
                file=path,
            )
        return ArraysRecord.model_validate(found)
    except FileNotFoundError as error:
        raise CaseError(
            case_id, f"{path} does not exist. Preprocess the case first.", code="not-preprocessed", file=path
        ) from error
    except ValueError as error:
        raise CaseError(
            case_id, f"{path} is corrupted. Preprocess the case again.", code="record-invalid", file=path
        ) from error


def case_content(study: Study, case_id: str) -> str:
    """SHA-256 of the arrays of a case: the recorded one, else computed from the files; empty without arrays."""
    with suppress(CaseError):
        return read_record(study, case_id).content
    arrays = _arrays(study, case_id)
    return json_hash([file_hash(path) for path in arrays.values()]) if arrays else ""


def stale_arrays(study: Study, config: StudyConfig, cases: Iterable[Case]) -> dict[str, str]:
    """Cases whose arrays are missing or depend on other files or settings, with the reason of each."""
    settings, with_dtm = config.digest("preprocessing"), config.preprocessing.compute_dtms
    reasons = {case.id: why_stale(study, case, settings, with_dtm) for case in cases}
    return {case_id: reason for case_id, reason in reasons.items() if reason}


def why_stale(study: Study, case: Case, settings: str, with_dtm: bool = False) -> str | None:
    """Return why a case needs preprocessing, such as "its mask changed"; None if its arrays are current.

    Files are read only if their size or times differ from the recorded ones. If the content is unchanged, the new times
    are recorded, so that the file is read once.

    Args:
        study: Locates the arrays.
        case: The files of the case.
        settings: Digest of the preprocessing settings.
        with_dtm: Whether distance maps are required.
    """
    try:
        record = read_record(study, case.id)
    except CaseError as error:
        return CORRUPTED if error.code == "arrays-incomplete" else NOT_PREPROCESSED
    inputs, arrays = _inputs(case), _arrays(study, case.id)
    if "image" not in arrays or (case.mask and "label" not in arrays) or (with_dtm and "dtm" not in arrays):
        return CORRUPTED
    # Before any file is read: a file that changes meanwhile is read again next time.
    stamps = Stamps(inputs=_stamps(inputs), arrays=_stamps(arrays))
    changed = _changed(record, inputs)
    if changed:
        return f"its {' and '.join(changed)} changed"
    if record.settings != settings:
        return "the preprocessing settings changed"
    if record.version != STEP_VERSIONS["preprocessing"]:
        return f"the preprocessing code changed from version {record.version} to {STEP_VERSIONS['preprocessing']}"
    if record.stamps.arrays != stamps.arrays and record.content != _content(arrays):
        return CORRUPTED
    if record.stamps != stamps:
        with suppress(OSError):  # in a read-only folder, the files are read every time
            _write(study.geometry(case.id), record.model_copy(update={"stamps": stamps}))
    return None


def input_hashes(study: Study, case: Case) -> dict[str, str]:
    """SHA-256 of the files of a case by channel, and of its "mask"; files known to be unchanged are not read."""
    inputs = _inputs(case)
    try:
        record = read_record(study, case.id)
    except CaseError:
        return {name: file_hash(path) for name, path in inputs.items()}
    return {
        name: record.inputs[name]
        if name in record.inputs and record.stamps.inputs.get(name) == stamp(path)
        else file_hash(path)
        for name, path in inputs.items()
    }


def _changed(record: ArraysRecord, inputs: Mapping[str, Path]) -> list[str]:
    before, noted = record.inputs, record.stamps.inputs
    return [
        name
        for name in dict.fromkeys([*before, *inputs])
        if name not in inputs
        or name not in before
        or (noted.get(name) != stamp(inputs[name]) and before[name] != file_hash(inputs[name]))
    ]


def _inputs(case: Case) -> dict[str, Path]:
    files = {**case.images, **({"mask": case.mask} if case.mask else {})}
    return {name: path for name, path in files.items() if path.is_file()}


def _arrays(study: Study, case_id: str) -> dict[str, Path]:
    files = {"image": study.image(case_id), "label": study.label(case_id), "dtm": study.dtm(case_id)}
    return {name: path for name, path in files.items() if path.is_file()}


def _stamps(files: Mapping[str, Path]) -> dict[str, list[int]]:
    return {name: stamp(path) for name, path in files.items()}


def _content(arrays: Mapping[str, Path]) -> str:
    """One hash of all arrays of a case."""
    return hashlib.sha256(b"".join(bytes.fromhex(file_hash(path)) for path in arrays.values())).hexdigest()


def _write(path: Path, record: ArraysRecord) -> None:
    # Keys that an older version did not write stay absent.
    write_json(path, record.model_dump(mode="json", exclude_unset=True))
