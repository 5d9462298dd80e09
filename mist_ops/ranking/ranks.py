"""Ranks of strategies, patient by patient and metric by metric, with the best first.

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
"""Significant digits in which scores must differ; what differs beyond is rounding, and a tie."""

Ranks = Float64[np.ndarray, "strategy patient column"]


@dataclass(frozen=True)
class Direction:
    """Which way a column is better.

    Attributes:
        higher: Whether higher is.
        read_as: The metric that its name ends in; None where the user said the direction.
    """

    higher: bool
    read_as: str | None


def directions(columns: Iterable[str], overrides: Mapping[str, str]) -> dict[str, Direction]:
    """The direction of every column: as said, or that of the longest metric whose name it ends in.

    Args:
        columns: Such as ``WT_lesion_wise_dice``: a class, and a metric of the registry.
        overrides: ``higher`` or ``lower`` for some columns.

    Raises:
        ConfigError: A column's direction is not known, or an override is of no column or no direction.
    """
    known = list(columns)
    for column, direction in overrides.items():
        if direction not in ("higher", "lower"):
            raise ConfigError(f"The direction of '{column}' is {direction!r}. Give 'higher' or 'lower'.")
        if column not in known:
            near = difflib.get_close_matches(column, known, n=1)
            guess = f"Did you mean '{near[0]}'?" if near else f"Columns: {', '.join(known)}."
            raise ConfigError(f"A direction is given for '{column}', which is no column of the tables. {guess}")
    return {column: _direction(column, overrides.get(column)) for column in known}


def _direction(column: str, override: str | None) -> Direction:
    if override is not None:
        return Direction(override == "higher", None)
    fitting = [name for name in METRICS if column.endswith(f"_{name}") and len(column) > len(name) + 1]
    if not fitting:
        raise ConfigError(
            f"The column '{column}' ends in no known metric ({', '.join(METRICS)}), so it is not known whether "
            f"higher is better. Say so in the file of --metric-direction-overrides, or remove the column."
        )
    name = max(fitting, key=len)
    return Direction(METRICS[name].higher_is_better, name)


def rank_cells(scores: Scores, order: Mapping[str, Direction]) -> Ranks:
    """The rank of every strategy for each patient and metric.

    1 is best, ties share their mean, and what is missing is last. Infinite scores are ranked as what they are.
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
    """``strategy, average_rank``: the mean over all cells, best first."""
    table = pd.DataFrame({"strategy": names, "average_rank": ranks.mean(axis=(1, 2))})
    return table.sort_values("average_rank", kind="stable").reset_index(drop=True)


def detailed_table(names: list[str], columns: list[str], ranks: Ranks) -> pd.DataFrame:
    """``strategy`` and the mean rank in each column, in the order of the tables."""
    table = pd.DataFrame(ranks.mean(axis=1), columns=columns)
    table.insert(0, "strategy", names)
    return table
