"""Ranks of patients by their scores, and how scores are formatted."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mist_ops.registry import METRICS


@dataclass(frozen=True)
class Standing:
    """Number of patients that are worse than a patient, equal to it (including itself) and better."""

    worse: int
    equal: int
    better: int

    @property
    def total(self) -> int:
        """Number of patients with a value."""
        return self.worse + self.equal + self.better

    @property
    def is_low(self) -> bool:
        """Whether the patient is in the worst quarter."""
        return 4 * (self.worse + self.equal) <= self.total

    @property
    def share(self) -> float:
        """Share of the other patients that are worse, with ties counted half; 0.5 without other patients."""
        others = self.total - 1
        return (self.worse + (self.equal - 1) / 2) / others if others else 0.5

    def __str__(self) -> str:
        """Rank counted from the nearer end, such as "3rd worst of 50"."""
        if self.equal == self.total:
            return f"the same in all {self.total}" if self.total > 1 else "the only one"
        end, before = ("worst", self.worse) if self.worse < self.better else ("best", self.better)
        tied = f", tied with {self.equal - 1}" if self.equal > 1 else ""
        return f"{_ordinal(before + 1)}{end} of {self.total}{tied}"


class Ranking:
    """Patients ranked by a value, higher is better; NaN is excluded."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self.values = {case_id: value for case_id, value in values.items() if math.isfinite(value)}
        self.ascending = sorted(self.values.values())

    def standing(self, case_id: str) -> Standing | None:
        """Standing of a patient; None without a value."""
        value = self.values.get(case_id)
        if value is None:
            return None
        worse, not_better = bisect_left(self.ascending, value), bisect_right(self.ascending, value)
        return Standing(worse, not_better - worse, len(self.ascending) - not_better)


@dataclass(frozen=True)
class Column:
    """Scores of all patients for a class and metric."""

    class_name: str
    metric: str
    scores: Mapping[str, float]

    @cached_property
    def sign(self) -> int:
        """1 if higher scores are better, else -1."""
        return 1 if METRICS[self.metric].higher_is_better else -1

    @cached_property
    def ranking(self) -> Ranking:
        """The patients ranked by this score."""
        return Ranking({case_id: self.sign * score for case_id, score in self.scores.items()})

    @cached_property
    def quartiles(self) -> tuple[float, ...]:
        """Minimum, quartiles and maximum of the ranked values, from worst to best."""
        return tuple(np.quantile(self.ranking.ascending, (0, 0.25, 0.5, 0.75, 1)).tolist())

    def formatted(self, value: float) -> str:
        """A score with its unit; empty for NaN."""
        return formatted(value, METRICS[self.metric].unit)

    def strip(self, case_id: str) -> dict[str, str] | None:
        """Positions of a patient and the quartiles between worst and best, in percent; None if all are equal."""
        worst, lower, median, upper, best = self.quartiles
        if worst == best:
            return None

        def percent(value: float) -> float:
            return 100 * (value - worst) / (best - worst)

        places = {"lower": lower, "median": median, "patient": self.ranking.values[case_id]}
        return {
            **{name: f"{percent(value):.1f}" for name, value in places.items()},
            "upper": f"{100 - percent(upper):.1f}",
            "words": " … ".join(self.formatted(self.sign * value) for value in (worst, median, best)),
        }


def formatted(value: float, unit: str = "") -> str:
    """A number with its unit: three decimals below 10, one above; empty for NaN."""
    if math.isnan(value):
        return ""
    return f"{value:.3f} {unit}".rstrip() if abs(value) < 10 else f"{value:.1f} {unit}".rstrip()


def _ordinal(number: int) -> str:
    """An ordinal such as "2nd "; empty for the first."""
    if number == 1:
        return ""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending} "
