"""The table of lesions beside the results: every lesion of every patient with its scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from mist_ops.metrics import Metric
from mist_ops.metrics.lesions import ScoredLesion, scored_lesions
from mist_ops.metrics.lesions.matching import Status
from mist_ops.metrics.lesions.rules import Rules
from mist_ops.metrics.pair import MaskPair
from mist_ops.tables import write_rows
from mist_ops.types import Json


@dataclass(frozen=True)
class LesionRow:
    """A lesion of the truth, or a component of the prediction that matches no lesion that counts.

    Attributes:
        class_name: The scored class.
        mask: The mask that it is a component of.
        lesion: Number of the component within that mask, from 1.
        volume_mm3: Volume in mm³.
        matched: Number of predicted components that match it.
        dice: Dice against all components that match it; 0 for ``FN`` and ``FP``, NaN for ``ignored``.
        haus95: Likewise, in mm; the penalty for ``FN`` and ``FP``.
        surf_dice: Likewise, the surface Dice.
        status: ``TP`` (detected), ``FN`` (missed), ``FP`` (false positive) or ``ignored``.
        metrics: Metrics with the same matching, separated by spaces.
    """

    class_name: str
    mask: Literal["truth", "prediction"]
    lesion: int
    volume_mm3: float
    matched: int
    dice: float
    haus95: float
    surf_dice: float
    status: Status
    metrics: str


# The column is named "class", which is a keyword and cannot name a field.
_COLUMNS = ["id", *("class" if field.name == "class_name" else field.name for field in fields(LesionRow))]


def lesion_rows(class_name: str, pair: MaskPair, metrics: Mapping[str, tuple[Metric, Json]]) -> Iterator[LesionRow]:
    """Lesions behind the lesion-wise metrics of a class, once for each set of matching rules.

    Args:
        class_name: Name of the class.
        pair: Its masks.
        metrics: Entries and parameters of its metrics by name.
    """
    users: dict[Rules, list[str]] = {}
    for name, (metric, params) in metrics.items():
        if metric.rules is not None:
            users.setdefault(metric.rules(**params), []).append(name)
    for rules, names in users.items():
        for scored in scored_lesions(pair, rules):
            yield _row(class_name, scored, " ".join(names))


def _row(class_name: str, scored: ScoredLesion, metrics: str) -> LesionRow:
    lesion = scored.lesion
    return LesionRow(
        class_name=class_name,
        mask="prediction" if lesion.predicted else "truth",
        lesion=lesion.index,
        volume_mm3=lesion.volume,
        matched=len(lesion.matches),
        dice=scored.dice,
        haus95=scored.haus95,
        surf_dice=scored.surf_dice,
        status=lesion.status,
        metrics=metrics,
    )


def write_lesions(path: Path, rows: Mapping[str, Sequence[LesionRow]]) -> None:
    """Write the lesions of all patients atomically; only a header if there are none."""
    cells = ((case_id, *asdict(row).values()) for case_id, found in rows.items() for row in found)
    write_rows((dict(zip(_COLUMNS, row, strict=True)) for row in cells), path, _COLUMNS)
