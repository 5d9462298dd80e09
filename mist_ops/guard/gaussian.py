"""Distances of a scan from the patients that a model was trained on, in each group of features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from mist_ops.guard.features import Feature, Group, Layout, Measured

_MISSING = 6.0
"""Standard deviations that count for a feature that only this scan lacks."""

_RARELY = 0.05
"""Share of patients up to which a missing feature is unusual."""

_MOST_PATTERNS = 20
_PATIENTS_PER_PATTERN = 4

Vector = Float64[np.ndarray, " feature"]


@dataclass(frozen=True)
class Range:
    """A feature of the training patients; mean and deviation are those of the values that are compared.

    Attributes:
        group: The aspect.
        unit: As of the feature.
        log: As of the feature.
        mean: Mean.
        deviation: Standard deviation, at least ``least`` of the feature.
        low: Smallest value.
        high: Largest value.
        missing: Share of the patients without a value.
    """

    group: Group
    unit: str
    log: bool
    mean: float
    deviation: float
    low: float
    high: float
    missing: float

    def deviations(self, feature: Feature | None) -> float:
        """Standard deviations from the mean; where a value is missing, 0 if that is usual."""
        if feature is None or math.isnan(feature.value):
            return 0.0 if self.missing > _RARELY else _MISSING
        if self.missing == 1:
            return 0.0
        return (feature.compared - self.mean) / self.deviation


@dataclass(frozen=True)
class Correlated:
    """The features of a group, and how they vary together.

    Attributes:
        names: Of the features.
        precision: Inverse of the shrunk correlation matrix, row by row.
    """

    names: tuple[str, ...]
    precision: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Patterns:
    """The coarse pictures of the training patients: their mean, and the main patterns in which they differ.

    Attributes:
        mean: Values of the mean picture.
        patterns: Orthonormal patterns.
        variances: Variance along each pattern.
        rest: Variance of a value that is left.
    """

    mean: tuple[float, ...]
    patterns: tuple[tuple[float, ...], ...]
    variances: tuple[float, ...]
    rest: float

    def distance(self, layout: Layout) -> float:
        """Distance from the mean in standard deviations, of patterns and rest together (probabilistic PCA)."""
        left = layout.ravel() - self.mean
        weights = np.asarray(self.patterns).reshape(-1, left.size) @ left
        rest = max(float(left @ left - weights @ weights), 0.0)
        return math.sqrt(float((weights**2 / self.variances).sum()) + rest / self.rest)

    def likeness(self, layout: Layout) -> tuple[float, tuple[float, float, float]]:
        """Correlation with the mean picture as it is, and mirrored along each axis."""
        mean = np.reshape(self.mean, layout.shape)
        x, y, z = (_correlation(np.flip(layout, 1 + axis), mean) for axis in range(3))
        return _correlation(layout, mean), (x, y, z)


@dataclass(frozen=True)
class Population:
    """The training patients.

    Attributes:
        ranges: Their features by name.
        groups: The features of each group together.
        patterns: Their coarse pictures.
    """

    ranges: Mapping[str, Range]
    groups: Mapping[Group, Correlated]
    patterns: Patterns

    def distances(self, measured: Measured) -> dict[Group, float]:
        """Distance of a scan from the patients in each group."""
        found: dict[Group, float] = {"layout": self.patterns.distance(measured.layout)}
        for group, correlated in self.groups.items():
            away = np.array([self.ranges[name].deviations(measured.features.get(name)) for name in correlated.names])
            found[group] = math.sqrt(max(float(away @ np.asarray(correlated.precision) @ away), 0.0))
        return found


def population(patients: Sequence[Measured]) -> Population:
    """Describe some patients; at least three."""
    names = dict.fromkeys(name for patient in patients for name in patient.features)
    ranges = {name: _range([patient.features.get(name) for patient in patients]) for name in names}
    groups: dict[Group, Correlated] = {}
    for group in dict.fromkeys(found.group for found in ranges.values()):
        members = tuple(name for name, found in ranges.items() if found.group == group)
        rows = np.array(
            [[ranges[name].deviations(patient.features.get(name)) for name in members] for patient in patients]
        )
        precision = np.linalg.inv(shrunk(rows))
        groups[group] = Correlated(members, tuple(map(tuple, precision.tolist())))
    return Population(ranges, groups, _patterns(np.array([patient.layout.ravel() for patient in patients])))


def _range(features: Sequence[Feature | None]) -> Range:
    known = [feature for feature in features if feature is not None]
    present = [feature for feature in known if not math.isnan(feature.value)]
    compared, values = np.array([one.compared for one in present]), [one.value for one in present]
    spread = float(compared.std(ddof=1)) if len(present) > 1 else 0.0
    return Range(
        known[0].group,
        known[0].unit,
        known[0].log,
        float(compared.mean()) if present else 0.0,
        math.hypot(spread, known[0].least),
        min(values, default=0.0),
        max(values, default=0.0),
        1 - len(present) / len(features),
    )


def shrunk(rows: Float64[np.ndarray, "patient feature"]) -> Float64[np.ndarray, "feature feature"]:
    """Covariance of rows with mean zero, shrunk towards a multiple of the identity.

    Chen, Wiesel, Eldar and Hero: Shrinkage Algorithms for MMSE Covariance Estimation (OAS). IEEE Transactions on Signal
    Processing 2010;58(10):5016-5029.
    """
    patients, features = rows.shape
    sample = rows.T @ rows / patients
    mean = float(np.trace(sample)) / features
    alpha = float(np.mean(sample**2))
    between = (patients + 1) * (alpha - mean**2 / features)
    weight = 1.0 if between <= 0 else min(1.0, (alpha + mean**2) / between)
    # Features that never vary keep a little variance, so that the matrix has an inverse.
    return np.asarray((1 - weight) * sample + (weight * mean + 1e-3) * np.eye(features))


def _patterns(rows: Float64[np.ndarray, "patient value"]) -> Patterns:
    mean = rows.mean(axis=0)
    _, lengths, directions = np.linalg.svd(rows - mean, full_matrices=False)
    variances = lengths**2 / max(len(rows) - 1, 1)
    count = min(_MOST_PATTERNS, len(rows) // _PATIENTS_PER_PATTERN)
    rest = float(variances[count:].sum()) / max(rows.shape[1] - count, 1) + 1e-6
    return Patterns(
        tuple(mean.tolist()),
        tuple(map(tuple, directions[:count].tolist())),
        tuple(np.maximum(variances[:count], rest).tolist()),
        rest,
    )


def _correlation(one: Layout, other: Layout) -> float:
    one, other = one - one.mean(), other - other.mean()
    spread = math.sqrt(float((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / spread if spread else 0.0
