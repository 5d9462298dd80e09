"""Tables of pairs and of scores.

Beside ``results.csv`` are ``results_summary.json`` (see ``summary``) and, if a class has lesion-wise metrics,
``results_lesions.csv`` (see ``lesions``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mist_ops.errors import CaseError, ConfigError, DatasetError, MistError, few
from mist_ops.evaluation.lesions import write_lesions
from mist_ops.evaluation.score import Absent, CaseScores, Classes, columns, score_case
from mist_ops.evaluation.summary import summary
from mist_ops.files import together, write_json
from mist_ops.imaging.nifti import seconds_for
from mist_ops.records.scores import ScoreInputs
from mist_ops.records.source import check_table
from mist_ops.registry import METRICS
from mist_ops.tables import SUMMARY_ROWS, Locator, Table, read_cells, read_table, write_rows
from mist_ops.workers import Outcome, outcomes, worthwhile

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """A mask and its prediction."""

    id: str
    mask: Path
    prediction: Path


def read_pairs(path: Path) -> list[Pair]:
    """Read a table with the columns id, mask and prediction; paths are those of ``Locator``.

    Raises:
        DatasetError: As ``read_table`` and ``check_table``, or there are no rows, or an id is reserved for a summary
            row.
    """
    table = read_table(path, required=("id", "mask", "prediction"))
    check_table(path)
    _check_rows(path, table)
    located = Locator(path)
    return [Pair(row["id"], located(row["mask"]), located(row["prediction"])) for row in table.rows]


def read_masks(path: Path) -> dict[str, Path]:
    """Read the mask of each id from a table with the columns id and mask.

    Raises:
        DatasetError: As ``read_pairs``.
    """
    table = read_table(path, required=("id", "mask"))
    check_table(path)
    _check_rows(path, table)
    return dict(zip(table["id"], map(Locator(path), table["mask"]), strict=True))


def _check_rows(path: Path, table: Table) -> None:
    if not table.rows:
        raise DatasetError(f"{path} has no rows. Add one for each patient.", code="table-empty", file=path)
    taken = sorted(set(table["id"]) & set(SUMMARY_ROWS))
    if taken:
        raise DatasetError(
            f"{path}: {few(taken)} {'is' if len(taken) == 1 else 'are'} reserved for the summary rows of the results. "
            "Rename the patients.",
            code="id-reserved",
            file=path,
            field="id",
            found=taken,
        )


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Write a table of pairs with the columns id, mask and prediction; paths as ``Locator.cell`` gives them."""
    cell = Locator(path).cell
    rows = ({"id": pair.id, "mask": cell(pair.mask), "prediction": cell(pair.prediction)} for pair in pairs)
    write_rows(rows, path, ("id", "mask", "prediction"))


def evaluate(
    pairs: Sequence[Pair],
    classes: Classes,
    workers: int = 1,
    known: Sequence[int] | None = None,
    absent: Absent = "best",
) -> Iterator[Outcome[Pair, CaseScores]]:
    """Score every pair and yield the outcomes in the order of the pairs; arguments as in ``score_case``."""
    seconds = seconds_for([pairs[0].mask, pairs[0].prediction]) if pairs else 0.0
    needed = worthwhile(workers, len(pairs), seconds)
    return outcomes(partial(_scored, classes, known, absent), pairs, needed)


def _scored(classes: Classes, known: Sequence[int] | None, absent: Absent, pair: Pair) -> CaseScores:
    try:
        return score_case(pair.mask, pair.prediction, classes, known, absent)
    except MistError as error:
        raise CaseError.of(pair.id, error) from error


def results_rows(
    rows: Mapping[str, CaseScores], columns: Sequence[str], order: Sequence[str] | None = None
) -> list[dict[str, str | float]]:
    """The rows of the table of results: one for each id, then the summary rows if any patient was scored.

    ``Std`` is the population standard deviation, percentiles are interpolated linearly. NaN is excluded.

    Args:
        rows: Scores by id.
        columns: Columns of the scores, from ``score.columns``.
        order: All ids, by default those of ``rows``; ids without scores get NaN.
    """
    ids = list(rows if order is None else order)
    scores = {case_id: rows[case_id].scores if case_id in rows else {} for case_id in ids}
    listed = [[float(scores[case_id].get(column, math.nan)) for column in columns] for case_id in ids]
    summarized = zip(*map(_summary, zip(*listed, strict=True)), strict=True) if rows else ()
    named = [*zip(ids, listed, strict=True), *zip(SUMMARY_ROWS, summarized, strict=False)]
    return [{"id": name, **dict(zip(columns, values, strict=True))} for name, values in named]


