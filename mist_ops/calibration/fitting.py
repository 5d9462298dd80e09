"""Scalings that minimize the log loss of some voxels, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Float64

from mist_ops.calibration.scaling import Scaling
from mist_ops.calibration.voxels import Voxels

_SLOPES = (0.05, 20.0)
"""Bounds of a slope. A class that is predicted without any mistake would have an infinite one."""

_BENDS, _OFFSETS = (0.0, 5.0), (-10.0, 10.0)

_FLOOR = 1e-12
"""Probability that counts for the log loss of a voxel whose true class has none."""

Fit = Callable[[Voxels], Scaling]

_Values = Float64[np.ndarray, " _"]
_Members = Float64[np.ndarray, "_ _"]


def fit_temperature(voxels: Voxels) -> Scaling:
    """The temperature of all classes with the smallest log loss (Guo et al., 2017)."""
    n_classes = voxels.probabilities.shape[0]
    none = np.zeros((0, n_classes))
    return _minimize(voxels, np.ones((1, n_classes)), none, none)


def fit_bent(voxels: Voxels) -> Scaling:
    """The slope and bend of all classes with the smallest log loss."""
    n_classes = voxels.probabilities.shape[0]
    return _minimize(voxels, np.ones((1, n_classes)), np.ones((1, n_classes)), np.zeros((0, n_classes)))


def fit_classes(voxels: Voxels) -> Scaling:
    """The slope, bend and offset of each class with the smallest log loss; the offset of the background is 0."""
    each = np.eye(voxels.probabilities.shape[0])
    return _minimize(voxels, each, each, each[1:])


FITS: Mapping[str, Fit] = {"temperature": fit_temperature, "bent": fit_bent, "classes": fit_classes}
"""The kinds of scaling, the simplest first."""


def _minimize(voxels: Voxels, slopes: _Members, bends: _Members, offsets: _Members) -> Scaling:
    """Minimize the log loss, which is convex in slopes, bends and offsets.

    Args:
        voxels: What to fit.
        slopes: The classes that each parameter is the slope of, one row per parameter.
        bends: Those that each further parameter is the bend of.
        offsets: Those that each last parameter is the offset of.
    """
    logs = np.log(np.maximum(voxels.probabilities.astype(np.float64), _FLOOR))
    squares, index = -(logs**2), np.arange(logs.shape[1])
    truth = np.arange(len(logs))[:, None] == voxels.truth
    weights = voxels.weights / voxels.weights.sum()

    def parts(values: _Values) -> tuple[_Values, _Values, _Values]:
        of_slopes, of_bends, of_offsets = np.split(values, [len(slopes), len(slopes) + len(bends)])
        return of_slopes @ slopes, of_bends @ bends, of_offsets @ offsets

    def loss(values: _Values) -> tuple[float, _Values]:
        slope, bend, offset = (part[:, None] for part in parts(values))
        logits = slope * logs + bend * squares + offset
        logits -= logits.max(axis=0)
        total = np.log(np.exp(logits).sum(axis=0))
        mean = float(weights @ (total - logits[voxels.truth, index]))
        residual = (np.exp(logits - total) - truth) * weights
        sums = (residual * logs).sum(axis=1), (residual * squares).sum(axis=1), residual.sum(axis=1)
        return mean, np.concatenate(
            [members @ one for members, one in zip((slopes, bends, offsets), sums, strict=True)]
        )

    start = np.concatenate([np.ones(len(slopes)), np.zeros(len(bends) + len(offsets))])
    bounds = [_SLOPES] * len(slopes) + [_BENDS] * len(bends) + [_OFFSETS] * len(offsets)
    found = scipy.optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-10, "gtol": 1e-7}
    )
    slope, bend, offset = (tuple(part.tolist()) for part in parts(found.x))
    return Scaling(slope, bend, offset)


def log_loss(voxels: Voxels, scaling: Scaling | None = None) -> float:
    """Weighted mean of -log of the probability of the true class."""
    probabilities = voxels.probabilities.astype(np.float64)
    scaled = scaling(probabilities) if scaling else probabilities
    true = scaled[voxels.truth, np.arange(scaled.shape[1])]
    return float(-(voxels.weights @ np.log(np.maximum(true, _FLOOR))) / voxels.weights.sum())


@dataclass(frozen=True)
class CrossFit:
    """A kind of scaling, fitted without each group of patients in turn.

    Attributes:
        scalings: By group.
        losses: Log loss of each patient under the scaling that was fitted without its group.
    """

    scalings: Mapping[int, Scaling]
    losses: Mapping[str, float]

    @property
    def loss(self) -> float:
        """Mean over the patients."""
        return float(np.mean(list(self.losses.values())))


def cross_fit(patients: Mapping[str, Voxels], group_of: Mapping[str, int], fit: Fit) -> CrossFit:
    """Fit a scaling without each group of patients in turn, and compute the log loss of that group.

    Args:
        patients: Voxels of each patient.
        group_of: The group of each patient; at least two groups.
        fit: Fits a scaling.
    """
    scalings, losses = {}, {}
    for group in sorted(set(group_of.values())):
        others = [voxels for case_id, voxels in patients.items() if group_of[case_id] != group]
        scalings[group] = fit(Voxels.joined(others))
        for case_id, voxels in patients.items():
            if group_of[case_id] == group:
                losses[case_id] = log_loss(voxels, scalings[group])
    return CrossFit(scalings, losses)


def simplest(fits: Mapping[str, CrossFit]) -> str:
    """The kind of scaling to use: a later one only if it helps by more than one standard error.

    The gain is that of the log loss of held-out patients, paired (Breiman et al., 1984, the rule of one standard
    error).
    """
    chosen, *others = fits
    for name in others:
        gains = np.array([loss - fits[name].losses[case_id] for case_id, loss in fits[chosen].losses.items()])
        error = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else np.inf
        if gains.mean() > error:
            chosen = name
    return chosen


def groups(folds: Mapping[str, int], at_most: int = 5) -> dict[str, int]:
    """The groups of patients for ``cross_fit``: their folds; of a single fold, its patients in turn."""
    if len(set(folds.values())) > 1:
        return dict(folds)
    ids: Sequence[str] = sorted(folds)
    return {case_id: place % at_most for place, case_id in enumerate(ids)}
