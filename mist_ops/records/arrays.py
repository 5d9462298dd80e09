"""The record of preprocessed arrays: a JSON file with their grids and the files and settings that they depend on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict

from mist_ops.boxes import read_boxes
from mist_ops.config import STEP_VERSIONS, StudyConfig, override
from mist_ops.dataset import Case
from mist_ops.errors import CaseError, ConfigError, counted, few
from mist_ops.files import file_hash, json_hash, stamp_of, stamps, write_json
from mist_ops.imaging.geometry import CaseGeometry, Geometry
from mist_ops.records.kept import Kept
from mist_ops.records.passport import read_passport
from mist_ops.steps import Settings, changed_settings, changes, old_digest, settings
from mist_ops.study import Study
from mist_ops.types import Box

NOT_PREPROCESSED, CORRUPTED, NO_DISTANCES = (
    "it is not preprocessed",
    "its arrays are corrupted",
    "distance maps are missing",
)
"""Reasons for which no finished work is lost if a case is preprocessed again."""

Volumes = Mapping[int, tuple[float, float]]
"""Volume in mm³ of each label in a mask and in the arrays."""

ARRAYS = ("image", "label", "dtm")
"""The arrays of a case, in the order in which they are hashed."""

IMAGE, LABELED = ("image",), ("image", "label")
"""The arrays that predictions read, and those that training reads if its loss needs no distance maps."""

_LABELS = "dataset_info.labels"


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
        settings: The preprocessing settings by dotted path; a digest of them in records of version 0.9 and earlier.
        labels: Labels in the mask; None if it has not been recorded.
        volumes: Volume in mm³ of each label but the background, in the mask and in the arrays.
        foreground: The box that the analysis gave, where it was used.
        version: Version of preprocessing.
        content: SHA-256 of the arrays.
        arrays: SHA-256 of each array; empty in records of version 0.9 and earlier.
        stamps: Sizes and times that files had when they were hashed.
    """

    model_config = ConfigDict(frozen=True)

    original: Geometry
    box: Box | None
    preprocessed: Geometry
    inputs: dict[str, str] = {}
    settings: dict[str, Any] | str = ""
    labels: list[int] | None = None
    volumes: Volumes = {}
    foreground: Box | None = None
    version: int = 1
    content: str
    arrays: dict[str, str] = {}
    stamps: Stamps = Stamps()

    @property
    def geometry(self) -> CaseGeometry:
        """The grids of the case."""
        return CaseGeometry(self.original, self.box, self.preprocessed)

    def content_of(self, parts: Collection[str]) -> str:
        """SHA-256 of some of the arrays; of all of them in records of version 0.9 and earlier."""
        hashes = [self.arrays[name] for name in ARRAYS if name in parts and name in self.arrays]
        return _combined(hashes) if hashes else self.content

    @property
    def contents(self) -> frozenset[str]:
        """The hashes by which the arrays that are read together may be on record elsewhere."""
        return frozenset({self.content, *(self.content_of(parts) for parts in (IMAGE, LABELED, ARRAYS))})


@dataclass(frozen=True)
class Inputs:
    """The files of a case before they are read, so that a file that changes meanwhile makes the case stale."""

    stamps: Mapping[str, list[int]]
    hashes: Mapping[str, str]

    @classmethod
    def of(cls, case: Case) -> Inputs:
        """Stamp and hash the files of a case."""
        files = _inputs(case)
        found = stamps(files)
        return cls(found, {name: file_hash(files[name]) for name in found})


