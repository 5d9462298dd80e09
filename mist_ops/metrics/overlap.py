"""Metrics that count voxels."""

from __future__ import annotations

import math

from mist_ops.metrics import Metric
from mist_ops.metrics.pair import MaskPair
from mist_ops.registry import METRICS


def dice(pair: MaskPair) -> float:
    """Twice the shared voxels over the voxels of both; NaN if both are empty.

    Dice: Measures of the Amount of Ecologic Association Between Species. Ecology 1945;26(3):297-302.
    """
    total = pair.truth_voxels + pair.prediction_voxels
    return 2 * pair.shared_voxels / total if total else math.nan


METRICS.register("dice")(Metric(dice, best=1.0, worst=0.0, unit="", higher_is_better=True))
