"""The queues of a study, review_queue.csv and label_queue.csv, and what people have already decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mist_ops.errors import DatasetError
from mist_ops.evaluation.located import Position
from mist_ops.records.reviews import Review
from mist_ops.tables import read_table, write_rows

_COLUMNS = ("id", "fold", "score", "x_mm", "y_mm", "z_mm", "mask", "reasons")


@dataclass(frozen=True)
class Entry:
    """A patient in a queue.

    Attributes:
        id: The patient.
        fold: The fold that holds it out; None for a test patient.
        score: How unusual the disagreement of its mask and its prediction is, or how much the predictions of a test
            patient disagree.
        place: Where the disagreement is deepest, in RAS mm; None if there is none.
        mask: SHA-256 of the mask that was compared; empty for a test patient.
        reasons: Why, the strongest first.
    """

    id: str
    fold: int | None
    score: float
    place: Position | None
    mask: str
    reasons: tuple[str, ...]


def write_queue(path: Path, entries: Sequence[Entry]) -> None:
    """Write a queue atomically, in its order. Each reason is a line of its cell."""
    write_rows([dict(zip(_COLUMNS, _cells(entry), strict=True)) for entry in entries], path)


def _cells(entry: Entry) -> tuple[object, ...]:
    fold = "" if entry.fold is None else entry.fold
    place = [f"{value:.1f}" for value in entry.place] if entry.place else ["", "", ""]
    return entry.id, fold, f"{entry.score:.2f}", *place, entry.mask, "\n".join(entry.reasons)


def read_queue(path: Path) -> list[Entry]:
    """Read a queue, the most suspicious patient first.

    Raises:
        DatasetError: The table cannot be read, or a number is not one.
    """
    table = read_table(path, required=("id", "score"))
    try:
        return [_entry({name: row.get(name, "") for name in _COLUMNS}) for row in table.rows]
    except ValueError as error:
        raise DatasetError(
            f"{path} has a cell that is not a number. Delete the file, and run mist_review. ({error})",
            code="queue-invalid",
            file=path,
        ) from error


def _entry(row: Mapping[str, str]) -> Entry:
    cells = [row[name] for name in ("x_mm", "y_mm", "z_mm")]
    x, y, z = (float(cell or 0) for cell in cells)
    place, reasons = (x, y, z) if all(cells) else None, tuple(row["reasons"].splitlines())
    fold = int(row["fold"]) if row["fold"] else None
    return Entry(row["id"], fold, float(row["score"]), place, row["mask"], reasons)


@dataclass(frozen=True)
class Sorted:
    """A queue by what people decided.

    Attributes:
        open: Patients to look at: those without a verdict, and those whose mask changed since.
        settled: Patients with a verdict on the present mask, other than "fix mask".
        to_fix: Patients whose mask waits for its correction.
        corrected: Patients whose mask changed after the verdict "fix mask".
    """

    open: tuple[Entry, ...]
    settled: tuple[Entry, ...]
    to_fix: tuple[Entry, ...]
    corrected: tuple[Entry, ...]


def sort_queue(entries: Sequence[Entry], reviews: Mapping[str, Review], masks: Mapping[str, str]) -> Sorted:
    """Sort a queue by the verdicts of people.

    Args:
        entries: The queue.
        reviews: Comments by patient.
        masks: SHA-256 of the masks as they are now. A verdict on another mask does not settle a patient; one from which
            the mask is not on record does.
    """
    found: dict[str, list[Entry]] = {"open": [], "settled": [], "to_fix": [], "corrected": []}
    for entry in entries:
        review = reviews.get(entry.id, Review(entry.id))
        changed = bool(review.mask) and review.mask != masks.get(entry.id)
        if not review.verdict or changed:
            found["open"].append(entry)
        elif review.verdict == "fix mask":
            found["to_fix"].append(entry)
        else:
            found["settled"].append(entry)
        if review.verdict == "fix mask" and changed:
            found["corrected"].append(entry)
    return Sorted(**{name: tuple(members) for name, members in found.items()})
