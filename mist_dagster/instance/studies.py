"""Registered studies: a YAML file each, written by every command that takes ``--results``."""

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from mist_dagster.instance import tensorboard
from mist_dagster.instance.home import dagster_home
from mist_ops.dataset import Case, read_train_paths
from mist_ops.errors import CaseError, ConfigError, DatasetError, listing
from mist_ops.files import write_text
from mist_ops.records.arrays import case_contents, made_from_any, read_record
from mist_ops.records.passport import read_passport
from mist_ops.schema import Section, mistakes
from mist_ops.study import Study, analyzed_dataset, find_dataset, record_dataset, recorded_dataset

_logger = logging.getLogger("mist")
_NAME = re.compile(r"[^\W_][\w. -]{0,79}")
_OWNER = r"^(team:\w[\w .-]*|[A-Za-z0-9][A-Za-z0-9._%+-]*@[A-Za-z0-9.-]+\.[A-Za-z]{2,7})$"
_TOOLS = "tools"
"""Asset key prefix of the tools."""


class StudyRecord(Section):
    """A study as registered in ``$DAGSTER_HOME/studies/<name>.yaml``; the paths are absolute."""

    results: Path = Field(description="Folder of everything but the arrays.")
    numpy: Path = Field(description="Folder of the preprocessed arrays.")
    data: Path | None = Field(None, description="dataset.json, if known.")
    owners: list[Annotated[str, Field(pattern=_OWNER)]] = Field(
        [], description="Who is responsible, as the UI shows: email addresses, or team: and a name."
    )


def registered_studies() -> list[Study]:
    """List the studies of this home by name; log a warning for records that are invalid."""
    found: dict[str, Study] = {}
    for path in sorted((dagster_home() / "studies").glob("*.yaml")):
        try:
            study = _read(path)
            _check_key(study, found.values())
        except ConfigError as error:  # the other studies remain usable
            _logger.warning("%s", error)
        else:
            found[study.key] = study
    return list(found.values())


def register(results: Path, *, numpy: Path | None = None, data: Path | None = None, name: str | None = None) -> Study:
    """Return the study of a results folder, and register it or update its record.

    Args:
        results: The study's results folder, which identifies it.
        numpy: Folder of its arrays; if None the recorded one, else the one that its passports know, else ``./numpy``.
        data: Its dataset.json; if None the recorded one, or the one in ``fingerprint.json``, or that of the study of
            which the results are a copy.
        name: Its name; if None the recorded one, else the task and a short hash of the results folder.

    Raises:
        ConfigError: The name is invalid or taken, or the study has another one; or its arrays are unknown, and
            ``./numpy`` holds those of another study.
    """
    results = results.expanduser().resolve()
    replica = Study("", results, results)
    if replica.seed is not None and replica.original and replica.original.config.is_file():
        original = register(replica.original.results, numpy=numpy, data=data)
        return _recorded(original.replica(replica.seed), name)
    studies = registered_studies()
    known = next((study for study in studies if study.results == results), None)
    if known and name not in (None, known.name):
        raise ConfigError(
            f"{results} is already registered as the study '{known.name}', not '{name}'. Omit --study.",
            code="study-registered",
            field="--study",
            found=name,
            expected=known.name,
        )
    name = _checked(name or (known.name if known else _default_name(results, data)))
    originals = [study for study in studies if study != known and _same_analysis(study.results, results)]
    study = Study(
        name=name,
        results=results,
        numpy=_absolute(numpy) or (known.numpy if known else _find_arrays(results, studies)),
        data=_absolute(data) or (known and known.data) or find_dataset(results) or _dataset(originals),
    )
    _keep_dataset(study)
    path = _path(name)
    if not known and path.exists():
        raise _taken(name, _read(path))
    _check_key(study, (other for other in studies if other != known))
    if study != known:
        _write_record(study)
    return study


def _recorded(replica: Study, name: str | None) -> Study:
    """Register a replica, whose name is that of the original and its seed."""
    if name not in (None, replica.name):
        raise ConfigError(
            f"{replica.results} is a replica, whose name is '{replica.name}'. Omit --study.",
            code="study-registered",
            field="--study",
            found=name,
            expected=replica.name,
        )
    studies = registered_studies()
    if replica not in studies:
        _checked(replica.name)
        _check_key(replica, (other for other in studies if other.results != replica.results))
        _write_record(replica)
    return replica


def _write_record(study: Study) -> None:
    record = StudyRecord(results=study.results, numpy=study.numpy, data=study.data, owners=owners(study))
    write_text(_path(study.name), yaml.safe_dump(record.model_dump(mode="json"), sort_keys=False))
    tensorboard.show(study)


def _keep_dataset(study: Study) -> None:
    """Record where the dataset of a study is if the place on record is gone, or it is found in no other way."""
    recorded = recorded_dataset(study.results)
    # A file in that place stays on record: what is found relative to a copy may be another dataset.
    known = recorded.is_file() if recorded else find_dataset(study.results)
    if not known and study.data and study.data.is_file() and analyzed_dataset(study.results):
        with contextlib.suppress(OSError):  # the folder may be read-only
            record_dataset(study.results, study.data)


def owner_of_arrays(study: Study) -> str:
    """Another registered study with the same folder of arrays, for an error message; empty if there is none.

    Replicas share their arrays by design.
    """
    others = [
        other for other in registered_studies() if other.numpy == study.numpy and other.analysis != study.analysis
    ]
    return f"the study '{others[0].name}' ({others[0].results})" if others else ""


