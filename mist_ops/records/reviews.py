"""Comments of people on patients: ``reviews.csv`` in the results, which no run writes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from mist_ops.errors import ConfigError, DatasetError
from mist_ops.records.history import append
from mist_ops.study import Study, check_id
from mist_ops.tables import read_table, write_rows

Verdict: TypeAlias = Literal["good", "poor", "fix mask", "fix image", "exclude"]
"""What a person thinks of a patient: of its prediction, or of its data."""

VERDICTS: tuple[str, ...] = get_args(Verdict)

MOST_CHARACTERS = 2000
"""Of a note."""

_CONTROL = re.compile(r"[^\S\n\t ]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class Review:
    """A comment on a patient.

    Attributes:
        id: The patient.
        verdict: One of ``VERDICTS``, or empty.
        note: Free text, or empty.
        mask: SHA-256 of the mask that the verdict is about; empty if it is not on record.
    """

    id: str
    verdict: str = ""
    note: str = ""
    mask: str = ""


_COLUMNS = tuple(field.name for field in fields(Review))


def read_reviews(path: Path) -> Mapping[str, Review]:
    """Read the comments by patient; none if there is no file.

    Raises:
        DatasetError: As ``read_table``, or a verdict is unknown.
    """
    if not path.exists():
        return {}
    table = read_table(path, required=("id",)).rows
    found = {row["id"]: Review(*(row.get(name, "") for name in _COLUMNS)) for row in table}
    for review in found.values():
        if review.verdict not in ("", *VERDICTS):
            raise DatasetError(
                f"{path}: the verdict on '{review.id}' is '{review.verdict}'. Expected: {', '.join(VERDICTS)}, or "
                "nothing. Correct the table.",
                code="review-invalid",
                case=review.id,
                file=path,
                field="verdict",
                found=review.verdict,
                expected=VERDICTS,
            )
    return found


def write_review(path: Path, review: Review) -> None:
    """Add a comment, or replace that on the same patient; one without verdict and note removes it.

    A new verdict is also appended to the history of the study. Only one process may write at a time.

    Raises:
        ConfigError: The verdict is unknown, or the note is too long.
        DatasetError: As ``read_reviews``, or the id cannot name a file.
    """
    check_id(review.id)
    if review.verdict not in ("", *VERDICTS):
        raise ConfigError(
            f"The verdict on '{review.id}' is '{review.verdict}'. Expected: {', '.join(VERDICTS)}, or nothing.",
            code="review-invalid",
            case=review.id,
            field="verdict",
            found=review.verdict,
            expected=VERDICTS,
        )
    note = _CONTROL.sub(" ", review.note.replace("\r\n", "\n").replace("\r", "\n")).strip()
    if len(note) > MOST_CHARACTERS:
        raise ConfigError(
            f"The note on '{review.id}' has {len(note):,} characters. At most {MOST_CHARACTERS:,} are stored; shorten "
            "it.",
            code="review-invalid",
            case=review.id,
            field="note",
            found=len(note),
            expected=MOST_CHARACTERS,
        )
    earlier = read_reviews(path)
    reviews = {**earlier, review.id: replace(review, note=note)}
    kept = [asdict(each) for each in reviews.values() if each.verdict or each.note]
    if kept:
        write_rows(kept, path)
    else:
        path.unlink(missing_ok=True)
    if review.verdict != (earlier[review.id].verdict if review.id in earlier else ""):
        append(Study("", path.parent, path.parent), "verdict", {"patient": review.id, "verdict": review.verdict})
