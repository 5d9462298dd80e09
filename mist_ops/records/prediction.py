"""The record of a prediction: a JSON file with the models, settings and images that a mask was predicted from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from mist_ops.config import STEP_VERSIONS, StudyConfig
from mist_ops.dataset import Assignment, Case
from mist_ops.errors import CaseError, few
from mist_ops.files import file_hash, json_hash, stamp, stamp_of, stamps, write_json
from mist_ops.records.arrays import IMAGE, case_content, read_record
from mist_ops.records.kept import Kept
from mist_ops.steps import Settings, changed_settings, old_digest, settings
from mist_ops.study import Study

NOT_RECORDED = "its inputs are not recorded"
"""A reason to predict that is no proof: the mask may well be current."""


class PredictionRecord(BaseModel):
    """What a mask was predicted from.

    Attributes:
        models: SHA-256 of the weights by fold.
        settings: The prediction settings by dotted path; a digest of them in records of version 0.9 and earlier.
        version: Of the prediction code; see ``STEP_VERSIONS``.
        arrays: Hash of the patient's arrays that were read; empty if its images were read instead.
        images: SHA-256 of those images by channel.
        mask: SHA-256 of the mask.
        stamps: Size and times of images and mask, so that unchanged files are not read again.
        guard: SHA-256 of the guard that reported on the scan; empty without one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    models: dict[int, str]
    settings: dict[str, Any] | str
    version: int
    arrays: str
    images: dict[str, str]
    mask: str
    stamps: dict[str, list[int]]
    guard: str = ""


@dataclass(frozen=True)
class Origin:
    """What a mask is predicted from now.

    Attributes:
        models: SHA-256 of the weights by fold.
        config: The settings.
        arrays: Hash of the patient's arrays; empty if its images are read instead.
        images: Those images by channel.
        guard: SHA-256 of the guard that reports on the scan; a mask does not depend on it.
        same_arrays: All hashes by which these arrays may be on record.
    """

    models: Mapping[int, str]
    config: StudyConfig
    arrays: str = ""
    images: Mapping[str, Path] = field(default_factory=dict)
    guard: str = ""
    same_arrays: frozenset[str] = frozenset()

    @classmethod
    def of_arrays(cls, models: Mapping[int, str], config: StudyConfig, study: Study, case_id: str) -> Origin:
        """The origin of a prediction from the arrays of a patient."""
        try:
            record = read_record(study, case_id)
        except CaseError:
            content = case_content(study, case_id)
            return cls(models, config, content, same_arrays=frozenset({content} - {""}))
        return cls(models, config, record.content_of(IMAGE), same_arrays=record.contents)

    @property
    def step(self) -> str:
        """The step that predicts."""
        return "test_prediction" if self.images else "prediction"

    def files(self) -> dict[str, Path]:
        """The images that exist."""
        return {name: path for name, path in self.images.items() if path.is_file()}


@contextmanager
def recording(record: Path, mask: Path, origin: Origin) -> Iterator[None]:
    """Record what a mask was predicted from when the block has written it.

    If the block fails, an older mask stays with its record. A mask that is newer than its record counts as changed.
    """
    # Before the images are read: one that changes meanwhile makes the prediction stale.
    files = origin.files()
    seen, images = stamps(files), {name: file_hash(path) for name, path in files.items()}
    yield
    _write(
        record,
        PredictionRecord(
            models=dict(origin.models),
            settings=settings(origin.config, origin.step),
            version=STEP_VERSIONS[origin.step],
            arrays=origin.arrays,
            images=images,
            mask=file_hash(mask),
            stamps={**seen, "mask": stamp(mask)},
            guard=origin.guard,
        ),
    )


def _write(path: Path, record: PredictionRecord) -> None:
    write_json(path, record.model_dump(mode="json"))


def read_prediction_record(path: Path) -> PredictionRecord | None:
    """Read the record of a prediction; None if it is missing or damaged."""
    try:
        found = path.stat()
        return _read(str(path), found.st_ino, *stamp_of(found))
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=1 << 15)
def _read(path: str, *_: int) -> PredictionRecord:
    """Read a record; a status asks twice for each, and whoever replaces the file gives it another stamp."""
    return PredictionRecord.model_validate_json(Path(path).read_bytes())


