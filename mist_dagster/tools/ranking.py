"""Rankings of strategies by their scores on the same patients."""

from enum import Enum
from functools import partial
from pathlib import Path
from typing import Optional, cast, get_args

import dagster as dg
from pydantic import Field

from mist_dagster import metadata
from mist_dagster.provenance import hashed
from mist_dagster.tools.record import recorded, tool_asset
from mist_ops.ranking.picture import draw_ranking
from mist_ops.ranking.rank import check_outputs, rank, read_directions, write_ranking
from mist_ops.ranking.tables import Missing
from mist_ops.records.history import record_ranking

MissingScore = Enum("MissingScore", get_args(Missing))  # type: ignore[misc]
"""The choices of the launchpad, which shows the names of an enumeration."""


class RankingTool(dg.Config):
    """What to rank, and where to write the other tables."""

    results: list[str] = Field(description="Two or more tables of scores.")
    names: Optional[list[str]] = Field(None, description="A name for each table.")  # noqa: UP045
    id_column: str = Field("id", description="Column of the patient ids.")
    directions: Optional[str] = Field(None, description="JSON: higher or lower, for columns of unknown metrics.")  # noqa: UP045
    missing: MissingScore = Field(
        MissingScore["error"], description="A missing score is an error, ranks last, or drops its patient."
    )
    detailed_csv: Optional[str] = Field(None, description="Table of the mean rank in each column.")  # noqa: UP045
    significance_csv: Optional[str] = Field(None, description="Table of pairwise p-values.")  # noqa: UP045
    figures: bool = Field(True, description="Draw the mean ranks.")


@tool_asset("csv")
def ranking(context: dg.AssetExecutionContext, config: RankingTool) -> dg.MaterializeResult:
    """A table of strategies by their mean rank."""
    tables, directions = [Path(path) for path in config.results], _path(config.directions)
    output, detailed, significance = (
        Path(context.partition_key),
        _path(config.detailed_csv),
        _path(config.significance_csv),
    )
    check_outputs(tables, output, detailed, significance)
    inputs = hashed(results=tables, directions=[directions] if directions else [])
    ranked = rank(
        tables,
        config.names,
        id_column=config.id_column,
        overrides=read_directions(directions) if directions else None,
        missing=cast(Missing, config.missing.name),
        significance=significance is not None,
    )
    write_ranking(ranked, output, detailed, significance)
    record_ranking({name: Path(path) for name, path in ranked.facts["strategies"].items()}, output)
    rows = [{str(name): value for name, value in row.items()} for row in ranked.stability.to_dict("records")]
    figure = output.with_suffix(".png")
    shown: metadata.Metadata = {
        **metadata.drawn(figure, partial(draw_ranking, ranked, figure) if config.figures else None, "plot"),
        "ranking": metadata.table(rows),
        "patients": ranked.facts["patients"],
        "directions": dg.MetadataValue.json(ranked.facts["directions"]),
        "excluded": dg.MetadataValue.json(ranked.facts["left_out"]),
    }
    return recorded(context, output, inputs, shown)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
