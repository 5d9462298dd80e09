"""Masks of several raters to one. Where they do not decide, the voxel is background.

Raters that draw alike are counted once: what is decided is the label of each combination of labels that occurs, some
hundred, and never that of a voxel.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from mist_ops.imaging.foreground import bounding_box
from mist_ops.registry import LABEL_ENSEMBLERS
from mist_ops.types import Box, LabelMap

MAX_ITERATIONS = 1000
CONVERGED = 1e-5
"""Largest change of a rater's probabilities in the last step of the expectation maximization."""

TIE = 1e-9
"""Part of the larger weight by which another must lie below it to be more than rounding."""

_MAX_CODES = 2**22

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Ballot:
    """What raters said.

    Attributes:
        labels: All labels that occur, and 0, in ascending order.
        combinations: Index into ``labels`` of what each rater said, for each combination that occurs.
        voxels: How many voxels have each combination.
        box: The box around all that is labeled.
        code: Number of the combination of each voxel in the box.
        size: Of the whole volume.
    """

    labels: Int64[np.ndarray, " label"]
    combinations: Int64[np.ndarray, "combination rater"]
    voxels: Int64[np.ndarray, " combination"]
    box: Box
    code: Int[np.ndarray, "x y z"]
    size: tuple[int, ...]

    def filled(self, decided: Int64[np.ndarray, " combination"]) -> LabelMap:
        """The mask in which every combination has the label of an index; background if that is -1."""
        labels = np.append(self.labels, 0)[decided]
        mask = np.zeros(self.size, dtype=np.min_scalar_type(int(self.labels[-1])))
        mask[self.box.slices] = labels.astype(mask.dtype)[self.code]
        return mask


def _ballot(raters: Sequence[LabelMap]) -> _Ballot:
    sizes = {rater.shape for rater in raters}
    if len(raters) < 2 or len(sizes) != 1:
        raise ValueError(f"two or more masks of one size are needed, not {len(raters)} of the sizes {sorted(sizes)}")
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
    return np.flatnonzero(np.bincount(labels.ravel()))


def _combinations(
    raters: Sequence[LabelMap], labels: Int64[np.ndarray, " label"]
) -> tuple[Int[np.ndarray, "x y z"], Int64[np.ndarray, "combination rater"]]:
    """Number the combinations that occur; 0 is that of background for all, whether it occurs or not."""
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
    """The label that most raters gave to a voxel; background where two labels share the first place."""
    ballot = _ballot(raters)
    return ballot.filled(_voted(ballot))


def _voted(ballot: _Ballot) -> Int64[np.ndarray, " combination"]:
    said = ballot.combinations[:, :, None] == np.arange(len(ballot.labels))
    return _winner(said.sum(axis=1).astype(np.float64))


def _winner(weights: Float64[np.ndarray, "combination label"]) -> Int64[np.ndarray, " combination"]:
    """The index of the largest weight of each row; -1 where another is as large, or all are 0."""
    best = weights.max(axis=1, keepdims=True)
    as_large: Bool[np.ndarray, "combination label"] = weights >= best * (1 - TIE)
    decided = (as_large.sum(axis=1) == 1) & (best[:, 0] > 0)
    return np.where(decided, weights.argmax(axis=1), -1)


def staple(raters: Sequence[LabelMap]) -> LabelMap:
    """The label that is most probable given how reliable each rater seems to be, for each label.

    Reliabilities are found by expectation maximization, from those of the majority vote on. Priors are the labels'
    parts of all that the raters said of the whole volume. Two raters cannot be told from one another, so that where
    they differ there is background, which is logged.

    Warfield, Zou, Wells: Simultaneous Truth and Performance Level Estimation (STAPLE). IEEE TMI 2004;23(7):903-921.
    Several labels: Rohlfing, Russakoff, Maurer, IEEE TMI 2004;23(8):983-994.
    """
    ballot = _ballot(raters)
    if len(raters) == 2:
        _LOG.warning("STAPLE cannot say which of two raters is right: where they differ there will be background.")
        return majority_vote(raters)
    labels = len(ballot.labels)
    said = ballot.combinations[:, :, None] == np.arange(labels)  # combination, rater, label
    counts = said * ballot.voxels[:, None, None]
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
        _LOG.warning("STAPLE changed by %.1e still after %d steps, and was stopped.", change, MAX_ITERATIONS)
    return ballot.filled(_winner(_weights(ballot, priors, reliability)))


def _weights(
    ballot: _Ballot, priors: Float64[np.ndarray, " label"], reliability: Float64[np.ndarray, "rater label label"]
) -> Float64[np.ndarray, "combination label"]:
    """How probable each label is for each combination, up to a factor: prior times the worth of each rater's word."""
    weights = np.tile(priors, (len(ballot.combinations), 1))
    for rater, said in enumerate(ballot.combinations.T):
        weights *= reliability[rater, said]
    return weights


def _normalized(values: np.ndarray, axis: int) -> np.ndarray:
    """The values divided by their sum along an axis; 0 where that is 0."""
    total = values.sum(axis=axis, keepdims=True)
    normalized: np.ndarray = np.divide(values, total, out=np.zeros_like(values, dtype=np.float64), where=total > 0)
    return normalized


LABEL_ENSEMBLERS.register("majority_vote")(majority_vote)
LABEL_ENSEMBLERS.register("staple")(staple)