def write_record(
    path: Path,
    arrays: Mapping[str, Path],
    inputs: Inputs,
    geometry: CaseGeometry,
    config: StudyConfig,
    *,
    labels: Iterable[int] | None = None,
    volumes: Volumes = MappingProxyType({}),
    foreground: Box | None = None,
) -> ArraysRecord:
    """Record how the arrays of a case were made.

    Args:
        path: The record.
        arrays: The arrays, by name in ``ARRAYS``.
        inputs: The files of the case, as they were before they were read.
        geometry: Its grids.
        config: The settings.
        labels: The labels in its mask.
        volumes: Volumes of these in the mask and in the arrays.
        foreground: Its box according to the analysis, if it was used.
    """
    hashes = {name: file_hash(arrays[name]) for name in ARRAYS if name in arrays}
    record = ArraysRecord(
        original=geometry.original,
        box=geometry.box,
        preprocessed=geometry.preprocessed,
        inputs=dict(inputs.hashes),
        settings=settings(config, "preprocessing"),
        labels=None if labels is None else list(labels),
        volumes=dict(volumes),
        foreground=foreground,
        version=STEP_VERSIONS["preprocessing"],
        content=_combined(hashes.values()),
        arrays=hashes,
        stamps=Stamps(inputs=dict(inputs.stamps), arrays=stamps(arrays)),
    )
    _write(path, record)
    return record


def restamp(study: Study, case_id: str, record: ArraysRecord) -> None:
    """Record the times of arrays that were just moved to their place, so that they need not be read again."""
    seen = record.stamps.model_copy(update={"arrays": stamps(_arrays(study, case_id))})
    _write(study.geometry(case_id), record.model_copy(update={"stamps": seen}))


def read_record(study: Study, case_id: str) -> ArraysRecord:
    """Read the record of a preprocessed case.

    Raises:
        CaseError: The case is not preprocessed, or its record is corrupted.
    """
    path = study.geometry(case_id)
    try:
        found = path.stat()
        return _read(str(path), found.st_ino, *stamp_of(found))
    except FileNotFoundError as error:
        raise CaseError(
            case_id, f"{path} does not exist. Preprocess the case first.", code="not-preprocessed", file=path
        ) from error
    except ValueError as error:
        raise CaseError(
            case_id, f"{path} is corrupted. Preprocess the case again.", code="record-invalid", file=path
        ) from error


@lru_cache(maxsize=1 << 15)
def _read(path: str, *_: int) -> ArraysRecord:
    """Read a record; a status asks five times for each, and whoever replaces the file gives it another stamp."""
    return ArraysRecord.model_validate_json(Path(path).read_bytes())


def reduced(volumes: Volumes) -> dict[int, tuple[float, float]]:
    """The labels that lose more than half of their volume; lost ones have none in the arrays."""
    return {label: (before, after) for label, (before, after) in volumes.items() if after < before / 2}


def reduced_labels(study: Study, ids: Iterable[str]) -> dict[str, dict[int, tuple[float, float]]]:
    """The labels of each case that lose more than half of their volume in its arrays; other cases are excluded."""
    found = {}
    for case_id in ids:
        with suppress(CaseError):
            found[case_id] = reduced(read_record(study, case_id).volumes)
    return {case_id: labels for case_id, labels in found.items() if labels}


def describe_reduced(labels_of: Mapping[str, Mapping[int, tuple[float, float]]]) -> str:
    """A warning on labels that arrays lost, with the number of cases; empty if there are none."""
    lost: defaultdict[int, list[str]] = defaultdict(list)
    less: defaultdict[int, list[str]] = defaultdict(list)
    for case_id, labels in labels_of.items():
        for label, (_, after) in labels.items():
            (less if after else lost)[label].append(case_id)
    parts = [
        f"label {label} {what} in {counted(len(ids), 'patient')} ({few(ids)})"
        for found, what in ((lost, "is lost"), (less, "loses more than half of its volume"))
        for label, ids in sorted(found.items())
    ]
    if not parts:
        return ""
    return (
        f"After cropping and resampling, {'; '.join(parts)}. A finer target spacing keeps more, and "
        "preprocessing.keep_small_labels keeps lesions that are too small for it."
    )


def case_content(study: Study, case_id: str, parts: Collection[str] = ARRAYS) -> str:
    """SHA-256 of the arrays of a case, or of some: as recorded, else from the files; empty without arrays."""
    with suppress(CaseError):
        return read_record(study, case_id).content_of(parts)
    arrays = [path for path in _arrays(study, case_id).values() if path.is_file()]
    return json_hash([file_hash(path) for path in arrays]) if arrays else ""


