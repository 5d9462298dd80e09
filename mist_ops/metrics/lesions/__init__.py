"""Lesion-wise Dice, Hausdorff distance, surface Dice and F1.

Each lesion of the truth, a connected component, is scored by itself (see ``matching``). A metric is the mean over the
lesions that count and the false positives, which score as badly as missed lesions.

Saluja et al., BraTS 2023 lesion-wise performance metrics (github.com/rachitsaluja/BraTS-2023-Metrics); Moawad et al.:
The Brain Tumor Segmentation - Metastases Challenge 2023, arXiv:2306.00838.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from mist_ops.metrics import Metric
from mist_ops.metrics.lesions.matching import Lesion, find_lesions
from mist_ops.metrics.lesions.protocols import Consolidation, Dilation, Protocol, Volume, rules_of
from mist_ops.metrics.lesions.rules import Rules
from mist_ops.metrics.overlap import dice
from mist_ops.metrics.pair import MaskPair
from mist_ops.metrics.surface import Tolerance, haus95, surf_dice
from mist_ops.registry import METRICS


@dataclass(frozen=True)
class ScoredLesion:
    """A lesion and its scores; NaN if it is ignored."""

    lesion: Lesion
    dice: float
    haus95: float
    surf_dice: float


def scored_lesions(pair: MaskPair, rules: Rules) -> Sequence[ScoredLesion]:
    """Every lesion with its contribution to each metric."""
    penalty = _penalty(pair, rules)
    return [
        ScoredLesion(
            lesion,
            dice=lesion.score(dice, worst=0.0),
            haus95=lesion.score(haus95, worst=penalty),
            surf_dice=lesion.score(partial(surf_dice, tolerance=rules.tolerance), worst=0.0),
        )
        for lesion in find_lesions(pair, rules)
    ]


def lesion_wise_dice(
    pair: MaskPair,
    min_lesion_volume: Volume = None,
    dilation_iters: Dilation = None,
    gt_consolidation_iters: Consolidation = None,
    protocol: Protocol = "mist",
) -> float:
    """Mean Dice over lesions; 0 for a missed lesion or a false positive, 1 if there are no lesions."""
    rules = rules_of(min_lesion_volume, dilation_iters, gt_consolidation_iters, protocol)
    return _mean(pair, rules, dice, best=1.0, worst=0.0)


def lesion_wise_haus95(
    pair: MaskPair,
    min_lesion_volume: Volume = None,
    dilation_iters: Dilation = None,
    gt_consolidation_iters: Consolidation = None,
    protocol: Protocol = "mist",
) -> float:
    """Mean ``haus95`` over lesions in mm; the penalty for a missed lesion or a false positive, 0 without lesions."""
    rules = rules_of(min_lesion_volume, dilation_iters, gt_consolidation_iters, protocol)
    return _mean(pair, rules, haus95, best=0.0, worst=_penalty(pair, rules))


def lesion_wise_surf_dice(
    pair: MaskPair,
    min_lesion_volume: Volume = None,
    dilation_iters: Dilation = None,
    gt_consolidation_iters: Consolidation = None,
    protocol: Protocol = "mist",
    tolerance: Tolerance = 1.0,
) -> float:
    """Mean surface Dice over lesions; 0 for a missed lesion or a false positive, 1 if there are no lesions."""
    rules = rules_of(min_lesion_volume, dilation_iters, gt_consolidation_iters, protocol, tolerance)
    return _mean(pair, rules, partial(surf_dice, tolerance=tolerance), best=1.0, worst=0.0)


def lesion_wise_f1(
    pair: MaskPair,
    min_lesion_volume: Volume = None,
    dilation_iters: Dilation = None,
    gt_consolidation_iters: Consolidation = None,
    protocol: Protocol = "mist",
) -> float:
    """F1 of lesion detection: 2 TP / (2 TP + FP + FN); 1 if there are no lesions.

    A lesion counts once, however many components match it.
    """
    rules = rules_of(min_lesion_volume, dilation_iters, gt_consolidation_iters, protocol)
    if _is_worst(pair, rules):
        return 0.0
    counts = Counter(lesion.status for lesion in find_lesions(pair, rules))
    whole = 2 * counts["TP"] + counts["FP"] + counts["FN"]
    return 2 * counts["TP"] / whole if whole else 1.0


def _mean(pair: MaskPair, rules: Rules, metric: Callable[[MaskPair], float], best: float, worst: float) -> float:
    if _is_worst(pair, rules):
        return worst
    values = [lesion.score(metric, worst) for lesion in find_lesions(pair, rules) if lesion.status != "ignored"]
    return math.fsum(values) / len(values) if values else best


def _is_worst(pair: MaskPair, rules: Rules) -> bool:
    return rules.empty_is_worst and (pair.truth_voxels == 0) != (pair.prediction_voxels == 0)


def _penalty(pair: MaskPair, rules: Rules) -> float:
    return pair.diagonal if rules.penalty is None else rules.penalty


_lesion_metric = partial(Metric, takes_one_empty=True, rules=rules_of)
_ratio = partial(_lesion_metric, best=1.0, worst=0.0, unit="", higher_is_better=True)

METRICS.register("lesion_wise_dice")(_ratio(lesion_wise_dice))
METRICS.register("lesion_wise_haus95")(
    _lesion_metric(lesion_wise_haus95, best=0.0, worst=math.inf, unit="mm", higher_is_better=False)
)
METRICS.register("lesion_wise_surf_dice")(_ratio(lesion_wise_surf_dice))
METRICS.register("lesion_wise_f1")(_ratio(lesion_wise_f1))
