"""Metrics of thin structures: whether their center lines run where the other mask is."""

from __future__ import annotations

from skimage.morphology import skeletonize

from mist_ops.metrics import Metric
from mist_ops.metrics.pair import MaskPair
from mist_ops.registry import METRICS
from mist_ops.types import Mask


def cldice(pair: MaskPair) -> float:
    """The harmonic mean of two parts: of the truth's center line in the prediction, and the other way round.

    Shit et al.: clDice - a Novel Topology-Preserving Loss Function for Tubular Structure Segmentation. CVPR 2021.
    Skeletons are those of Lee et al., CVGIP 1994. A mask whose skeleton vanishes is its own.
    """
    found, covered = _center_line(pair.truth), _center_line(pair.prediction)
    sensitivity = (found & pair.prediction).sum() / found.sum()
    precision = (covered & pair.truth).sum() / covered.sum()
    total = sensitivity + precision
    return float(2 * sensitivity * precision / total) if total else 0.0


def _center_line(mask: Mask) -> Mask:
    # The skeleton of a cube with an even edge is empty.
    skeleton: Mask = skeletonize(mask, method="lee") > 0
    return skeleton if skeleton.any() else mask


METRICS.register("cldice")(Metric(cldice, best=1.0, worst=0.0, unit="", higher_is_better=True))
