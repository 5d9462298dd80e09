"""How unusual the differences of a patient are in its study, as a score and in words.

A model is not equally good at everything. So each measure is compared with its median over the other patients of the
study, in units of the spread: 1.4826 times the median absolute deviation, which damaged masks hardly change. Measures
are the Dice and the ratio of volumes of each structure, and the gain of undoing each kind of simple mistake: a model
that fails on a patient differs from its mask, but in no way that a simple mistake explains.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias, get_args

import numpy as np
from jaxtyping import Float64

from mist_ops.evaluation.located import Position
from mist_ops.review.measures import Measured
from mist_ops.review.mistakes import Kind

Key: TypeAlias = tuple[str, str]
"""A structure and ``overlap`` or ``volume``; or nothing and a kind of mistake."""

Values: TypeAlias = Float64[np.ndarray, " patient"]

_SCALE = 1.4826
"""The standard deviation of a normal distribution divided by its median absolute deviation."""

_LEAST = {"overlap": 0.01, "volume": 0.05, **dict.fromkeys(get_args(Kind), 0.01)}
"""Smallest spread of each measure that is divided by: differences below are never remarkable."""

_MOST = 100.0
"""Largest score, for example of a structure that is missing from the mask."""

_NOTABLE = 3.0
"""Score from which a measure is a reason."""

_REASONS = 4

_MANY = 100
"""Patients with a measure above which a patient is compared with all of them, and not with the others."""


@dataclass(frozen=True)
class Usual:
    """The usual value of a measure in a study, and its spread."""

    median: float
    spread: float


@dataclass(frozen=True)
class Suspect:
    """A patient in the queue.

    Attributes:
        id: The patient.
        score: How unusual it is; see ``suspects``.
        reasons: Why, the strongest first, and where to look.
        place: Where the disagreement is deepest, in RAS mm; None if mask and prediction are equal.
    """

    id: str
    score: float
    reasons: tuple[str, ...]
    place: Position | None


def suspects(patients: Mapping[str, Measured]) -> list[Suspect]:
    """The patients of a study, the most suspicious first: by the largest score of their measures."""
    usuals = Usuals(patients)
    found = [_suspect(usuals, case_id, measured) for case_id, measured in patients.items()]
    return sorted(found, key=lambda suspect: -suspect.score)


def _suspect(usuals: Usuals, case_id: str, measured: Measured) -> Suspect:
    scores = usuals.scores(case_id)
    ordered = sorted(scores, key=lambda key: -scores[key])
    notable = [key for key in ordered if scores[key] >= _NOTABLE]
    reasons = (_in_words(measured, key, usuals.usual(key, case_id).median) for key in notable or ordered[:1])
    return Suspect(
        case_id,
        max(scores.values(), default=0.0),
        (*itertools.islice(dict.fromkeys(filter(None, reasons)), _REASONS), *_where(measured)),
        measured.region.place if measured.region else None,
    )


class Usuals:
    """The measures of the patients of a study, and what is usual."""

    def __init__(self, patients: Mapping[str, Measured]) -> None:
        self._of = {case_id: dict(_measures(measured)) for case_id, measured in patients.items()}
        self._values: dict[Key, dict[str, float]] = {}
        for case_id, measures in self._of.items():
            for key, value in measures.items():
                self._values.setdefault(key, {})[case_id] = value
        self._known: dict[tuple[Key, str], Usual] = {}

    def usual(self, key: Key, case_id: str) -> Usual:
        """What is usual for a patient: median and spread of the other patients."""
        values = self._values[key]
        # Among many, one more or less makes no difference, and all of them have the same.
        excluded = case_id if len(values) <= _MANY else ""
        if (key, excluded) not in self._known:
            others = np.array([value for name, value in values.items() if name != excluded])
            self._known[key, excluded] = _usual(others, _LEAST[key[1]])
        return self._known[key, excluded]

    def scores(self, case_id: str) -> dict[Key, float]:
        """How far each measure of a patient is from usual, in spreads; only a volume may be so in both directions."""
        found = {}
        for key, value in self._of[case_id].items():
            usual = self.usual(key, case_id)
            off = (value - usual.median) / usual.spread
            found[key] = min(abs(off) if key[1] == "volume" else max(off, 0.0), _MOST)
        return found


def _measures(measured: Measured) -> Iterator[tuple[Key, float]]:
    for name, found in measured.differences.items():
        yield (name, "overlap"), 1 - found.dice
        yield (name, "volume"), found.log_ratio
    for kind in get_args(Kind) if measured.mistakes else ():
        # How much worse a mask would be by undoing what was not done to it depends on how well it agrees.
        yield ("", kind), max(measured.mistakes[kind].gain, 0.0) if kind in measured.mistakes else 0.0


def _usual(values: Values, least: float) -> Usual:
    # Where mask or prediction lacks a structure, the ratio of its volumes is infinite.
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Usual(0.0, least)
    median = float(np.median(finite))
    return Usual(median, max(_SCALE * float(np.median(np.abs(finite - median))), least))


def _in_words(measured: Measured, key: Key, median: float) -> str:
    """A reason as a sentence; empty for a kind of mistake, unless its gain is the largest one."""
    name, measure = key
    if not name:
        kind, mistake = max(measured.mistakes.items(), key=lambda tried: tried[1].gain)
        if kind != measure or mistake.gain <= 0:
            return ""
        before = mistake.agreement - mistake.gain
        return f"The mask seems {mistake.text}: mean Dice {before:.2f}, and {mistake.agreement:.2f} after undoing that."
    found = measured.differences[name]
    if not found.mask_ml:
        return f"{name}: missing in the mask; the prediction has {found.prediction_ml:.3g} ml."
    if not found.prediction_ml:
        return f"{name}: only in the mask, which has {found.mask_ml:.3g} ml."
    if measure == "overlap":
        return f"{name}: Dice {found.dice:.2f}, usually {1 - median:.2f}."
    return f"{name}: the mask is {_relative(found.log_ratio)} the prediction, usually {_relative(median)} it."


def _relative(log_ratio: float) -> str:
    change = math.expm1(log_ratio)
    return f"{abs(100 * change):.0f} % {'larger' if change >= 0 else 'smaller'} than"


def _where(measured: Measured) -> Iterator[str]:
    if region := measured.region:
        place = ", ".join(f"{value:.1f}" for value in region.place)
        owner = "mask" if region.of_mask else "prediction"
        yield (
            f"Deepest disagreement: {region.volume_ml:.2g} ml that only the {owner} has, {region.depth:.1f} mm deep at "
            f"({place})."
        )
