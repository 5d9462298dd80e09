"""Comparisons of methods by the scores of their runs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

import dagster as dg
from pydantic import Field

from mist_dagster import metadata
from mist_dagster.provenance import hashed
from mist_dagster.tools.record import recorded, tool_asset
from mist_ops.comparison.compare import Pair, compare
from mist_ops.comparison.report import check_output, notes, rows, sentence, write_comparison
from mist_ops.comparison.sides import open_side, tables_of
from mist_ops.ranking.tables import check_names, default_names


class ComparisonTool(dg.Config):
    """What to compare."""

    sides: list[str] = Field(
        description="Two or more methods; each is compared with the first. A method is the results folder of a study, "
        "with its replicas, or tables of scores separated by commas."
    )
    names: Optional[list[str]] = Field(None, description="A name for each method.")  # noqa: UP045
    noise: Optional[str] = Field(  # noqa: UP045
        None, description="Another method, whose runs also show how much runs differ."
    )


@tool_asset(
    "csv",
    not_worse="B is worse than A in no column. It may be better, or not distinguishable with these runs.",
    runs_known="There are several runs of A, of B or of another method, which show how much runs differ.",
)
def comparison(context: dg.AssetExecutionContext, config: ComparisonTool) -> dg.MaterializeResult:
    """A table of differences between methods, with a verdict on each."""
    output, given = Path(context.partition_key), [tables_of(side) for side in config.sides]
    noise = tables_of(config.noise) if config.noise else []
    names = config.names or default_names([tables[0] for tables in given])
    check_names(names, len(given))
    check_output(output, [*(table for tables in given for table in tables), *noise])
    inputs = hashed(**{f"side {number}": tables for number, tables in enumerate(given, 1)}, noise=noise)
    sides = [open_side(name, tables) for name, tables in zip(names, given, strict=True)]
    extra = open_side("noise", noise) if noise else None
    pairs = compare(sides, extra)
    write_comparison(output, pairs, extra)
    lines = [*(sentence(pair, verdict) for pair in pairs for verdict in pair.verdicts), *notes(pairs, extra)]
    shown: metadata.Metadata = {
        "verdicts": dg.MetadataValue.md("\n".join(f"- {line}" for line in lines)),
        "table": metadata.table([{name: _cell(value) for name, value in row.items()} for row in rows(pairs)]),
        "runs": dg.MetadataValue.json({side.name: len(side.runs) for side in sides}),
    }
    return recorded(context, output, inputs, shown, list(_checks(pairs)))


def _cell(value: object) -> float | int | str:
    return value if isinstance(value, float | int | str) else ""


def _checks(pairs: Sequence[Pair]) -> Iterator[dg.AssetCheckResult]:
    worse = [sentence(pair, verdict) for pair in pairs for verdict in pair.verdicts if verdict.word == "worse"]
    unknown = [
        f"{pair.first.name} and {pair.second.name}"
        for pair in pairs
        if any(verdict.difference.uncertainty is None for verdict in pair.verdicts)
    ]
    for name, found in (("not_worse", worse), ("runs_known", unknown)):
        yield dg.AssetCheckResult(
            passed=not found,
            check_name=name,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"found": dg.MetadataValue.json(found)} if found else {},
        )