def _same_analysis(one: Path, other: Path) -> bool:
    """Whether two results folders hold the same analysis, as a copy does."""
    try:
        return (one / "fingerprint.json").read_bytes() == (other / "fingerprint.json").read_bytes()
    except OSError:
        return False


def _dataset(studies: Iterable[Study]) -> Path | None:
    return next((study.data for study in studies if study.data and study.data.is_file()), None)


def _find_arrays(results: Path, studies: Iterable[Study]) -> Path:
    """The folder of arrays whose hashes are in the passports of a study, or without passports that of its patients.

    It is ``./numpy`` if there are none, or the study has not been analyzed.

    Raises:
        ConfigError: ``./numpy`` holds other arrays, and those of the study were not found.
    """
    here = Path("numpy").resolve()
    used, cases = _arrays_on_record(results), _cases(results)
    candidates = dict.fromkeys([here, results.parent / "numpy", *(study.numpy for study in studies)])
    belongs = partial(_holds, used=used) if used else partial(_made_from, cases=cases)
    found = next((folder for folder in candidates if belongs(folder)), None)
    if found or not (used or cases) or not any((here / "geometry").glob("*.json")):
        return found or here
    owner = next((f"the study '{study.name}' ({study.results})" for study in studies if study.numpy == here), "")
    missing = f"a hash that the models in {results} were trained on" if used else f"a patient of {results}"
    raise ConfigError(
        f"{here} holds arrays of {owner or 'another study, or of other settings'}: none of them has {missing}. Give "
        "--numpy, the folder of the arrays of this study.",
        code="arrays-unknown",
        file=here,
        field="--numpy",
        found=here,
    )


def _arrays_on_record(results: Path) -> dict[str, set[str]]:
    """The hashes of the arrays that the models of a study were trained on, by patient."""
    used: dict[str, set[str]] = {}
    for path in sorted((results / "models").glob("fold_*.json")):
        with contextlib.suppress(ConfigError):  # whoever reads a corrupted passport next reports it
            content = read_passport(path.with_suffix(".pt")).content
            for part in (content.training, content.validation):
                for case_id, digest in part.items():
                    used.setdefault(case_id, set()).add(digest)
    return used


def _cases(results: Path) -> Sequence[Case]:
    """The training cases of a study; none if it has not been analyzed. Whoever reads a broken table next reports it."""
    with contextlib.suppress(DatasetError):
        return read_train_paths(Study("", results, results).train_paths).cases
    return ()


def _made_from(numpy: Path, cases: Iterable[Case]) -> bool:
    """Whether arrays were made from files of these cases."""
    study = Study("", numpy=numpy, results=numpy)
    for case in cases:
        with contextlib.suppress(CaseError):
            if made_from_any(read_record(study, case.id), case):
                return True
    return False


def _holds(numpy: Path, used: Mapping[str, set[str]]) -> bool:
    study = Study("", numpy=numpy, results=numpy)
    return any(digests & case_contents(study, case_id) for case_id, digests in used.items())


def owners(study: Study) -> list[str]:
    """The owners in the record of a study."""
    path = _path(study.name)
    return _record(path).owners if path.exists() else []


def _path(name: str) -> Path:
    return dagster_home() / "studies" / f"{name}.yaml"


def _read(path: Path) -> Study:
    record = _record(path)
    return Study(name=_checked(path.stem), results=record.results, numpy=record.numpy, data=record.data)


def _record(path: Path) -> StudyRecord:
    try:
        return StudyRecord.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        problem = listing(mistakes(error, StudyRecord)) if isinstance(error, ValidationError) else str(error)
        raise ConfigError(
            f"{path} is not a valid study record: {problem}. Correct or remove it.", code="record-invalid", file=path
        ) from error


def _absolute(path: Path | None) -> Path | None:
    return path.expanduser().resolve() if path else None


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name) or name[-1] in " ." or name == _TOOLS:
        raise ConfigError(
            f"'{name}' is not a valid study name. A name starts with a letter or digit, continues with letters, "
            f"digits, spaces, '-', '_' or '.', has at most 80 characters and is not '{_TOOLS}'.",
            code="study-name-invalid",
            field="--study",
            found=name,
        )
    return name


def _check_key(study: Study, others: Iterable[Study]) -> None:
    """Refuse a study whose assets would have the keys of another study's."""
    taken = next((other for other in others if other.key == study.key), None)
    if taken:
        raise _taken(study.name, taken)


def _taken(name: str, other: Study) -> ConfigError:
    if name == other.name:
        problem = f"The study name '{name}' is already used by {other.results}"
    else:
        problem = f"The study names '{name}' and '{other.name}' ({other.results}) have the same asset key '{other.key}'"
    return ConfigError(
        f"{problem}. Choose another name with --study.", code="study-name-taken", field="--study", found=name
    )


def _default_name(results: Path, data: Path | None) -> str:
    task = re.sub(r"[^\w.-]+", "_", next(_tasks(results, data), "")).strip("_.-")[:60] or "study"
    return f"{task}_{hashlib.sha256(str(results).encode()).hexdigest()[:6]}"


def _tasks(results: Path, data: Path | None) -> Iterator[str]:
    """The task in config.json or dataset.json; whoever reads an invalid file next reports it."""
    for path, keys in ((results / "config.json", ("dataset_info", "task")), (data, ("task",))):
        try:
            value: Any = json.loads(path.read_text()) if path else None
            for key in keys:
                value = value[key]
        except (OSError, ValueError, TypeError, KeyError):
            continue
        if isinstance(value, str) and value:
            yield value
