"""Metrics of the distances between two surfaces.

An element of a surface counts by its area, so that a jagged corner does not outweigh a flat face. Distances are
between the corners of voxels, without interpolation. With one mask empty they are infinite.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from pydantic import Field

from mist_ops.metrics import Metric
from mist_ops.metrics.pair import Distances, MaskPair
from mist_ops.metrics.surfels import Areas
from mist_ops.registry import METRICS

Tolerance = Annotated[float, Field(ge=0.0, allow_inf_nan=False, description="Distance in mm that is forgiven.")]

# Headers hold spacings as float32, where 0.8 mm is 0.800000012: a tolerance of 0.8 mm must still forgive one voxel.
_ROUNDING = 1e-6


def haus95(pair: MaskPair) -> float:
    """The distance in mm within which 95 % of each surface lies from the other: the larger of the two directions.

    Huttenlocher et al.: Comparing Images Using the Hausdorff Distance. IEEE TPAMI 1993;15(9):850-863. Weighted by area
    as in Nikolov et al., J Med Internet Res 2021;23(7):e26151.
    """
    return max(
        _percentile(pair.truth_distances, pair.truth_surface.areas, 0.95),
        _percentile(pair.prediction_distances, pair.prediction_surface.areas, 0.95),
    )


def haus100(pair: MaskPair) -> float:
    """The largest distance in mm of any point of one surface from the other, in both directions (Hausdorff)."""
    return max(float(np.max(found, initial=-math.inf)) for found in (pair.truth_distances, pair.prediction_distances))


def avg_surf(pair: MaskPair) -> float:
    """The mean distance in mm over the area of both surfaces together; NaN if both are empty."""
    distances, areas = _pooled(pair)
    return float(distances @ areas / np.sum(areas)) if len(areas) else math.nan


def surf_dice(pair: MaskPair, tolerance: Tolerance = 1.0) -> float:
    """The share of the area of both surfaces that lies within a tolerance of the other; NaN if both are empty.

    Nikolov et al., J Med Internet Res 2021;23(7):e26151. Distances that exceed the tolerance by rounding, a millionth
    of it, are within it.
    """
    distances, areas = _pooled(pair)
    within = distances <= tolerance * (1 + _ROUNDING)
    return float(np.sum(areas[within]) / np.sum(areas)) if len(areas) else math.nan


def _pooled(pair: MaskPair) -> tuple[Distances, Areas]:
    """Distances and areas of the elements of both surfaces."""
    surfaces = pair.truth_surface, pair.prediction_surface
    distances = np.concatenate([pair.truth_distances, pair.prediction_distances])
    return distances, np.concatenate([one.areas for one in surfaces])


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
METRICS.register("haus100")(Metric(haus100, best=0.0, worst=math.inf, unit="mm", higher_is_better=False))
METRICS.register("avg_surf")(Metric(avg_surf, best=0.0, worst=math.inf, unit="mm", higher_is_better=False))
METRICS.register("surf_dice")(Metric(surf_dice, best=1.0, worst=0.0, unit="", higher_is_better=True))