def stale_predictions(
    study: Study,
    config: StudyConfig,
    assignment: Assignment,
    weights: Mapping[int, str],
    kept: Kept | None = None,
) -> dict[str, str]:
    """Training patients whose prediction is missing or was not made with the weights of their fold, with the reasons.

    Args:
        study: Locates predictions and records.
        config: Settings of the study.
        assignment: The patients.
        weights: SHA-256 of the weights by fold; patients of other folds are skipped.
        kept: What a person kept; read from the study by default.
    """
    reasons, kept = {}, kept or Kept(study)
    for case in assignment.cases:
        fold = assignment.fold_of[case.id]
        if fold in weights:
            origin = Origin.of_arrays({fold: weights[fold]}, config, study, case.id)
            record, mask = study.prediction_record("train", case.id), study.cv_prediction(case.id)
            reasons[case.id] = _left(kept, case.id, record, mask, origin)
    return {case_id: reason for case_id, reason in reasons.items() if reason}


def stale_test_predictions(
    study: Study,
    config: StudyConfig,
    cases: Iterable[Case],
    weights: Mapping[int, str],
    kept: Kept | None = None,
) -> dict[str, str]:
    """Test patients whose prediction is missing or was not made with the weights of all folds; arguments as above."""
    kept = kept or Kept(study)
    reasons = {
        case.id: _left(
            kept,
            case.id,
            study.prediction_record("test", case.id),
            study.test_prediction(case.id),
            Origin(weights, config, images=case.images),
        )
        for case in cases
    }
    return {case_id: reason for case_id, reason in reasons.items() if reason}


def _left(kept: Kept, case_id: str, path: Path, mask: Path, origin: Origin) -> str:
    """Why a prediction is stale, without what was kept; empty if it is current."""
    changes = why_stale(path, mask, origin)
    if not changes:
        return ""
    record = read_prediction_record(path) if mask.is_file() else None
    content = file_hash(mask) if record else None

    def inputs() -> str:
        assert record
        images = {
            name: record.images[name] if record.stamps.get(name) == stamp(image) else file_hash(image)
            for name, image in origin.files().items()
        }
        return json_hash([sorted(origin.models.items()), origin.arrays, images])

    return kept.left((origin.step, case_id), changes, content, inputs)


def why_stale(path: Path, mask: Path, origin: Origin) -> list[str]:
    """Return why a prediction is stale, such as "fold 0 was retrained"; nothing if it is current.

    Files are read only if their size or times differ from the record, which is then brought up to date.

    Args:
        path: The record.
        mask: The prediction.
        origin: What it would be predicted from now.
    """
    if not mask.is_file():
        return ["it is not predicted"]
    record = read_prediction_record(path)
    if record is None:
        return [NOT_RECORDED]
    try:
        return [*_why_other_inputs(record, origin), *_why_other_files(path, record, mask, origin)]
    except OSError:
        return [NOT_RECORDED]


def _why_other_inputs(record: PredictionRecord, origin: Origin) -> Iterator[str]:
    retrained = [fold for fold, weights in origin.models.items() if record.models.get(fold) != weights]
    if record.models.keys() != origin.models.keys():
        yield f"other folds predict it now ({few(sorted(origin.models))})"
    elif retrained:
        yield f"fold {few(retrained)} was retrained"
    yield from changed_settings(record.settings, origin.config, origin.step).values()
    if record.version != STEP_VERSIONS[origin.step]:
        yield f"the prediction code changed from version {record.version} to {STEP_VERSIONS[origin.step]}"
    if record.arrays not in {origin.arrays, *origin.same_arrays}:
        yield "its arrays changed"


def _why_other_files(path: Path, record: PredictionRecord, mask: Path, origin: Origin) -> Iterator[str]:
    files = {**origin.files(), "mask": mask}
    hashes = {**record.images, "mask": record.mask}
    seen = {name: stamp(path) for name, path in files.items()}
    unsure = [name for name in files if record.stamps.get(name) != seen[name]]
    changed = [name for name in unsure if hashes.get(name) != file_hash(files[name])]
    if changed or files.keys() != hashes.keys():
        yield "its mask changed" if changed == ["mask"] else "an image changed"
        return
    recorded = _kept(record, origin)
    if seen != record.stamps or recorded != record.settings:
        with suppress(OSError):  # in a read-only folder the files are read in full each time
            _write(path, record.model_copy(update={"stamps": seen, "settings": recorded}))


def _kept(record: PredictionRecord, origin: Origin) -> Settings | str:
    """The recorded settings; those of now in place of the same ones as a digest."""
    if isinstance(record.settings, str) and record.settings == old_digest(origin.config, origin.step):
        return settings(origin.config, origin.step)
    return record.settings
