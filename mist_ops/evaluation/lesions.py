"""The table of single lesions that stands beside the results: each lesion of each patient, and what it scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import pandas as pd

from mist_ops.files import atomic
from mist_ops.metrics import Metric
from mist_ops.metrics.lesions import ScoredLesion, scored_lesions
from mist_ops.metrics.lesions.matching import Status
from mist_ops.metrics.lesions.rules import Rules
from mist_ops.metrics.pair import MaskPair
from mist_ops.types import Json


@dataclass(frozen=True)
class LesionRow:
    """A lesion of the truth, or a component of the prediction that matches none that counts.

    Attributes:
        class_name: The class that was scored.
        mask: The mask that it is a component of.
        lesion: Its number within that mask, from 1.
        volume_mm3: Its volume.
        matched: Number of predicted components that match it.
        dice: Of a lesion against all that matches it; 0 for ``FN`` and ``FP``, NaN for ``ignored``.
        haus95: Likewise, in mm; the penalty for ``FN`` and ``FP``.
        surf_dice: Likewise.
        status: ``TP``, ``FN``, ``FP`` or ``ignored``.
        metrics: Those that were made of it, by the same parameters; names with a space between.
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


# A class stands under "class", which cannot be a field's name.
_COLUMNS = ["id", *("class" if field.name == "class_name" else field.name for field in fields(LesionRow))]


def lesion_rows(class_name: str, pair: MaskPair, metrics: Mapping[str, tuple[Metric, Json]]) -> Iterator[LesionRow]:
    """The lesions behind the metrics of a class, once for every set of rules among their parameters.

    Args:
        class_name: Of the class.
        pair: Its masks.
        metrics: Entries and parameters by name; those that are not of lesions are passed over.
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
    """Write the lesions of all patients, by id, atomically; a header alone if there are none."""
    table = pd.DataFrame([(case_id, *asdict(row).values()) for case_id, found in rows.items() for row in found])
    with atomic(path) as temporary:
        table.set_axis(_COLUMNS[: len(table.columns)], axis=1).reindex(columns=_COLUMNS).to_csv(temporary, index=False)
