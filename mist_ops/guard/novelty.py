"""How unusual a scan is for the training patients, and from which value on it is not like them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from mist_ops.guard.features import Group, Measured
from mist_ops.guard.gaussian import Population, population

FALSE_ALARMS = 0.02
"""Share of scans like those of the training patients that may be called unlike."""

_CONFIDENCE = 0.9
"""That the deviation of the scores is not larger than assumed."""

_MOST_SPLITS = 50
_SMALLEST = 1e-6

Distances = Mapping[Group, float]


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of the logarithm of a distance, over patients that were excluded in turn."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Novelty:
    """What is usual.

    Attributes:
        population: The training patients.
        scales: Of each group of features.
        threshold: A scan is unlike them if its score is higher.
    """

    population: Population
    scales: Mapping[Group, Scale]
    threshold: float

    def of(self, measured: Measured) -> dict[Group, float]:
        """How unusual a scan is in each group: in standard deviations of the logarithm of its distance."""
        return standardized(self.population.distances(measured), self.scales)


def standardized(distances: Distances, scales: Mapping[Group, Scale]) -> dict[Group, float]:
    """Distances as standard deviations of their logarithms."""
    return {
        group: (math.log(max(distances[group], _SMALLEST)) - scale.mean) / scale.deviation
        for group, scale in scales.items()
    }


def score(novelty: Mapping[Group, float]) -> float:
    """How unusual a scan is in the most unusual group."""
    return max(novelty.values())


def left_out(patients: Sequence[Measured]) -> list[tuple[list[int], Population]]:
    """Some patients at a time, each with the population of all others: one by one for up to 50."""
    splits = np.array_split(np.arange(len(patients)), min(len(patients), _MOST_SPLITS))
    return [
        (some.tolist(), population([patient for index, patient in enumerate(patients) if index not in set(some)]))
        for some in splits
    ]


def scales_of(distances: Sequence[Distances]) -> dict[Group, Scale]:
    """The usual distances, given those of excluded patients."""
    logarithms = {group: np.log(np.maximum([each[group] for each in distances], _SMALLEST)) for group in distances[0]}
    return {
        group: Scale(float(values.mean()), max(float(values.std(ddof=1)), 0.05)) for group, values in logarithms.items()
    }


def threshold_of(scores: Sequence[float]) -> float:
    """The score that a share ``FALSE_ALARMS`` of all patients exceeds, given those of excluded patients.

    The largest of several deviations follows a Gumbel distribution. Its quantile is used, with the mean of the scores
    and an upper bound of their deviation, as few patients say little of one in fifty.
    """
    chi2, gumbel = scipy.stats.chi2, scipy.stats.gumbel_r
    count = len(scores)
    deviation = float(np.std(scores, ddof=1)) * math.sqrt((count - 1) / chi2.ppf(1 - _CONFIDENCE, count - 1))
    quantile = (gumbel.ppf(1 - FALSE_ALARMS) - gumbel.mean()) / gumbel.std()
    return float(np.mean(scores)) + deviation * float(quantile)


def bound(found: int, patients: int, confidence: float = 0.95) -> float:
    """Upper confidence bound of a share, from ``found`` of ``patients`` (Clopper and Pearson, 1934)."""
    return 1.0 if found >= patients else float(scipy.stats.beta.ppf(confidence, found + 1, patients - found))