def case_contents(study: Study, case_id: str) -> frozenset[str]:
    """The hashes by which a model or a prediction may have recorded the arrays of a case; empty without arrays."""
    with suppress(CaseError):
        return read_record(study, case_id).contents
    return frozenset({case_content(study, case_id)} - {""})


@dataclass(frozen=True)
class Change:
    """Why arrays of a case are stale, such as "its mask changed", and which of them: names of ``ARRAYS``."""

    reason: str
    arrays: frozenset[str] = frozenset(ARRAYS)


def stale_arrays(study: Study, config: StudyConfig, cases: Iterable[Case]) -> dict[str, str]:
    """Cases whose arrays are missing or depend on other files or settings, with the reason of each."""
    return {case_id: change.reason for case_id, change in changed_arrays(study, config, cases).items()}


def changed_arrays(
    study: Study, config: StudyConfig, cases: Iterable[Case], kept: Kept | None = None
) -> dict[str, Change]:
    """Cases whose arrays are missing or depend on other files or settings, with what changed.

    Files are read only if their size or times differ from the recorded ones. If the content is unchanged, the new times
    are recorded, so that the file is read once.

    Args:
        study: Locates arrays and records.
        config: The settings.
        cases: The cases.
        kept: What a person kept; read from the study by default.
    """
    now, kept = _Now.of(study, config), kept or Kept(study)
    found = {case.id: _left(study, case, now, kept) for case in cases}
    return {case_id: change for case_id, change in found.items() if change}


def _left(study: Study, case: Case, now: _Now, kept: Kept) -> Change | None:
    """What changed of the arrays of a case without what was kept."""
    change = _change(study, case, now)
    if change is None:
        return None
    lost = {NOT_PREPROCESSED, CORRUPTED, NO_DISTANCES} & set(change.reason.split("; "))
    content = None if lost else read_record(study, case.id).content
    left = kept.left(("preprocessing", case.id), [change.reason], content, lambda: _input_content(study, case, now))
    return Change(left, change.arrays) if left else None


def _input_content(study: Study, case: Case, now: _Now) -> str:
    return json_hash([input_hashes(study, case), str(now.boxes.get(case.id))])


@dataclass(frozen=True)
class _Now:
    """What arrays would be made with now.

    Attributes:
        config: config.json.
        settings: The settings of preprocessing.
        boxes: Foreground boxes of the analysis, where they are used.
        earlier: Returns the settings that records of version 0.9 and earlier have a digest of.
    """

    config: StudyConfig
    settings: Settings
    boxes: Mapping[str, Box]
    earlier: Callable[[], Mapping[str, Settings]]

    @classmethod
    def of(cls, study: Study, config: StudyConfig) -> _Now:
        crops = config.preprocessing.crop_to_foreground and not config.preprocessing.skip
        boxes = read_boxes(study) if crops and study.fg_bboxes.is_file() else {}
        return cls(config, settings(config, "preprocessing"), boxes, cache(partial(_earlier, study, config)))


def _earlier(study: Study, config: StudyConfig) -> dict[str, Settings]:
    """The preprocessing settings of config.json and of all passports, by their digest of version 0.9."""
    known = [config]
    for fold in config.training.folds:
        with suppress(ConfigError, ValueError):  # no passport, or settings that are not known any more
            known.append(StudyConfig.model_validate(read_passport(study.model(fold)).config))
    # Distance maps that are missing are reported as such, and those that are not required do no harm.
    path = "preprocessing.compute_dtms"
    others = [override(one, {path: not one.preprocessing.compute_dtms}) for one in known]
    return {old_digest(one, "preprocessing"): settings(one, "preprocessing") for one in (*others, *known)}


