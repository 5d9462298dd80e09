"""Surface distance metrics: Hausdorff distance, average surface distance, surface Dice.

Surface elements are weighted by their area. Distances are measured between the corners of voxels, without
interpolation; they are infinite if one mask is empty.
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

Tolerance = Annotated[float, Field(ge=0.0, allow_inf_nan=False, description="Tolerance in mm.")]

# Headers store spacings as float32, where 0.8 mm is 0.800000012; a tolerance of 0.8 mm must still include one voxel.
_ROUNDING = 1e-6


def haus95(pair: MaskPair) -> float:
    """95th percentile Hausdorff distance in mm: the larger of the two directed percentiles.

    Huttenlocher et al.: Comparing Images Using the Hausdorff Distance. IEEE TPAMI 1993;15(9):850-863. Weighted by area
    as in Nikolov et al., J Med Internet Res 2021;23(7):e26151.
    """
    return max(
        _percentile(pair.truth_distances, pair.truth_surface.areas, 0.95),
        _percentile(pair.prediction_distances, pair.prediction_surface.areas, 0.95),
    )


def haus100(pair: MaskPair) -> float:
    """Hausdorff distance in mm: the largest distance from a point of one surface to the other, in either direction."""
    return max(float(np.max(found, initial=-math.inf)) for found in (pair.truth_distances, pair.prediction_distances))


def avg_surf(pair: MaskPair) -> float:
    """Average symmetric surface distance in mm, weighted by area; NaN if both masks are empty."""
    distances, areas = _pooled(pair)
    return float(distances @ areas / np.sum(areas)) if len(areas) else math.nan


def surf_dice(pair: MaskPair, tolerance: Tolerance = 1.0) -> float:
    """Surface Dice: share of the area of both surfaces within a tolerance of the other; NaN if both masks are empty.

    Nikolov et al., J Med Internet Res 2021;23(7):e26151. Distances may exceed the tolerance by a millionth of it, to
    allow for rounding.
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
    """Percentile of the distances weighted by area; infinite without elements."""
    if not len(distances):
        return math.inf
    order = np.lexsort((areas, distances))
    covered = np.cumsum(areas[order]) / np.sum(areas)
    # The last sum may round to less than 1.
    first = min(int(np.searchsorted(covered, fraction)), len(distances) - 1)
    return float(distances[order[first]])


METRICS.register("haus95")(Metric(haus95, best=0.0, worst=math.inf, unit="mm", higher_is_better=False))
METRICS.register("haus100")(Metric(haus100, best=0.0, worst=math.inf, unit="mm", higher_is_better=False))
METRICS.register("avg_surf")(Metric(avg_surf, best=0.0, worst=math.inf, unit="mm", higher_is_better=False))
METRICS.register("surf_dice")(Metric(surf_dice, best=1.0, worst=0.0, unit="", higher_is_better=True))
