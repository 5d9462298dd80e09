"""The register of studies: a small YAML each, written by every command that names a results folder."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from mist_dagster.instance import tensorboard
from mist_dagster.instance.home import dagster_home
from mist_ops.errors import ConfigError
from mist_ops.files import write_text
from mist_ops.schema import Section
from mist_ops.study import Study

_logger = logging.getLogger("mist")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,79}")


class StudyRecord(Section):
    """A study as registered in ``$DAGSTER_HOME/studies/<name>.yaml``; the paths are absolute."""

    results: Path = Field(description="Folder of everything but the arrays.")
    numpy: Path = Field(description="Folder of the preprocessed arrays.")
    data: Path | None = Field(None, description="dataset.json, if known.")


def registered_studies() -> list[Study]:
    """Every study of this home, by name; a record that cannot be read is told of and left out."""
    found = []
    for path in sorted((dagster_home() / "studies").glob("*.yaml")):
        try:
            found.append(_read(path))
        except ConfigError as error:  # which must not take the other studies with it
            _logger.warning("%s", error)
    return found


def register(results: Path, *, numpy: Path | None = None, data: Path | None = None, name: str | None = None) -> Study:
    """Return the study of a results folder, recording what is newly known of it.

    Args:
        results: The study's results folder, which tells it from other studies.
        numpy: Folder of its arrays; if None the recorded one, else ``./numpy``.
        data: Its dataset.json; if None the recorded one, or that which the analysis noted.
        name: Name to register it by; if None the recorded one, else the task and a short hash of the results folder.
    """
    results = results.expanduser().resolve()
    known = next((study for study in registered_studies() if study.results == results), None)
    if known and name not in (None, known.name):
        raise ConfigError(f"{results} is already the study '{known.name}', not '{name}'. Leave --study out.")
    name = _checked(name or (known.name if known else _default_name(results, data)))
    study = Study(
        name=name,
        results=results,
        numpy=_absolute(numpy) or (known.numpy if known else Path("numpy").resolve()),
        data=_absolute(data) or (known.data if known else _dataset_of(results)),
    )
    path = dagster_home() / "studies" / f"{name}.yaml"
    if not known and path.exists():
        raise ConfigError(f"The study '{name}' is already that of {_read(path).results}. Choose another --study.")
    if study != known:
        record = StudyRecord(results=study.results, numpy=study.numpy, data=study.data)
        write_text(path, yaml.safe_dump(record.model_dump(mode="json"), sort_keys=False))
        tensorboard.show(study)
    return study


def _read(path: Path) -> Study:
    try:
        record = StudyRecord.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path} is no record of a study: {error}. Correct it, or remove it.") from error
    return Study(name=_checked(path.stem), results=record.results, numpy=record.numpy, data=record.data)


def _dataset_of(results: Path) -> Path | None:
    """The dataset.json that a study was analyzed from, as noted beside its results: both may have moved."""
    try:
        data = json.loads((results / "fingerprint.json").read_text(encoding="utf-8"))["data"]
        path = Path(os.path.normpath(results / data))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return path if path.is_file() else None


def _absolute(path: Path | None) -> Path | None:
    return path.expanduser().resolve() if path else None


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"The study name {name!r} is not allowed: a letter, then at most 79 letters, digits or _.")
    return name


def _default_name(results: Path, data: Path | None) -> str:
    task = re.sub(r"\W+", "_", next(_tasks(results, data), "study"), flags=re.ASCII).strip("_") or "study"
    named = task if task[0].isalpha() else f"study_{task}"
    return f"{named[:60]}_{hashlib.sha256(str(results).encode()).hexdigest()[:6]}"


def _tasks(results: Path, data: Path | None) -> Iterator[str]:
    """The task's name from whichever file tells it; one that cannot be read is for its reader to complain of."""
    for path, keys in ((results / "config.json", ("dataset_info", "task")), (data, ("task",))):
        try:
            value: Any = json.loads(path.read_text()) if path else None
            for key in keys:
                value = value[key]
        except (OSError, ValueError, TypeError, KeyError):
            continue
        if isinstance(value, str) and value:
            yield value