def _change(study: Study, case: Case, now: _Now) -> Change | None:
    try:
        record = read_record(study, case.id)
    except CaseError:
        return Change(NOT_PREPROCESSED)
    # Before any file is read: a file that changes meanwhile is read again next time.
    inputs, arrays = _inputs(case), _arrays(study, case.id)
    seen = Stamps(inputs=stamps(inputs), arrays=stamps(arrays))
    inputs, arrays = _existing(inputs, seen.inputs), _existing(arrays, seen.arrays)
    if "image" not in arrays or (case.mask and "label" not in arrays):
        return Change(CORRUPTED)
    altered = [*_of_inputs(record, inputs, seen.inputs, now.config)]
    found = [
        *altered,
        *_of_settings(record, now),
        *_of_analysis(record, case, now),
        *_of_code(record),
    ]
    if now.config.preprocessing.compute_dtms and case.mask and "dtm" not in arrays:
        found.append(Change(CORRUPTED if "dtm" in record.stamps.arrays else NO_DISTANCES, frozenset({"dtm"})))
    elif record.stamps.arrays != seen.arrays and record.content != _content(arrays):
        return Change(CORRUPTED)
    recorded = _kept(record, now)
    if (seen != record.stamps or recorded != record.settings) and not altered:
        with suppress(OSError):  # in a read-only folder, the files are read every time
            _write(study.geometry(case.id), record.model_copy(update={"stamps": seen, "settings": recorded}))
    if found:
        reasons = dict.fromkeys(change.reason for change in found)
        return Change("; ".join(reasons), frozenset[str]().union(*(change.arrays for change in found)))
    return None


def _kept(record: ArraysRecord, now: _Now) -> Settings | str:
    """The recorded settings; if there is only a digest of them, the settings that have it."""
    return dict(_recorded(record, now) or {}) or record.settings


def _recorded(record: ArraysRecord, now: _Now) -> Settings | None:
    """The recorded settings; None if there is only a digest that no settings on record have."""
    return now.earlier().get(record.settings) if isinstance(record.settings, str) else record.settings


def _of_inputs(
    record: ArraysRecord, inputs: Mapping[str, Path], seen: Mapping[str, list[int]], config: StudyConfig
) -> Iterator[Change]:
    changed, gone = _changed(record, inputs, seen), sorted(record.inputs.keys() - inputs.keys())
    if not changed and not gone:
        return
    # The box of the image is extended to the labels of the mask only with accurate resampling.
    extends = config.preprocessing.crop_to_foreground and config.preprocessing.resampling == "accurate"
    masked = {*changed, *gone} == {"mask"} and not extends
    if gone and not inputs:
        reason = "its files are missing"
    else:
        verbs = (
            (sorted(set(changed) - record.inputs.keys()), "was added", "were added"),
            (sorted(set(changed) & record.inputs.keys(), key=list(record.inputs).index), "changed", "changed"),
            (gone, "is missing", "are missing"),
        )
        parts = [f"{' and '.join(names)} {one if len(names) == 1 else many}" for names, one, many in verbs if names]
        reason = f"its {', its '.join(parts)}"
    yield Change(reason, frozenset({"label", "dtm"} if masked else ARRAYS))


def _of_settings(record: ArraysRecord, now: _Now) -> Iterator[Change]:
    before = _recorded(record, now)
    if before == now.settings:
        return
    if before is None:
        unknown = changed_settings(record.settings, now.config, "preprocessing")
        yield from (Change(message) for message in unknown.values())
        return
    messages = {
        path: (message, _affected(path, before, record.labels, now))
        for path, message in changes(before, now.settings).items()
    }
    found = [(message, affected) for message, affected in messages.values() if affected]
    if found:
        reason = "; ".join(message for message, _ in found)
        yield Change(reason, frozenset[str]().union(*(affected for _, affected in found)))


