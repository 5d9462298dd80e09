"""The record of the guard, which belongs to the weights of a study, and its reports on new scans."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from mist_ops.errors import ConfigError, counted
from mist_ops.files import read_object, write_json
from mist_ops.guard.features import Group
from mist_ops.guard.forecast import Forecast
from mist_ops.guard.novelty import Novelty, bound
from mist_ops.guard.verdict import Verdict
from mist_ops.schema import read_checked

VERSION = 1
"""Version of what the guard measures. Records of others cannot be used."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Known(_Record):
    """A training patient, judged by the others.

    Attributes:
        score: How unusual it is.
        unusual: The group in which it is most unusual.
        dice: Of each class, by the model that was not trained on it.
        expected: What the guard expected, without this patient.
    """

    score: float
    unusual: Group
    dice: dict[str, float]
    expected: dict[str, float]


class Planted(_Record):
    """A kind of damage that was planted on training patients, and how many the guard noticed."""

    noticed: int
    scans: int


class Guard(_Record):
    """What the guard of a study knows.

    Attributes:
        version: See ``VERSION``.
        models: SHA-256 of the weights that it belongs to, by fold.
        settings: The settings of predictions that it was made with, by dotted path.
        classes: The labels of each evaluated class.
        novelty: What is usual.
        forecasts: The expected Dice of each class.
        patients: The training patients.
        planted: Damages by name.
    """

    version: int
    models: dict[int, str]
    settings: dict[str, Any]
    classes: dict[str, tuple[int, ...]]
    novelty: Novelty
    forecasts: dict[str, Forecast]
    patients: dict[str, Known]
    planted: dict[str, Planted]

    @property
    def false_alarms(self) -> int:
        """Training patients that the others call unlike."""
        return sum(patient.score > self.novelty.threshold for patient in self.patients.values())


class Report(_Record):
    """What the guard says of a scan, beside its mask.

    Attributes:
        patient: Its id.
        verdict: What it says.
        guard: SHA-256 of the record of the guard.
        models: SHA-256 of the weights by fold.
    """

    patient: str
    verdict: Verdict
    guard: str
    models: dict[int, str]


def summary(guard: Guard) -> list[str]:
    """What the guard reached on the training patients, a line each."""
    count, alarms = len(guard.patients), guard.false_alarms
    lines = [
        f"{alarms} of {counted(count, 'training patient')} {'is' if alarms == 1 else 'are'} called unlike the others "
        f"(share of false alarms at most {bound(alarms, count):.1%}, with 95 % confidence)."
    ]
    if guard.planted:
        found = [f"{kind} {each.noticed} of {each.scans}" for kind, each in guard.planted.items()]
        lines.append(f"Planted damages noticed: {', '.join(found)}.")
    for name in guard.classes:
        errors = [patient.expected[name] - patient.dice[name] for patient in guard.patients.values()]
        mean, size = sum(errors) / count, sum(map(abs, errors)) / count
        lines.append(f"Expected Dice of {name}: off by {size:.3f} per patient, and by {mean:+.3f} in the mean.")
    return lines


def write_guard(path: Path, guard: Guard) -> None:
    """Write the record atomically; numbers have six digits, which keeps it small."""
    write_json(path, _rounded(guard.model_dump(mode="json")))


def read_guard(path: Path) -> Guard:
    """Read the record.

    Raises:
        ConfigError: It is missing, corrupted, or of another version.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing. Build the guard with mist_guard.", code="guard-missing", file=path)
    guard = read_checked(path, Guard, ConfigError)
    if guard.version != VERSION:
        raise ConfigError(
            f"{path} is of version {guard.version}, and version {VERSION} is expected. Build it again with mist_guard.",
            code="guard-version",
            file=path,
            found=guard.version,
            expected=VERSION,
        )
    return guard


def check_models(path: Path, guard: Guard, models: Mapping[int, str]) -> None:
    """Check that a guard belongs to weights, given by fold as SHA-256.

    Raises:
        ConfigError: It belongs to others.
    """
    if guard.models != dict(models):
        raise ConfigError(
            f"{path} belongs to other weights than those beside it. Build the guard again with mist_guard.",
            code="guard-stale",
            file=path,
            found=guard.models,
            expected=dict(models),
        )


def write_report(path: Path, report: Report) -> None:
    """Write a report atomically."""
    write_json(path, _rounded(report.model_dump(mode="json")))


def read_report(path: Path) -> Report | None:
    """Read a report; None if it is missing or damaged."""
    try:
        return Report.model_validate(read_object(path))
    except (OSError, ValueError):
        return None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value
