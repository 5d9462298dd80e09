"""Label fusion: STAPLE and majority vote. Ties become background.

The raters' labels are reduced to the combinations that occur, about a hundred, and each combination is decided once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from mist_ops.imaging.foreground import bounding_box
from mist_ops.imaging.labels import count_voxels
from mist_ops.registry import LABEL_ENSEMBLERS
from mist_ops.types import Box, LabelMap

MAX_ITERATIONS = 1000
CONVERGED = 1e-5
"""Expectation maximization stops when no probability of a rater changes by more."""

TIE = 1e-9
"""Relative difference below which two weights are equal up to rounding."""

_MAX_CODES = 2**22

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Ballot:
    """The labels that raters assigned.

    Attributes:
        labels: All labels that occur, and 0, in ascending order.
        combinations: Index into ``labels`` per rater, for each combination of labels that occurs.
        voxels: Number of voxels with each combination.
        box: Bounding box of all labeled voxels.
        code: Index of the combination of each voxel in the box.
        size: Size of the whole volume.
    """

    labels: Int64[np.ndarray, " label"]
    combinations: Int64[np.ndarray, "combination rater"]
    voxels: Int64[np.ndarray, " combination"]
    box: Box
    code: Int[np.ndarray, "x y z"]
    size: tuple[int, ...]

    def filled(self, decided: Int64[np.ndarray, " combination"]) -> LabelMap:
        """Return the mask for an index into ``labels`` per combination; -1 is background."""
        labels = np.append(self.labels, 0)[decided]
        mask = np.zeros(self.size, dtype=np.min_scalar_type(int(self.labels[-1])))
        mask[self.box.slices] = labels.astype(mask.dtype)[self.code]
        return mask


def _ballot(raters: Sequence[LabelMap]) -> _Ballot:
    sizes = {rater.shape for rater in raters}
    if len(raters) < 2 or len(sizes) != 1:
        raise ValueError(f"At least two masks of the same size are needed; got {len(raters)} of sizes {sorted(sizes)}.")
    size = raters[0].shape
    anywhere = np.zeros(size, dtype=bool)
    for rater in raters:
        anywhere |= rater != 0
    box = bounding_box(anywhere) or Box((0, 0, 0), (0, 0, 0))
    inside = [rater[box.slices] for rater in raters]
    labels = np.unique(np.concatenate([[0], *(_occurring(rater) for rater in inside)])).astype(np.int64)
    code, combinations = _combinations(inside, labels)
    voxels = np.bincount(code.ravel(), minlength=len(combinations))
    voxels[0] += np.prod(size) - code.size
    return _Ballot(labels, combinations, voxels, box, code, size)


def _occurring(labels: LabelMap) -> Int64[np.ndarray, " label"]:
    return np.array(list(count_voxels(labels)), dtype=np.int64)


def _combinations(
    raters: Sequence[LabelMap], labels: Int64[np.ndarray, " label"]
) -> tuple[Int[np.ndarray, "x y z"], Int64[np.ndarray, "combination rater"]]:
    """Number the combinations that occur; 0 is always that of background from all raters."""
    index = np.zeros(int(labels[-1]) + 1, dtype=np.int64)
    index[labels] = np.arange(len(labels))
    code = np.zeros(raters[0].shape, dtype=np.int64)
    combinations = np.zeros((1, 0), dtype=np.int64)
    for rater in raters:
        code = code * len(labels) + index[rater]
        combinations = np.hstack(
            [np.repeat(combinations, len(labels), axis=0), np.tile(np.arange(len(labels)), len(combinations))[:, None]]
        )
        if len(combinations) * len(labels) > _MAX_CODES or rater is raters[-1]:
            occurring = np.bincount(code.ravel(), minlength=len(combinations)) > 0
            occurring[0] = True
            number = np.cumsum(occurring) - 1
            code, combinations = number[code], combinations[occurring]
    return code, combinations


def majority_vote(raters: Sequence[LabelMap]) -> LabelMap:
    """Label of most raters in each voxel; a tie is background."""
    ballot = _ballot(raters)
    return ballot.filled(_voted(ballot))


def _voted(ballot: _Ballot) -> Int64[np.ndarray, " combination"]:
    votes = ballot.combinations[:, :, None] == np.arange(len(ballot.labels))
    return _winner(votes.sum(axis=1).astype(np.float64))


def _winner(weights: Float64[np.ndarray, "combination label"]) -> Int64[np.ndarray, " combination"]:
    """Index of the largest weight of each row; -1 for a tie or if all are 0."""
    best = weights.max(axis=1, keepdims=True)
    as_large: Bool[np.ndarray, "combination label"] = weights >= best * (1 - TIE)
    decided = (as_large.sum(axis=1) == 1) & (best[:, 0] > 0)
    return np.where(decided, weights.argmax(axis=1), -1)


def staple(raters: Sequence[LabelMap]) -> LabelMap:
    """Most probable label given the estimated reliability of each rater for each label.

    Reliabilities are estimated by expectation maximization, initialized by the majority vote. Priors are the
    frequencies of the labels among all raters and voxels. Two raters cannot be distinguished: a warning is logged, and
    voxels where they differ become background.

    Warfield, Zou, Wells: Simultaneous Truth and Performance Level Estimation (STAPLE). IEEE TMI 2004;23(7):903-921.
    Several labels: Rohlfing, Russakoff, Maurer, IEEE TMI 2004;23(8):983-994.
    """
    ballot = _ballot(raters)
    if len(raters) == 2:
        _LOG.warning("STAPLE cannot weight only two raters: voxels where they differ become background.")
        return majority_vote(raters)
    labels = len(ballot.labels)
    votes = ballot.combinations[:, :, None] == np.arange(labels)  # combination, rater, label
    counts = votes * ballot.voxels[:, None, None]
    priors = counts.sum(axis=(0, 1)) / (ballot.voxels.sum() * len(raters))
    voted = _voted(ballot)[:, None] == np.arange(labels)
    reliability = np.einsum("nkl,nc->klc", counts, voted, dtype=np.float64)
    reliability = _normalized(reliability, axis=2)
    for _ in range(MAX_ITERATIONS):
        weights = _weights(ballot, priors, reliability)
        updated = _normalized(np.einsum("nkl,nc->klc", counts, _normalized(weights, axis=1)), axis=1)
        change = np.abs(updated - reliability).max()
        reliability = updated
        if change < CONVERGED:
            break
    else:
        _LOG.warning("STAPLE did not converge in %d iterations; the last change was %.1e.", MAX_ITERATIONS, change)
    return ballot.filled(_winner(_weights(ballot, priors, reliability)))


def _weights(
    ballot: _Ballot, priors: Float64[np.ndarray, " label"], reliability: Float64[np.ndarray, "rater label label"]
) -> Float64[np.ndarray, "combination label"]:
    """Probability of each label for each combination, up to a factor: prior times reliability of each rater."""
    weights = np.tile(priors, (len(ballot.combinations), 1))
    for rater, assigned in enumerate(ballot.combinations.T):
        weights *= reliability[rater, assigned]
    return weights


def _normalized(values: np.ndarray, axis: int) -> np.ndarray:
    """Divide values by their sum along an axis; 0 if the sum is 0."""
    total = values.sum(axis=axis, keepdims=True)
    normalized: np.ndarray = np.divide(values, total, out=np.zeros_like(values, dtype=np.float64), where=total > 0)
    return normalized


LABEL_ENSEMBLERS.register("majority_vote")(majority_vote)
LABEL_ENSEMBLERS.register("staple")(staple)
