"""Metrics of the distances between two surfaces.

An element of a surface counts by its area, so that a jagged corner does not outweigh a flat face. Distances are
between the corners of voxels, without interpolation. With one mask empty they are infinite.
"""

from __future__ import annotations

import math

import numpy as np

from mist_ops.metrics import Metric
from mist_ops.metrics.pair import Distances, MaskPair
from mist_ops.metrics.surfels import Areas
from mist_ops.registry import METRICS


def haus95(pair: MaskPair) -> float:
    """The distance in mm within which 95 % of each surface lies from the other: the larger of the two directions.

    Huttenlocher et al.: Comparing Images Using the Hausdorff Distance. IEEE TPAMI 1993;15(9):850-863. Weighted by area
    as in Nikolov et al., J Med Internet Res 2021;23(7):e26151.
    """
    return max(
        _percentile(pair.truth_distances, pair.truth_surface.areas, 0.95),
        _percentile(pair.prediction_distances, pair.prediction_surface.areas, 0.95),
    )


def _percentile(distances: Distances, areas: Areas, fraction: float) -> float:
    """The least distance that is not exceeded on a fraction of the area; infinite if there is none."""
    if not len(distances):
        return math.inf
    order = np.lexsort((areas, distances))
    covered = np.cumsum(areas[order]) / np.sum(areas)
    # The last sum may round to below 1.
    first = min(int(np.searchsorted(covered, fraction)), len(distances) - 1)
    return float(distances[order[first]])


METRICS.register("haus95")(Metric(haus95, best=0.0, worst=math.inf, unit="mm", higher_is_better=False))