def _affected(path: str, recorded: Settings, labels: Sequence[int] | None, now: _Now) -> frozenset[str]:
    """The arrays that a changed setting changes; ``labels`` are those in the mask, if they are known."""
    if path == "preprocessing.compute_dtms":
        return frozenset()  # missing distance maps are reported as such, and those that are not required do no harm
    if path == "preprocessing.normalize_dtms" or (path == "preprocessing.resampling" and now.config.preprocessing.skip):
        return frozenset({"dtm"})
    if path == "preprocessing.keep_small_labels":
        return frozenset({"label", "dtm"})
    if path == _LABELS:
        before, after = recorded[path], now.settings[path]
        if not isinstance(before, list):  # damaged
            return frozenset(ARRAYS)
        present = before if labels is None else labels
        if [_index(label, before) for label in present] != [_index(label, after) for label in present]:
            return frozenset({"label", "dtm"})
        maps = now.config.preprocessing.compute_dtms and len(before) != len(after)
        return frozenset({"dtm"} if maps else ())
    return _IMAGE if path.startswith(_OF_IMAGES) else frozenset(ARRAYS)


_IMAGE = frozenset({"image"})

_OF_IMAGES = (
    "dataset_info.images",
    "dataset_info.modality",
    "preprocessing.ct_normalization.",
    "preprocessing.normalize_with_nonzero_mask",
)
"""Settings that affect nothing but images."""


def _index(label: object, labels: list[Any]) -> int | None:
    return labels.index(label) if label in labels else None


def _of_analysis(record: ArraysRecord, case: Case, now: _Now) -> Iterator[Change]:
    box = now.boxes.get(case.id)
    if record.foreground is not None and box is not None and record.foreground != box:
        yield Change("its foreground box in fg_bboxes.csv changed")


def _of_code(record: ArraysRecord) -> Iterator[Change]:
    version = STEP_VERSIONS["preprocessing"]
    if record.version != version:
        yield Change(f"the preprocessing code changed from version {record.version} to {version}")


def input_hashes(study: Study, case: Case) -> dict[str, str]:
    """SHA-256 of the files of a case by channel, and of its "mask"; files known to be unchanged are not read."""
    inputs = _inputs(case)
    seen = stamps(inputs)
    try:
        record = read_record(study, case.id)
    except CaseError:
        return {name: file_hash(inputs[name]) for name in seen}
    return {
        name: record.inputs[name]
        if name in record.inputs and record.stamps.inputs.get(name) == found
        else file_hash(inputs[name])
        for name, found in seen.items()
    }


def made_from_any(record: ArraysRecord, case: Case) -> bool:
    """Whether arrays were made from a file of a case, also if its other files changed; true if it is not on record."""
    seen = stamps(_inputs(case))
    inputs = _existing(_inputs(case), seen)
    return not record.inputs or not inputs or len(_changed(record, inputs, seen)) < len(inputs)


def _changed(record: ArraysRecord, inputs: Mapping[str, Path], seen: Mapping[str, list[int]]) -> list[str]:
    before, noted = record.inputs, record.stamps.inputs
    return [
        name
        for name, path in inputs.items()
        if name not in before or (noted.get(name) != seen[name] and before[name] != file_hash(path))
    ]


def _inputs(case: Case) -> dict[str, Path]:
    """The files of a case, by channel and "mask"; they may be missing."""
    return {**case.images, **({"mask": case.mask} if case.mask else {})}


def _arrays(study: Study, case_id: str) -> dict[str, Path]:
    """The arrays of a case; they may be missing."""
    return {"image": study.image(case_id), "label": study.label(case_id), "dtm": study.dtm(case_id)}


def _existing(files: Mapping[str, Path], seen: Mapping[str, list[int]]) -> dict[str, Path]:
    return {name: files[name] for name in seen}


def _content(arrays: Mapping[str, Path]) -> str:
    """One hash of all arrays of a case."""
    return _combined([file_hash(path) for path in arrays.values()])


def _combined(hashes: Iterable[str]) -> str:
    return hashlib.sha256(b"".join(map(bytes.fromhex, hashes))).hexdigest()


def _write(path: Path, record: ArraysRecord) -> None:
    # Keys that an older version did not write stay absent. Not synced: without its record, a case counts as not
    # preprocessed, and a record has the sizes of its arrays.
    write_json(path, record.model_dump(mode="json", exclude_unset=True), synced=False)
