"""Rank strategies from tables of scores, and write the ranking."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import RootModel

from mist_ops.errors import ConfigError
from mist_ops.files import together
from mist_ops.ranking.ranks import Direction, Ranks, detailed_table, directions, rank_cells, summary_table
from mist_ops.ranking.stability import RESAMPLES, stability_table
from mist_ops.ranking.tables import Missing, read_scores
from mist_ops.schema import read_checked
from mist_ops.types import Json


@dataclass(frozen=True)
class Ranking:
    """A ranking of strategies.

    Attributes:
        summary: ``strategy, average_rank``, best first.
        detailed: ``strategy`` and the mean rank in each column.
        significance: P-values that the strategy of the row is better than that of the column, if requested.
        holm: The same, corrected for the number of tests.
        stability: Mean ranks with their intervals, and the share of resamples in each place.
        facts: Directions, handling of missing scores, number of patients, seed.
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
        names: Names of the strategies; from the files or folders if None.
        id_column: Column of the patient ids.
        overrides: ``higher`` or ``lower`` for columns of unknown metrics.
        missing: How missing scores are handled.
        significance: Compute p-values.
        seed: Seed of the bootstrap.

    Raises:
        DatasetError: A table cannot be read, or the tables do not match.
        ConfigError: The direction of a column is unknown or invalid.
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
            "left_out": scores.excluded,
            "directions": {column: _described(direction) for column, direction in order.items()},
            "stability": {"resamples": RESAMPLES, "seed": seed, "interval": 0.95},
        },
    )


def _tested(strategies: list[str], ranks: Ranks) -> tuple[pd.DataFrame, pd.DataFrame]:
    from mist_ops.ranking.significance import holm_table, significance_table  # takes 0.5 s to import

    p_values = significance_table(strategies, ranks)
    return p_values, holm_table(p_values)


def _described(direction: Direction) -> Json:
    return {"better": "higher" if direction.higher else "lower", "read_as": asdict(direction)["read_as"]}


def read_directions(path: Path) -> dict[str, str]:
    """Read a JSON file that maps columns to their directions.

    Raises:
        ConfigError: The file is missing or invalid.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path} does not exist. Give a JSON file of columns and directions with --metric-direction-overrides.",
            code="file-missing",
            file=path,
            field="--metric-direction-overrides",
        )
    return dict(read_checked(path, _Directions, ConfigError).root)


class _Directions(RootModel[dict[str, Literal["higher", "lower"]]]):
    """The file of directions."""


def check_outputs(
    results: Sequence[Path], output: Path, detailed: Path | None = None, significance: Path | None = None
) -> None:
    """Check that no output would overwrite another output or a ranked table.

    Raises:
        ConfigError: An output would, or is a folder.
    """
    written = [path.resolve() for path, _ in _files(output, detailed, significance)]
    tables = {path.resolve() for path in results}
    for path in written:
        if path in tables:
            raise _unusable(path, "is one of the ranked tables and would be overwritten", "output-is-input")
        if path.is_dir():
            raise _unusable(path, "is a folder", "folder-not-file")
        if written.count(path) > 1:
            raise _unusable(path, "would hold two tables", "output-duplicate")


def _unusable(path: Path, problem: str, code: str) -> ConfigError:
    return ConfigError(f"{path} {problem}. Choose another output.", code=code, file=path)


def write_ranking(
    ranking: Ranking, output: Path, detailed: Path | None = None, significance: Path | None = None
) -> list[Path]:
    """Write a ranking and return the paths of its files. If one cannot be written, none is.

    ``ranking_stability.csv`` and ``ranking_facts.json`` are written beside ``ranking.csv``, and ``<stem>_holm.csv``
    beside the p-values.
    """
    files = _files(output, detailed, significance)
    with together(output.parent) as replaced:
        for path, name in files:
            temporary, content = replaced.write(path), getattr(ranking, name)
            if isinstance(content, pd.DataFrame):
                content.to_csv(temporary, index=False)
            else:
                temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")
    return [path for path, _ in files]


def _files(output: Path, detailed: Path | None, significance: Path | None) -> list[tuple[Path, str]]:
    """The files of a ranking, each with the attribute that it holds."""
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
