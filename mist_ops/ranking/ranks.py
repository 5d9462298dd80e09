"""Ranks of strategies per patient and metric.

Wiesenfarth et al.: Methods and open-source toolkit for analyzing and visualizing challenge results. Scientific Reports
2021;11:2369. Ranking as in the BraTS challenges.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64

from mist_ops.errors import ConfigError
from mist_ops.ranking.tables import Scores
from mist_ops.registry import METRICS

DIGITS = 12
"""Significant digits to which scores are rounded before they are compared; equal ones tie."""

Ranks = Float64[np.ndarray, "strategy patient column"]


@dataclass(frozen=True)
class Direction:
    """Direction in which a column improves.

    Attributes:
        higher: Whether higher is better.
        read_as: The metric that its name ends in; None if the user gave the direction.
    """

    higher: bool
    read_as: str | None


def directions(columns: Iterable[str], overrides: Mapping[str, str]) -> dict[str, Direction]:
    """Direction of every column: the override, or that of the longest metric name that it ends in.

    Args:
        columns: A class and a metric of the registry each, such as ``WT_lesion_wise_dice``.
        overrides: ``higher`` or ``lower`` for some columns.

    Raises:
        ConfigError: A direction is unknown or invalid, or an override names an unknown column.
    """
    known = list(columns)
    for column, direction in overrides.items():
        if direction not in ("higher", "lower"):
            raise ConfigError(
                f"The direction of column '{column}' is '{direction}'. Give higher or lower.",
                code="direction-invalid",
                field=column,
                found=direction,
                expected=["higher", "lower"],
            )
        if column not in known:
            near = difflib.get_close_matches(column, known, n=1)
            guess = f"Did you mean '{near[0]}'?" if near else f"Columns: {', '.join(known)}."
            raise ConfigError(
                f"The tables have no column '{column}', for which a direction is given. {guess}",
                code="unknown-column",
                found=column,
                expected=known,
            )
    return {column: _direction(column, overrides.get(column)) for column in known}


def _direction(column: str, override: str | None) -> Direction:
    if override is not None:
        return Direction(override == "higher", None)
    fitting = [name for name in METRICS if column.endswith(f"_{name}") and len(column) > len(name) + 1]
    if not fitting:
        raise ConfigError(
            f"Column '{column}' does not end in the name of a metric ({', '.join(METRICS)}). Give its direction with "
            "--metric-direction-overrides, or remove it.",
            code="direction-unknown",
            field=column,
        )
    name = max(fitting, key=len)
    return Direction(METRICS[name].higher_is_better, name)


def rank_cells(scores: Scores, order: Mapping[str, Direction]) -> Ranks:
    """Rank of every strategy for each patient and metric.

    1 is the best, ties share their mean rank, and missing scores come last, after infinite ones.
    """
    tables = list(scores.tables.values())
    signs = np.array([-1.0 if order[str(column)].higher else 1.0 for column in tables[0].columns])
    cost = np.stack([_rounded(table.to_numpy(dtype=float) * signs) for table in tables])
    ranks = pd.DataFrame(cost.reshape(len(tables), -1)).rank(axis=0, method="average", na_option="bottom")
    return ranks.to_numpy(dtype=np.float64).reshape(cost.shape)


def _rounded(values: np.ndarray) -> np.ndarray:
    finite = np.isfinite(values) & (values != 0)
    safe = np.where(finite, values, 1.0)
    scale = 10.0 ** (DIGITS - 1 - np.floor(np.log10(np.abs(safe))))
    return np.where(finite, np.round(safe * scale) / scale, values)


def summary_table(names: list[str], ranks: Ranks) -> pd.DataFrame:
    """Mean rank of each strategy over all patients and columns (``strategy, average_rank``), best first."""
    table = pd.DataFrame({"strategy": names, "average_rank": ranks.mean(axis=(1, 2))})
    return table.sort_values("average_rank", kind="stable").reset_index(drop=True)


def detailed_table(names: list[str], columns: list[str], ranks: Ranks) -> pd.DataFrame:
    """Mean rank of each strategy in each column, in the order of the tables."""
    table = pd.DataFrame(ranks.mean(axis=1), columns=columns)
    table.insert(0, "strategy", names)
    return table
