"""Overlap and volume metrics. Ratios are NaN if both masks are empty."""

from __future__ import annotations

import math

from mist_ops.metrics import Metric
from mist_ops.metrics.pair import MaskPair
from mist_ops.registry import METRICS

_MM3_PER_ML = 1000.0


def dice(pair: MaskPair) -> float:
    """Dice coefficient: twice the shared voxels divided by the sum of both sizes.

    Dice: Measures of the Amount of Ecologic Association Between Species. Ecology 1945;26(3):297-302.
    """
    return _ratio(2 * pair.shared_voxels, pair.truth_voxels + pair.prediction_voxels)


def iou(pair: MaskPair) -> float:
    """Intersection over union (Jaccard, 1912)."""
    return _ratio(pair.shared_voxels, pair.truth_voxels + pair.prediction_voxels - pair.shared_voxels)


def precision(pair: MaskPair) -> float:
    """Share of the predicted voxels that are in the truth; NaN for an empty prediction."""
    return _ratio(pair.shared_voxels, pair.prediction_voxels)


def recall(pair: MaskPair) -> float:
    """Share of the true voxels that are predicted; NaN for an empty truth."""
    return _ratio(pair.shared_voxels, pair.truth_voxels)


def volume_difference(pair: MaskPair) -> float:
    """Absolute volume difference in ml; 0 if both masks are empty."""
    return abs(pair.prediction_voxels - pair.truth_voxels) * pair.voxel_volume / _MM3_PER_ML


def relative_volume_difference(pair: MaskPair) -> float:
    """Absolute volume difference in percent of the true volume; NaN for an empty truth.

    The value of an empty prediction is 100 %, which is also the score of an empty truth.
    """
    return 100 * _ratio(abs(pair.prediction_voxels - pair.truth_voxels), pair.truth_voxels)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


METRICS.register("dice")(Metric(dice, best=1.0, worst=0.0, unit="", higher_is_better=True))
METRICS.register("iou")(Metric(iou, best=1.0, worst=0.0, unit="", higher_is_better=True))
METRICS.register("precision")(Metric(precision, best=1.0, worst=0.0, unit="", higher_is_better=True))
METRICS.register("recall")(Metric(recall, best=1.0, worst=0.0, unit="", higher_is_better=True))
METRICS.register("volume_difference")(
    Metric(volume_difference, best=0.0, worst=math.inf, unit="ml", higher_is_better=False, takes_one_empty=True)
)
METRICS.register("relative_volume_difference")(
    Metric(relative_volume_difference, best=0.0, worst=100.0, unit="%", higher_is_better=False)
)
