"""Whether the files and the arrays of a study are those of its dataset, and not those of another one."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path

from pydantic import ValidationError

from mist_ops.config import StudyConfig, read_config
from mist_ops.dataset import Case, read_paths, read_train_paths
from mist_ops.errors import CaseError, ConfigError, DatasetError, MistError, counted, few
from mist_ops.files import read_object
from mist_ops.imaging.nifti import read_image
from mist_ops.records.arrays import made_from_any, read_record, stale_arrays
from mist_ops.records.passport import read_passport
from mist_ops.steps import changes, formatted, image_settings
from mist_ops.study import Study, find_dataset, recorded_dataset

_MOST_IMAGES = 8
"""Images to read at most. Of a dataset that was not exchanged, nearly always one is read."""


def check_dataset(study: Study) -> list[str]:
    """Check that the tables of a study lead to the files that were analyzed.

    Returns:
        A warning if files of some patients are missing.

    Raises:
        DatasetError: Files of all patients are missing, as of a copy of the results whose dataset is unknown; or the
            files are those of another dataset with the same ids.
    """
    training = list(read_train_paths(study.train_paths).cases)
    channels = read_config(study.config).dataset_info.images
    cases = training + (read_paths(study.test_paths, channels) if study.test_paths.is_file() else [])
    missing = [case for case in cases if not all(path.is_file() for path in case.files)]
    check_same_dataset(study, training)
    if not missing:
        return []
    first = next(path for path in missing[0].files if not path.is_file())
    if len(missing) < len(cases):
        return [f"Files of {counted(len(missing), 'patient')} are missing; the first is {first}."]
    raise DatasetError(
        f"Files of all {counted(len(cases), 'patient')} in {study.train_paths} are missing; the first is {first}. If "
        f"{study.results} is a copy, or the dataset was moved, run {_update(study, study.data)}, which keeps folds and "
        "settings.",
        code="dataset-missing",
        file=study.train_paths,
        found=first,
        expected=study.data,
    )


def check_same_dataset(study: Study, cases: Iterable[Case]) -> None:
    """Check that the images of some training cases are those that were analyzed, by the hashes in fingerprint.json.

    One that is the same suffices, as single images may have been replaced. Nothing is checked without a hash.

    Raises:
        DatasetError: None is the same.
    """
    hashes = _analyzed_images(study)
    images = {case.id: next(iter(case.images.values())) for case in cases if case.images and case.id in hashes}
    different = []
    for case_id in _spread([case_id for case_id, path in images.items() if path.is_file()]):
        with suppress(MistError):  # whoever reads the image next reports it
            if hashlib.sha256(read_image(images[case_id])[0].data).hexdigest() == hashes[case_id]:
                return
            different.append(case_id)
    if not different:
        return
    found, original = find_dataset(study.analysis), recorded_dataset(study.analysis)
    known = original if original and original != found and original.is_file() else None
    meant = f"{known}, which was analyzed" if known else "the dataset that was analyzed"
    raise DatasetError(
        f"{study.train_paths} leads to {images[different[0]].parent}, but the images there of {few(different)} are not "
        f"those that were analyzed. It is another dataset with the same ids, or its images were replaced. For {meant}, "
        f"run {_update(study, known)}; give --data of the other one to analyze it instead.",
        code="dataset-differs",
        file=images[different[0]],
        found=different,
        expected=known,
    )


def check_table(table: Path) -> None:
    """Check the dataset of the study, as ``check_same_dataset``, if a table is in the results of one."""
    study = Study("", table.parent, table.parent)
    if study.fingerprint.is_file() and study.train_paths.is_file():
        check_same_dataset(study, read_train_paths(study.train_paths).cases)


def check_arrays(study: Study, cases: Sequence[Case], owner: str = "") -> None:
    """Check that the folder of the arrays is not that of another study.

    Single arrays may be missing or stale; those that training needs are checked where it reads them.

    Args:
        study: The study.
        cases: Its training cases.
        owner: Another study that the folder is registered for, for the error message.

    Raises:
        ConfigError: The folder has records of other patients only, or all arrays were made from other files; or it has
            an owner, and all are stale.
    """
    different = []
    for case in cases:
        with suppress(CaseError):
            if made_from_any(read_record(study, case.id), case):
                _check_settings(study, cases, owner)
                return
            different.append(case.id)
    others = [] if different else sorted(path.stem for path in study.geometry("any").parent.glob("*.json"))
    others = [case_id for case_id in others if case_id not in {case.id for case in cases}]
    if different:
        problem = f"holds arrays of {counted(len(different), 'patient')} with the same ids, but from other files"
    elif others:
        problem = f"holds arrays of other patients ({few(others)}), and none of this study"
    else:
        return
    raise ConfigError(
        f"{study.numpy} {problem}; it is the folder of {owner or 'another study'}. Give --numpy, the folder of the "
        f"arrays of {study.results}, or run mist_preprocess with another one.",
        code="arrays-foreign",
        file=study.numpy,
        field="--numpy",
        found=different or others,
    )


def check_averaging(weights: Sequence[Path]) -> None:
    """Check that models see the same images and labels, by their passports; those without one are not checked.

    Raises:
        ConfigError: Two were trained with other channels, labels, spacing or preprocessing, as models of two studies.
    """
    known: list[tuple[Path, StudyConfig]] = []
    for path in weights:
        with suppress(ConfigError, ValidationError):  # settings of another version
            known.append((path, StudyConfig.model_validate(read_passport(path).config)))
    for path, config in known[1:]:
        first, expected = known[0]
        for setting in changes(image_settings(expected), image_settings(config)):
            before, now = (formatted(attrgetter(setting)(whole)) for whole in (expected, config))
            tasks = [whole.dataset_info.task for whole in (expected, config)]
            studies = "" if tasks[0] == tasks[1] else f" They are models of two studies, '{tasks[0]}' and '{tasks[1]}'."
            raise ConfigError(
                f"{path} was trained with {setting} {now}, but {first} with {before}.{studies} Average models of one "
                "study.",
                code="training-mismatch",
                file=path,
                field=setting,
                found=now,
                expected=before,
            )


def _check_settings(study: Study, cases: Sequence[Case], owner: str) -> None:
    stale = stale_arrays(study, read_config(study.config), cases) if owner else {}
    if stale and len(stale) == len(cases):
        first = next(iter(stale))
        raise ConfigError(
            f"{study.numpy} is the folder of {owner}, and none of its arrays has the settings of {study.config} "
            f"({first}: {stale[first]}). Give --numpy, the folder of the arrays of this study, or run mist_preprocess "
            "with another one.",
            code="arrays-foreign",
            file=study.numpy,
            field="--numpy",
            found=sorted(stale),
        )


def _analyzed_images(study: Study) -> dict[str, str]:
    """SHA-256 of the voxels of the first channel by id."""
    try:
        cases = read_object(study.fingerprint)["cases"]
        return {str(case_id): str(case["content"]) for case_id, case in cases.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _spread(items: Sequence[str]) -> Sequence[str]:
    step = max(1, len(items) // _MOST_IMAGES)
    return items[::step][:_MOST_IMAGES]


def _update(study: Study, data: Path | None) -> str:
    path = str(data) if data and data.is_file() else "DATASET.json"
    return f"mist_analyze --update --data {shlex.quote(path)} --results {shlex.quote(str(study.results))}"
