"""Whether one method is better than another, by scores of the same patients in one or more runs of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
from jaxtyping import Float64

from mist_ops.comparison.difference import LEVEL, MOST_RUNS, Difference, compare_scores
from mist_ops.comparison.noise import pooled
from mist_ops.comparison.sides import Side
from mist_ops.errors import DatasetError, counted, few
from mist_ops.ranking.significance import holm
from mist_ops.registry import METRICS

Word = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True)
class Verdict:
    """How B differs from A in one column.

    Attributes:
        column: Name of the column.
        metric: Its metric.
        class_name: Its class.
        difference: The difference, B minus A.
        tests: Number of differences that are tested together.
        corrected: P-value with Holm's correction for these; None if the noise is not known.
        by_patient: B minus A of each patient.
        noise_from: Names of the sides whose runs measure the noise.
    """

    column: str
    metric: str
    class_name: str
    difference: Difference
    tests: int
    corrected: float | None
    by_patient: Mapping[str, float]
    noise_from: tuple[str, ...]

    @property
    def sign(self) -> int:
        """1 if higher scores are better, else -1."""
        return 1 if METRICS[self.metric].higher_is_better else -1

    @property
    def word(self) -> Word:
        """The verdict on B."""
        if self.corrected is None or self.corrected >= 1 - LEVEL:
            return "not distinguishable"
        return "better" if self.difference.mean * self.sign > 0 else "worse"

    @property
    def more_runs(self) -> int | None:
        """How many more runs, of A and B together, would distinguish a difference of this size from noise.

        None if the noise is not known, or if no number of runs is enough.
        """
        needed = self.difference.runs_needed(self.difference.mean, self.tests)
        return None if needed is None else sum(max(0, needed - runs) for runs in self.difference.runs)

    @property
    def better(self) -> int:
        """Patients who are better in B."""
        return sum(value * self.sign > 0 for value in self.by_patient.values())

    @property
    def worse(self) -> int:
        """Patients who are worse in B."""
        return sum(value * self.sign < 0 for value in self.by_patient.values())

    @property
    def advice(self) -> str:
        """What would distinguish them, for a verdict that does not; else empty."""
        if self.word != "not distinguishable":
            return ""
        if self.difference.uncertainty is None:
            return "one run of each does not show how much runs differ; train replicas, as with mist_train --seeds"
        if self.more_runs is None:
            return f"{MOST_RUNS} runs of each would not detect a difference of this size"
        if not self.more_runs:
            return "so many runs detect a difference of this size four times in five"
        return f"{counted(self.more_runs, 'more run')} would be needed for a difference of this size"


@dataclass(frozen=True)
class Pair:
    """The comparison of two sides: B with A.

    Attributes:
        first: A.
        second: B.
        verdicts: One for each column that both have.
        left_out: Patients who lack a score in a run, by column.
    """

    first: Side
    second: Side
    verdicts: tuple[Verdict, ...]
    left_out: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class _Column:
    """Scores of one column, run by patient, of the patients who have one in all runs."""

    name: str
    ids: tuple[str, ...]
    left_out: tuple[str, ...]
    first: Float64[np.ndarray, "run_of_a patient"]
    second: Float64[np.ndarray, "run_of_b patient"]
    extra: Float64[np.ndarray, "other_run patient"] | None


def compare(sides: Sequence[Side], extra: Side | None = None) -> list[Pair]:
    """Compare each side with the first.

    For each column: the mean difference over the patients with a score in all runs; its interval; and a t-test of it,
    in which runs are the unit that is repeated. The noise is that between the runs of both, and of ``extra``; it is
    taken to be the same in all. P-values are corrected for all columns of all pairs.

    Args:
        sides: Two or more; the first is A of all pairs.
        extra: Runs of another method that only show how much runs differ, such as replicas of an earlier study.

    Raises:
        DatasetError: Two sides share no patient with the same score, or hold the same run.
    """
    pairs = [(sides[0], other, _columns(sides[0], other, extra)) for other in sides[1:]]
    compared = [[_difference(column) for column in columns] for _, _, columns in pairs]
    tested = [found for found in chain.from_iterable(compared) if found.p is not None]
    corrected = iter(holm(np.array([found.p for found in tested])).tolist() if tested else [])
    return [
        Pair(
            one,
            other,
            tuple(
                _verdict(column, found, one, other, extra, len(tested), corrected)
                for column, found in zip(columns, differences, strict=True)
            ),
            {column.name: column.left_out for column in columns if column.left_out},
        )
        for (one, other, columns), differences in zip(pairs, compared, strict=True)
    ]


def _columns(one: Side, other: Side, extra: Side | None) -> list[_Column]:
    shared = {run.path for run in one.runs} & {run.path for run in other.runs}
    if shared:
        raise DatasetError(
            f"{one.name} and {other.name} both have the run {few(sorted(shared))}. Give each run to one side.",
            code="run-shared",
            file=min(shared),
            found=sorted(shared),
        )
    columns = [_column(name, one, other, extra) for name in one.columns if _is_in(name, one, other)]
    found = [column for column in columns if len(column.ids) > 1]
    if not found:
        raise DatasetError(
            f"{one.name} and {other.name} share no column in which two or more patients have scores in all runs "
            f"({few(one.columns)}; {few(other.columns)}). Evaluate both on the same patients with the same metrics.",
            code="nothing-shared",
            found=[one.name, other.name],
        )
    return found


def _is_in(name: str, one: Side, other: Side) -> bool:
    return name in other.columns and other.runs[0].columns[name].metric == one.runs[0].columns[name].metric


def _column(name: str, one: Side, other: Side, extra: Side | None) -> _Column:
    has = extra is not None and name in extra.columns
    sides = [one, other, extra] if extra is not None and has else [one, other]
    scores = [run.columns[name].scores for side in sides for run in side.runs]
    everyone = sorted(set().union(*scores))
    ids = tuple(case_id for case_id in everyone if all(math.isfinite(run.get(case_id, math.nan)) for run in scores))
    first, second, *third = (
        np.array([[run.columns[name].scores[case_id] for case_id in ids] for run in side.runs], dtype=np.float64)
        for side in sides
    )
    left_out = tuple(case_id for case_id in everyone if case_id not in set(ids))
    return _Column(name, ids, left_out, first, second, third[0] if third else None)


def _difference(column: _Column) -> Difference:
    methods = [column.first, column.second, *([] if column.extra is None else [column.extra])]
    return compare_scores(column.first, column.second, pooled(methods))


def _verdict(
    column: _Column,
    found: Difference,
    one: Side,
    other: Side,
    extra: Side | None,
    tests: int,
    corrected: Iterator[float],
) -> Verdict:
    kind = one.runs[0].columns[column.name]
    return Verdict(
        column=column.name,
        metric=kind.metric,
        class_name=kind.class_name,
        difference=found,
        tests=max(1, tests),
        corrected=None if found.p is None else next(corrected),
        by_patient=dict(zip(column.ids, found.by_patient.tolist(), strict=True)),
        noise_from=tuple(side.name for side in (one, other, extra) if side and len(side.runs) > 1),
    )
