"""Lesions one by one: which were found, how well, and what was invented; and the metrics that sum this up.

A lesion is a component of the truth. Components of the prediction match it if they reach into the lesion dilated;
all of them together, whole, are then compared with the lesion as it is. Lesions that count are averaged together with
the predicted components that match none, which score as badly as lesions that were missed. What is smaller than
``min_lesion_volume`` in the truth does not count, and what hits it is neither rewarded nor punished.

Saluja et al., BraTS 2023 lesion-wise performance metrics (github.com/rachitsaluja/BraTS-2023-Metrics); Moawad et al.:
The Brain Tumor Segmentation - Metastases Challenge 2023, arXiv:2306.00838.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial, reduce
from typing import Annotated, Literal, TypeAlias

import cc3d
import numpy as np
from jaxtyping import Integer
from pydantic import Field

from mist_ops.imaging.foreground import union_box
from mist_ops.metrics import Metric
from mist_ops.metrics.overlap import dice
from mist_ops.metrics.pair import MaskPair
from mist_ops.metrics.surface import Tolerance, haus95, surf_dice
from mist_ops.metrics.surfels import Surface, surface
from mist_ops.registry import METRICS
from mist_ops.types import Box, Mask, Size, Spacing

Components = Integer[np.ndarray, "x y z"]
Protocol: TypeAlias = Annotated[
    Literal["mist", "brats2023"], Field(description="Whose rules: ours, or those of the script of BraTS 2023.")
]
Volume: TypeAlias = Annotated[
    float | None,
    Field(ge=0.0, description="Volume in mm³ below which a lesion does not count; that of the protocol if null."),
]
Dilation: TypeAlias = Annotated[
    int | None, Field(ge=0, le=100, description="Voxels that a prediction may be off; that of the protocol if null.")
]
Consolidation: TypeAlias = Annotated[
    int | None,
    Field(ge=0, le=100, description="Voxels that join lesions, from each; those of the protocol if null."),
]
Status: TypeAlias = Literal["TP", "FN", "FP", "ignored"]


@dataclass(frozen=True)
class Rules:
    """What counts as a lesion, and as found.

    Attributes:
        connectivity: Neighbors that hold a component together: 18 by faces and edges, or 26 by corners too.
        min_volume: Least volume in mm³ of a lesion that counts.
        exclusive: A lesion of just that volume does not count.
        dilation: Voxels by which a lesion grows, over faces and edges, to find what matches it.
        consolidation: Lesions that touch when the truth has grown by so many voxels are one.
        penalty: Distance in mm that a missed or invented lesion scores; the diagonal of the whole image if None.
        empty_is_worst: An empty prediction of a truth that is not, and the reverse, scores the worst whatever the
            volumes.
        tolerance: Distance in mm that the surface Dice of a lesion forgives.
    """

    connectivity: Literal[18, 26]
    min_volume: float
    exclusive: bool
    dilation: int
    consolidation: int
    penalty: float | None
    empty_is_worst: bool
    tolerance: float

    def counts(self, volume: float) -> bool:
        """Whether a lesion of a volume in mm³ counts."""
        return volume > self.min_volume if self.exclusive else volume >= self.min_volume


def rules_of(
    min_lesion_volume: Volume = None,
    dilation_iters: Dilation = None,
    gt_consolidation_iters: Consolidation = None,
    protocol: Protocol = "mist",
    tolerance: Tolerance = 1.0,
) -> Rules:
    """The rules of a protocol, with what is given put in.

    ``mist``: from 10 mm³ on, dilation 3, no consolidation, components over faces and edges, the diagonal of the image
    for what is missed or invented.
    ``brats2023``, the challenge's script as it is for gliomas: above 50 mm³, dilation 3, consolidation as the
    dilation, components over corners too, 374 mm. For metastases it has 2 mm³ and dilation 1.
    """
    official = protocol == "brats2023"
    dilation = 3 if dilation_iters is None else dilation_iters
    volume, consolidation = (50.0, dilation) if official else (10.0, 0)
    return Rules(
        connectivity=26 if official else 18,
        min_volume=volume if min_lesion_volume is None else min_lesion_volume,
        exclusive=official,
        dilation=dilation,
        consolidation=consolidation if gt_consolidation_iters is None else gt_consolidation_iters,
        penalty=374.0 if official else None,
        empty_is_worst=not official,
        tolerance=tolerance,
    )


@dataclass(frozen=True)
class Lesion:
    """A lesion of the truth, or a component of the prediction that matches none that counts.

    Attributes:
        index: Number of the component within its mask, from 1.
        predicted: Whether its mask is the prediction.
        status: ``TP`` found, ``FN`` missed, ``FP`` invented, or ``ignored``: too small, or matching what is.
        volume: In mm³.
        matches: The indices of the predicted components that match it.
        pair: The lesion beside all that matches it, for ``TP``.
    """

    index: int
    predicted: bool
    status: Status
    volume: float
    matches: Sequence[int] = ()
    pair: MaskPair | None = None

    def score(self, metric: Callable[[MaskPair], float], worst: float) -> float:
        """Its own value: ``worst`` if it is missed or invented, NaN if it is ignored."""
        if self.pair is not None:
            return metric(self.pair)
        return math.nan if self.status == "ignored" else worst


def find_lesions(pair: MaskPair, rules: Rules) -> Sequence[Lesion]:
    """The lesions of the truth, then what is predicted beside them; found once for the same rules.

    Each mask is labeled once as a whole. All else happens in the box of a lesion and of what matches it.
    """
    return pair.once(replace(rules, tolerance=0.0), partial(_found, rules=rules))


@dataclass(frozen=True, eq=False)
class _Region:
    """Some components of a mask together; ``box`` is the smallest around them."""

    labels: Components
    members: tuple[int, ...]
    box: Box
    voxels: int
    spacing: Spacing

    def mask(self, box: Box) -> Mask:
        """Its voxels within a box."""
        labels = self.labels[box.slices]
        found: Mask = labels == self.members[0] if len(self.members) == 1 else np.isin(labels, self.members)
        return found

    @cached_property
    def surface(self) -> Surface:
        """Its surface elements."""
        found = surface(self.mask(self.box), self.spacing)
        return Surface(found.corners + self.box.start, found.areas)


class _LesionPair(MaskPair):
    """A lesion and all that matches it, each in its own box.

    A prediction that covers the whole brain matches every lesion in it: masks of their common box, and the surface of
    the prediction, would be made and kept for each of them.
    """

    def __init__(self, truth: _Region, prediction: _Region, diagonal: float) -> None:
        self.regions = truth, prediction
        self.spacing, self.diagonal = truth.spacing, diagonal
        self.memory = {}

    @cached_property
    def truth(self) -> Mask:  # type: ignore[override]
        """The lesion in the box of both."""
        return self.regions[0].mask(self._box)

    @cached_property
    def prediction(self) -> Mask:  # type: ignore[override]
        """What matches it in the box of both."""
        return self.regions[1].mask(self._box)

    @property
    def _box(self) -> Box:
        return union_box(*(region.box for region in self.regions))

    @cached_property
    def truth_voxels(self) -> int:
        """Number of voxels of the lesion."""
        return self.regions[0].voxels

    @cached_property
    def prediction_voxels(self) -> int:
        """Number of voxels of what matches it."""
        return self.regions[1].voxels

    @cached_property
    def shared_voxels(self) -> int:
        """Number of voxels in both."""
        truth, prediction = self.regions
        return int(np.count_nonzero(truth.mask(truth.box) & prediction.mask(truth.box)))

    @cached_property
    def truth_surface(self) -> Surface:
        """Surface elements of the lesion."""
        return self.regions[0].surface

    @cached_property
    def prediction_surface(self) -> Surface:
        """Surface elements of what matches it."""
        return self.regions[1].surface


@dataclass(frozen=True)
class _Parts:
    """The components of a mask; the k-th box and count are those of label k + 1."""

    labels: Components
    boxes: Sequence[Box]
    voxels: Sequence[int]
    spacing: Spacing
    regions: dict[tuple[int, ...], _Region] = field(default_factory=dict)

    def volume(self, index: int) -> float:
        """Volume of a component in mm³."""
        return self.voxels[index - 1] * math.prod(self.spacing)

    def region(self, members: Sequence[int]) -> _Region:
        """Some components together; the same object for the same ones, so that they share a surface."""
        key = tuple(members)
        if key not in self.regions:
            box = reduce(union_box, (self.boxes[index - 1] for index in key))
            voxels = sum(self.voxels[index - 1] for index in key)
            self.regions[key] = _Region(self.labels, key, box, voxels, self.spacing)
        return self.regions[key]


def _found(pair: MaskPair, rules: Rules) -> Sequence[Lesion]:
    if not (pair.truth_voxels or pair.prediction_voxels):
        return []
    truth = _parts(_lesion_labels(pair.truth, rules), pair.spacing)
    prediction = _parts(_labels(pair.prediction, rules), pair.spacing)
    lesions = [_lesion(truth, prediction, index, rules, pair.diagonal) for index in range(1, len(truth.boxes) + 1)]
    counted = {match for lesion in lesions if lesion.status != "ignored" for match in lesion.matches}
    spared = {match for lesion in lesions for match in lesion.matches}
    for index in range(1, len(prediction.boxes) + 1):
        if index not in counted:
            lesions.append(Lesion(index, True, "ignored" if index in spared else "FP", prediction.volume(index)))
    return lesions


def _lesion(truth: _Parts, prediction: _Parts, index: int, rules: Rules, diagonal: float) -> Lesion:
    volume, matches = truth.volume(index), _matches(truth, prediction, index, rules.dilation)
    if not rules.counts(volume):
        return Lesion(index, False, "ignored", volume, matches)
    if not matches:
        return Lesion(index, False, "FN", volume)
    both = _LesionPair(truth.region([index]), prediction.region(matches), diagonal)
    return Lesion(index, False, "TP", volume, matches, both)


def _matches(truth: _Parts, prediction: _Parts, index: int, dilation: int) -> Sequence[int]:
    """The predicted components that reach into a lesion dilated."""
    around = _grown(truth.boxes[index - 1], dilation, truth.labels.shape).slices
    lesion, near = truth.labels[around] == index, prediction.labels[around]
    overlapping = _present(near[lesion])
    # Mostly there is nothing else nearby, and no need to dilate.
    if not dilation or len(overlapping) == len(_present(near)):
        return overlapping
    return _present(near[_dilated(lesion, dilation)])


def _present(labels: Integer[np.ndarray, " *any"]) -> Sequence[int]:
    found: list[int] = np.unique(labels[labels > 0]).tolist()
    return found


def _labels(mask: Mask, rules: Rules) -> Components:
    return cc3d.connected_components(mask, connectivity=rules.connectivity, binary_image=True)


def _lesion_labels(mask: Mask, rules: Rules) -> Components:
    """Components of the truth; those that touch once grown are one."""
    if not rules.consolidation:
        return _labels(mask, rules)
    labels = _labels(_dilated(mask, rules.consolidation), rules)
    labels[~mask] = 0
    return labels


def _parts(labels: Components, spacing: Spacing) -> _Parts:
    from scipy.ndimage import find_objects  # loads for 0.2 s, which a ranking need not wait for

    places = find_objects(labels)
    boxes = [Box(*zip(*((cut.start, cut.stop) for cut in place), strict=True)) for place in places]
    return _Parts(labels, boxes, np.bincount(labels.ravel(), minlength=1)[1:].tolist(), spacing)


def _grown(box: Box, voxels: int, size: Size) -> Box:
    x, y, z = (max(0, start - voxels) for start in box.start)
    end_x, end_y, end_z = (min(edge, stop + voxels) for stop, edge in zip(box.stop, size, strict=True))
    return Box((x, y, z), (end_x, end_y, end_z))


def _dilated(mask: Mask, iterations: int) -> Mask:
    """A mask grown over faces and edges, but not corners, within its array.

    The 18 neighbors are those within the three squares of 3x3, each of which is grown axis by axis: 60 instead of
    500 ms of SciPy's for three iterations on 6 million voxels.
    """
    for _ in range(iterations):
        x, y = _spread(mask, 0), _spread(mask, 1)
        mask = _spread(x, 1) | _spread(x, 2) | _spread(y, 2)
    return mask


def _spread(mask: Mask, axis: int) -> Mask:
    """A mask grown by a voxel along one axis, both ways."""
    grown = mask.copy()
    there, source = np.moveaxis(grown, axis, 0), np.moveaxis(mask, axis, 0)
    there[1:] |= source[:-1]
    there[:-1] |= source[1:]
    return grown


@dataclass(frozen=True)
class ScoredLesion:
    """A lesion and its own scores; NaN if it is ignored."""

    lesion: Lesion
    dice: float
    haus95: float
    surf_dice: float


def scored_lesions(pair: MaskPair, rules: Rules) -> Sequence[ScoredLesion]:
    """Every lesion with what it contributes to the metrics."""
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
    """The mean Dice of lesions; 0 for what is missed or invented, 1 if there is nothing to find."""
    rules = rules_of(min_lesion_volume, dilation_iters, gt_consolidation_iters, protocol)
    return _mean(pair, rules, dice, best=1.0, worst=0.0)


def lesion_wise_haus95(
    pair: MaskPair,
    min_lesion_volume: Volume = None,
    dilation_iters: Dilation = None,
    gt_consolidation_iters: Consolidation = None,
    protocol: Protocol = "mist",
) -> float:
    """The mean of ``haus95`` of lesions in mm; the penalty for what is missed or invented, 0 with nothing to find."""
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
    """The mean surface Dice of lesions; 0 for what is missed or invented, 1 if there is nothing to find."""
    rules = rules_of(min_lesion_volume, dilation_iters, gt_consolidation_iters, protocol, tolerance)
    return _mean(pair, rules, partial(surf_dice, tolerance=tolerance), best=1.0, worst=0.0)


def lesion_wise_f1(
    pair: MaskPair,
    min_lesion_volume: Volume = None,
    dilation_iters: Dilation = None,
    gt_consolidation_iters: Consolidation = None,
    protocol: Protocol = "mist",
) -> float:
    """F1 of finding lesions: twice the found ones over twice these, missed and invented ones; 1 with nothing to find.

    A lesion is found once, however many components match it.
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


METRICS.register("lesion_wise_dice")(
    Metric(lesion_wise_dice, best=1.0, worst=0.0, unit="", higher_is_better=True, takes_one_empty=True, rules=rules_of)
)
METRICS.register("lesion_wise_haus95")(
    Metric(
        lesion_wise_haus95,
        best=0.0,
        worst=math.inf,
        unit="mm",
        higher_is_better=False,
        takes_one_empty=True,
        rules=rules_of,
    )
)
METRICS.register("lesion_wise_surf_dice")(
    Metric(
        lesion_wise_surf_dice, best=1.0, worst=0.0, unit="", higher_is_better=True, takes_one_empty=True, rules=rules_of
    )
)
METRICS.register("lesion_wise_f1")(
    Metric(lesion_wise_f1, best=1.0, worst=0.0, unit="", higher_is_better=True, takes_one_empty=True, rules=rules_of)
)
