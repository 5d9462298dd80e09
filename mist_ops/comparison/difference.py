"""The difference between two methods in one score: its size, its uncertainty, and what more runs would change."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Float64

from mist_ops.comparison.noise import Noise, Stratum

LEVEL = 0.95
"""Of the intervals; differences are significant below 1 minus this."""

POWER = 0.8
"""Probability of detecting a difference with the number of runs that is recommended."""

MOST_RUNS = 50
"""Largest number of runs that is recommended."""


@dataclass(frozen=True)
class Uncertainty:
    """Variance of a mean difference, for any number of runs.

    Two parts add up: the noise of the runs of A and of B, and how differently the methods suit the patients, which more
    runs do not reduce.

    Attributes:
        noise: Variance of the mean score of a run.
        patients: Variance of the mean over the patients of what the methods differ by for each patient.
        noise_freedom: Degrees of freedom of the noise.
        patients_spread: The two mean squares whose difference ``patients`` is, divided by the number of patients, with
            their degrees of freedom.
    """

    noise: float
    patients: float
    noise_freedom: int
    patients_spread: tuple[tuple[float, int], tuple[float, int]]

    def variance(self, first: int, second: int) -> float:
        """Variance of the mean difference with so many runs of A and of B."""
        return self.noise * (1 / first + 1 / second) + self.patients

    def freedom(self, first: int, second: int) -> float:
        """Degrees of freedom of that variance. Satterthwaite: Biometrics Bulletin 1946;2(6):110-114."""
        terms = [(self.noise * (1 / first + 1 / second), self.noise_freedom)]
        terms += self.patients_spread if self.patients else ()
        spread = sum(mean**2 / freedom for mean, freedom in terms if freedom)
        return self.variance(first, second) ** 2 / spread if spread else math.inf

    def power(self, difference: float, first: int, second: int, level: float) -> float:
        """Probability that a true difference is significant with so many runs, if the noise is as measured.

        More runs also measure the noise better: each adds a degree of freedom.
        """
        variance = self.variance(first, second)
        if not variance:
            return float(difference != 0)
        freedom = max(self.freedom(first, second), first + second - 2)
        size, critical = abs(difference) / math.sqrt(variance), scipy.stats.t.isf(level / 2, freedom)
        return float(scipy.stats.nct.sf(critical, freedom, size) + scipy.stats.nct.cdf(-critical, freedom, size))


@dataclass(frozen=True)
class Difference:
    """How the scores of B differ from those of A on the same patients.

    Attributes:
        mean: Mean of B minus A over patients and runs.
        by_patient: B minus A of each patient, in means over the runs.
        runs: Number of runs of A and of B.
        uncertainty: How certain it is; None if there is a single run of each and no other measurement of the noise.
    """

    mean: float
    by_patient: np.ndarray
    runs: tuple[int, int]
    uncertainty: Uncertainty | None

    @property
    def _error(self) -> tuple[float, float] | None:
        if self.uncertainty is None:
            return None
        return math.sqrt(self.uncertainty.variance(*self.runs)), self.uncertainty.freedom(*self.runs)

    @property
    def p(self) -> float | None:
        """P-value of the two-sided t-test; None if the noise is not known."""
        if self._error is None:
            return None
        error, freedom = self._error
        if not error:
            return float(self.mean == 0)
        return float(2 * scipy.stats.t.sf(abs(self.mean) / error, freedom))

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean difference; None if the noise is not known."""
        if self._error is None:
            return None
        error, freedom = self._error
        margin = float(scipy.stats.t.isf((1 - LEVEL) / 2, freedom)) * error
        return self.mean - margin, self.mean + margin

    def detectable(self, tests: int = 1) -> float | None:
        """The smallest difference that these runs detect with a probability of 80 %; None if the noise is not known.

        Args:
            tests: Number of differences that are tested together.
        """
        found = self.uncertainty
        if found is None:
            return None
        low, high = 0.0, 100 * math.sqrt(found.variance(*self.runs))
        for _ in range(40):
            middle = (low + high) / 2
            enough = found.power(middle, *self.runs, (1 - LEVEL) / tests) >= POWER
            low, high = (low, middle) if enough else (middle, high)
        return high

    def runs_needed(self, difference: float, tests: int = 1) -> int | None:
        """Runs of A and of B each that would detect a difference with a probability of 80 %.

        Args:
            difference: The true difference.
            tests: Number of differences that are tested together.

        Returns:
            None if the noise is not known, or ``MOST_RUNS`` do not suffice.
        """
        found = self.uncertainty
        if found is None:
            return None
        counts = range(2, MOST_RUNS + 1)
        return next((n for n in counts if found.power(difference, n, n, (1 - LEVEL) / tests) >= POWER), None)


def compare_scores(
    first: Float64[np.ndarray, "run_of_a patient"], second: Float64[np.ndarray, "run_of_b patient"], noise: Noise
) -> Difference:
    """Compare the scores of A and B, run by patient, on the same two or more patients.

    The variance of a mean over the runs is that of one run, divided by their number. How much more the differences of
    the patients vary than noise explains is what the methods differ by for each patient; its mean over other patients
    would be another one. The statement is on patients like these and on models that are trained on these data.

    Args:
        first: Scores of A, without gaps.
        second: Scores of B, without gaps.
        noise: The noise of a run, from the runs of either or of other methods on these patients.
    """
    by_patient = second.mean(axis=0) - first.mean(axis=0)
    mean, patients = float(by_patient.mean()), len(by_patient)
    if not noise.known:
        return Difference(mean, by_patient, (len(first), len(second)), None)
    share = 1 / len(first) + 1 / len(second)
    between = Stratum(float(((by_patient - mean) ** 2).sum()), patients - 1)
    explained = share * noise.patients.mean
    uncertainty = Uncertainty(
        noise=noise.runs.mean,
        patients=max(0.0, between.mean - explained) / patients,
        noise_freedom=noise.runs.freedom,
        patients_spread=(
            (between.mean / patients, between.freedom),
            (explained / patients, noise.patients.freedom),
        ),
    )
    return Difference(mean, by_patient, (len(first), len(second)), uncertainty)
