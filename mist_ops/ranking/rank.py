"""From tables of scores to a ranking, and from a ranking to files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import RootModel

from mist_ops.errors import ConfigError
from mist_ops.files import atomic
from mist_ops.ranking.ranks import Direction, Ranks, detailed_table, directions, rank_cells, summary_table
from mist_ops.ranking.stability import RESAMPLES, stability_table
from mist_ops.ranking.tables import Missing, read_scores
from mist_ops.schema import read_checked
from mist_ops.types import Json


@dataclass(frozen=True)
class Ranking:
    """Strategies, ranked.

    Attributes:
        summary: ``strategy, average_rank``, best first.
        detailed: ``strategy`` and the mean rank in each column.
        significance: P-values that the strategy of the row is better than that of the column, if asked for.
        holm: The same, corrected for the number of tests.
        stability: Mean ranks with their intervals, and the share of draws in each place.
        facts: What else there is to know: directions, policy, patients, seed.
    """

    summary: pd.DataFrame
    detailed: pd.DataFrame
    significance: pd.DataFrame | None
    holm: pd.DataFrame | None
    stability: pd.DataFrame
    facts: Json


def rank(
    results: Sequence[Path],
    names: Sequence[str] | None = None,
    *,
    id_column: str = "id",
    overrides: Mapping[str, str] | None = None,
    missing: Missing = "error",
    significance: bool = False,
    seed: int = 42,
) -> Ranking:
    """Rank strategies by their scores on the same patients.

    Args:
        results: A table of scores for each strategy.
        names: What to call them; from their files or folders if None.
        id_column: Column of the patients.
        overrides: ``higher`` or ``lower``, for columns whose metric is not known.
        missing: What a score that is not there means.
        significance: Whether to compute p-values.
        seed: Of the draws that tell how stable the ranking is.

    Raises:
        DatasetError: The tables cannot be read, or do not belong together.
        ConfigError: A direction is not known or not usable.
    """
    scores = read_scores(results, names, id_column, missing)
    strategies, first = list(scores.tables), next(iter(scores.tables.values()))
    columns = [str(column) for column in first.columns]
    order = directions(columns, overrides or {})
    ranks = rank_cells(scores, order)
    p_values, corrected = _tested(strategies, ranks) if significance else (None, None)
    return Ranking(
        summary=summary_table(strategies, ranks),
        detailed=detailed_table(strategies, columns, ranks),
        significance=p_values,
        holm=corrected,
        stability=stability_table(strategies, ranks, seed),
        facts={
            "strategies": {name: str(path) for name, path in zip(strategies, results, strict=True)},
            "patients": len(first),
            "missing": missing,
            "left_out": scores.left_out,
            "directions": {column: _told(direction) for column, direction in order.items()},
            "stability": {"resamples": RESAMPLES, "seed": seed, "interval": 0.95},
        },
    )


def _tested(strategies: list[str], ranks: Ranks) -> tuple[pd.DataFrame, pd.DataFrame]:
    from mist_ops.ranking.significance import holm_table, significance_table  # SciPy's tests load for half a second

    p_values = significance_table(strategies, ranks)
    return p_values, holm_table(p_values)


def _told(direction: Direction) -> Json:
    return {"better": "higher" if direction.higher else "lower", "read_as": asdict(direction)["read_as"]}


def read_directions(path: Path) -> dict[str, str]:
    """Read a JSON of columns and their directions.

    Raises:
        ConfigError: There is no such file, or it is no JSON object of texts.
    """
    if not path.is_file():
        raise ConfigError(f"There is no {path}. Name a JSON of columns and directions.")
    return dict(read_checked(path, _Directions, ConfigError).root)


class _Directions(RootModel[dict[str, Literal["higher", "lower"]]]):
    """The file of directions."""


def check_outputs(
    results: Sequence[Path], output: Path, detailed: Path | None = None, significance: Path | None = None
) -> None:
    """Refuse files of a ranking that would take the place of each other, or of a table that is ranked.

    Raises:
        ConfigError: There are such; they are named.
    """
    written = [path.resolve() for path, _ in _files(output, detailed, significance)]
    taken = [path.resolve() for path in results]
    twice = sorted({str(path) for path in written if written.count(path) > 1 or path in taken or path.is_dir()})
    if twice:
        raise ConfigError(f"The ranking would be written over {', '.join(twice)}. Give each of its files its own name.")


def write_ranking(
    ranking: Ranking, output: Path, detailed: Path | None = None, significance: Path | None = None
) -> list[Path]:
    """Write a ranking, and return the paths of its files: all of them or, if one cannot be written, none.

    Beside ``ranking.csv`` stand ``ranking_stability.csv`` and ``ranking_facts.json``; beside the p-values
    ``<stem>_holm.csv``.
    """
    files = _files(output, detailed, significance)
    with ExitStack() as stack:  # all are written before the first takes its place
        for path, name in files:
            temporary, content = stack.enter_context(atomic(path)), getattr(ranking, name)
            if isinstance(content, pd.DataFrame):
                content.to_csv(temporary, index=False)
            else:
                temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")
    return [path for path, _ in files]


def _files(output: Path, detailed: Path | None, significance: Path | None) -> list[tuple[Path, str]]:
    """The files of a ranking, each with the name of what it holds."""
    found = [
        (output, "summary"),
        (_beside(output, "stability.csv"), "stability"),
        (_beside(output, "facts.json"), "facts"),
    ]
    if detailed is not None:
        found.append((detailed, "detailed"))
    if significance is not None:
        found += [(significance, "significance"), (_beside(significance, "holm.csv"), "holm")]
    return found


def _beside(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}_{name}")
