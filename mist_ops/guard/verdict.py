"""Whether a scan is like those of the training patients, and why, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mist_ops.guard.features import AXES, Feature, Group, Measured
from mist_ops.guard.forecast import Expected
from mist_ops.guard.gaussian import Range
from mist_ops.guard.novelty import Novelty, score

_NAMED = 3
"""Features named of each unusual group."""

_UNUSUAL = 2.5
"""Standard deviations from which a feature is named."""

_CLEAR, _CLEARER = 0.4, 0.2
"""How well, and how much better, a scan must correlate with the training patients mirrored, to be called flipped."""

IN_WORDS: Mapping[Group, str] = {
    "grid": "spacing and extent",
    "intensities": "intensities and noise",
    "layout": "coarse picture",
    "orientation": "place and orientation of the structures",
    "structures": "size, shape and contrast of the structures",
    "certainty": "certainty of the networks",
}


@dataclass(frozen=True)
class Verdict:
    """What the guard says of a scan.

    Attributes:
        like: Whether it is like the scans of the training patients.
        score: How unusual it is in the most unusual group.
        threshold: The highest score of a scan that is like them.
        novelty: How unusual it is in each group.
        reasons: Why it is unlike them; what is most unusual first.
        dice: What to expect of the mask, by class.
    """

    like: bool
    score: float
    threshold: float
    novelty: Mapping[Group, float]
    reasons: tuple[str, ...]
    dice: Mapping[str, Expected]


def reasons(usual: Novelty, measured: Measured) -> tuple[str, ...]:
    """Why a scan is unlike the training patients, the most unusual group first; empty if it is like them."""
    found = usual.of(measured)
    unusual = sorted((group for group in found if found[group] > usual.threshold), key=lambda group: -found[group])
    return tuple(line for group in unusual for line in _of_group(group, usual, measured))


def is_like(usual: Novelty, measured: Measured) -> bool:
    """Whether a scan is like those of the training patients."""
    return score(usual.of(measured)) <= usual.threshold


def _of_group(group: Group, usual: Novelty, measured: Measured) -> Iterator[str]:
    if group == "layout":
        yield _likeness(usual, measured)
        return
    ranges = usual.population.ranges
    away = {
        name: abs(ranges[name].deviations(measured.features.get(name))) for name in usual.population.groups[group].names
    }
    named = [name for name in sorted(away, key=lambda name: -away[name])[:_NAMED] if away[name] > _UNUSUAL]
    for name in named:
        yield _of_feature(name, measured.features.get(name), ranges[name])
    if not named:
        yield f"{IN_WORDS[group]}: the values occur in training, but not together"


def _of_feature(name: str, feature: Feature | None, known: Range) -> str:
    unit = f" {known.unit}" if known.unit else ""
    low, high = f"{known.low:.3g}", f"{known.high:.3g}"
    usual = f"{low}{unit} in training" if low == high else f"{low} to {high}{unit} in training"
    if feature is None or math.isnan(feature.value):
        return f"{name}: none ({usual})"
    return f"{name}: {feature.value:.3g}{unit} ({usual})"


def _likeness(usual: Novelty, measured: Measured) -> str:
    as_is, flipped = usual.population.patterns.likeness(measured.layout)
    text = f"coarse picture: correlation {as_is:.2f} with the mean of the training scans"
    best = max(range(3), key=lambda axis: flipped[axis])
    if flipped[best] > max(as_is + _CLEARER, _CLEAR):
        return f"{text}, {flipped[best]:.2f} if mirrored {AXES[best]}; is it flipped?"
    if as_is < -_CLEARER:
        return f"{text}; is it of another modality or sequence?"
    return text
