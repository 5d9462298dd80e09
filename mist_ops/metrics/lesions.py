"""Metrics of lesions: each true one scored against the predicted ones that touch it, and what is predicted in vain.

Lesions are matched and measured once for all metrics with the same parameters. Work is done in the box of each lesion.

Moawad et al.: The Brain Tumor Segmentation - Metastases (BraTS-METS) Challenge 2023. arXiv:2306.00838.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from mist_ops.imaging.components import Components, Connectivity, components, described, dilated, grown
from mist_ops.metrics import Metric
from mist_ops.metrics.overlap import dice
from mist_ops.metrics.pair import MaskPair
from mist_ops.metrics.surface import Tolerance, haus95, surf_dice
from mist_ops.registry import METRICS
from mist_ops.types import Mask

Protocol = Literal["mist", "brats2023"]
Volume = Annotated[float, Field(ge=0)]
Steps = Annotated[int, Field(ge=0)]

_BRATS_PENALTY = 374.0
"""Diagonal in mm of the images of the challenge."""


@dataclass(frozen=True)
class Rules:
    """What counts as a lesion, and when it is found.

    Attributes:
        min_volume: Lesions of less than this many mm³ are left out, and so is a prediction that hits one. In the
            protocol of BraTS 2023 so are lesions of exactly this volume.
        reach: Steps of 18-neighbors by which a lesion is grown to look for predictions.
        joined: Steps within which true lesions count as one: they are grown so far and joined where they touch.
        protocol: ``mist``, or that of the BraTS challenge of 2023: 26-neighbors, lesions joined within ``reach``, and
            374 mm for a lesion that is missed or predicted in vain instead of the image's diagonal.
    """

    min_volume: float
    reach: int
    joined: int
    protocol: Protocol

    @property
    def connectivity(self) -> Connectivity:
        """Neighbors within a lesion."""
        return 26 if self.protocol == "brats2023" else 18

    def counts(self, volume: float) -> bool:
        """Whether a true lesion of a volume in mm³ is scored."""
        return volume > self.min_volume if self.protocol == "brats2023" else volume >= self.min_volume


@dataclass(frozen=True)
class Lesion:
    """A true lesion.

    Attributes:
        voxels: Its size.
        volume: In mm³.
        counts: Whether it is scored.
        matches: Numbers of the predicted components that touch it, once grown.
        pair: It and those components; None if there are none.
    """

    voxels: int
    volume: float
    counts: bool
    matches: tuple[int, ...]
    pair: MaskPair | None


@dataclass(frozen=True)
class Lesions:
    """The lesions of a pair of masks.

    Attributes:
        true: Those of the truth, in the order of their first voxels.
        spurious: Voxels of each predicted component that touches none.
        penalty: In mm, the distance of a lesion that is missed or predicted in vain.
    """

    true: list[Lesion]
    spurious: list[int]
    penalty: float

    @property
    def scored(self) -> list[Lesion]:
        """The true lesions that count."""
        return [lesion for lesion in self.true if lesion.counts]

    def mean(self, score: Callable[[MaskPair], float], missed: float, nothing: float) -> float:
        """The mean score over the lesions that count and the spurious components.

        Args:
            score: Of a lesion that was found.
            missed: For one that was not, and for a spurious component.
            nothing: If there is neither.
        """
        found = [score(lesion.pair) if lesion.pair else missed for lesion in self.scored]
        number = len(found) + len(self.spurious)
        return (math.fsum(found) + missed * len(self.spurious)) / number if number else nothing


def find_lesions(pair: MaskPair, rules: Rules) -> Lesions:
    """Match the lesions of a pair; either mask may be empty."""
    return pair.shared(rules, partial(_find, pair, rules))


def _find(pair: MaskPair, rules: Rules) -> Lesions:
    predicted = components(pair.prediction, rules.connectivity)
    true = list(_true_lesions(pair, predicted, rules))
    matched = {number for lesion in true for number in lesion.matches}
    spurious = [int(voxels) for number, voxels in enumerate(predicted.voxels, start=1) if number not in matched]
    return Lesions(true, spurious, _BRATS_PENALTY if rules.protocol == "brats2023" else pair.diagonal)


def _true_lesions(pair: MaskPair, predicted: Components, rules: Rules) -> Iterator[Lesion]:
    joined = rules.reach if rules.protocol == "brats2023" else rules.joined
    truth = _joined(pair.truth, joined, rules.connectivity)
    for number, (voxels, box) in enumerate(zip(truth.voxels, truth.boxes, strict=True), start=1):
        near = grown(box, rules.reach, truth.map.shape)
        reached = dilated(truth.map[near] == number, rules.reach)
        matches = [int(match) for match in np.unique(predicted.map[near][reached]) if match]
        volume = int(voxels) * pair.voxel_volume
        counts = rules.counts(volume)
        found = _lesion_pair(pair, truth, number, predicted, matches) if matches and counts else None
        yield Lesion(int(voxels), volume, counts, tuple(matches), found)


def _joined(truth: Mask, steps: int, connectivity: Connectivity) -> Components:
    """The lesions of the truth, those within reach of one another taken for one."""
    alone = components(truth, connectivity)
    if not steps or len(alone) < 2:
        return alone
    grown_truth = np.zeros_like(truth)
    for number, box in enumerate(alone.boxes, start=1):
        near = grown(box, steps, truth.shape)
        grown_truth[near] |= dilated(alone.map[near] == number, steps)
    together = components(grown_truth, connectivity)
    return described(np.where(truth, together.map, 0), len(together))


def _lesion_pair(pair: MaskPair, truth: Components, number: int, predicted: Components, matches: list[int]) -> MaskPair:
    boxes = [truth.boxes[number - 1], *(predicted.boxes[match - 1] for match in matches)]
    x, y, z = (
        slice(min(span.start for span in spans), max(span.stop for span in spans))
        for spans in zip(*boxes, strict=True)
    )
    chosen = np.zeros(len(predicted) + 1, dtype=bool)
    chosen[matches] = True
    return MaskPair(truth.map[x, y, z] == number, chosen[predicted.map[x, y, z]], pair.spacing, pair.diagonal)


def lesion_wise_dice(
    pair: MaskPair,
    min_lesion_volume: Volume = 10.0,
    dilation_iters: Steps = 3,
    gt_consolidation_iters: Steps = 0,
    protocol: Protocol = "mist",
) -> float:
    """The mean Dice over lesions, 0 for those missed or predicted in vain; 1 if there are none.

    Args:
        pair: The masks; one may be empty.
        min_lesion_volume: In mm³; see ``Rules``.
        dilation_iters: Steps by which a lesion is grown to look for predictions.
        gt_consolidation_iters: Steps within which true lesions count as one.
        protocol: ``mist`` or ``brats2023``; see ``Rules``.
    """
    rules = Rules(min_lesion_volume, dilation_iters, gt_consolidation_iters, protocol)
    return find_lesions(pair, rules).mean(dice, missed=0.0, nothing=1.0)


def lesion_wise_haus95(
    pair: MaskPair,
    min_lesion_volume: Volume = 10.0,
    dilation_iters: Steps = 3,
    gt_consolidation_iters: Steps = 0,
    protocol: Protocol = "mist",
) -> float:
    """The mean HD95 in mm over lesions, the penalty for those missed or predicted in vain; 0 if there are none.

    Arguments are those of ``lesion_wise_dice``.
    """
    rules = Rules(min_lesion_volume, dilation_iters, gt_consolidation_iters, protocol)
    lesions = find_lesions(pair, rules)
    return lesions.mean(haus95, missed=lesions.penalty, nothing=0.0)


def lesion_wise_surf_dice(
    pair: MaskPair,
    min_lesion_volume: Volume = 10.0,
    dilation_iters: Steps = 3,
    gt_consolidation_iters: Steps = 0,
    protocol: Protocol = "mist",
    tolerance: Tolerance = 1.0,
) -> float:
    """The mean surface Dice over lesions, 0 for those missed or predicted in vain; 1 if there are none.

    Arguments are those of ``lesion_wise_dice`` and ``surf_dice``.
    """
    rules = Rules(min_lesion_volume, dilation_iters, gt_consolidation_iters, protocol)
    return find_lesions(pair, rules).mean(partial(surf_dice, tolerance=tolerance), missed=0.0, nothing=1.0)


def lesion_wise_f1(
    pair: MaskPair,
    min_lesion_volume: Volume = 10.0,
    dilation_iters: Steps = 3,
    gt_consolidation_iters: Steps = 0,
    protocol: Protocol = "mist",
) -> float:
    """Twice the lesions found over twice those plus the missed and the spurious; 1 if there are none.

    Arguments are those of ``lesion_wise_dice``. A lesion is found once, however many components touch it.
    """
    rules = Rules(min_lesion_volume, dilation_iters, gt_consolidation_iters, protocol)
    lesions = find_lesions(pair, rules)
    found = sum(bool(lesion.matches) for lesion in lesions.scored)
    errors = len(lesions.scored) - found + len(lesions.spurious)
    return 2 * found / (2 * found + errors) if found or errors else 1.0


for _name, _score in {
    "lesion_wise_dice": lesion_wise_dice,
    "lesion_wise_surf_dice": lesion_wise_surf_dice,
    "lesion_wise_f1": lesion_wise_f1,
}.items():
    METRICS.register(_name)(
        Metric(_score, best=1.0, worst=0.0, unit="", higher_is_better=True, one_may_be_empty=True)
    )
METRICS.register("lesion_wise_haus95")(
    Metric(lesion_wise_haus95, best=0.0, worst=math.inf, unit="mm", higher_is_better=False, one_may_be_empty=True)
)