def _summary(column: Sequence[float]) -> tuple[float, ...]:
    """The summary rows of a column."""
    known = np.array([value for value in column if not math.isnan(value)])
    if not known.size:
        return (math.nan,) * len(SUMMARY_ROWS)
    return (float(known.mean()), float(known.std()), *map(float, np.percentile(known, (25, 50, 75))))


def write_results(
    path: Path, rows: Mapping[str, CaseScores], columns: Sequence[str], order: Sequence[str] | None = None
) -> None:
    """Write results.csv atomically; see ``results_rows``."""
    write_rows(results_rows(rows, columns, order), path, ("id", *columns))


def write_evaluation(
    path: Path,
    pairs: Sequence[Pair],
    classes: Classes,
    rows: Mapping[str, CaseScores],
    failures: Mapping[str, str],
    absent: Absent = "best",
    inputs: ScoreInputs | None = None,
) -> None:
    """Write results.csv with its summary and table of lesions; an earlier table of lesions is replaced or removed.

    Args:
        path: Path of results.csv.
        pairs: All pairs, in the order of the rows.
        classes: The scored classes.
        rows: Scores by id.
        failures: Reasons by id, of patients without scores.
        absent: As for ``evaluate``.
        inputs: What the scores were computed from, for the summary.
    """
    order = [pair.id for pair in pairs]
    ordered = {case_id: rows[case_id] for case_id in order if case_id in rows}
    lesions = lesions_path(path)
    with_lesions = any(METRICS[metric].rules for scored in classes.values() for metric in scored.metrics)
    kept = {} if inputs is None else {"inputs": inputs.model_dump()}
    with together(path.parent) as files:
        write_results(files.write(path), ordered, columns(classes), order)
        if with_lesions:
            write_lesions(files.write(lesions), {case_id: row.lesions for case_id, row in ordered.items()})
        else:
            files.remove(lesions)
        write_json(files.write(summary_path(path)), {**summary(classes, ordered, failures, absent), **kept})
    shared = [case_id for case_id, row in ordered.items() if row.shared_forms]
    if shared:
        _LOG.warning(
            "Mask and prediction of %s are on the same grid only by a form in their headers that is not used here, as "
            "masks written by ITK. They are compared voxel by voxel.",
            few(shared),
        )


def check_output(path: Path, inputs: Iterable[Path]) -> None:
    """Check that neither results.csv nor a file beside it would overwrite an input.

    Raises:
        ConfigError: One would, or is a folder, or a file is in place of its folder.
    """
    written = {file.resolve() for file in (path, summary_path(path), lesions_path(path), figure_path(path))}
    taken = sorted(written & {file.resolve() for file in inputs})
    if taken:
        raise _unusable(taken[0], "is an input and would be overwritten", "output-is-input")
    if folders := sorted(file for file in written if file.is_dir()):
        raise _unusable(folders[0], "is a folder", "folder-not-file")
    nearest = next(folder for folder in path.resolve().parents if folder.exists())
    if not nearest.is_dir():
        raise _unusable(nearest, f"is a file and cannot contain {path.name}", "file-not-folder")


def _unusable(path: Path, problem: str, code: str) -> ConfigError:
    return ConfigError(f"{path} {problem}. Choose another output.", code=code, file=path)


def summary_path(results: Path) -> Path:
    """The summary beside a results.csv."""
    return results.with_name(f"{results.stem}_summary.json")


def lesions_path(results: Path) -> Path:
    """The table of lesions beside a results.csv."""
    return results.with_name(f"{results.stem}_lesions.csv")


def figure_path(results: Path) -> Path:
    """The plot of all scores beside a results.csv."""
    return results.with_name(f"{results.stem}_scores.png")


def worst_first(rows: Mapping[str, CaseScores]) -> list[dict[str, str | float]]:
    """Rows with their ids, sorted by the score in the first column; NaN comes last."""
    return sorted(({"id": case_id, **row.scores} for case_id, row in rows.items()), key=_first_score)


def _first_score(row: Mapping[str, str | float]) -> tuple[bool, float]:
    value = next((float(value) for name, value in row.items() if name != "id"), 0.0)
    return math.isnan(value), value


def read_summary(path: Path, row: str = "Mean") -> dict[str, float]:
    """Read a summary row of results.csv, by column; NaN for empty cells, empty if no case was scored."""
    values = next((values for values in read_cells(path).rows if values["id"] == row), {})
    return {column: float(value or math.nan) for column, value in values.items() if column != "id"}
