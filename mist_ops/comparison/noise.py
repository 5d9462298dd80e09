"""How much scores differ between runs of one method: trainings with the same data and settings, but other seeds.

A run trains the model of each fold, which scores the patients that the fold holds out. The errors of these patients go
together, as they come from one model, and those of all folds may, as their models start from the same weights. So the
unit that is repeated is the run, and the noise is how much the means of whole runs differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

Scores = Float64[np.ndarray, "run patient"]
Folds = Int64[np.ndarray, " patient"]


@dataclass(frozen=True)
class Stratum:
    """A sum of squares and its degrees of freedom."""

    squares: float = 0.0
    freedom: int = 0

    @property
    def mean(self) -> float:
        """The mean square; zero without degrees of freedom."""
        return self.squares / self.freedom if self.freedom else 0.0

    def __add__(self, other: Stratum) -> Stratum:
        """Add the squares and the degrees of freedom of both."""
        return Stratum(self.squares + other.squares, self.freedom + other.freedom)


@dataclass(frozen=True)
class Noise:
    """Differences between runs of a method.

    Attributes:
        runs: Squared differences of the mean over all patients from its mean over the runs; their mean square is the
            variance of the mean score of a run.
        patients: Squared differences of the scores of each patient that are left after those of the run.
    """

    runs: Stratum = Stratum()
    patients: Stratum = Stratum()

    def __add__(self, other: Noise) -> Noise:
        """Pool the noise of both."""
        return Noise(self.runs + other.runs, self.patients + other.patients)

    @property
    def known(self) -> bool:
        """Whether it was measured at all."""
        return self.runs.freedom > 0


def noise_between(scores: Scores) -> Noise:
    """The noise between runs; not known with a single run.

    Args:
        scores: Scores by run and patient, without gaps.
    """
    runs, patients = scores.shape
    rest = scores - scores.mean(axis=0)
    of_runs = rest.mean(axis=1)
    return Noise(
        Stratum(float((of_runs**2).sum()), runs - 1),
        Stratum(float(((rest - of_runs[:, None]) ** 2).sum()), (runs - 1) * (patients - 1)),
    )


def pooled(methods: Iterable[Float64[np.ndarray, "_ patient"]]) -> Noise:
    """The noise of several methods together, on the assumption that it is the same in all."""
    return sum(map(noise_between, methods), Noise())


@dataclass(frozen=True)
class Components:
    """Variances of what differs between runs; they add up to that of a score. Estimates may be negative.

    Attributes:
        run: Of what all folds of a run share, such as the initial weights.
        model: Of what the patients of a fold share: the order of the batches, augmentation.
        patient: Of the rest.
    """

    run: float
    model: float
    patient: float


def components(scores: Scores, folds: Folds) -> Components:
    """Variance components between two or more runs, by the method of moments from the mean squares of a nested design.

    Args:
        scores: Scores by run and patient, without gaps.
        folds: The fold that holds out each patient, from 0 without gaps; two or more, one with several patients.

    Searle, Casella, McCulloch: Variance Components, 1992, chapter 3.
    """
    (runs, patients), sizes = scores.shape, np.bincount(folds)
    rest = scores - scores.mean(axis=0)
    of_models = rest @ (folds[:, None] == np.arange(len(sizes))) / sizes
    of_runs = rest.mean(axis=1)
    squares = (
        patients * (of_runs**2).sum(),
        (sizes * (of_models - of_runs[:, None]) ** 2).sum(),
        ((rest - of_models[:, folds]) ** 2).sum(),
    )
    # What a fold contributes to the mean squares of runs and of models, if folds are of unequal size.
    in_runs = float((sizes**2).sum() / patients)
    in_models = (patients - in_runs) / (len(sizes) - 1)
    freedom = ((runs - 1), (runs - 1) * (len(sizes) - 1), (runs - 1) * (patients - len(sizes)))
    of_run, of_model, of_patient = (float(total / count) for total, count in zip(squares, freedom, strict=True))
    model = (of_model - of_patient) / in_models
    return Components((of_run - of_patient - in_runs * model) / patients, model, of_patient)
