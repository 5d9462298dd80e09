"""What the guard measures of a scan: named numbers in groups, and a coarse picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float64

Group: TypeAlias = Literal["grid", "intensities", "layout", "orientation", "structures", "certainty"]
"""Aspects of a scan that are compared separately."""

GROUPS: tuple[Group, ...] = get_args(Group)

AXES = ("left-right", "front-back", "bottom-top")
"""The axes of canonical arrays, in words."""

Layout = Float64[np.ndarray, "channel i j k"]
"""The mean intensity of each cell of a scan."""


@dataclass(frozen=True)
class Feature:
    """A number measured of a scan.

    Attributes:
        group: The aspect.
        name: In words, unique within a study.
        value: The number; NaN if there is none, as the offset of a label that is absent.
        unit: Such as ``mm``; empty for a ratio.
        log: Whether ratios matter instead of differences.
        least: The smallest standard deviation that patients are assumed to have: of the logarithm with ``log``. Without
            it, patients that are all equal, as in spacing, would make any other value infinitely far away.
    """

    group: Group
    name: str
    value: float
    unit: str = ""
    log: bool = False
    least: float = 0.05

    @property
    def compared(self) -> float:
        """The value that is compared: its logarithm, if ratios matter."""
        return math.log(max(self.value, 1e-6)) if self.log else self.value


@dataclass(frozen=True, eq=False)
class Measured:
    """Measurements of a scan.

    Attributes:
        features: By name.
        layout: The coarse picture.
    """

    features: Mapping[str, Feature]
    layout: Layout
